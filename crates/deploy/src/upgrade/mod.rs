//! The upgrade, as a list of steps. Each is on the disk before it begins, and what has begun can be undone until the commit.
//!
//! O is the slot that serves, N the other one. Before the commit a failure stops N, and O has never stopped serving; after
//! it, the same steps lead back to the release before. A run that died is finished or undone by the next.

mod steps;
mod undo;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::journal::{Journal, Record, Side, StepRecord};
use crate::layout::Colour;
use crate::output::StepLine;
use crate::release::Release;
use crate::site::Site;
use crate::time;

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The release fits this host and this database. Changes nothing.
    Preflight,
    /// The database gets what N needs. O works on it too.
    Migrate,
    /// N starts, and is ready.
    Start,
    /// N stays healthy without traffic, and its self-test passes.
    Probation,
    /// N accepts; both serve.
    Accept,
    /// N stays healthy under traffic, and is no worse than O.
    Traffic,
    /// O's accounts move to N, one by one.
    HandOver,
    /// N is the one that serves, also after a reboot.
    Commit,
    /// O drains and ends.
    Drain,
    /// N stays healthy for long enough.
    Watch,
    /// N is known to be good; old releases go.
    Settle,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Preflight,
        Self::Migrate,
        Self::Start,
        Self::Probation,
        Self::Accept,
        Self::Traffic,
        Self::HandOver,
        Self::Commit,
        Self::Drain,
        Self::Watch,
        Self::Settle,
    ];

    /// As people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Migrate => "migrate",
            Self::Start => "start",
            Self::Probation => "probation",
            Self::Accept => "accept",
            Self::Traffic => "traffic",
            Self::HandOver => "hand-over",
            Self::Commit => "commit",
            Self::Drain => "drain",
            Self::Watch => "watch",
            Self::Settle => "settle",
        }
    }
}

/// What is wanted.
#[derive(Debug)]
pub struct Request {
    /// The release that is to serve.
    pub target: Release,
    /// Whether this goes back to an earlier one: nothing is migrated then.
    pub back: bool,
    /// Stops after the second probation, which takes this long, and waits for `promote` or `abort`.
    pub canary_s: Option<u64>,
}

/// How an upgrade ends that does not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The release serves, and is known to be good.
    Done,
    /// A canary waits.
    Waits,
}

/// An upgrade under way.
#[derive(Debug)]
pub struct Upgrade<'a> {
    site: &'a Site,
    record: &'a mut Record,
    journal: Journal,
    canary_s: Option<u64>,
}

/// Where it failed, and why.
type Failed = (Step, Error);

impl<'a> Upgrade<'a> {
    /// One that has not begun: the release goes into the slot that does not serve.
    pub fn new(site: &'a Site, record: &'a mut Record, request: Request) -> Self {
        let layout = &site.layout;
        let in_slot = |colour: Colour| {
            let release = Release::load(layout, &layout.slot(colour)?).ok()?;
            Some(Side { colour, release: release.name, build_id: release.manifest.build_id })
        };
        let from = layout.active().and_then(in_slot);
        let colour = from.as_ref().map_or(Colour::Blue, |from| from.colour.other());
        let Request { target, back, canary_s } = request;
        let to = Side { colour, release: target.name.clone(), build_id: target.manifest.build_id.clone() };
        record.from = from.as_ref().map(|from| from.release.clone());
        record.to = Some(to.release.clone());
        let journal = Journal {
            run: record.run.clone(),
            command: record.command.clone(),
            by: record.by.clone(),
            at_ms: time::now_ms(),
            from,
            to,
            pid: 0,
            step: Step::Preflight,
            back,
            waits: false,
            before: None,
        };
        Self { site, record, journal, canary_s }
    }

    /// One that another run has begun.
    pub fn resume(site: &'a Site, record: &'a mut Record, journal: Journal) -> Self {
        record.from = journal.from.as_ref().map(|from| from.release.clone());
        record.to = Some(journal.to.release.clone());
        record.before = journal.before;
        Self { site, record, journal, canary_s: None }
    }

    fn release(&self) -> Result<Release, Error> {
        Release::load(&self.site.layout, &self.journal.to.release)
    }

    /// Whether N is the one that serves: from there it only goes forward, or through a whole upgrade back.
    pub fn is_committed(&self) -> bool {
        self.site.layout.active() == Some(self.journal.to.colour)
    }

    /// Goes through the steps from `first`. A failure is undone, or rolled back.
    ///
    /// # Errors
    /// [`Error::Undone`], [`Error::RolledBack`], [`Error::Broken`], [`Error::Interrupted`], and those of the preflight.
    pub fn drive(mut self, first: Step) -> Result<Outcome, Error> {
        match self.forward(first) {
            Ok(outcome) => Ok(outcome),
            Err((_, Error::Interrupted { signal, .. })) if self.is_committed() => {
                let Side { release, colour, .. } = &self.journal.to;
                let state =
                    format!("{release} serves ({colour}), but was not watched to the end: the next run does that");
                Err(Error::Interrupted { signal, state })
            }
            Err(failed @ (_, Error::Remote(_))) if self.is_committed() => Err(self.roll_back(failed)),
            // Not the release's fault: a full disk, or a systemd that does not answer.
            Err((step, error)) if self.is_committed() => {
                let name = &self.journal.to.release;
                let what = format!("{name} serves, but {} is not done, and the next run does it: {error}", step.name());
                Err(Error::Unhealthy(what))
            }
            Err(failed) => Err(self.give_up(failed)),
        }
    }

    fn forward(&mut self, first: Step) -> Result<Outcome, Failed> {
        for step in Step::ALL.into_iter().filter(|step| *step >= first) {
            self.enter(step).map_err(|error| (step, error))?;
            let site = self.site;
            let line = site.out.step(step.name(), &self.intention(step));
            match self.perform(step, &line).and_then(|detail| site.interrupt.check().map(|()| detail)) {
                Ok(detail) => {
                    let ms = line.done(&detail);
                    self.remember(step, ms, true, detail);
                }
                Err(error) => {
                    let ms = line.failed(&error.to_string());
                    self.remember(step, ms, false, error.to_string());
                    return Err((step, error));
                }
            }
            if step == Step::Traffic && self.canary_s.is_some() {
                self.journal.waits = true;
                self.journal.save(&site.layout).map_err(|error| (step, error))?;
                return Ok(Outcome::Waits);
            }
        }
        Ok(Outcome::Done)
    }

    fn remember(&mut self, step: Step, ms: u64, ok: bool, detail: String) {
        self.record.steps.push(StepRecord { step: step.name().to_owned(), ms, ok, detail });
    }

    fn enter(&mut self, step: Step) -> Result<(), Error> {
        self.site.interrupt.check()?;
        self.journal.step = step;
        self.journal.save(&self.site.layout)?;
        point(step.name());
        Ok(())
    }

    fn perform(&mut self, step: Step, line: &StepLine<'_>) -> Result<String, Error> {
        match step {
            Step::Preflight => self.preflight(),
            Step::Migrate => self.migrate(),
            Step::Start => self.start(),
            Step::Probation => self.probation(line),
            Step::Accept => self.accept(),
            Step::Traffic => self.traffic(line),
            Step::HandOver => self.hand_over(line),
            Step::Commit => self.commit(),
            Step::Drain => self.drain(line),
            Step::Watch => self.watch(line),
            Step::Settle => self.settle(),
        }
    }

    fn intention(&self, step: Step) -> String {
        let Side { colour, release, .. } = &self.journal.to;
        let limits = &self.site.config.upgrade;
        match step {
            Step::Preflight => format!("{release} on this host"),
            Step::Migrate => "the database".to_owned(),
            Step::Start => format!("{release} in {colour}"),
            Step::Probation => format!("{colour} without traffic, {} s", limits.probation_s),
            Step::Accept => format!("{colour} joins"),
            Step::Traffic => format!("{colour} under traffic, {} s", self.traffic_s()),
            Step::HandOver => format!("accounts move to {colour}"),
            Step::Commit => format!("{colour} is the one that serves"),
            Step::Drain => {
                self.journal.from.as_ref().map_or_else(|| "nothing".to_owned(), |from| format!("{} ends", from.colour))
            }
            Step::Watch => format!("{colour} stays healthy, {} s", limits.min_healthy_s),
            Step::Settle => format!("{release} is good"),
        }
    }

    fn traffic_s(&self) -> u64 {
        self.canary_s.unwrap_or(self.site.config.upgrade.traffic_probation_s)
    }
}

/// What a dead run left.
///
/// # Errors
/// [`Error::Canary`] when it is a canary that waits, and those of undoing and finishing.
pub fn recover(site: &Site, record: &mut Record, finish: bool) -> Result<Option<Journal>, Error> {
    let Some(journal) = Journal::load(&site.layout)? else { return Ok(None) };
    let Journal { command, run, by, step, .. } = &journal;
    let step = *step;
    if journal.waits {
        return Err(Error::Canary(format!(
            "{} is a canary since {}",
            journal.to.release,
            time::rfc3339(journal.at_ms)
        )));
    }
    let mut dead = Record {
        run: run.clone(),
        at: time::rfc3339(journal.at_ms),
        command: command.clone(),
        by: by.clone(),
        exit: 137,
        ..Record::default()
    };
    site.out.warn(&format!("`{command}` of {} was cut short at {}", dead.at, step.name()));
    let mut upgrade = Upgrade::resume(site, &mut dead, journal.clone());
    let result = if !upgrade.is_committed() {
        site.out.note(&format!("undoing it: {} does not serve yet", journal.to.release));
        upgrade.undo(step).map(|state| format!("cut short at {}; undone: {state}", step.name()))
    } else if finish {
        site.out.note(&format!("finishing it: {} serves already", journal.to.release));
        upgrade.drive(Step::Drain).map(|_| format!("cut short at {}; finished by the next run", step.name()))
    } else {
        Journal::clear(&site.layout).map(|()| format!("cut short at {}; committed", step.name()))
    };
    dead.outcome = match &result {
        Ok(outcome) => outcome.clone(),
        Err(error) => format!("cut short at {}; then: {error}", step.name()),
    };
    dead.append(&site.layout)?;
    record.steps.push(StepRecord { step: "recover".to_owned(), ms: 0, ok: result.is_ok(), detail: dead.outcome });
    result.map(|_| Some(journal))
}

/// Where a test kills the tool.
fn point(name: &str) {
    #[cfg(feature = "failpoints")]
    if std::env::var_os("HOTGO_DEPLOY_STOP_AT").is_some_and(|at| at == name) {
        let _dead = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}
