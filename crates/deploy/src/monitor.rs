//! Looks at everything once. Each finding has a name; the first one hides none of the others, and each is told once, again
//! after a while if it stays, and when it is over.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::seconds;
use crate::error::Error;
use crate::instance::metric_milli;
use crate::journal::Journal;
use crate::layout::{make_dir, write_file};
use crate::lock::Lock;
use crate::notice::deliver;
use crate::output::Style;
use crate::release::Release;
use crate::site::Site;
use crate::systemd::{SERVICE, SOCKET};
use crate::time;

/// Load is measured over this.
const CPU_SAMPLE: Duration = Duration::from_secs(1);
/// Load is told after so many times in a row.
const LOAD_STRIKES: u64 = 2;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, always the same.
    pub name: String,
    /// Whether it is as it should be; none if that cannot be known.
    pub ok: Option<bool>,
    /// What was found.
    pub detail: String,
}

impl Finding {
    fn new(name: &str, ok: bool, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok: Some(ok), detail: detail.into() }
    }

    fn unknown(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok: None, detail: detail.into() }
    }

    /// As one line.
    pub fn line(&self, site: &Site) -> String {
        let mark = match self.ok {
            Some(true) => site.out.paint(Style::Good, "ok   "),
            Some(false) => site.out.paint(Style::Bad, "BAD  "),
            None => site.out.paint(Style::Warn, "?    "),
        };
        format!("{mark} {:<16} {}", self.name, self.detail)
    }
}

/// What was told, between two runs.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    alerts: BTreeMap<String, Alert>,
    restarts: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Alert {
    since_ms: u64,
    strikes: u64,
    told_ms: Option<u64>,
}

fn state_dir(site: &Site) -> PathBuf {
    site.layout.root.join("var/lib/hotgo-monitor")
}

/// Looks, and tells who must know.
///
/// # Errors
/// [`Error::Unhealthy`] with everything that is wrong.
pub fn run(site: &Site, dry_run: bool) -> Result<(), Error> {
    let dir = state_dir(site);
    let path = dir.join("state.json");
    let text = fs::read(&path).unwrap_or_default();
    let mut state: State = serde_json::from_slice(&text).unwrap_or_default();
    let findings = look(site, Some(&mut state.restarts));
    print(site, &findings);
    if !dry_run {
        let (now, repeat) = (time::now_ms(), site.config.monitor.repeat_s.saturating_mul(1_000));
        let messages = news(&mut state.alerts, &findings, now, repeat);
        make_dir(&dir, 0o755)?;
        tell(site, &messages, &mut state);
        write_file(&path, serde_json::to_string(&state).unwrap_or_default().as_bytes(), 0o644)?;
    }
    verdict(&findings)
}

/// What is to be told now, and by which alerts.
fn news(
    alerts: &mut BTreeMap<String, Alert>,
    findings: &[Finding],
    now_ms: u64,
    repeat_ms: u64,
) -> Vec<(String, String)> {
    let mut messages = Vec::new();
    for finding in findings {
        let Finding { name, ok, detail } = finding;
        if *ok == Some(true) {
            if let Some(Alert { told_ms: Some(_), since_ms, .. }) = alerts.remove(name) {
                messages.push((name.clone(), format!("over: {name}: {detail} (since {})", time::rfc3339(since_ms))));
            }
        } else if *ok == Some(false) {
            let new = Alert { since_ms: now_ms, strikes: 0, told_ms: None };
            let alert = alerts.entry(name.clone()).or_insert(new);
            alert.strikes += 1;
            let wanted = if matches!(name.as_str(), "cpu" | "memory") { LOAD_STRIKES } else { 1 };
            let due = alert.told_ms.is_none_or(|told| now_ms >= told.saturating_add(repeat_ms));
            if alert.strikes >= wanted && due {
                messages.push((name.clone(), format!("{name}: {detail}")));
            }
        }
    }
    messages
}

/// One message for all of it. What could not be told is told next time.
fn tell(site: &Site, messages: &[(String, String)], state: &mut State) {
    if messages.is_empty() {
        return;
    }
    let lines: Vec<&str> = messages.iter().map(|(_, line)| line.as_str()).collect();
    let (mut told, mut failures) = (Vec::new(), Vec::new());
    let notify = &site.config.notify;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let body = json!({ "kind": "alert", "host": host.trim(), "at": time::rfc3339(time::now_ms()), "alerts": lines });
    let subject = format!("hotgo on {}: {}", host.trim(), lines.first().copied().unwrap_or_default());
    deliver(site, notify, &notify.mail, &subject, &lines.join("\n"), &body, &mut told, &mut failures);
    for failure in &failures {
        site.out.warn(&format!("not told: {failure}"));
    }
    // Nobody to tell is told by the exit status and the journal.
    if !told.is_empty() || failures.is_empty() {
        for (name, _) in messages {
            if let Some(alert) = state.alerts.get_mut(name) {
                alert.told_ms = Some(time::now_ms());
            }
        }
    }
}

fn print(site: &Site, findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(|finding| finding.line(site)).collect();
    site.out.result(&lines.join("\n"), &findings);
}

fn verdict(findings: &[Finding]) -> Result<(), Error> {
    let bad: Vec<&str> =
        findings.iter().filter(|finding| finding.ok == Some(false)).map(|one| one.name.as_str()).collect();
    if bad.is_empty() { Ok(()) } else { Err(Error::Unhealthy(format!("not as it should be: {}", bad.join(", ")))) }
}

/// Looks again and again, and sums up.
///
/// # Errors
/// [`Error::Unhealthy`] with everything that was ever wrong.
pub fn watch(site: &Site, for_s: u64, every_s: u64) -> Result<(), Error> {
    let since = time::now_ms();
    let end = Instant::now() + seconds(for_s);
    let line = site.out.step("watch", &format!("{for_s} s"));
    let mut seen: BTreeMap<String, (Finding, u64)> = BTreeMap::new();
    let mut rounds = 0_u64;
    let mut restarts = BTreeMap::new();
    loop {
        rounds += 1;
        let mut findings = look(site, Some(&mut restarts));
        findings.push(errors(site, since));
        for finding in findings {
            let bad = u64::from(finding.ok == Some(false));
            let entry = seen.entry(finding.name.clone()).or_insert_with(|| (finding.clone(), 0));
            if bad == 1 {
                site.out.warn(&format!("{}: {}", finding.name, finding.detail));
            }
            // The worst is what is remembered; of the good, the last.
            if bad == 1 || entry.1 == 0 {
                entry.0 = finding;
            }
            entry.1 += bad;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        line.update(&format!("{} s left", left.as_secs()));
        site.interrupt.sleep(left.min(seconds(every_s.max(1))))?;
    }
    line.done(&format!("looked {rounds} times"));
    let findings: Vec<Finding> = seen
        .into_values()
        .map(|(finding, bad)| match bad {
            0 => finding,
            _ => Finding { detail: format!("{} ({bad} of {rounds} times)", finding.detail), ..finding },
        })
        .collect();
    print(site, &findings);
    verdict(&findings)
}

/// Errors in the log.
pub fn errors(site: &Site, since_ms: u64) -> Finding {
    let errors = site.systemd.errors_since(since_ms);
    let last = errors.last().map(|line| format!(", the last: {line}")).unwrap_or_default();
    Finding::new("log", errors.is_empty(), format!("{} errors{last}", errors.len()))
}

/// Everything once. With `restarts` from the last time, processes that were started again since are a finding.
pub fn look(site: &Site, restarts: Option<&mut BTreeMap<String, u64>>) -> Vec<Finding> {
    let mut findings = vec![service(site)];
    if let Some(restarts) = restarts {
        findings.push(started_again(site, restarts));
    }
    findings.extend(server(site));
    let limits = &site.config.monitor;
    if limits.cpu_percent > 0 {
        findings.push(match cpu_percent(site) {
            Some(percent) => Finding::new("cpu", percent <= limits.cpu_percent, format!("{percent} %")),
            None => Finding::unknown("cpu", "cannot be read"),
        });
    }
    if limits.memory_percent > 0 {
        findings.push(match memory_percent(&fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
            Some(percent) => Finding::new("memory", percent <= limits.memory_percent, format!("{percent} %")),
            None => Finding::unknown("memory", "cannot be read"),
        });
    }
    for (name, dir) in [("disk-data", site.layout.data()), ("disk-releases", site.layout.home())] {
        if limits.disk_percent > 0 {
            findings.push(disk(name, &dir, limits.disk_percent));
        }
    }
    findings.push(unfinished(site));
    findings
}

fn service(site: &Site) -> Finding {
    let states =
        [SERVICE, SOCKET].map(|unit| site.systemd.show(unit).map_or_else(|error| error.to_string(), |unit| unit.state));
    let [service, socket] = &states;
    let Some(colour) = site.layout.active() else {
        return Finding::new("service", false, "no release serves here yet");
    };
    let unit = site.unit(colour).unwrap_or_default();
    let ok = ["active", "reloading"].contains(&service.as_str()) && socket == "active" && unit.is_active();
    let detail =
        format!("hotgo.service {service}, hotgo.socket {socket}, {} {} ({})", colour.unit(), unit.state, unit.result);
    Finding::new("service", ok, detail)
}

/// `NRestarts` counts since the unit was started.
fn started_again(site: &Site, before: &mut BTreeMap<String, u64>) -> Finding {
    let mut again = Vec::new();
    for colour in crate::layout::Colour::ALL {
        let unit = site.unit(colour).unwrap_or_default();
        let last = before.insert(colour.unit(), unit.restarts).unwrap_or(unit.restarts);
        if unit.restarts > last {
            again.push(format!("{} {} times ({})", colour.unit(), unit.restarts - last, unit.result));
        }
    }
    let detail = if again.is_empty() { "none".to_owned() } else { again.join(", ") };
    Finding::new("restarts", again.is_empty(), detail)
}

/// What the server itself says. One that lives and is not ready is bad, and is asked for the rest all the same.
fn server(site: &Site) -> Vec<Finding> {
    let Some(colour) = site.layout.active() else { return Vec::new() };
    let build = site.layout.slot(colour).and_then(|name| Release::load(&site.layout, &name).ok());
    let build = build.map(|release| release.manifest.build_id).unwrap_or_default();
    let limits = &site.config.monitor;
    let status = match site.alive(colour, &build) {
        Ok(status) => status,
        Err(error) => {
            let none = "nobody answers for them";
            let robots = format!("{none}, and there are to be {}", limits.min_robots);
            return vec![
                Finding::new("health", false, error.to_string()),
                if limits.min_robots > 0 {
                    Finding::new("robots", false, robots)
                } else {
                    Finding::unknown("robots", none)
                },
                Finding::unknown("unknown-orders", none),
            ];
        }
    };
    let trading = status.trading();
    let not_ready = if status.ready { "" } else { ", not ready" };
    let health = format!(
        "build {}, pid {}, up {} s, {}{not_ready}",
        status.build_id,
        status.pid,
        status.uptime_ms / 1_000,
        status.phase
    );
    let mut findings = vec![
        Finding::new("health", status.ready, health),
        Finding::new("robots", trading.robots >= limits.min_robots, trading.to_string()),
    ];
    let unresolved = status.engines.iter().flat_map(|engine| &engine.unresolved);
    let oldest = unresolved.max_by_key(|order| order.age_ms);
    let limit = limits.unknown_order_s.saturating_mul(1_000);
    findings.push(match oldest {
        Some(order) if limit > 0 => Finding::new(
            "unknown-orders",
            order.age_ms <= limit,
            format!("{} is of unknown outcome for {} s", order.client_order_id, order.age_ms / 1_000),
        ),
        _ => Finding::new("unknown-orders", true, "none"),
    });
    let text = site.instance(colour).metrics().unwrap_or_default();
    for (name, metric, limit) in [
        ("lease-age", "hotgo_lease_age_seconds", limits.lease_age_s),
        ("event-lag", "hotgo_event_lag_seconds", limits.event_lag_s),
    ] {
        if limit > 0 {
            findings.push(match metric_milli(&text, metric, "") {
                Some(milli) => Finding::new(name, milli <= limit.saturating_mul(1_000), format!("{milli} ms")),
                None => Finding::unknown(name, format!("the server has no {metric}")),
            });
        }
    }
    findings
}

/// Busy in hundredths of all cores.
fn cpu_percent(site: &Site) -> Option<u64> {
    let sample = || {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let numbers: Vec<u64> =
            text.lines().next()?.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let idle: u64 = numbers.iter().skip(3).take(2).sum();
        Some((numbers.iter().take(8).sum::<u64>(), idle))
    };
    let (all, idle) = sample()?;
    site.interrupt.sleep(CPU_SAMPLE).ok()?;
    let (all_later, idle_later) = sample()?;
    let passed = all_later.saturating_sub(all);
    let busy = passed.saturating_sub(idle_later.saturating_sub(idle));
    (busy * 100).checked_div(passed)
}

/// Of what the kernel calls available.
fn memory_percent(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (total, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    (total.saturating_sub(available) * 100).checked_div(total)
}

fn disk(name: &str, dir: &Path, limit: u64) -> Finding {
    match statvfs(dir) {
        Ok(disk) => {
            let (all, free) = (disk.blocks(), disk.blocks_available());
            let percent = (all.saturating_sub(free) * 100).checked_div(all).unwrap_or_default();
            Finding::new(name, percent <= limit, format!("{percent} % of the disk of {}", dir.display()))
        }
        Err(error) => Finding::unknown(name, format!("{}: {error}", dir.display())),
    }
}

/// A run that was cut short. One that is under way holds the lock.
fn unfinished(site: &Site) -> Finding {
    match Journal::load(&site.layout) {
        Ok(None) => Finding::new("unfinished", true, "none"),
        Ok(Some(journal)) if journal.waits => {
            Finding::new("unfinished", true, format!("{} waits as a canary", journal.to.release))
        }
        Ok(Some(journal)) => {
            let works = Lock::holder(&site.layout.lock()).is_some();
            let what = format!("{} of {} at {}", journal.command, journal.to.release, journal.step.name());
            let detail = if works {
                format!("{what} is under way")
            } else {
                format!("{what} was cut short: run it again, or `abort`")
            };
            Finding::new("unfinished", works, detail)
        }
        Err(error) => Finding::new("unfinished", false, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_told_once_again_after_a_while_and_when_it_is_over() {
        let mut alerts = BTreeMap::new();
        let bad = [Finding::new("health", false, "gone"), Finding::new("robots", false, "0")];
        let told = |alerts: &mut BTreeMap<String, Alert>, findings: &[Finding], now| {
            let messages = news(alerts, findings, now, 100);
            for (name, _) in &messages {
                if let Some(alert) = alerts.get_mut(name) {
                    alert.told_ms = Some(now);
                }
            }
            messages.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut alerts, &bad, 10), ["health: gone", "robots: 0"], "the first does not hide the second");
        assert!(told(&mut alerts, &bad, 50).is_empty());
        assert_eq!(told(&mut alerts, &bad, 110).len(), 2);
        let good = [Finding::new("health", true, "fine")];
        assert!(told(&mut alerts, &good, 120).first().unwrap().starts_with("over: health: fine"));
        assert!(told(&mut alerts, &good, 130).is_empty());
    }

    #[test]
    fn load_is_told_when_it_stays_and_what_was_not_told_is_tried_again() {
        let mut alerts = BTreeMap::new();
        let hot = [Finding::new("cpu", false, "99 %")];
        assert!(news(&mut alerts, &hot, 1, 100).is_empty());
        assert_eq!(news(&mut alerts, &hot, 2, 100).len(), 1);
        assert_eq!(news(&mut alerts, &hot, 3, 100).len(), 1, "nobody has taken it yet");
        let unknown = [Finding::unknown("cpu", "cannot be read")];
        assert!(news(&mut alerts, &unknown, 4, 100).is_empty(), "what is not known is neither bad nor over");
    }

    #[test]
    fn memory_is_what_the_kernel_calls_available() {
        assert_eq!(memory_percent("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 250 kB\n"), Some(75));
        assert_eq!(memory_percent(""), None);
    }
}
