//! `main status`: asks the running server's private socket.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use super::{ExitCode, Failure, Global, Output, StatusArgs, Style};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::{EngineReport, PhaseState, StatusReport};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the units of `manifest/systemd` put the slots' sockets.
const RUNTIME_DIR: &str = "/run/hotgo";
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(global: &Global, args: &StatusArgs) -> Result<ExitCode, Failure> {
    let out = global.output();
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => global.load(&[])?.config.admin_socket(),
    };
    let client = AdminClient::new(&socket, ANSWER_TIMEOUT);
    let first = match client.status().await {
        Err(error @ ClientError::Unreachable { .. }) if args.socket.is_none() => {
            return Err(unreachable(error, &socket));
        }
        answered => answered?,
    };
    if args.watch {
        return watch(out, &client, first).await;
    }
    if out.json {
        out.json(&first)?;
    } else {
        out.line(text(out, &first))?;
    }
    Ok(ExitCode::Ok)
}

/// Nobody answers on the configured socket: names others, since slots have one each that only their units name.
fn unreachable(error: ClientError, configured: &Path) -> Failure {
    let beside = configured.parent();
    let mut others: Vec<_> = beside.into_iter().chain([Path::new(RUNTIME_DIR)]).flat_map(sockets).collect();
    others.sort();
    others.dedup();
    let failure = Failure::from(error);
    if others.is_empty() {
        return failure;
    }
    failure.help(format!("there is {}; name the one you mean with --socket", others.join(" and ")))
}

/// The sockets in a directory, as far as it can be read.
fn sockets(dir: &Path) -> impl Iterator<Item = String> {
    let entries = dir.read_dir().into_iter().flatten().flatten();
    entries.filter(|it| it.file_type().is_ok_and(|it| it.is_socket())).map(|it| it.path().display().to_string())
}

/// On a terminal one picture is drawn again and again; elsewhere a line is printed when something has changed.
async fn watch(out: Output, client: &AdminClient, first: StatusReport) -> Result<ExitCode, Failure> {
    let mut report = first;
    let mut height = 0;
    let mut last = String::new();
    loop {
        if out.json {
            out.json(&report)?;
        } else if out.redraws() {
            let text = text(out, &report);
            out.redraw(height, &text)?;
            height = text.lines().count();
        } else {
            let line = summary(&report);
            if line != last {
                out.line(&line)?;
                last = line;
            }
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
        report = match client.status().await {
            Ok(report) => report,
            Err(ClientError::Unreachable { .. } | ClientError::Broken(_)) => break,
            Err(error) => return Err(error.into()),
        };
    }
    if !out.json {
        out.line("the server is gone")?;
    }
    Ok(ExitCode::Ok)
}

fn text(out: Output, report: &StatusReport) -> String {
    let ready = if report.ready { out.paint(Style::Good, "ready") } else { out.paint(Style::Warn, "not ready") };
    let phase = out.paint(Style::Bold, &report.phase);
    let mut lines = vec![
        format!("build     {}  pid {}  up {}", report.build_id, report.pid, seconds(report.uptime_ms)),
        format!("phase     {phase}, {ready}{}", remaining(report)),
    ];
    if !report.phases.is_empty() {
        lines.push(format!("progress  {}", progress(out, report)));
    }
    lines.extend(report.blockers.iter().map(|blocker| {
        let line = format!("waits     {}: {} for {}", blocker.phase, blocker.what, seconds(blocker.age_ms));
        out.paint(Style::Warn, &line)
    }));
    for engine in &report.engines {
        lines.push(format!("account   {}", engine_text(out, engine)));
        lines.extend(engine.reason.iter().map(|reason| out.paint(Style::Bad, &format!("          {reason}"))));
        lines.extend(engine.unresolved.iter().map(|order| {
            let line = format!("          unresolved {} for {}", order.client_order_id, seconds(order.age_ms));
            out.paint(Style::Bad, &line)
        }));
    }
    lines.push(format!("sessions  {}", report.sessions));
    lines.extend(report.last_reload.as_ref().map(|reload| {
        let (style, verdict) = if reload.ok { (Style::Good, "done") } else { (Style::Bad, "refused") };
        out.paint(style, &format!("reload    {verdict} {} ago: {}", seconds(reload.age_ms), reload.detail))
    }));
    lines.join("\n")
}

fn engine_text(out: Output, engine: &EngineReport) -> String {
    let state = out.paint(if engine.ready { Style::Good } else { Style::Warn }, &engine.state);
    let epoch = engine.epoch.map_or_else(|| "-".to_owned(), |epoch| epoch.to_string());
    if let ("standby" | "handing over", Some(owner)) = (engine.state.as_str(), &engine.owner) {
        return format!("{} {state}  of {owner}", engine.label);
    }
    format!(
        "{} {state}  epoch {epoch}  robots {}  live orders {}  unresolved {}  queued {}",
        engine.label,
        engine.robots_running,
        engine.live_orders,
        engine.unresolved.len(),
        engine.queued
    )
}

fn progress(out: Output, report: &StatusReport) -> String {
    let marks = report.phases.iter().map(|phase| match phase.state {
        PhaseState::Waiting => out.paint(Style::Dim, &format!("  {}", phase.name)),
        PhaseState::Running => out.paint(Style::Bold, &format!("> {}", phase.name)),
        PhaseState::Completed => out.paint(Style::Good, &format!("+ {}", phase.name)),
        PhaseState::Incomplete => out.paint(Style::Bad, &format!("! {}", phase.name)),
    });
    marks.collect::<Vec<_>>().join("  ")
}

/// What a watcher without a terminal sees: no ages and no remaining time, so that a line means a change.
fn summary(report: &StatusReport) -> String {
    let unresolved: usize = report.engines.iter().map(|engine| engine.unresolved.len()).sum();
    let live: usize = report.engines.iter().map(|engine| engine.live_orders).sum();
    let robots: usize = report.engines.iter().map(|engine| engine.robots_running).sum();
    let waits: Vec<&str> = report.blockers.iter().map(|blocker| blocker.what.as_str()).collect();
    let waits = if waits.is_empty() { String::new() } else { format!("  waits for {}", waits.join(", ")) };
    format!(
        "{}  {}  unresolved {unresolved}  live orders {live}  robots {robots}  sessions {}{waits}",
        report.phase,
        if report.ready { "ready" } else { "not ready" },
        report.sessions,
    )
}

fn remaining(report: &StatusReport) -> String {
    let reason = report.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
    report.deadline_remaining_ms.map_or_else(|| reason.clone(), |left| format!("{reason}, {} left", seconds(left)))
}

/// Tenths below a minute, whole units above.
fn seconds(ms: u64) -> String {
    let (whole, tenth) = (ms / 1_000, ms % 1_000 / 100);
    match whole {
        0..60 => format!("{whole}.{tenth}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3_600, whole % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::{Output, progress, seconds, summary, text};
    use crate::admin::{BlockerReport, EngineReport, PhaseReport, PhaseState, StatusReport, UnresolvedOrder};
    use crate::telemetry::Color;

    fn draining() -> StatusReport {
        StatusReport {
            build_id: "0.1.0+abc".to_owned(),
            pid: 7,
            uptime_ms: 61_000,
            phase: "order-drain".to_owned(),
            reason: Some("SIGTERM".to_owned()),
            deadline_remaining_ms: Some(27_300),
            phases: vec![
                PhaseReport { name: "announce".to_owned(), state: PhaseState::Completed },
                PhaseReport { name: "order-drain".to_owned(), state: PhaseState::Running },
            ],
            blockers: vec![BlockerReport {
                phase: "order-drain".to_owned(),
                what: "hook engines".to_owned(),
                age_ms: 3_100,
            }],
            engines: vec![EngineReport {
                account: 1,
                label: "main".to_owned(),
                ready: true,
                state: "draining".to_owned(),
                reason: None,
                owner: None,
                epoch: Some(3),
                lease_age_ms: None,
                robots_running: 2,
                live_orders: 5,
                unresolved: vec![UnresolvedOrder { client_order_id: "h01".to_owned(), age_ms: 1_200 }],
                queued: 0,
            }],
            ..StatusReport::default()
        }
    }

    #[test]
    fn a_drain_shows_its_phase_what_it_waits_for_and_every_unresolved_order() {
        let text = text(Output::new(false, Color::Never), &draining());
        for part in [
            "order-drain, not ready (SIGTERM), 27.3s left",
            "+ announce  > order-drain",
            "waits     order-drain: hook engines for 3.1s",
            "main draining  epoch 3  robots 2  live orders 5  unresolved 1  queued 0",
            "unresolved h01 for 1.2s",
            "up 1m01s",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_quarantined_account_says_why() {
        let mut report = draining();
        report.engines[0].state = "quarantined".to_owned();
        report.engines[0].reason = Some("the venue has order h01".to_owned());
        let text = text(Output::new(false, Color::Never), &report);
        assert!(text.contains("main quarantined  epoch 3"), "{text}");
        assert!(text.contains("\n          the venue has order h01\n"), "{text}");
    }

    #[test]
    fn a_line_for_watchers_changes_only_when_something_happens() {
        let (mut later, now) = (draining(), draining());
        later.deadline_remaining_ms = Some(1);
        later.blockers[0].age_ms = 9_999;
        later.engines[0].unresolved[0].age_ms = 9_999;
        assert_eq!(summary(&now), summary(&later));
        later.engines[0].unresolved.clear();
        assert_ne!(summary(&now), summary(&later));
        assert!(!progress(Output::new(false, Color::Never), &now).contains('\u{1b}'));
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0, 59_999, 60_000, 3_600_000].map(seconds), ["0.0s", "59.9s", "1m00s", "1h00m"]);
    }
}
