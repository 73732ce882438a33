//! Several servers behind a load balancer, one after the other: out, upgrade, test, in. Stops at the first failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::Change;
use crate::config::{ServerConfig, seconds};
use crate::error::Error;
use crate::layout::{remove_file, write_file};
use crate::process::{self, Finished, Interrupt};
use crate::site::Site;

/// A command of the load balancer, or a copy.
const SHORT: Duration = Duration::from_mins(5);
/// How often a server is asked again on which another run is at work.
const AGAIN: Duration = Duration::from_secs(5);

/// Upgrades the servers of `deploy.yaml`, or only these. A signal ends it between two servers: what runs on another host would
/// go on, and the server would be left outside.
///
/// # Errors
/// What the first server said that failed, or [`Error::Interrupted`]. Those after it are as they were.
pub fn run(site: &Site, release: Option<&str>, only: &[String], dry_run: bool, change: &Change) -> Result<(), Error> {
    let servers = &site.config.servers;
    if let Some(unknown) = only.iter().find(|name| servers.iter().all(|server| server.name != **name)) {
        return Err(Error::Usage(format!("there is no server {unknown} in deploy.yaml")));
    }
    let chosen: Vec<&ServerConfig> =
        servers.iter().filter(|server| only.is_empty() || only.contains(&server.name)).collect();
    if chosen.is_empty() {
        return Err(Error::Config("deploy.yaml names no servers".to_owned()));
    }
    if !dry_run {
        bring_in(site);
    }
    let mut done = Vec::new();
    for server in &chosen {
        if dry_run {
            site.out.note(&format!("{}: {}; {} upgrade; {}", server.name, server.out, server.run, server.put_in));
            continue;
        }
        if let Err(Error::Interrupted { signal, .. }) = site.interrupt.check() {
            return Err(Error::Interrupted { signal, state: format!("{} of {} servers", done.len(), chosen.len()) });
        }
        let line = site.out.step("rolling", &server.name);
        match one(site, server, release, change) {
            Ok(state) => line.done(&format!("{}: {state}", server.name)),
            Err(error) => {
                line.failed(&format!("{}: {error}", server.name));
                return Err(stopped(site, server, &error, &done, chosen.len()));
            }
        };
        done.push(server.name.clone());
    }
    site.out.result(&format!("{} of {} servers", done.len(), chosen.len()), &json!({ "servers": done }));
    Ok(())
}

fn one(site: &Site, server: &ServerConfig, release: Option<&str>, change: &Change) -> Result<String, Error> {
    idle(site, server)?;
    let mut arguments = vec!["upgrade".to_owned()];
    match (release, &server.copy) {
        (Some(artifact), Some(copy)) if Path::new(artifact).is_file() => {
            let said = shell(copy, &[artifact.to_owned()], SHORT)?;
            let there = said.stdout.trim().lines().last().unwrap_or(artifact).to_owned();
            shell(&tool(server), &["release".to_owned(), there.clone()], SHORT)?;
            arguments.push(there);
        }
        (Some(name), _) => arguments.push(name.to_owned()),
        (None, _) => {}
    }
    if let Some(reason) = &change.outside_window {
        // ssh has the words read by a shell again: one word, of harmless characters.
        let word = reason.chars().map(|char| if char.is_alphanumeric() { char } else { '_' }).collect();
        arguments.extend(["--outside-window".to_owned(), word]);
    }
    write_file(&outside(site), server.name.as_bytes(), 0o644)?;
    shell(&server.out, &[], SHORT)?;
    shell(&tool(server), &arguments, longest(site))?;
    put_in(site, server)
}

/// Names the server that is out of the load balancer by our doing, for the case that we die.
fn outside(site: &Site) -> PathBuf {
    site.layout.state().join("rolling.out")
}

/// The server that a killed run has left outside goes in if it serves: else the next one is the last, and cannot be taken out.
fn bring_in(site: &Site) {
    let Ok(name) = std::fs::read_to_string(outside(site)) else { return };
    let Some(server) = site.config.servers.iter().find(|server| server.name == name) else { return };
    match put_in(site, server) {
        Ok(release) => site.out.warn(&format!("{name} was left outside; it serves {release} and is in again")),
        Err(why) => site.out.warn(&format!("{name} was left outside, and may still be OUT: {why}")),
    }
}

/// Puts a server in that serves. Returns its release.
fn put_in(site: &Site, server: &ServerConfig) -> Result<String, Error> {
    let release = serves(site, server)?;
    shell(&server.put_in, &[], SHORT)?;
    remove_file(&outside(site))?;
    Ok(release)
}

/// The release that a server says it serves.
fn serves(site: &Site, server: &ServerConfig) -> Result<String, Error> {
    let (status, said) = idle(site, server)?;
    if status.get("serves").and_then(Value::as_bool) != Some(true) {
        return Err(Error::Remote(format!("it does not serve: {}", said.last_words())));
    }
    let slots = status.get("slots").and_then(Value::as_array).into_iter().flatten();
    let mut serving = slots.filter(|slot| slot.get("serves").and_then(Value::as_bool) == Some(true));
    let release = serving.next().and_then(|slot| slot.get("release")).and_then(Value::as_str);
    Ok(release.unwrap_or("serves").to_owned())
}

/// How a server stands when no other run is at work there. One may have outlived a `rolling` that was killed: meanwhile that
/// server is none that may be left alone with the traffic.
fn idle(site: &Site, server: &ServerConfig) -> Result<(Value, Finished), Error> {
    let end = Instant::now() + longest(site);
    loop {
        // Its exit status says whether the site serves.
        let said = start(&tool(server), &["status".to_owned(), "--json".to_owned()], SHORT)?;
        let status: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        match status.get("at_work").and_then(Value::as_str) {
            Some(holder) if Instant::now() < end => site.out.note(&format!("{} is waited for: {holder}", server.name)),
            _ => return Ok((status, said)),
        }
        thread::park_timeout(AGAIN);
    }
}

/// The server that failed goes back in if it serves: an upgrade that failed was undone there.
fn stopped(site: &Site, server: &ServerConfig, error: &Error, done: &[String], all: usize) -> Error {
    let state = match put_in(site, server) {
        Ok(release) => format!("{} serves {release} and is in again", server.name),
        Err(why) => format!("{} may be OUT of the load balancer: {why}", server.name),
    };
    Error::Unhealthy(format!("{}: {error}\nstopped after {} of {all} servers; {state}", server.name, done.len()))
}

/// Every limit of an upgrade and of the way back, together.
fn longest(site: &Site) -> Duration {
    let limits = &site.config.upgrade;
    let once = [
        limits.start_timeout_s,
        limits.migrate_timeout_s,
        limits.probation_s,
        limits.traffic_probation_s,
        limits.hand_over_timeout_s,
        limits.drain_timeout_s,
        limits.min_healthy_s,
        limits.check_timeout_s,
    ];
    seconds(once.iter().sum::<u64>().saturating_mul(2))
}

/// This tool on that server; the arguments follow.
fn tool(server: &ServerConfig) -> String {
    format!("{} \"$@\"", server.run)
}

fn shell(script: &str, arguments: &[String], timeout: Duration) -> Result<Finished, Error> {
    succeeded(script, arguments, start(script, arguments, timeout)?)
}

fn start(script: &str, arguments: &[String], timeout: Duration) -> Result<Finished, Error> {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    process::run(&mut command, None, timeout, &Interrupt::default())
}

fn succeeded(script: &str, arguments: &[String], done: Finished) -> Result<Finished, Error> {
    if done.status.success() {
        return Ok(done);
    }
    Err(Error::Remote(format!("`{script} {}` ended with {}: {}", arguments.join(" "), done.status, done.last_words())))
}
