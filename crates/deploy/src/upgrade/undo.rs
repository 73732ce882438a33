//! Back: before the commit by stopping N, after it by a whole upgrade to the release before.

use std::time::Instant;

use crate::config::seconds;
use crate::error::Error;
use crate::journal::{Journal, Side};
use crate::layout::remove_file;
use crate::release::Release;
use crate::site::POLL;
use crate::systemd::SERVICE;

use super::{Failed, Outcome, Step, Upgrade};

impl Upgrade<'_> {
    /// Undoes what was done, and says so. What failed before anything was changed comes back as it is.
    pub(super) fn give_up(&mut self, (step, error): Failed) -> Error {
        let blamed = step >= Step::Start && matches!(error, Error::Remote(_));
        if step == Step::Preflight {
            return match Journal::clear(&self.site.layout) {
                Ok(()) => error,
                Err(stays) => stays,
            };
        }
        let line = self.site.out.step("undo", &format!("{} serves on", self.old_name()));
        match self.undo(step) {
            Ok(state) => {
                line.done(&state);
                if blamed {
                    self.blame(&format!("{}: {error}", step.name()));
                }
                match error {
                    Error::Interrupted { signal, .. } => {
                        Error::Interrupted { signal, state: format!("undone: {state}") }
                    }
                    other => Error::Undone { step: step.name(), why: other.to_string(), state },
                }
            }
            Err(worse) => {
                line.failed(&worse.to_string());
                Error::Broken(format!("{}: {error}\nand undoing it failed: {worse}", step.name()))
            }
        }
    }

    fn old_name(&self) -> &str {
        self.journal.from.as_ref().map_or("nothing", |from| from.release.as_str())
    }

    fn blame(&self, why: &str) {
        if let Err(error) = Release::set_failed(&self.site.layout, &self.journal.to.release, why) {
            self.site.out.warn(&error.to_string());
        }
    }

    /// Undoes everything up to a step, and returns how it stands then. No signal cuts it short.
    ///
    /// # Errors
    /// When the old slot does not serve afterwards, though it should.
    pub fn undo(&mut self, step: Step) -> Result<String, Error> {
        let site = self.site;
        site.interrupt.ignore();
        let (systemd, layout, limits) = (&site.systemd, &site.layout, &site.config.upgrade);
        let unit = self.journal.to.colour.unit();
        if step >= Step::HandOver {
            self.take_back();
        }
        if step >= Step::Start {
            systemd.stop(&[&unit], seconds(limits.drain_timeout_s))?;
            systemd.reset_failed(&unit)?;
            remove_file(&layout.candidate_mark(self.journal.to.colour))?;
        }
        let state = self.serve_again()?;
        Journal::clear(layout)?;
        Ok(state)
    }

    /// Waits for O to have what it had; whatever is missing then, it gets when N ends.
    fn take_back(&self) {
        let Some(from) = &self.journal.from else { return };
        let instance = self.site.instance(from.colour);
        if let Err(error) = instance.take_back() {
            self.site.out.warn(&format!("{} does not take its accounts back: {error}", from.colour));
            return;
        }
        let wanted = self.journal.before.unwrap_or_default().accounts;
        let has_all = || instance.status().is_ok_and(|status| status.trading().accounts >= wanted);
        let end = Instant::now() + seconds(self.site.config.upgrade.hand_over_timeout_s);
        while !has_all() && Instant::now() < end && self.site.interrupt.sleep(POLL).is_ok() {}
    }

    /// O serves, if something is to serve at all.
    fn serve_again(&self) -> Result<String, Error> {
        let (site, systemd) = (self.site, &self.site.systemd);
        let Some(from) = &self.journal.from else {
            return Ok("nothing served before, and nothing does now".to_owned());
        };
        if systemd.show(&from.colour.unit())?.is_down() {
            let umbrella = systemd.show(SERVICE)?;
            if !umbrella.is_wanted() || systemd.is_stopping()? {
                return Ok(format!("{} is in {}; the site is stopped", from.release, from.colour));
            }
            systemd.start(&from.colour.unit(), seconds(site.config.upgrade.start_timeout_s))?;
        }
        let end = Instant::now() + seconds(site.config.upgrade.start_timeout_s);
        loop {
            match site.alive(from.colour, &from.build_id) {
                Ok(status) => return Ok(format!("{} serves ({}), {}", from.release, from.colour, status.trading())),
                Err(_) if site.systemd.is_stopping()? => return Ok("the site is being stopped".to_owned()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => site.interrupt.sleep(POLL)?,
            }
        }
    }

    /// After the commit: the release before, through the same steps.
    pub(super) fn roll_back(&mut self, (step, error): Failed) -> Error {
        let why = format!("{}: {error}", step.name());
        let site = self.site;
        site.interrupt.ignore();
        self.blame(&why);
        let Some(target) = self.way_back() else {
            return Error::Broken(format!("{why}\nand there is no release to go back to"));
        };
        if !site.is_wanted() && site.systemd.is_stopping().unwrap_or(false) {
            return Error::Broken(format!("{why}\nand the site is being stopped"));
        }
        site.out.warn(&format!("{} has failed; going back to {}", self.journal.to.release, target.name));
        let from = self.journal.to.clone();
        self.journal = Journal {
            to: Side {
                colour: from.colour.other(),
                release: target.name.clone(),
                build_id: target.manifest.build_id.clone(),
            },
            from: Some(from),
            pid: 0,
            back: true,
            before: None,
            ..self.journal.clone()
        };
        match self.forward(Step::Start) {
            Ok(Outcome::Done | Outcome::Waits) => {
                let state = format!("{} serves ({})", self.journal.to.release, self.journal.to.colour);
                Error::RolledBack { step: step.name(), why: error.to_string(), state }
            }
            Err((at, worse)) => Error::Broken(format!("{why}\nand going back failed at {}: {worse}", at.name())),
        }
    }

    fn way_back(&self) -> Option<Release> {
        if self.journal.back {
            return None;
        }
        let layout = &self.site.layout;
        let names = [self.journal.from.as_ref().map(|from| from.release.clone()), layout.last_good()];
        let mut names = names.into_iter().flatten().filter(|name| *name != self.journal.to.release);
        names.find_map(|name| Release::load(layout, &name).ok())
    }
}
