//! The tool upgrades the real server under a real systemd, while clients of all kinds work: nobody notices.
//!
//! `scripts/systemd-box` boots one, where the machine allows it. `scripts/test` runs the first test; all of them, with 20
//! upgrades in a row:
//!
//! ```text
//! cargo build --workspace --release --all-features --bins --examples
//! export BOX_NAME=dev BOX_BIND="$PWD/target/release:/usr/local/lib/hotgo-test:ro"
//! scripts/systemd-box up
//! HOTGO_UPGRADES=20 cargo nextest run --workspace --release --all-features --run-ignored all -E 'binary(real_server)'
//! scripts/systemd-box down
//! ```
#![cfg(feature = "failpoints")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unused_self,
    missing_docs,
    reason = "tests"
)]

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "support/inside.rs"]
mod inside;

use inside::{Run, begin, end, inside, site_log, turn};

/// `target/release`.
const BUILT: &str = "/usr/local/lib/hotgo-test";
const SOCKETS: u32 = 200;

/// Two builds of one binary: an equal number of the id's bytes is replaced, those that the compiler loads as one.
const INSTALL: &str = r#"
set -e
systemctl stop hotgo.service hotgo.socket hotgo@blue hotgo@green hotgo-monitor.timer 2>/dev/null || true
systemctl reset-failed 2>/dev/null || true
rm -rf /opt/hotgo /etc/hotgo /var/lib/hotgo* /run/hotgo* /srv/t; mkdir -p /srv/t /etc/hotgo; cd /srv/t; date +%s >begin
cat >/etc/hotgo/deploy.yaml <<Y
upgrade: {probation_s: 1, traffic_probation_s: 2, min_healthy_s: 2, max_unhealthy_s: 5, hand_over_timeout_s: 30}
releases: {min_free_mb: 0}
windows: {forbidden: [], maintenance: []}
Y
cat >/etc/hotgo/config.yaml <<Y
data_dir: /var/lib/hotgo
trading:
  lease_ttl_ms: 3000
  accounts: [{label: one, venue: paper}, {label: two, venue: paper}, {label: three, venue: paper}]
venue: {paper: {opening: {USDT: "100000000"}}}
Y
BUILT/hotgo-deploy keygen key
BUILT/hotgo-deploy install --key key.pub
chgrp hotgo /etc/hotgo/config.yaml; chmod 640 /etc/hotgo/config.yaml
systemctl stop hotgo-monitor.timer
strip -o real BUILT/main 2>/dev/null || cp BUILT/main real
id=$(./real --version | cut -d' ' -f2)
for x in a b; do
  mkdir -p $x/manifest
  new=${id:0:6}$x$x$x$x$x$x${id:12}
  LC_ALL=C sed "s/${id//./\\.}/$new/g" real >$x/main; chmod +x $x/main
  [ "$($x/main --version)" = "main $new" ]
  echo "$new" >$x/id
  cd $x; hotgo-deploy build --binary main --key ../key >out; hotgo-deploy release $(head -1 out) >name; cd ..
  sleep 1
done
systemctl start hotgo || [ $? = 1 ]
hotgo-deploy upgrade "$(cat a/id)"
journalctl -u 'hotgo@*' --since @$(cat begin) -o cat --no-pager | sed -n 's/^admin token (shown once): //p' | tail -1 >token
make() { # name json
  curl -sS --fail-with-body --max-time 20 -H "Authorization: Bearer $(cat token)" -H 'Content-Type: application/json' -H "Idempotency-Key: make-$1" \
    localhost:8000/api/robots -d "{\"name\":\"$1\",\"symbol\":\"BTCUSDT\",\"start\":true,\"webhook\":false,$2}" >made
  sed 's/.*"robot":\([0-9]*\).*/\1/' made
}
for n in 1 2 3; do make follower-$n "\"account\":$n,\"config\":{\"kind\":\"follower\",\"default_qty\":\"0.01\"}"; echo; done >robots
make grid '"account":1,"config":{"kind":"grid","lower":"86500","upper":"87500","levels":21,"qty":"0.001"}'
"#;

/// The only site in the box, with three accounts and four robots; build `a` serves, and `b` is on the host.
struct Site {
    _turn: File,
    builds: [String; 2],
}

impl Site {
    fn serving() -> Self {
        let turn = turn();
        inside(&INSTALL.replace("BUILT", BUILT)).ends_with(0);
        let builds = ["a", "b"].map(|x| inside(&format!("cat /srv/t/{x}/id")).text.trim().to_owned());
        let site = Self { _turn: turn, builds };
        site.assert_serves(&site.builds[0]);
        site
    }

    fn status(&self) -> Value {
        let text = inside("hotgo-deploy status --json 2>/dev/null").text;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// This build trades all accounts, with all robots, and is the only one.
    #[track_caller]
    fn assert_serves(&self, build: &str) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let status = self.status();
            let server = &status["status"];
            let engines = server["engines"].as_array().cloned().unwrap_or_default();
            let complete = engines.len() == 3 && engines.iter().all(|engine| engine["ready"] == true);
            let running = status["slots"].as_array().unwrap().iter().filter(|slot| slot["state"] != "inactive").count();
            if server["build_id"] == build && server["accepting"] == true && complete && running == 1 {
                return;
            }
            assert!(Instant::now() < deadline, "{build} does not serve alone: {status:#}\n{}", site_log());
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Releases a script as `main`, of a build of its own: the real program, but for `http`.
    fn add(&self, build: &str, http: &str) {
        let main = format!(
            "#!/bin/sh\ncase $1 in --version) echo main {build} ;; http) {http} ;; *) exec /srv/t/a/main \"$@\" ;; esac\n"
        );
        inside(&format!(
            "set -e; mkdir -p /srv/t/{build}/manifest; cd /srv/t/{build}; cat >main <<'END'\n{main}END\nchmod +x main
             hotgo-deploy build --binary main --key ../key >out; hotgo-deploy release $(head -1 out)"
        ))
        .ends_with(0);
    }
}

/// Waits inside until the run under way is at a step, and does something then.
fn at_step(step: &str, script: &str) -> Child {
    begin(&format!(
        "for i in $(seq 3000); do grep -q '\"step\": *\"{step}\"' /var/lib/hotgo-deploy/journal.json 2>/dev/null && break; sleep 0.02; done
         {script}"
    ))
}

/// Clients at work.
struct Load {
    child: Child,
}

impl Load {
    fn begin() -> Self {
        inside("rm -f /srv/t/answered; touch /srv/t/load").ends_with(0);
        let child = begin(&format!(
            "exec {BUILT}/examples/clients 127.0.0.1:8000 $(cat /srv/t/token) /srv/t/answered /srv/t/load {SOCKETS} $(cat /srv/t/robots)"
        ));
        let load = Self { child };
        load.goes_on(100);
        load
    }

    /// Until this many more signals are answered.
    #[track_caller]
    fn goes_on(&self, more: u32) {
        inside(&format!(
            "count() {{ cat /srv/t/answered 2>/dev/null | wc -l; }}; goal=$(($(count) + {more}))
             for i in $(seq 600); do [ $(count) -ge $goal ] && exit 0; sleep 0.1; done; exit 1"
        ))
        .ends_with(0);
    }

    /// What they have seen, after an audit of everything that was answered.
    #[track_caller]
    fn ends(self) -> Value {
        inside("rm /srv/t/load").ends_with(0);
        let run = end(self.child);
        let last = run.text.lines().find(|line| line.starts_with('{'));
        let seen: Value =
            last.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("{}", run.text));
        eprintln!("{seen}");
        let doubled =
            seen["failures"].as_array().unwrap().iter().any(|what| what.as_str().unwrap().contains("a gap or"));
        assert!(!doubled, "{seen:#}");
        inside(
            "cd /var/lib/hotgo; export HOTGO_CONFIG=/etc/hotgo
             exec setpriv --reuid hotgo --regid hotgo --init-groups /srv/t/a/main audit --answered /srv/t/answered --settle 30",
        )
        .ends_with(0)
        .says("lost 0, doubled 0");
        seen
    }

    #[track_caller]
    fn nobody_has_noticed(self) -> Value {
        let seen = self.ends();
        assert_eq!(seen["failed"], 0, "{seen:#}\n{}", site_log());
        let closes = seen["closes"].as_object().unwrap();
        assert!(closes.keys().all(|code| code == "1012") && seen["again"] == 0, "{seen:#}");
        seen
    }
}

/// What a process has open.
#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    listeners: usize,
}

impl Held {
    #[track_caller]
    fn by(pid: &Value) -> Self {
        let count = |script: String| inside(&script).text.trim().parse().unwrap_or_default();
        let files = count(format!("ls /proc/{pid}/fd | wc -l"));
        let listeners = count(format!("ss -Hltnp | grep -c 'pid={pid},'"));
        assert!(files > 0 && listeners > 0, "process {pid}: {files} files, {listeners} listeners");
        Self { files, listeners }
    }
}

fn tool(arguments: &str) -> Run {
    inside(&format!("hotgo-deploy {arguments}"))
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn upgrades_in_a_row_under_load_are_noticed_by_nobody() {
    let site = Site::serving();
    let count = std::env::var("HOTGO_UPGRADES").ok().and_then(|count| count.parse().ok()).unwrap_or(3_u64);
    let load = Load::begin();
    let mut first = None;
    for number in 1..=count {
        let build = &site.builds[usize::from(number % 2 == 1)];
        // The newest is `b`.
        let command = if number % 2 == 1 { "systemctl reload hotgo" } else { &format!("hotgo-deploy upgrade {build}") };
        inside(command).ends_with(0);
        site.assert_serves(build);
        load.goes_on(50);
        // A file that each process hands on to the next, or a listener too many, adds up.
        let has = Held::by(&site.status()["status"]["pid"]);
        let first = *first.get_or_insert(has);
        assert_eq!(has.listeners, first.listeners, "after {number} upgrades");
        assert!(has.files <= first.files + 20, "after {number} upgrades: {has:?}; after the first: {first:?}");
    }
    inside("! ps -eo stat= | grep ^Z").ends_with(0);
    let seen = load.nobody_has_noticed();
    assert_eq!(seen["closes"]["1012"], count * u64::from(SOCKETS), "{seen:#}");
    inside("! systemctl show -p NRestarts --value hotgo@blue hotgo@green | grep [1-9]").ends_with(0);
    inside("! journalctl --since @$(cat /srv/t/begin) -u 'hotgo*' | grep 'Killing process'").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_candidate_that_dies_or_lies_or_hangs_is_noticed_by_nobody() {
    let site = Site::serving();
    site.add("9.0+liar", "exec /srv/t/a/main \"$@\"");
    site.add("9.0+hangs", "exec sleep 600");
    let pid = site.status()["status"]["pid"].clone();
    inside(
        "mkdir -p /run/systemd/system/hotgo@.service.d
         printf '[Service]\\nTimeoutStartSec=5\\n' >/run/systemd/system/hotgo@.service.d/quick.conf; systemctl daemon-reload",
    )
    .ends_with(0);
    let load = Load::begin();
    let killer = at_step("probation", "systemctl kill -s KILL hotgo@green");
    tool(&format!("upgrade {}", site.builds[1])).ends_with(9).says("probation:");
    end(killer).ends_with(0);
    site.assert_serves(&site.builds[0]);
    tool("upgrade 9.0+hangs").ends_with(9).says("start:");
    tool("upgrade 9.0+liar").ends_with(9).says("it is build");
    site.assert_serves(&site.builds[0]);
    assert_eq!(site.status()["status"]["pid"], pid, "the old process was disturbed");
    load.nobody_has_noticed();
    inside("rm -r /run/systemd/system/hotgo@.service.d; systemctl daemon-reload").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_tool_that_is_killed_is_noticed_by_nobody_and_the_next_run_works() {
    let site = Site::serving();
    let load = Load::begin();
    let mut builds = [&site.builds[0], &site.builds[1]];
    for at in ["start-pointed", "accept", "hand-over-sent", "commit-done", "drain"] {
        let [_, new] = builds;
        inside(&format!("HOTGO_DEPLOY_STOP_AT={at} {BUILT}/hotgo-deploy upgrade {new}")).ends_with(137);
        load.goes_on(30);
        tool(&format!("upgrade {new}")).ends_with(0).says("cut short");
        site.assert_serves(new);
        builds.reverse();
    }
    load.nobody_has_noticed();
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_server_that_is_killed_loses_and_doubles_no_order() {
    let site = Site::serving();
    let [a, b] = &site.builds;
    let load = Load::begin();
    // The old one, while it drains.
    let killer = at_step("drain", "systemctl kill -s KILL hotgo@blue");
    tool(&format!("upgrade {b}")).ends_with(0);
    end(killer).ends_with(0);
    site.assert_serves(b);
    load.goes_on(50);
    // The new one, in its watch: back it goes.
    let killer = at_step("watch", "systemctl kill -s KILL hotgo@blue");
    tool(&format!("upgrade {a}")).ends_with(10);
    end(killer).ends_with(0);
    site.assert_serves(b);
    load.goes_on(50);
    // The one that serves, between upgrades.
    inside("systemctl kill -s KILL hotgo@$(readlink /opt/hotgo/slots/active)").ends_with(0);
    load.goes_on(50);
    site.assert_serves(b);
    load.ends();
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_rollback_and_what_an_operator_does_lose_no_request() {
    let site = Site::serving();
    let [a, b] = &site.builds;
    let load = Load::begin();
    inside("systemctl reload-or-restart hotgo").ends_with(0);
    site.assert_serves(b);
    tool("rollback").ends_with(0);
    site.assert_serves(a);
    load.nobody_has_noticed();
    let load = Load::begin();
    tool("restart").ends_with(0);
    site.assert_serves(a);
    inside("systemctl restart hotgo").ends_with(0);
    site.assert_serves(a);
    // Requests wait, signals on kept connections are sent again, and websockets come back: none is lost.
    let seen = load.ends();
    assert_eq!(seen["failed"], 0, "{seen:#}\n{}", site_log());
    inside("systemctl status hotgo").ends_with(0);
    inside("systemctl stop hotgo").ends_with(0);
    inside("systemctl is-active hotgo hotgo.socket hotgo@blue hotgo@green").ends_with(3);
    inside("curl -sS --max-time 5 localhost:8000").ends_with(7);
    // As after a boot: /run is empty, and what is enabled starts.
    inside("rm -rf /run/hotgo /run/hotgo-deploy; systemctl is-enabled hotgo hotgo.socket && systemctl start hotgo.socket hotgo").ends_with(0);
    site.assert_serves(a);
    inside("systemctl is-active hotgo@blue").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn what_the_unit_of_a_slot_sets_is_what_main_check_accepts_and_systemd_waits_for() {
    let _site = Site::serving();
    let check = |more: &str| {
        inside(&format!(
            "systemctl show -p Environment --value hotgo@blue >/srv/t/env; cd /srv/t/a
             exec systemd-run --quiet --collect --wait --pipe --uid=hotgo -p WorkingDirectory=/srv/t/a \
               env $(cat /srv/t/env) {more} /srv/t/a/main check"
        ))
    };
    check("").ends_with(0).says("supervisor's limit 55000: ");
    inside("systemctl show -p TimeoutStopUSec --value hotgo@blue").ends_with(0).says("55s");
    // It is these settings that it looks at.
    let refused = check("HOTGO__SHUTDOWN__DEADLINE_MS=54000");
    assert_ne!(refused.code, 0, "{}", refused.text);
    refused.says("shutdown.stop_budget_ms");
}
