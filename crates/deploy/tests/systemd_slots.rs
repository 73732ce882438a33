//! The units and the tool under a real systemd, with releases that misbehave.
//!
//! `scripts/systemd-box` boots one, where the machine allows it. `scripts/test` does not run these; by hand:
//!
//! ```text
//! cargo build -p hotgo-deploy --features failpoints --bins --examples
//! export BOX_NAME=dev BOX_BIND="$PWD/target/debug/hotgo-deploy:/usr/local/bin/hotgo-deploy-test:ro \
//!   $PWD/target/debug/examples/toy-server:/usr/local/bin/toy-server:ro"
//! scripts/systemd-box up
//! cargo nextest run -p hotgo-deploy --features failpoints --run-ignored all -E 'binary(systemd_slots)'
//! scripts/systemd-box down
//! ```
#![cfg(feature = "failpoints")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
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

const TOOL: &str = "/usr/local/bin/hotgo-deploy-test";
const DEPLOY_YAML: &str = "upgrade:\n  probation_s: 1\n  traffic_probation_s: 1\n  min_healthy_s: 2\n  max_unhealthy_s: 3\n  \
     hand_over_timeout_s: 5\nreleases:\n  min_free_mb: 0\nwindows:\n  forbidden: []\n  maintenance: []\n";

/// The only site in the box: held by one test at a time.
struct Site {
    _turn: File,
}

impl Site {
    /// Installed as on a new host, with three accounts.
    fn new() -> Self {
        let turn = turn();
        inside(&format!(
            "systemctl stop hotgo.service hotgo.socket hotgo@blue hotgo@green hotgo-monitor.timer 2>/dev/null
             systemctl reset-failed 2>/dev/null
             rm -rf /opt/hotgo /etc/hotgo /var/lib/hotgo* /run/hotgo* /srv/t && mkdir -p /srv/t /etc/hotgo; date +%s >/srv/t/begin
             printf '{}' >/etc/hotgo/deploy.yaml && cd /srv/t && {TOOL} keygen key && {TOOL} install --key key.pub
             systemctl stop hotgo-monitor.timer
             mkdir /var/lib/hotgo/accounts && touch /var/lib/hotgo/accounts/{{1,2,3}} && chown -R hotgo: /var/lib/hotgo",
            DEPLOY_YAML.replace('\n', "\\n")
        ))
        .ends_with(0);
        Self { _turn: turn }
    }

    fn serving() -> Self {
        let site = Self::new();
        site.add("1.0+a", "good");
        inside("systemctl start hotgo").ends_with(1);
        site.tool("upgrade").ends_with(0);
        site
    }

    fn tool(&self, arguments: &str) -> Run {
        inside(&format!("hotgo-deploy {arguments}"))
    }

    /// Builds and releases.
    fn add(&self, build: &str, behaviour: &str) {
        inside(&format!(
            "set -e; mkdir -p /srv/t/{build}/manifest; cd /srv/t/{build}; cp /usr/local/bin/toy-server main
             echo {build} >manifest/build; echo {behaviour} >manifest/behaviour
             {TOOL} build --binary main --key ../key >out && hotgo-deploy release $(head -1 out)"
        ))
        .ends_with(0);
    }

    fn status(&self) -> Value {
        let text = inside("hotgo-deploy status --json 2>/dev/null").text;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[track_caller]
    fn assert_serves(&self, build: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.status();
            let server = &status["status"];
            let engines = server["engines"].as_array().cloned().unwrap_or_default();
            let complete = engines.len() == 3 && engines.iter().all(|engine| engine["ready"] == true);
            if server["build_id"] == build && server["accepting"] == true && complete {
                return;
            }
            assert!(Instant::now() < deadline, "{build} does not serve: {status:#}\n{}", site_log());
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    fn running(&self) -> usize {
        self.status()["slots"].as_array().unwrap().iter().filter(|slot| slot["state"] != "inactive").count()
    }
}

/// Requests all the time, until it is asked.
struct Load {
    child: Child,
}

impl Load {
    fn begin() -> Self {
        inside("touch /srv/t/load").ends_with(0);
        Self { child: begin("exec toy-server load /srv/t/load") }
    }

    #[track_caller]
    fn none_has_failed(self) -> u64 {
        inside("rm /srv/t/load").ends_with(0);
        let run = end(self.child);
        let result: Value =
            serde_json::from_str(run.text.lines().last().unwrap()).unwrap_or_else(|_| panic!("{}", run.text));
        assert_eq!(result["bad"], 0, "{}\n{}", run.text, site_log());
        assert!(result["good"].as_u64().unwrap() > 20, "{result}");
        result["longest_ms"].as_u64().unwrap()
    }
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn systemctl_does_what_an_operator_expects() {
    let site = Site::serving();
    site.assert_serves("1.0+a");
    inside("systemctl is-active hotgo hotgo.socket && systemctl is-enabled hotgo hotgo.socket").ends_with(0);
    inside("systemctl status hotgo").ends_with(0).says("1.0+a serves");
    for verb in ["restart", "stop", "start", "reload", "reload-or-restart"] {
        inside(&format!("systemctl {verb} hotgo")).ends_with(0);
        if verb == "stop" {
            assert_eq!(site.running(), 0);
            inside("systemctl is-active hotgo.socket || systemctl is-active hotgo").ends_with(3);
            inside("curl -sS --max-time 5 localhost:8000").ends_with(7);
        } else {
            site.assert_serves("1.0+a");
            assert_eq!(site.running(), 1, "{verb}");
            inside("curl -sS --max-time 5 localhost:8000").ends_with(0).says("1.0+a");
        }
    }
    inside("! journalctl --since @$(cat /srv/t/begin) -u 'hotgo*' | grep 'Killing process'").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_reload_upgrades_without_a_lost_request_and_so_do_a_restart_and_a_rollback() {
    let site = Site::serving();
    site.add("1.0+b", "good");
    let load = Load::begin();
    inside("systemctl reload hotgo").ends_with(0);
    site.assert_serves("1.0+b");
    site.tool("rollback").ends_with(0);
    site.assert_serves("1.0+a");
    site.tool("upgrade 1.0+b").ends_with(0);
    site.assert_serves("1.0+b");
    assert!(load.none_has_failed() < 1_000);
    let load = Load::begin();
    site.tool("restart").ends_with(0);
    inside("systemctl restart hotgo").ends_with(0);
    load.none_has_failed();
    inside("! systemctl show -p NRestarts --value hotgo@blue hotgo@green | grep [1-9]").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_bad_release_in_whatever_way_costs_no_request() {
    let site = Site::serving();
    let load = Load::begin();
    let pid = site.status()["status"]["pid"].clone();
    for (behaviour, code) in [
        ("check-fails", 8),
        ("crash-start", 9),
        ("wrong-build", 9),
        ("self-test-fails", 9),
        ("die-probation", 9),
        ("die-traffic", 9),
        ("errors", 9),
        ("takes-no-accounts", 9),
    ] {
        site.add(&format!("2.0+{behaviour}"), behaviour);
        site.tool(&format!("upgrade 2.0+{behaviour}")).ends_with(code);
        site.assert_serves("1.0+a");
        assert_eq!(site.status()["status"]["pid"], pid, "{behaviour}: the old process was disturbed");
        assert_eq!(site.running(), 1, "{behaviour}");
    }
    // What dies in the middle of an answer loses that answer: only those above are free of cost.
    load.none_has_failed();
    site.add("3.0+crash", "crash-start");
    inside("systemctl reload hotgo").ends_with(1);
    site.tool("upgrade 3.0+crash").ends_with(9).says("toy: cannot start, as told");
    inside("systemctl is-active hotgo").ends_with(0);
    site.assert_serves("1.0+a");
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_release_that_fails_after_the_commit_is_rolled_back() {
    let site = Site::serving();
    for behaviour in ["die-watch", "sick-later", "hang-later"] {
        site.add(&format!("2.0+{behaviour}"), behaviour);
        site.tool(&format!("upgrade 2.0+{behaviour}")).ends_with(10);
        site.assert_serves("1.0+a");
        assert_eq!(site.running(), 1, "{behaviour}");
    }
    site.add("2.0+once", "die-drain");
    site.tool("upgrade 2.0+once").ends_with(0);
    site.assert_serves("2.0+once");
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_candidate_that_never_gets_ready_is_killed() {
    let site = Site::serving();
    site.add("2.0+hang", "hang-start");
    inside(
        "mkdir -p /run/systemd/system/hotgo@.service.d
         printf '[Service]\\nTimeoutStartSec=3\\nTimeoutStopSec=3\\n' >/run/systemd/system/hotgo@.service.d/quick.conf
         systemctl daemon-reload",
    )
    .ends_with(0);
    site.tool("upgrade").ends_with(9).says("start:");
    site.assert_serves("1.0+a");
    inside("rm -r /run/systemd/system/hotgo@.service.d; systemctl daemon-reload").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_tool_that_is_killed_at_any_step_leaves_the_service_up_and_the_next_run_works() {
    let site = Site::serving();
    site.add("1.0+b", "good");
    let load = Load::begin();
    let mut builds = ["1.0+a", "1.0+b"];
    for at in [
        "preflight",
        "migrate",
        "start",
        "start-pointed",
        "probation",
        "accept",
        "traffic",
        "hand-over",
        "hand-over-sent",
        "commit",
        "commit-unmarked",
        "commit-done",
        "drain",
        "watch",
        "settle",
    ] {
        let [old, new] = builds;
        inside(&format!("HOTGO_DEPLOY_STOP_AT={at} {TOOL} upgrade {new}")).ends_with(137);
        assert_eq!(site.status()["serves"], true, "{at}");
        site.tool(&format!("upgrade {new}")).ends_with(0).says("cut short");
        site.assert_serves(new);
        assert_eq!(site.running(), 1, "{at}");
        builds = [new, old];
    }
    load.none_has_failed();
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn of_two_upgrades_at_once_one_runs_and_a_signal_undoes_it() {
    let site = Site::serving();
    site.add("1.0+b", "good");
    inside(
        "hotgo-deploy canary 1.0+b --for 30 & pid=$!
         for i in $(seq 600); do grep -q traffic /var/lib/hotgo-deploy/journal.json 2>/dev/null && break; sleep 0.1; done
         hotgo-deploy upgrade; echo second $?
         kill -INT $pid; wait $pid; echo first $?",
    )
    .says("second 4")
    .says("another run is at work: canary (pid ")
    .says("first 130");
    site.assert_serves("1.0+a");
    assert_eq!(site.running(), 1);
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_stop_in_the_middle_of_a_reload_stops_everything_and_fails_nothing() {
    let site = Site::serving();
    site.add("1.0+b", "slow-drain");
    for step in ["start", "traffic", "hand-over", "drain", "watch"] {
        inside("systemctl start hotgo").ends_with(0);
        inside(&format!(
            "systemctl reload hotgo & for i in $(seq 3000); do
                 grep -q '\"{step}\"' /var/lib/hotgo-deploy/journal.json 2>/dev/null && break; sleep 0.02; done
             systemctl stop hotgo; wait"
        ))
        .ends_with(0);
        assert_eq!(site.running(), 0, "{step}");
        inside("systemctl show -p ActiveState --value hotgo hotgo.socket | grep -v '^$' | sort -u").says("inactive");
        inside("systemctl is-failed hotgo hotgo@blue hotgo@green").ends_with(1);
    }
    inside("! journalctl --since @$(cat /srv/t/begin) -u 'hotgo*' | grep 'Killing process'").ends_with(0);
    inside("systemctl start hotgo").ends_with(0);
    site.tool("upgrade 1.0+a").ends_with(0);
    site.assert_serves("1.0+a");
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn a_killed_server_is_started_again_and_the_monitor_is_woken() {
    let site = Site::serving();
    inside("systemctl start hotgo-monitor.service; systemctl kill -s KILL hotgo@blue").ends_with(0);
    inside("sleep 1; curl -sS --max-time 20 localhost:8000").ends_with(0).says("1.0+a");
    site.assert_serves("1.0+a");
    inside(
        "for i in $(seq 50); do journalctl -u hotgo-monitor | grep -E 'BAD +(service|health|restarts)' && exit; sleep 0.2; done; exit 1",
    )
    .ends_with(0);
    // Nothing runs, nobody has stopped the site, and somebody connects.
    inside("systemctl stop hotgo@blue; curl -sS --max-time 20 localhost:8000").ends_with(0).says("1.0+a");
    site.assert_serves("1.0+a");
}

#[test]
#[ignore = "needs a systemd in namespaces: see the head of this file"]
fn the_units_are_valid_and_hardened() {
    let _site = Site::serving();
    inside("systemd-analyze verify hotgo.service hotgo.socket hotgo@blue.service hotgo-wake.service hotgo-monitor.service hotgo-monitor.timer 2>&1 | grep hotgo; [ $? = 1 ]").ends_with(0);
    for unit in ["hotgo", "hotgo@blue", "hotgo-wake", "hotgo-monitor"] {
        // Not --threshold=, which came with 250.
        inside(&format!(
            "systemd-analyze security {unit}.service | awk '/exposure level/ {{ ok = $(NF - 2) <= 2.0 }} END {{ exit !ok }}'"
        ))
        .ends_with(0);
    }
    // The tool could not become the server's user itself.
    inside("stat -c %U /var/lib/hotgo/checked-by").ends_with(0).says("hotgo");
    inside("journalctl --since @$(cat /srv/t/begin) -o cat -u 'hotgo-run-*' | grep -c Consumed; systemctl list-units --all 'hotgo-run-*' --no-legend").says("");
    inside("hotgo-deploy install").ends_with(0).says("installed already");
}
