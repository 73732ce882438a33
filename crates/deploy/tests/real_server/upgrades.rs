//! What an operator does on purpose.

use crate::inside::{end, inside, site_log};
use crate::site::{BUILT, Held, Load, SOCKETS, Site, at_step, half_a_request, tool};

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
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
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn a_rollback_and_what_an_operator_does_lose_no_request() {
    let site = Site::serving();
    let [a, b] = &site.builds;
    let load = Load::begin();
    inside("systemctl reload-or-restart hotgo").ends_with(0);
    site.assert_serves(b);
    let pid = site.status()["status"]["pid"].clone();
    inside("systemctl kill -s HUP hotgo@green").ends_with(0);
    load.goes_on(20);
    assert_eq!(site.status()["status"]["pid"], pid, "SIGHUP has ended it");
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
#[ignore = "needs a systemd in namespaces: see main.rs"]
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

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn a_canary_is_noticed_by_nobody() {
    let site = Site::serving();
    let [a, b] = &site.builds;
    let load = Load::begin();
    tool(&format!("canary {b} --for 3")).ends_with(0);
    // Both take requests; the accounts stay.
    let answered = |colour: &str| {
        let metrics = format!("curl -sS --max-time 5 --unix-socket /run/hotgo/{colour}.sock localhost/metrics");
        let total = "awk '/^hotgo_http_requests_total/ { sum += $2 } END { print sum + 0 }'";
        inside(&format!("{metrics} | {total}")).text.trim().parse::<u64>().unwrap()
    };
    let before = ["blue", "green"].map(answered);
    load.goes_on(100);
    let after = ["blue", "green"].map(answered);
    assert!(before[0] < after[0] && before[1] < after[1], "{before:?} {after:?}");
    tool(&format!("upgrade {b}")).ends_with(15).says("promote");
    tool("promote").ends_with(0);
    site.assert_serves(b);
    let pid = site.status()["status"]["pid"].clone();
    tool(&format!("canary {a} --for 3")).ends_with(0);
    load.goes_on(50);
    tool("abort").ends_with(0);
    site.assert_serves(b);
    assert_eq!(site.status()["status"]["pid"], pid, "the old process was disturbed");
    load.nobody_has_noticed();
}

/// The old one accepts no more and the new one stands still: who connects now waits in the queue of the listener.
#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn what_nobody_has_accepted_at_the_hand_over_and_what_was_half_sent_before_it_is_answered() {
    let site = Site::serving();
    let load = Load::begin();
    let half = half_a_request();
    let queue = at_step(
        "drain",
        &format!(
            r#"pid=$(systemctl show -p MainPID --value hotgo@green); waiting() {{ ss -Hltn sport = :8000 | awk '{{ print $2 }}'; }}
            until_is() {{ for i in $(seq 200); do eval "$1" && return; sleep 0.02; done; echo "never: $1"; kill -CONT $pid; exit 1; }}
            until_is 'curl -sS --max-time 5 --unix-socket /run/hotgo/blue.sock localhost/status | grep -q "\"accepting\": *false"'
            kill -STOP $pid
            {BUILT}/examples/clients burst 127.0.0.1:8000 200 >/srv/t/burst &
            until_is '[ $(waiting) -ge 200 ]'
            touch /srv/t/send; kill -CONT $pid; wait; cat /srv/t/burst"#
        ),
    );
    tool(&format!("upgrade {}", site.builds[1])).ends_with(0);
    let queue = end(queue).ends_with(0);
    assert_eq!(queue.text.trim(), "200");
    end(half).says("HTTP/1.1 2").says("connection: close");
    site.assert_serves(&site.builds[1]);
    load.nobody_has_noticed();
}

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn a_thousand_websockets_are_closed_over_a_time_and_resume() {
    let site = Site::serving();
    let load = Load::with_sockets(1_000);
    inside("systemctl reload hotgo").ends_with(0);
    site.assert_serves(&site.builds[1]);
    let seen = load.nobody_has_noticed();
    assert_eq!(seen["closes"]["1012"], 1_000, "{seen:#}");
    // stream.close_spread_ms is 1500.
    assert!(seen["closes_spread_ms"].as_u64().unwrap() > 750, "{seen:#}");
}

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn a_request_that_never_ends_holds_nothing_up() {
    let site = Site::serving();
    inside(
        "mkdir -p /run/systemd/system/hotgo@.service.d
         printf '[Service]\\nEnvironment=HOTGO__SERVER__BODY_TIMEOUT_MS=120000 HOTGO__SERVER__REQUEST_TIMEOUT_MS=120000\\n' \
           >/run/systemd/system/hotgo@.service.d/slow.conf; systemctl daemon-reload; hotgo-deploy restart",
    )
    .ends_with(0);
    let half = half_a_request();
    inside("systemctl reload hotgo").ends_with(0);
    site.assert_serves(&site.builds[1]);
    inside("! journalctl --since @$(cat /srv/t/begin) -u 'hotgo*' | grep 'Killing process'").ends_with(0);
    inside("journalctl -u hotgo@blue -o cat --no-pager | grep 'left over'")
        .ends_with(0)
        .says("POST /api/signals in flight");
    inside("touch /srv/t/send").ends_with(0);
    end(half);
    inside("rm -r /run/systemd/system/hotgo@.service.d; systemctl daemon-reload").ends_with(0);
}

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn a_stop_while_both_serve_drains_both() {
    let site = Site::serving();
    let load = Load::begin();
    let stop = at_step("traffic", "systemctl stop hotgo");
    let run = tool(&format!("upgrade {}", site.builds[1]));
    assert_ne!(run.code, 0, "{}", run.text);
    end(stop).ends_with(0);
    inside("systemctl is-active hotgo hotgo.socket hotgo@blue hotgo@green").ends_with(3);
    inside("! journalctl --since @$(cat /srv/t/begin) -u 'hotgo*' | grep 'Killing process'").ends_with(0);
    inside("systemctl start hotgo").ends_with(0);
    site.assert_serves(&site.builds[0]);
    load.goes_on(50);
    load.ends();
}
