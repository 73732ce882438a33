//! From the command line to the work, and from what came of it to an exit code and one line in the audit log.

use std::path::Path;
use std::time::Instant;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, User};
use serde_json::json;

use crate::artifact::{self, Build};
use crate::cli::{Change, Cli, Command, Event};
use crate::config::{Config, seconds};
use crate::error::{Error, Exit};
use crate::journal::{Journal, Record};
use crate::layout::{Colour, Layout, make_dir, remove_file};
use crate::lock::Lock;
use crate::output::{Output, Style};
use crate::process::Interrupt;
use crate::release::{Release, in_use};
use crate::site::{Site, USER};
use crate::systemd::{SERVICE, SOCKET, Systemd};
use crate::upgrade::{Outcome, Request, Step, Upgrade, recover};
use crate::windows::{Impact, Offset};
use crate::{checklist, contract, install, monitor, notice, rolling, time};

/// Runs a command to its end.
pub fn run(cli: &Cli) -> Exit {
    // What is unpacked must be readable by the server's user, whoever runs us.
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let site = match open(cli) {
        Ok(site) => site,
        Err(error) => {
            let out = Output::new(cli.global.json, 0);
            out.error(&error.to_string(), error.help());
            return error.exit();
        }
    };
    let installed = if cli.command.is_of_this_host() { site.check_installed() } else { Ok(()) };
    let result = installed
        .and_then(|()| if cli.command.changes() { recorded(&site, &cli.command) } else { look(&site, &cli.command) });
    match result {
        Ok(()) => Exit::Ok,
        Err(error) if is_stopped(&site, &error) => Exit::Ok,
        Err(error) => {
            site.out.error(&error.to_string(), error.help());
            // What is wrong with the site is a result, and was printed.
            if site.out.json && !matches!(error, Error::Unhealthy(_)) {
                site.out.result("", &json!({ "error": error.to_string(), "exit": error.exit().number() }));
            }
            error.exit()
        }
    }
}

/// `systemctl stop` in the middle of a reload: the service ends as stopped, not as failed.
fn is_stopped(site: &Site, error: &Error) -> bool {
    site.interrupt.ignore();
    matches!(error, Error::Interrupted { .. }) && site.systemd.is_stopping().unwrap_or(false)
}

fn open(cli: &Cli) -> Result<Site, Error> {
    let layout = Layout::new(&cli.global.root);
    let interrupt = Interrupt::install()?;
    let config = Config::load(&layout.etc().join("deploy.yaml"))?;
    let Offset(offset) = config.windows.utc_offset;
    let host = layout.root == Path::new("/") && Uid::effective().is_root();
    let user = if host { User::from_name(USER).ok().flatten().map(|_| USER) } else { None };
    let by = std::env::var_os("SUDO_USER").map(|name| name.to_string_lossy().into_owned());
    let by = by.or_else(|| User::from_uid(Uid::current()).ok().flatten().map(|user| user.name));
    Ok(Site {
        systemd: Systemd::new(&cli.global.systemctl, &cli.global.journalctl, interrupt.clone()),
        out: Output::new(cli.global.json, offset),
        user,
        by: by.unwrap_or_else(|| Uid::current().to_string()),
        layout,
        config,
        interrupt,
    })
}

/// What changes nothing.
fn look(site: &Site, command: &Command) -> Result<(), Error> {
    match command.clone() {
        Command::Build { binary, source, out, key } => {
            let (path, manifest) = artifact::build(&Build { binary, source, out, key }, &site.interrupt)?;
            site.out.result(
                &format!("{}\n{}", path.display(), path.with_added_extension("sig").display()),
                &json!({ "artifact": path, "release": manifest }),
            );
            Ok(())
        }
        Command::Keygen { file } => {
            let id = artifact::keygen(&file)?;
            let public = file.with_added_extension("pub");
            let text = format!(
                "key {id}\n{}: keep it where artifacts are built\n{}: for `install --key`",
                file.display(),
                public.display()
            );
            site.out.result(&text, &json!({ "key": id, "secret": file, "public": public }));
            Ok(())
        }
        Command::Status => status(site),
        Command::List => {
            list(site);
            Ok(())
        }
        Command::Monitor { dry_run } => monitor::run(site, dry_run),
        Command::Watch { for_s, every } => monitor::watch(site, for_s, every),
        Command::Checklist { when, release } => checklist::run(site, when, release.as_deref()),
        Command::Slots { event } => slots(site, event),
        Command::Install { key, .. } => install::run(site, key.as_deref(), true),
        Command::Release { artifact, .. } => {
            let verified = artifact::verify(&artifact, &site.layout.keys())?;
            site.out.result(&format!("{} is as it was signed", artifact.display()), &json!({ "artifact": artifact }));
            drop(verified);
            Ok(())
        }
        Command::Upgrade { release, change } | Command::Canary { release, change, .. } => {
            site.window(&change, Impact::None)?;
            plan(site, &chosen(site, release.as_deref())?, false)
        }
        Command::Rollback { release, .. } => plan(site, &way_back(site, release.as_deref())?, true),
        Command::Quick { artifact, change } => {
            site.window(&change, Impact::None)?;
            artifact::verify(&artifact, &site.layout.keys())?;
            site.out.result(
                &format!("{} would be released and serve", artifact.display()),
                &json!({ "artifact": artifact }),
            );
            Ok(())
        }
        Command::Restart { change } => {
            site.window(&change, Impact::Pause)?;
            let unit = site.layout.active().map(Colour::unit);
            site.out.result(
                &format!("would restart {}", unit.as_deref().unwrap_or("nothing")),
                &json!({ "restart": unit }),
            );
            Ok(())
        }
        Command::Rolling { release, only, change } => {
            site.window(&change, Impact::None)?;
            rolling::run(site, release.as_deref(), &only, true, &change)
        }
        Command::Migrate { release, .. } => migrate(site, release.as_deref(), true),
        Command::Contract { forget, .. } => contract::run(site, forget, true),
        Command::Notice { level, message, at, fixed, downtime, .. } => {
            let notice = notice::Notice::new(site, level, &message, at.as_deref(), fixed.as_deref(), &downtime)?;
            site.out.result(&notice.text(), &notice);
            Ok(())
        }
        Command::Promote | Command::Abort => Ok(()),
    }
}

/// What changes something: under the lock, and with a record, whatever comes of it.
fn recorded(site: &Site, command: &Command) -> Result<(), Error> {
    let start = Instant::now();
    let now = time::now_ms();
    let mut record = Record {
        run: format!("{}-{}", time::stamp(now), std::process::id()),
        at: time::rfc3339(now),
        command: command.name().to_owned(),
        arguments: std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect(),
        by: site.by.clone(),
        ..Record::default()
    };
    make_dir(&site.layout.state(), 0o755)?;
    // `rolling` changes the servers that it names, through their own tools and locks: one of them may be this host.
    let lock = match command {
        Command::Rolling { .. } => site.layout.state().join("rolling.lock"),
        _ => site.layout.lock(),
    };
    let lock = Lock::take(&lock, command.name(), &site.by);
    let result = lock.and_then(|lock| {
        if let Some(holder) = &lock.recovered_from {
            site.out.warn(&format!("its holder died: {holder}"));
        }
        let result = change(site, command, &mut record);
        drop(lock);
        result
    });
    record.ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &result {
        Ok(()) => "done".clone_into(&mut record.outcome),
        Err(error) => (record.exit, record.outcome) = (error.exit().number(), error.to_string()),
    }
    let written = record.append(&site.layout);
    match (result, written) {
        (Ok(()), Err(error)) => {
            site.out.warn(&format!("done, but not recorded: {error}"));
            Ok(())
        }
        (result, _) => result,
    }
}

fn change(site: &Site, command: &Command, record: &mut Record) -> Result<(), Error> {
    match command.clone() {
        Command::Install { key, .. } => install::run(site, key.as_deref(), false),
        Command::Release { artifact, .. } => {
            let release = release(site, &artifact)?;
            site.out.result(&release.name, &json!({ "release": release.name }));
            Ok(())
        }
        Command::Upgrade { release: name, change } => {
            allow(site, &change, Impact::None, record)?;
            upgrade(site, record, None, || chosen(site, name.as_deref()))
        }
        Command::Quick { artifact, change } => {
            allow(site, &change, Impact::None, record)?;
            upgrade(site, record, None, || release(site, &artifact))
        }
        Command::Canary { release: name, for_s, change } => {
            allow(site, &change, Impact::None, record)?;
            upgrade(site, record, Some(for_s), || chosen(site, name.as_deref()))
        }
        Command::Rollback { release: name, .. } => {
            recover(site, record, false)?;
            let target = way_back(site, name.as_deref())?;
            let bad = site.layout.current().filter(|current| *current != target.name);
            if let Some(bad) = &bad {
                Release::set_failed(&site.layout, bad, &format!("rolled back by {}", site.by))?;
            }
            let result = drive(site, record, Request { target, back: true, canary_s: None });
            if let (Some(bad), Err(Error::Preflight(_))) = (&bad, &result) {
                Release::set_good(&site.layout, bad)?;
            }
            result
        }
        Command::Restart { change } => {
            allow(site, &change, Impact::Pause, record)?;
            recover(site, record, true)?;
            restart(site)
        }
        Command::Promote => promote(site, record),
        Command::Abort => abort(site, record),
        Command::Rolling { release, only, change } => {
            allow(site, &change, Impact::None, record)?;
            rolling::run(site, release.as_deref(), &only, false, &change)
        }
        Command::Migrate { release, .. } => {
            recover(site, record, true)?;
            migrate(site, release.as_deref(), false)
        }
        Command::Contract { forget, .. } => {
            recover(site, record, true)?;
            contract::run(site, forget, false)
        }
        Command::Notice { level, message, at, fixed, downtime, .. } => {
            notice::Notice::new(site, level, &message, at.as_deref(), fixed.as_deref(), &downtime)?.send(site)
        }
        // They change nothing, and are not recorded.
        Command::Build { .. }
        | Command::Keygen { .. }
        | Command::Status
        | Command::List
        | Command::Monitor { .. }
        | Command::Watch { .. }
        | Command::Checklist { .. }
        | Command::Slots { .. } => look(site, command),
    }
}

fn allow(site: &Site, change: &Change, impact: Impact, record: &mut Record) -> Result<(), Error> {
    record.outside_window.clone_from(&change.outside_window);
    site.window(change, impact)
}

impl Site {
    fn window(&self, change: &Change, impact: Impact) -> Result<(), Error> {
        match &change.outside_window {
            Some(reason) if reason.trim().is_empty() => Err(Error::Usage("--outside-window wants a reason".to_owned())),
            Some(_) => Ok(()),
            None => self.config.windows.check(impact, time::now_ms()),
        }
    }
}

fn release(site: &Site, artifact: &Path) -> Result<Release, Error> {
    let line = site.out.step("release", &artifact.display().to_string());
    let unpacked =
        artifact::verify(artifact, &site.layout.keys()).and_then(|verified| artifact::unpack(site, &verified));
    match unpacked {
        Ok((release, new)) => {
            line.done(&format!("{}{}", release.name, if new { "" } else { " was there already" }));
            Ok(release)
        }
        Err(error) => {
            line.failed("refused");
            Err(error)
        }
    }
}

/// The release that is meant: a name, an artifact, or the newest.
fn chosen(site: &Site, name: Option<&str>) -> Result<Release, Error> {
    match name {
        None => Release::newest(&site.layout),
        Some(name) => match Release::find(&site.layout, name) {
            Err(Error::NoRelease(_)) if name.contains('/') || Path::new(name).is_file() => {
                release(site, Path::new(name))
            }
            other => other,
        },
    }
}

fn way_back(site: &Site, name: Option<&str>) -> Result<Release, Error> {
    if let Some(name) = name {
        return Release::find(&site.layout, name);
    }
    let current = site.layout.current();
    let candidates = [site.layout.last_good(), site.layout.previous_good()];
    let mut releases = candidates
        .into_iter()
        .flatten()
        .filter(|name| Some(name) != current.as_ref())
        .filter_map(|name| Release::load(&site.layout, &name).ok())
        .filter(|release| release.failure(&site.layout).is_none());
    releases.next().ok_or_else(|| Error::NoRelease("no other release is known to be good: name one".to_owned()))
}

fn upgrade(
    site: &Site,
    record: &mut Record,
    canary_s: Option<u64>,
    target: impl FnOnce() -> Result<Release, Error>,
) -> Result<(), Error> {
    let finished = recover(site, record, true)?;
    let target = target()?;
    let done = finished.filter(|journal| journal.to.release == target.name);
    if done.is_some() && site.layout.last_good().as_ref() == Some(&target.name) && canary_s.is_none() {
        site.out.result(
            &format!("{} serves: the run that was cut short is finished", target.name),
            &json!({ "release": target.name }),
        );
        return Ok(());
    }
    drive(site, record, Request { target, back: false, canary_s })
}

fn drive(site: &Site, record: &mut Record, request: Request) -> Result<(), Error> {
    let name = request.target.name.clone();
    let outcome = Upgrade::new(site, record, request).drive(Step::Preflight)?;
    conclude(site, record, outcome, &name);
    Ok(())
}

fn conclude(site: &Site, record: &Record, outcome: Outcome, name: &str) {
    let text = match outcome {
        Outcome::Done => format!("{} {name} serves", site.out.paint(Style::Good, "done:")),
        Outcome::Waits => {
            format!("{name} shares the traffic and waits: `hotgo-deploy promote` or `hotgo-deploy abort`")
        }
    };
    site.out.status(&format!("{name} serves"));
    site.out.result(
        &text,
        &json!({ "release": name, "waits": outcome == Outcome::Waits, "steps": record.steps,
        "before": record.before, "after": record.after }),
    );
}

fn promote(site: &Site, record: &mut Record) -> Result<(), Error> {
    let Some(mut journal) = Journal::load(&site.layout)?.filter(|journal| journal.waits) else {
        return Err(Error::Usage("no canary waits".to_owned()));
    };
    journal.waits = false;
    let name = journal.to.release.clone();
    let outcome = Upgrade::resume(site, record, journal).drive(Step::HandOver)?;
    conclude(site, record, outcome, &name);
    Ok(())
}

fn abort(site: &Site, record: &mut Record) -> Result<(), Error> {
    let Some(journal) = Journal::load(&site.layout)? else {
        return Err(Error::Usage("there is nothing to abort".to_owned()));
    };
    if !journal.waits {
        recover(site, record, true)?;
        let serves = site.layout.current().unwrap_or_else(|| "nothing".to_owned());
        site.out.result(&format!("{serves} serves"), &json!({ "serves": serves }));
        return Ok(());
    }
    let step = journal.step;
    let state = Upgrade::resume(site, record, journal).undo(step)?;
    site.out.result(&format!("undone: {state}"), &json!({ "state": state }));
    Ok(())
}

fn restart(site: &Site) -> Result<(), Error> {
    let active = site.layout.active().and_then(|colour| Some((colour, site.layout.slot(colour)?)));
    let Some((colour, name)) = active else {
        return Err(Error::NoRelease("no release serves here yet".to_owned()));
    };
    let build_id = Release::load(&site.layout, &name)?.manifest.build_id;
    site.check_units(colour)?;
    let limits = &site.config.upgrade;
    let line = site.out.step("restart", &format!("{name} ({colour}): requests wait"));
    remove_file(&site.layout.candidate_mark(colour))?;
    let timeout = seconds(limits.start_timeout_s.saturating_add(limits.drain_timeout_s));
    let restarted = site.systemd.restart(&colour.unit(), timeout);
    let healthy =
        restarted.and_then(|()| site.wait_for(seconds(limits.check_timeout_s), || site.healthy(colour, &build_id)));
    match healthy {
        Ok(status) => {
            line.done(&format!("pid {}, {}", status.pid, status.trading()));
            Ok(())
        }
        Err(error) => {
            line.failed(&error.to_string());
            Err(Error::Unhealthy(format!("{name} does not serve after its restart: {error}")))
        }
    }
}

fn migrate(site: &Site, name: Option<&str>, dry_run: bool) -> Result<(), Error> {
    let release = match name.map(str::to_owned).or_else(|| site.layout.current()) {
        Some(name) => Release::find(&site.layout, &name)?,
        None => return Err(Error::NoRelease("no release serves here yet: name one".to_owned())),
    };
    let pending = release.pending_migrations(site)?;
    if !dry_run && !pending.is_empty() {
        release.migrate(site)?;
    }
    let did = if dry_run { "would apply" } else { "applied" };
    let mut lines: Vec<String> =
        pending.iter().map(|step| format!("{did} {} {}", step.version, step.description)).collect();
    if lines.is_empty() {
        lines.push("nothing to apply".to_owned());
    }
    site.out.result(&lines.join("\n"), &json!({ "release": release.name, "dry_run": dry_run, "migrations": pending }));
    Ok(())
}

/// What an upgrade would do.
fn plan(site: &Site, target: &Release, back: bool) -> Result<(), Error> {
    target.verify()?;
    let mut pending = target.pending_migrations(site)?;
    pending.retain(|_| !back);
    if pending.is_empty() {
        target.check(site)?;
    }
    let serving = site.serving();
    let from =
        serving.as_ref().map(|(colour, release, status)| format!("{} ({colour}), {}", release.name, status.trading()));
    let text = format!(
        "{} would serve\nserves now: {}\nmigrations: {}",
        target.name,
        from.as_deref().unwrap_or("nothing"),
        pending.len()
    );
    site.out.result(&text, &json!({ "release": target.name, "serves": from, "migrations": pending }));
    Ok(())
}

fn list(site: &Site) {
    let layout = &site.layout;
    let live = in_use(layout);
    let (current, good, active) = (layout.current(), layout.last_good(), layout.active());
    let mut lines = Vec::new();
    let mut values = Vec::new();
    for release in Release::all(layout).iter().rev() {
        let is = |link: &Option<String>| link.as_ref() == Some(&release.name);
        let slots = Colour::ALL.into_iter().filter(|colour| is(&layout.slot(*colour)));
        let mut marks: Vec<String> = slots
            .map(|colour| if Some(colour) == active { format!("{colour} (serves)") } else { colour.to_string() })
            .collect();
        marks.extend(is(&current).then(|| "current".to_owned()));
        marks.extend(is(&good).then(|| "good".to_owned()));
        let failure = release.failure(layout);
        marks.extend(failure.as_ref().map(|why| format!("failed: {}", why.lines().next().unwrap_or_default())));
        lines.push(format!("{}  {} MB  {}", release.name, release.bytes() >> 20, marks.join(", ")));
        values.push(json!({ "release": release.name, "build_id": release.manifest.build_id, "bytes": release.bytes(),
            "schema": release.manifest.schema, "marks": marks, "failure": failure, "in_use": live.contains(&release.name) }));
    }
    if lines.is_empty() {
        lines.push("no releases".to_owned());
    }
    site.out.result(&lines.join("\n"), &values);
}

/// Whether it serves, what runs, what trades, and what is unfinished. Exit code 14 if it does not serve.
fn status(site: &Site) -> Result<(), Error> {
    let layout = &site.layout;
    let serving = site.serving();
    let journal = Journal::load(layout)?;
    let mut lines = Vec::new();
    let mut slots = Vec::new();
    for colour in Colour::ALL {
        let unit = site.unit(colour)?;
        let release = layout.slot(colour);
        let serves = layout.active() == Some(colour);
        let detail = site.instance(colour).status().map(|status| {
            let accepts = if status.accepting { "accepts" } else { "does not accept" };
            format!("pid {}, {}, {accepts}, {}", status.pid, status.phase, status.trading())
        });
        let detail = detail.unwrap_or_default();
        let mark = if serves { "serves" } else { "" };
        let name = release.as_deref().unwrap_or("-");
        lines.push(format!("{:<6} {:<12} {mark:<7} {name}  {detail}", colour.name(), unit.state));
        slots.push(json!({ "colour": colour, "state": unit.state, "pid": unit.main_pid, "restarts": unit.restarts,
            "release": release, "serves": serves, "detail": detail }));
    }
    let [umbrella, socket] = [site.systemd.show(SERVICE)?.state, site.systemd.show(SOCKET)?.state];
    lines.push(format!("hotgo.service {umbrella}, hotgo.socket {socket}"));
    if let Some(journal) = &journal {
        let what = if journal.waits { "waits as a canary" } else { "is under way or was cut short" };
        lines.push(format!("{} of {} {what}, at {}", journal.command, journal.to.release, journal.step.name()));
    }
    let at_work = Lock::holder(&layout.lock()).map(|holder| holder.to_string());
    lines.extend(at_work.as_ref().map(|holder| format!("at work: {holder}")));
    let verdict = if serving.is_some() {
        site.out.paint(Style::Good, "serves")
    } else {
        site.out.paint(Style::Bad, "does not serve")
    };
    lines.push(verdict);
    site.out.result(
        &lines.join("\n"),
        &json!({ "serves": serving.is_some(), "slots": slots, "service": umbrella,
        "socket": socket, "unfinished": journal, "at_work": at_work, "status": serving.as_ref().map(|(_, _, status)| status) }),
    );
    serving.map(drop).ok_or_else(|| Error::Unhealthy("the site does not serve".to_owned()))
}

/// What the umbrella's unit calls. Takes no lock: a stop must not wait for an upgrade.
fn slots(site: &Site, event: Event) -> Result<(), Error> {
    let limits = &site.config.upgrade;
    let start_active = || {
        let Some(colour) = site.layout.active() else {
            return Err(Error::NoRelease("no release serves here yet".to_owned()));
        };
        remove_file(&site.layout.candidate_mark(colour))?;
        site.systemd.start(&colour.unit(), seconds(limits.start_timeout_s))?;
        site.out.status(&format!("{} serves ({colour})", site.layout.slot(colour).unwrap_or_default()));
        Ok(())
    };
    match event {
        Event::Start => start_active(),
        Event::Stop => {
            // A real stop closes the port, or traffic would wake the site; a restart keeps it and its queue.
            if site.systemd.is_stopping()? {
                site.systemd.stop_soon(SOCKET)?;
            }
            let units = Colour::ALL.map(Colour::unit);
            let [blue, green] = &units;
            site.systemd.stop(&[blue, green], seconds(limits.drain_timeout_s))
        }
        Event::Wake => {
            if !site.systemd.show(SOCKET)?.is_active() {
                return Ok(());
            }
            site.systemd.start(SERVICE, seconds(limits.start_timeout_s))?;
            start_active()
        }
    }
}
