//! What looks and changes nothing: the monitor, the watch, the list. One trouble never hides another.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::similar_names,
    clippy::cmp_owned,
    missing_docs,
    reason = "tests"
)]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Host, Run, example};

/// Only what a test asks for: the load of this machine is no part of it.
fn configure(host: &Host, more: &str) {
    let yaml =
        format!("{}monitor:\n  cpu_percent: 0\n  memory_percent: 0\n  disk_percent: 0\n{more}", support::DEPLOY_YAML);
    fs::write(host.root.join("etc/hotgo/deploy.yaml"), yaml).unwrap();
}

/// What the server tells of itself from now on.
fn says(host: &Host, what: &Value) {
    let path = host.root.join("var/lib/hotgo/says.json");
    fs::write(path.with_extension("new"), what.to_string()).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

fn names_of_bad(run: &Run) -> Vec<String> {
    let findings = run.json();
    let bad = findings.as_array().unwrap().iter().filter(|finding| finding["ok"] == false);
    bad.map(|finding| finding["name"].as_str().unwrap().to_owned()).collect()
}

fn systemctl(host: &Host, arguments: &[&str]) {
    let done = Command::new(example("fake-systemctl")).args(arguments).env("FAKE_ROOT", &host.root).output().unwrap();
    assert!(done.status.success());
}

#[test]
fn a_service_that_is_stopped_does_not_hide_that_robots_are_missing() {
    let host = Host::serving("1.0+a");
    configure(&host, "  min_robots: 7\n");
    // The umbrella alone: the server answers, with too few robots.
    systemctl(&host, &["stop", "hotgo.service"]);
    let run = host.run(&["monitor", "--json"]).ends_with(14).says("not as it should be: service, robots");
    assert_eq!(names_of_bad(&run), ["service", "robots"]);
    // The server too: nobody answers for the robots.
    systemctl(&host, &["stop", "hotgo@blue.service", "hotgo@green.service", "hotgo.socket"]);
    let run = host.run(&["monitor", "--json"]).ends_with(14).says("there are to be 7");
    assert_eq!(names_of_bad(&run), ["service", "health", "robots"]);
    // Both were told, each by its name.
    let state: Value =
        serde_json::from_slice(&fs::read(host.root.join("var/lib/hotgo-monitor/state.json")).unwrap()).unwrap();
    assert!(["service", "health", "robots"].iter().all(|name| state["alerts"][name]["told_ms"].is_u64()), "{state}");
}

#[test]
fn each_trouble_of_the_server_is_found_alone_and_all_of_them_together() {
    let host = Host::serving("1.0+a");
    configure(&host, "");
    host.run(&["monitor"]).ends_with(0);
    let troubles = [
        (json!({ "unknown_ms": 61_000 }), "unknown-orders", "order-7 is of unknown outcome for 61 s"),
        (json!({ "lease_age_s": 11 }), "lease-age", "11000 ms"),
        (json!({ "event_lag_s": 11 }), "event-lag", "11000 ms"),
        (json!({ "not_ready": true }), "health", "not ready"),
    ];
    for (what, name, detail) in &troubles {
        says(&host, what);
        let run = host.run(&["monitor", "--json"]).ends_with(14).says(detail);
        assert_eq!(names_of_bad(&run), [*name], "{what}");
    }
    says(&host, &json!({ "unknown_ms": 61_000, "lease_age_s": 11, "event_lag_s": 11, "not_ready": true }));
    let run = host.run(&["monitor", "--json"]).ends_with(14);
    assert_eq!(names_of_bad(&run), ["health", "unknown-orders", "lease-age", "event-lag"]);
    // At the limit is within it.
    says(&host, &json!({ "unknown_ms": 60_000, "lease_age_s": 10, "event_lag_s": 10 }));
    host.run(&["monitor"]).ends_with(0);
}

#[test]
fn a_server_that_does_not_answer_is_found_within_seconds() {
    let host = Host::serving("1.0+a");
    configure(&host, "  min_robots: 1\n");
    says(&host, &json!({ "hangs": true }));
    let start = Instant::now();
    let run = host.run(&["monitor", "--json"]).ends_with(14).says("no answer within 2000 ms");
    assert_eq!(names_of_bad(&run), ["health", "robots"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_server_that_was_started_again_is_told_once() {
    let host = Host::serving("1.0+a");
    configure(&host, "");
    host.run(&["monitor"]).ends_with(0);
    let pid = host.status()["status"]["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    let end = Instant::now() + Duration::from_secs(20);
    while host.serves() != "1.0+a" || host.status()["status"]["pid"].to_string() == pid {
        assert!(Instant::now() < end, "it was not started again");
        thread::park_timeout(Duration::from_millis(50));
    }
    let run = host.run(&["monitor", "--json"]).ends_with(14).says("hotgo@blue.service 1 times");
    assert_eq!(names_of_bad(&run), ["restarts"]);
    host.run(&["monitor"]).ends_with(0);
}

#[test]
fn a_disk_that_fills_is_found_and_told_apart_from_the_other_one_on_a_tmpfs() {
    let host = Host::serving("1.0+a");
    configure(&host, "");
    let yaml = host.root.join("etc/hotgo/deploy.yaml");
    let text = fs::read_to_string(&yaml).unwrap().replace("disk_percent: 0", "disk_percent: 98");
    fs::write(yaml, text).unwrap();
    // The releases' disk is this machine's; the data's is a small one, and full.
    let data = host.root.join("var/lib/hotgo");
    let script = format!(
        "mount -t tmpfs -o size=1m full '{0}' && trap 'umount -l \"{0}\"' EXIT && head -c 1044480 /dev/zero >'{0}/full'; \"$@\"",
        data.display()
    );
    let tool = host.command(&["monitor", "--json"]);
    let mut shell = Command::new("bash");
    shell.args(["-c", &script, "bash"]).arg(tool.get_program()).args(tool.get_args());
    shell.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let run = Run::of(&shell.output().unwrap()).ends_with(14);
    let bad = names_of_bad(&run);
    assert!(bad.contains(&"disk-data".to_owned()) && !bad.contains(&"disk-releases".to_owned()), "{run:?}");
}

/// Takes webhooks, or refuses them.
struct Webhook {
    url: String,
    refuses: Arc<AtomicBool>,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (refuses, bodies) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (refused, taken) = (Arc::clone(&refuses), Arc::clone(&bodies));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut length = 0;
                for line in reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = if refused.load(SeqCst) { "500 No" } else { "200 OK" };
                if status == "200 OK" {
                    taken.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                }
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { url, refuses, bodies }
    }

    fn alerts(&self) -> Vec<String> {
        let bodies = self.bodies.lock().unwrap();
        assert!(bodies.iter().all(|body| body["kind"] == "alert"), "{bodies:?}");
        bodies
            .iter()
            .flat_map(|body| body["alerts"].as_array().unwrap())
            .map(|line| line.as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_webhook_is_tried_until_it_takes_the_message_and_then_told_once_and_when_it_is_over() {
    let host = Host::serving("1.0+a");
    let webhook = Webhook::new();
    configure(&host, &format!("  min_robots: 7\nnotify:\n  webhook: {}\n", webhook.url));
    host.run(&["monitor"]).ends_with(14).says("not told: webhook");
    assert!(webhook.alerts().is_empty());
    webhook.refuses.store(false, SeqCst);
    for _ in 0..3 {
        host.run(&["monitor"]).ends_with(14);
    }
    assert_eq!(webhook.alerts(), ["robots: 3 accounts, 6 robots, 3 live orders, 0 unknown"]);
    // Another trouble is told at once, and the first one not again.
    says(&host, &json!({ "lease_age_s": 11 }));
    host.run(&["monitor"]).ends_with(14);
    host.run(&["monitor"]).ends_with(14);
    assert_eq!(webhook.alerts()[1..], ["lease-age: 11000 ms"]);
    says(&host, &json!({}));
    configure(&host, &format!("notify:\n  webhook: {}\n", webhook.url));
    host.run(&["monitor"]).ends_with(0);
    host.run(&["monitor"]).ends_with(0);
    let alerts = webhook.alerts();
    assert_eq!(alerts.len(), 4, "{alerts:?}");
    assert!(alerts[2].starts_with("over: robots: ") && alerts[3].starts_with("over: lease-age: "), "{alerts:?}");
}

#[test]
fn a_watch_sums_up_and_remembers_what_has_passed() {
    let host = Host::serving("1.0+a");
    configure(&host, "");
    host.run(&["watch", "--for", "2", "--every", "1"]).ends_with(0).says("looked ");
    says(&host, &json!({ "unknown_ms": 61_000 }));
    let mut tool = host.command(&["watch", "--for", "6", "--every", "1"]);
    let mut child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (seen, sees) = mpsc::channel();
    thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(seen.send(line))));
    while !sees.recv_timeout(Duration::from_secs(30)).unwrap().contains("unknown-orders: order-7") {}
    says(&host, &json!({}));
    let run = Run::of(&child.wait_with_output().unwrap()).ends_with(14);
    let line = run.stdout.lines().find(|line| line.contains("unknown-orders")).unwrap();
    assert!(line.starts_with("BAD") && line.contains("order-7") && line.ends_with(" times)"), "{line}");
    let (bad, rounds) = line.rsplit_once('(').unwrap().1.split_once(" of ").unwrap();
    assert!(bad != rounds.trim_end_matches(" times)"), "it has passed: {line}");
}

#[test]
fn the_list_says_what_serves_what_is_good_and_what_has_failed() {
    let host = Host::new();
    host.run(&["list"]).ends_with(0).says("no releases");
    host.quick("1.0+a", "good").ends_with(0);
    host.quick("1.0+bad", "crash-start").ends_with(9);
    let lines = host.run(&["list"]).ends_with(0).stdout;
    let [bad, good] = lines.lines().collect::<Vec<_>>()[..] else { panic!("{lines}") };
    assert!(bad.contains("1.0+bad") && bad.contains("failed: start:"), "{lines}");
    assert!(good.contains("1.0+a") && good.contains("blue (serves), current, good"), "{lines}");
    let list = host.run(&["list", "--json"]).ends_with(0).json();
    assert_eq!((&list[0]["build_id"], &list[1]["build_id"]), (&json!("1.0+bad"), &json!("1.0+a")));
    assert!(list[0]["failure"].is_string() && list[1]["failure"].is_null(), "{list}");
    assert_eq!(list[1]["in_use"], true);
    assert_eq!(list[1]["schema"], json!({ "min": 1, "max": 2, "own": 1 }));
}
