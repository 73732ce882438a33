//! What dies meanwhile.

use crate::inside::{end, inside, site_log};
use crate::site::{BUILT, Load, Site, at_step, tool};

#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
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
#[ignore = "needs a systemd in namespaces: see main.rs"]
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
#[ignore = "needs a systemd in namespaces: see main.rs"]
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
    // The new one, while the old one drains: systemd starts it again.
    let killer = at_step("drain", "systemctl kill -s KILL hotgo@blue");
    tool(&format!("upgrade {a}")).ends_with(0).says("died");
    end(killer).ends_with(0);
    site.assert_serves(a);
    load.goes_on(50);
    // The one that serves, between upgrades.
    inside("systemctl kill -s KILL hotgo@$(readlink /opt/hotgo/slots/active)").ends_with(0);
    load.goes_on(50);
    site.assert_serves(a);
    let seen = load.ends();
    assert_eq!(seen["unconnected"], 0, "{seen:#}");
}

/// Whatever happens to whom at whichever step: afterwards one build serves, alone and with everything.
#[test]
#[ignore = "needs a systemd in namespaces: see main.rs"]
fn random_upgrades_lose_and_double_no_order() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let mut seed = number("HOTGO_SEED", u64::from(std::process::id()));
    let count = number("HOTGO_BLOWS", 10);
    eprintln!("HOTGO_SEED={seed} HOTGO_BLOWS={count}");
    let mut random = |below: usize| {
        // xorshift64: Marsaglia, Xorshift RNGs, 2003.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % u64::try_from(below).unwrap()).unwrap()
    };
    let site = Site::serving();
    let [a, b] = &site.builds;
    let load = Load::begin();
    for blow in 1..=count {
        let was = site.settles();
        let (other, colours) = (if was == *a { b } else { a }, site.colours());
        let step = ["start", "probation", "accept", "traffic", "hand-over", "commit", "drain", "watch"][random(8)];
        let victim = &colours[random(2)];
        let upgrade = format!("upgrade {other}");
        let (what, run) = match random(8) {
            0 => ("upgrade".to_owned(), tool(&upgrade)),
            1 => ("rollback".to_owned(), tool(&format!("rollback {other}"))),
            2 => {
                tool(&format!("canary {other} --for 1")).ends_with(0);
                let word = ["promote", "abort"][random(2)];
                (format!("canary, {word}"), tool(word))
            }
            3 => {
                inside(&format!("HOTGO_DEPLOY_STOP_AT={step} {BUILT}/hotgo-deploy {upgrade}")).ends_with(137);
                (format!("the tool is killed at {step}"), tool("abort"))
            }
            4 => {
                let signal = at_step(step, "pkill -TERM -x hotgo-deploy");
                let run = tool(&upgrade);
                end(signal);
                (format!("the tool is told to end at {step}"), run)
            }
            5 => {
                let freeze = at_step(
                    step,
                    &format!(
                        "systemctl kill -s STOP hotgo@{victim}; sleep {}; systemctl kill -s CONT hotgo@{victim}",
                        random(4)
                    ),
                );
                let run = tool(&upgrade);
                end(freeze);
                (format!("{victim} stands still at {step}"), run)
            }
            6 => {
                inside("systemctl kill -s KILL hotgo@$(readlink /opt/hotgo/slots/active)").ends_with(0);
                ("the one that serves is killed".to_owned(), tool("status"))
            }
            _ => {
                let kill = at_step(step, &format!("systemctl kill -s KILL hotgo@{victim}"));
                let run = tool(&upgrade);
                end(kill);
                (format!("{victim} is killed at {step}"), run)
            }
        };
        let serves = site.settles();
        eprintln!("{blow}: {was} serves in {}; {what}: ends with {}, {serves} serves", colours[0], run.code);
        assert_ne!(run.code, 11, "{}\n{}", run.text, site_log());
        load.goes_on(20);
    }
    load.ends();
}
