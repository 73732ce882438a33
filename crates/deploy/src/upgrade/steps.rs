//! What each step does.

use std::time::{Duration, Instant};

use crate::config::seconds;
use crate::error::Error;
use crate::instance::{Instance, Status, metric_milli, metric_named};
use crate::journal::Journal;
use crate::layout::{make_dir, remove_file, write_file};
use crate::output::StepLine;
use crate::release::{self, Release};
use crate::site::POLL;
use crate::systemd::SERVICE;
use crate::time;

use super::{Upgrade, point};

/// Requests, with their status as a label.
const REQUESTS: &str = "hotgo_http_requests_total";
/// Their durations in seconds.
const DURATIONS: &str = "hotgo_http_request_duration_seconds";
/// Fewer requests say nothing.
const ENOUGH_REQUESTS: u64 = 20;
/// What is quicker is quick enough. A signal that N takes before the hand-over goes to O through the store and waits for its
/// answer there: up to 100 ms, and more on a busy machine, where O itself needs one.
const QUICK_MS: u64 = 500;
/// So many wrong answers in a row are no accident.
const STRIKES: u32 = 3;
/// A process that dies so often while the other one drains has not been hit by accident: the watch goes back.
const MAX_DEATHS: u32 = 3;
/// From the word to accept until it accepts.
const ACCEPT: Duration = Duration::from_secs(5);

impl Upgrade<'_> {
    pub(super) fn preflight(&mut self) -> Result<String, Error> {
        let site = self.site;
        let release = self.release()?;
        release.verify()?;
        site.check_units(self.journal.to.colour)?;
        let pending = release.pending_migrations(site)?;
        let newest = pending.iter().map(|step| step.version).max();
        if let (Some(newest), false) = (newest, self.journal.back) {
            self.others_accept(newest)?;
        }
        match release.check(site) {
            // It wants its migrations first: the check comes after them.
            Err(Error::Preflight(_)) if newest.is_some() && !self.journal.back => {}
            other => other?,
        }
        Ok(format!("checksums, configuration, database; {} migrations pending", pending.len()))
    }

    /// The release that serves works on the database while N migrates it, and a rollback finds one that it accepts.
    fn others_accept(&self, newest: i64) -> Result<(), Error> {
        let layout = &self.site.layout;
        let names = [self.journal.from.as_ref().map(|from| from.release.clone()), layout.last_good()];
        for name in names.into_iter().flatten() {
            let max = Release::load(layout, &name).map_or(i64::MAX, |release| release.manifest.schema.max);
            if newest > max {
                return Err(Error::Preflight(format!(
                    "it makes schema {newest}, and {name}, which serves, accepts {max} at most: upgrade in two steps"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn migrate(&mut self) -> Result<String, Error> {
        if self.journal.back {
            return Ok("not on the way back".to_owned());
        }
        let release = self.release()?;
        let pending = release.pending_migrations(self.site)?;
        if !pending.is_empty() {
            release.migrate(self.site)?;
        }
        release.check(self.site)?;
        Ok(format!("{} applied", pending.len()))
    }

    pub(super) fn start(&mut self) -> Result<String, Error> {
        let site = self.site;
        let (colour, limits) = (self.journal.to.colour, &site.config.upgrade);
        let unit = colour.unit();
        // What an earlier run left, or what still drains.
        site.systemd.stop(&[&unit], seconds(limits.drain_timeout_s))?;
        site.systemd.reset_failed(&unit)?;
        let mark = site.layout.candidate_mark(colour);
        make_dir(mark.parent().unwrap_or(&mark), 0o755)?;
        write_file(&mark, b"HOTGO__SERVER__ACCEPT=on_command\n", 0o644)?;
        make_dir(&site.layout.home().join("slots"), 0o755)?;
        site.layout.point_slot(colour, &self.journal.to.release)?;
        point("start-pointed");
        let since = time::now_ms();
        site.systemd.start(&unit, seconds(limits.start_timeout_s)).map_err(|error| match error {
            Error::Interrupted { .. } => error,
            other => Error::Remote(format!("{other}{}", self.last_words(since))),
        })?;
        let status = site.wait_for(seconds(limits.check_timeout_s), || site.healthy(colour, &self.journal.to.build_id));
        let status = status.map_err(|error| self.with_last_words(error, since))?;
        self.journal.pid = status.pid;
        Ok(format!("{} is ready, pid {}", status.build_id, status.pid))
    }

    fn last_words(&self, since_ms: u64) -> String {
        let lines = self.site.systemd.log(&self.journal.to.colour.unit(), 10, since_ms);
        if lines.is_empty() { String::new() } else { format!("\nits last lines:\n  {}", lines.join("\n  ")) }
    }

    fn with_last_words(&self, error: Error, since_ms: u64) -> Error {
        match error {
            Error::Remote(what) => Error::Remote(format!("{what}{}", self.last_words(since_ms))),
            other => other,
        }
    }

    /// N, if it is healthy and still the process that has started.
    fn candidate(&self) -> Result<Status, Error> {
        let status = self.site.healthy(self.journal.to.colour, &self.journal.to.build_id)?;
        if status.pid != self.journal.pid {
            let (was, is) = (self.journal.pid, status.pid);
            return Err(Error::Remote(format!("process {was} died, and systemd has started {is}")));
        }
        Ok(status)
    }

    /// N is healthy all the time. A process that died fails at once, wrong answers a few times in a row.
    fn stays_healthy(&self, time: Duration, line: &StepLine<'_>) -> Result<(), Error> {
        let since = time::now_ms();
        let end = Instant::now() + time;
        let mut strikes = 0;
        loop {
            match self.candidate() {
                Ok(_) => strikes = 0,
                Err(interrupted @ Error::Interrupted { .. }) => return Err(interrupted),
                Err(error) => {
                    strikes += 1;
                    let unit = self.site.unit(self.journal.to.colour)?;
                    if strikes >= STRIKES || unit.main_pid != self.journal.pid {
                        return Err(self.with_last_words(error, since));
                    }
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && strikes == 0 {
                return Ok(());
            }
            line.update(&format!("healthy, {} s left", left.as_secs()));
            self.site.interrupt.sleep(POLL)?;
        }
    }

    pub(super) fn probation(&mut self, line: &StepLine<'_>) -> Result<String, Error> {
        let (site, colour) = (self.site, self.journal.to.colour);
        let test = site.instance(colour).self_test(seconds(site.config.upgrade.check_timeout_s))?;
        if let Some(check) = test.checks.iter().find(|check| !check.ok) {
            return Err(Error::Remote(format!("self-test: {}: {}", check.name, check.detail)));
        }
        if !test.ok {
            return Err(Error::Remote("its self-test fails".to_owned()));
        }
        self.stays_healthy(seconds(site.config.upgrade.probation_s), line)?;
        if self.candidate()?.accepting {
            return Err(Error::Remote("it accepts though it was not told to".to_owned()));
        }
        Ok(format!("healthy, {} checks of its self-test passed", test.checks.len()))
    }

    pub(super) fn accept(&mut self) -> Result<String, Error> {
        let instance = self.site.instance(self.journal.to.colour);
        instance.accept()?;
        self.site.wait_for(ACCEPT, || match self.candidate()? {
            status if status.accepting => Ok(()),
            _ => Err(Error::Remote("it does not accept though it was told to".to_owned())),
        })?;
        Ok("accepts".to_owned())
    }

    /// O, if it lives: to be compared with, and to hand over. It is not given up for one slow answer, nor because a signal came.
    fn old(&self) -> Result<Option<(Instance, Status)>, Error> {
        let Some(from) = &self.journal.from else { return Ok(None) };
        let patience = seconds(self.site.config.upgrade.max_unhealthy_s);
        match self.site.wait_for(patience, || self.site.alive(from.colour, &from.build_id)) {
            Ok(status) => Ok(Some((self.site.instance(from.colour), status))),
            Err(Error::Remote(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn traffic(&mut self, line: &StepLine<'_>) -> Result<String, Error> {
        let new = self.site.instance(self.journal.to.colour);
        let Some((old, status)) = self.old()? else {
            return Ok("skipped: nothing else serves".to_owned());
        };
        let (old_before, new_before) = (Traffic::of(&old), Traffic::of(&new)?);
        self.stays_healthy(seconds(self.traffic_s()), line)?;
        let old = old_before.and_then(|before| Ok(Traffic::of(&old)?.since(before)));
        let new = Traffic::of(&new)?.since(new_before);
        if !self.is_still(status.pid)? {
            return Ok(format!("{new}; not compared: the old process has died meanwhile"));
        }
        let old = match old {
            // What is left because it is bad is no measure.
            Err(Error::Remote(what)) if self.journal.back => return Ok(format!("{new}; not compared: {what}")),
            other => other?,
        };
        let limits = &self.site.config.upgrade;
        new.compare(&old, limits.max_error_percent, limits.max_latency_ratio)?;
        Ok(format!("{new} (the old one: {old})"))
    }

    /// Whether O is this process still.
    fn is_still(&self, pid: u32) -> Result<bool, Error> {
        Ok(self.old()?.is_some_and(|(_, status)| status.pid == pid))
    }

    pub(super) fn hand_over(&mut self, line: &StepLine<'_>) -> Result<String, Error> {
        let site = self.site;
        let timeout = seconds(site.config.upgrade.hand_over_timeout_s);
        let name = self.candidate()?.instance;
        let Some((old, status)) = self.old()? else { return self.take_over(timeout) };
        let before = status.trading();
        self.journal.before = Some(before);
        self.record.before = Some(before);
        self.journal.save(&site.layout)?;
        let mut told = status.pid;
        if let Err(error) = old.hand_over(&name) {
            if self.is_still(told)? {
                return Err(error);
            }
            // It has died: it is told when it is back, or N takes its accounts when their leases end.
            told = 0;
        }
        point("hand-over-sent");
        let status = site.wait_for(timeout, || {
            let new = self.candidate()?;
            let left: Vec<i64> =
                status.accounts().into_iter().filter(|account| !new.accounts().contains(account)).collect();
            let now = new.trading();
            line.update(&now.to_string());
            if left.is_empty() && now.robots >= before.robots {
                return Ok(new);
            }
            // One that died and was started again knows nothing of the hand-over.
            if let Some((old, status)) = self.old()?.filter(|(_, status)| status.pid != told) {
                old.hand_over(&name)?;
                told = status.pid;
            }
            Err(Error::Remote(format!("of {before}, {now} have moved; missing accounts: {left:?}")))
        })?;
        Ok(format!("before: {before}; after: {}", status.trading()))
    }

    /// O does not live: its accounts are N's when their leases have ended. Somebody else may have taken some.
    fn take_over(&self, timeout: Duration) -> Result<String, Error> {
        let site = self.site;
        if let Some(from) = &self.journal.from {
            site.systemd.stop(&[&from.colour.unit()], seconds(site.config.upgrade.drain_timeout_s))?;
        }
        let all = site.wait_for(timeout, || {
            let status = self.candidate()?;
            let waiting = status.engines.iter().filter(|engine| !engine.ready).count();
            if waiting == 0 { Ok(status) } else { Err(Error::Remote(format!("{waiting} accounts are not taken over"))) }
        });
        match all {
            Ok(status) => Ok(format!("nobody to hand over; {}", status.trading())),
            Err(Error::Remote(what)) if self.candidate().is_ok() => {
                site.out.warn(&what);
                Ok(format!("nobody to hand over; {what}"))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn commit(&mut self) -> Result<String, Error> {
        let (layout, colour) = (&self.site.layout, self.journal.to.colour);
        if self.site.systemd.is_stopping()? {
            return Err(Error::Remote("the site is being stopped".to_owned()));
        }
        // From here N accepts at once when systemd starts it again.
        remove_file(&layout.candidate_mark(colour))?;
        point("commit-unmarked");
        layout.point_active(colour)?;
        point("commit-done");
        Ok(format!("{colour} serves {}", self.journal.to.release))
    }

    pub(super) fn drain(&mut self, line: &StepLine<'_>) -> Result<String, Error> {
        let site = self.site;
        site.layout.point("current", &self.journal.to.release)?;
        let Some(from) = self.journal.from.clone() else { return Ok("nothing to drain".to_owned()) };
        let unit = from.colour.unit();
        if !site.systemd.show(&unit)?.is_down() {
            site.systemd.stop_soon(&unit)?;
        }
        let end = Instant::now() + seconds(site.config.upgrade.drain_timeout_s);
        let patience = seconds(site.config.upgrade.max_unhealthy_s);
        let (mut deaths, mut well) = (0, Instant::now());
        let old = loop {
            let old = site.systemd.show(&unit)?;
            deaths += u32::from(self.notice_death()?);
            match self.candidate() {
                Ok(_) => well = Instant::now(),
                // One that died is on its way again; one that lives and is sick is not worth the wait for the other's end.
                Err(error) if deaths == 0 && well.elapsed() > patience => return Err(error),
                Err(interrupted @ Error::Interrupted { .. }) => return Err(interrupted),
                Err(_) => {}
            }
            if old.is_down() || Instant::now() >= end {
                break old;
            }
            line.update(&format!("{} is {}", from.colour, old.state));
            site.interrupt.sleep(POLL)?;
        };
        if !old.is_down() {
            site.out.warn(&format!("{unit} is still {}; systemd ends it", old.state));
        } else if old.result != "success" {
            site.out.warn(&format!("{unit} ended with {}", old.result));
            site.systemd.reset_failed(&unit)?;
        }
        while deaths > 0 && deaths < MAX_DEATHS && self.candidate().is_err() && well.elapsed() < self.start_limit() {
            site.interrupt.sleep(POLL)?;
            deaths += u32::from(self.notice_death()?);
        }
        Ok(match deaths {
            0 => format!("{} is {}", from.colour, old.state),
            _ => format!("{} is {}; the new process died {deaths} times meanwhile", from.colour, old.state),
        })
    }

    fn start_limit(&self) -> Duration {
        seconds(self.site.config.upgrade.start_timeout_s)
    }

    /// N died while O drains: systemd starts it again, the socket queues. Says so, and whether it was so.
    fn notice_death(&mut self) -> Result<bool, Error> {
        let unit = self.site.unit(self.journal.to.colour)?;
        if unit.main_pid == self.journal.pid || unit.main_pid == 0 {
            return Ok(false);
        }
        let (was, is) = (self.journal.pid, unit.main_pid);
        self.site.out.warn(&format!("process {was} of {} died; systemd has started {is}", self.journal.to.colour));
        self.journal.pid = is;
        self.journal.save(&self.site.layout)?;
        Ok(true)
    }

    pub(super) fn watch(&mut self, line: &StepLine<'_>) -> Result<String, Error> {
        let site = self.site;
        let limits = &site.config.upgrade;
        let since = time::now_ms();
        let end = Instant::now() + seconds(limits.min_healthy_s);
        let mut well = Instant::now();
        let patience = seconds(limits.max_unhealthy_s);
        loop {
            match self.candidate() {
                Ok(_) => well = Instant::now(),
                Err(interrupted @ Error::Interrupted { .. }) => return Err(interrupted),
                Err(error) => {
                    let unit = site.unit(self.journal.to.colour)?;
                    if site.systemd.is_stopping()? {
                        return Err(Error::Remote("the site is being stopped".to_owned()));
                    }
                    if unit.main_pid != self.journal.pid || well.elapsed() > patience {
                        return Err(self.with_last_words(error, since));
                    }
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() && well.elapsed() < POLL {
                break;
            }
            line.update(&format!("healthy, {} s left", left.as_secs()));
            site.interrupt.sleep(POLL)?;
        }
        let after = self.candidate()?.trading();
        self.record.after = Some(after);
        if let Some(before) = self.journal.before.filter(|before| before.robots > after.robots) {
            site.out.warn(&format!("{} robots run, and {} ran before", after.robots, before.robots));
        }
        Ok(format!("healthy; {after}"))
    }

    pub(super) fn settle(&mut self) -> Result<String, Error> {
        let (site, layout) = (self.site, &self.site.layout);
        let name = &self.journal.to.release;
        let good = layout.last_good();
        if let Some(good) = good.filter(|good| good != name) {
            layout.point("previous-good", &good)?;
        }
        layout.point("last-good", name)?;
        Release::set_good(layout, name)?;
        let gone = release::prune(layout, site.config.releases.keep)?;
        let umbrella = site.systemd.show(SERVICE)?.state;
        if !matches!(umbrella.as_str(), "active" | "reloading") && !site.systemd.is_stopping()? {
            // The release serves already; without the umbrella it would not after a reboot, and could not be stopped by name.
            let started = site.systemd.start(SERVICE, seconds(site.config.upgrade.start_timeout_s));
            started.unwrap_or_else(|error| site.out.warn(&error.to_string()));
        }
        Journal::clear(layout)?;
        Ok(if gone.is_empty() {
            format!("{name} is good")
        } else {
            format!("{name} is good; removed {}", gone.join(", "))
        })
    }
}

/// What a slot has answered. Thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Traffic {
    requests: u64,
    errors: u64,
    duration: u64,
    count: u64,
}

impl Traffic {
    /// Until now.
    fn of(instance: &Instance) -> Result<Self, Error> {
        Self::parse(&instance.metrics()?)
    }

    /// A counter has no series before it has counted: then its `# TYPE` line stands for 0. A server without the metric would
    /// pass every comparison, and is refused instead.
    fn parse(text: &str) -> Result<Self, Error> {
        let sum = |name: &str, family: &str, label| match metric_milli(text, name, label) {
            Some(sum) => Ok(sum),
            None if text.lines().any(|line| metric_named(line, family)) => Ok(0),
            None => Err(Error::Remote(format!("its /metrics has no {family}: its answers cannot be compared"))),
        };
        Ok(Self {
            requests: sum(REQUESTS, REQUESTS, "")?,
            errors: sum(REQUESTS, REQUESTS, "status=\"5")?,
            duration: sum(&format!("{DURATIONS}_sum"), DURATIONS, "")?,
            count: sum(&format!("{DURATIONS}_count"), DURATIONS, "")?,
        })
    }

    fn since(self, start: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(start.requests) / 1_000,
            errors: self.errors.saturating_sub(start.errors) / 1_000,
            duration: self.duration.saturating_sub(start.duration),
            count: self.count.saturating_sub(start.count) / 1_000,
        }
    }

    fn mean_ms(self) -> u64 {
        self.duration.checked_div(self.count).unwrap_or_default()
    }

    /// Refuses what is worse than the old one by more than the limits.
    fn compare(self, old: &Self, max_error_percent: u64, max_latency_ratio: u64) -> Result<(), Error> {
        if self.requests < ENOUGH_REQUESTS {
            return Ok(());
        }
        let percent = |traffic: &Self| (traffic.errors * 100).checked_div(traffic.requests).unwrap_or_default();
        if percent(&self) > percent(old) + max_error_percent {
            return Err(Error::Remote(format!("{self}; the old one: {old}")));
        }
        if self.mean_ms() > QUICK_MS && self.mean_ms() > old.mean_ms().saturating_mul(max_latency_ratio) {
            return Err(Error::Remote(format!("{self}; the old one: {old}")));
        }
        Ok(())
    }
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests, {} of them 5xx, {} ms each", self.requests, self.errors, self.mean_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_that_are_absent_are_no_zeros() {
        let types = "# TYPE hotgo_http_requests_total counter\n# TYPE hotgo_http_request_duration_seconds summary\n";
        assert_eq!(Traffic::parse(types).unwrap(), Traffic::default());
        let counted = "hotgo_http_requests_total{status=\"200\"} 5\n\
                       hotgo_http_request_duration_seconds_sum 0.5\nhotgo_http_request_duration_seconds_count 5\n";
        let expected = Traffic { requests: 5_000, errors: 0, duration: 500, count: 5_000 };
        assert_eq!(Traffic::parse(counted).unwrap(), expected);
        for text in ["", "hotgo_ready 1\n", "hotgo_http_requests_total{status=\"200\"} 5\n"] {
            assert!(Traffic::parse(text).unwrap_err().to_string().contains("has no hotgo_http_request"), "{text}");
        }
    }

    #[test]
    fn a_candidate_that_answers_worse_or_much_slower_is_refused() {
        let of = |requests, errors, ms| Traffic { requests, errors, duration: ms * requests, count: requests };
        let old = of(1_000, 10, 20);
        for good in [of(1_000, 10, 20), of(19, 19, 9_000), of(0, 0, 0), of(1_000, 20, 90), of(1_000, 0, 499)] {
            assert!(good.compare(&old, 1, 5).is_ok(), "{good}");
        }
        for bad in [of(1_000, 30, 20), of(1_000, 0, 501)] {
            assert!(bad.compare(&old, 1, 5).is_err(), "{bad}");
        }
    }
}
