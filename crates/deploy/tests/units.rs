//! The numbers in the units fit each other, and what the server and the tool assume.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// `shutdown` of `main`'s defaults, with what the slots' unit sets. `main check` in that environment is asked by
/// `tests/real_server`; here is its arithmetic.
fn shutdown() -> BTreeMap<String, u64> {
    let defaults = fs::read_to_string(project().join("manifest/config/defaults.yaml")).unwrap();
    let section = defaults.lines().skip_while(|line| !line.starts_with("shutdown:")).skip(1);
    let section = section.take_while(|line| line.starts_with(' '));
    let mut all: BTreeMap<String, u64> = section
        .filter_map(|line| line.split('#').next()?.trim().split_once(": "))
        .map(|(key, value)| (key.to_owned(), value.trim().parse().unwrap()))
        .collect();
    for (name, value) in
        unit("hotgo@.service").iter().filter(|(name, _)| name == "Environment").flat_map(|(_, words)| {
            words.split(' ').filter_map(|word| word.strip_prefix("HOTGO__SHUTDOWN__")?.split_once('='))
        })
    {
        let known = all.insert(name.to_lowercase(), value.parse().unwrap());
        assert!(known.is_some(), "the server has no shutdown.{}", name.to_lowercase());
    }
    all
}

fn unit(name: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(project().join("manifest/systemd").join(name)).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn seconds(unit_name: &str, setting: &str) -> u64 {
    let value = unit(unit_name).into_iter().find(|(name, _)| name == setting).unwrap().1;
    let (number, scale) = match (value.strip_suffix("min"), value.strip_suffix('s')) {
        (Some(minutes), _) => (minutes, 60),
        (None, seconds) => (seconds.unwrap_or(&value), 1),
    };
    number.parse::<u64>().unwrap() * scale
}

/// A default of `deploy.yaml`, from its skeleton.
fn default_of(key: &str) -> u64 {
    let text = fs::read_to_string(project().join("manifest/systemd/deploy.yaml")).unwrap();
    let value =
        text.lines().find_map(|line| line.trim_start_matches([' ', '#']).strip_prefix(&format!("{key}: "))).unwrap();
    value.split('#').next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_slot_ends_by_itself_before_systemd_kills_it_and_the_server_accepts_its_times() {
    let shutdown = shutdown();
    let of = |key: &str| shutdown[&format!("{key}_ms")];
    let needed = of("hold") + of("order_drain") + of("persist_reserve") + of("close_stores_reserve");
    assert!(needed <= of("deadline"), "{shutdown:?}");
    // The phases that are no part of that have their whole time too, on a site that has nothing to wait for in the others.
    assert!(of("stop_accepting") + needed <= of("deadline"), "{shutdown:?}");
    assert!(of("deadline") + of("watchdog") <= of("stop_budget"), "{shutdown:?}");
    assert!((1_000..of("stop_accepting")).contains(&of("linger")), "{shutdown:?}");
    assert_eq!(of("stop_budget"), seconds("hotgo@.service", "TimeoutStopSec") * 1_000);
}

#[test]
fn each_limit_is_above_what_it_waits_for() {
    let slot_stop = seconds("hotgo@.service", "TimeoutStopSec");
    let slot_start = seconds("hotgo@.service", "TimeoutStartSec");
    assert!(default_of("drain_timeout_s") > slot_stop);
    assert!(default_of("start_timeout_s") > slot_start);
    // The umbrella's stop waits for both slots' stop.
    assert!(seconds("hotgo.service", "TimeoutStopSec") > default_of("drain_timeout_s"));
    let upgrade = [
        "check_timeout_s",
        "check_timeout_s",
        "migrate_timeout_s",
        "start_timeout_s",
        "probation_s",
        "traffic_probation_s",
        "hand_over_timeout_s",
        "drain_timeout_s",
        "min_healthy_s",
    ];
    let sum: u64 = upgrade.iter().map(|key| default_of(key)).sum();
    assert!(seconds("hotgo.service", "TimeoutStartSec") > sum, "{sum} s");
}

#[test]
fn a_slot_has_started_when_it_says_so_and_is_started_again_however_it_ended() {
    let has = |name: &str, line: (&str, &str)| {
        let all = unit(name);
        assert!(all.contains(&(line.0.to_owned(), line.1.to_owned())), "{name} lacks {line:?}: {all:?}");
    };
    has("hotgo@.service", ("Type", "notify"));
    // on-failure takes a death by SIGHUP for success.
    has("hotgo@.service", ("Restart", "always"));
    // A limit that trips would close the listener. Who counts the deaths are the tool and the monitor.
    for name in ["hotgo@.service", "hotgo.service", "hotgo-wake.service", "hotgo.socket"] {
        has(name, ("StartLimitIntervalSec", "0"));
    }
    has("hotgo.socket", ("TriggerLimitIntervalSec", "0"));
    has("hotgo.service", ("ExecReload", "/usr/local/sbin/hotgo-deploy upgrade"));
}

fn manifest(name: &str) -> String {
    fs::read_to_string(project().join("manifest").join(name)).unwrap()
}

/// What follows a word up to the end of the line, or `;`, without the comment, wherever the word begins a line.
fn values<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let rest = text.lines().filter_map(|line| line.trim().strip_prefix(word)?.strip_prefix(' '));
    rest.map(|rest| rest.split([';', '#']).next().unwrap_or_default().trim()).collect()
}

#[test]
fn a_proxy_gives_both_servers_work_lets_websockets_pass_and_waits_longer_than_the_server_takes() {
    let defaults = manifest("config/defaults.yaml");
    let server = defaults.split("\nserver:\n").nth(1).unwrap();
    let request_s: u64 = values(server, "request_timeout_ms:")[0].parse::<u64>().unwrap() / 1_000;
    let ping_s: u64 = values(&defaults, "ping_interval_ms:")[0].parse::<u64>().unwrap() / 1_000;
    let seconds = |text: &str| match text.strip_suffix('h') {
        Some(hours) => hours.parse::<u64>().unwrap() * 3_600,
        None => text.strip_suffix('s').unwrap().parse().unwrap(),
    };

    let nginx = manifest("nginx/hotgo.conf");
    let (rest, websocket) = nginx.split_once("location = /api/ws {").unwrap();
    let websocket = websocket.split('}').next().unwrap();
    assert_eq!(values(websocket, "proxy_set_header Upgrade"), ["$http_upgrade"]);
    assert_eq!(values(websocket, "proxy_set_header Connection"), ["upgrade"]);
    let limits =
        [(values(rest, "proxy_read_timeout"), request_s), (values(websocket, "proxy_read_timeout"), 2 * ping_s)];
    for (found, least) in limits {
        assert!(found.len() == 1 && seconds(found[0]) > least, "{found:?}, more than {least} s");
    }
    for name in ["a", "b"] {
        let server = manifest(&format!("nginx/servers/{name}"));
        assert!(!server.contains("backup") && server.contains("max_fails=0"), "{server}");
    }

    let haproxy = manifest("haproxy/hotgo.cfg");
    assert!(seconds(values(&haproxy, "timeout server")[0]) > request_s);
    assert!(seconds(values(&haproxy, "timeout tunnel")[0]) > 2 * ping_s);
    let servers = values(&haproxy, "server");
    assert!(servers.len() >= 2 && !servers.iter().any(|server| server.contains("backup")), "{servers:?}");
}

/// The version of systemd that brought each directive which the units use, as its man pages of version 257 say ("Added in version
/// N"; Debian 13, systemd.unit(5), .service, .socket, .timer, .exec, .kill and .resource-control); 0 where they record none, which
/// is before 183. Another directive is looked up there before it is added here.
const SINCE: &[(u32, &str)] = &[
    (
        0,
        "Backlog CapabilityBoundingSet DevicePolicy Environment EnvironmentFile ExecReload ExecStart \
         ExecStopPost Group LimitNOFILE ListenStream NonBlocking NotifyAccess OOMScoreAdjust OnBootSec \
         OnUnitActiveSec PrivateNetwork PrivateTmp RemainAfterExit Restart RestartSec Service Sockets \
         Type UMask User WatchdogSec WorkingDirectory",
    ),
    (187, "KillMode NoNewPrivileges SystemCallFilter"),
    (188, "TimeoutStartSec TimeoutStopSec"),
    (189, "RestartPreventExitStatus"),
    (201, "After Description Documentation IgnoreOnIsolate Requires WantedBy Wants"),
    (209, "AccuracySec PrivateDevices SystemCallArchitectures SystemCallErrorNumber"),
    (211, "LogsDirectory RestrictAddressFamilies RuntimeDirectory StateDirectory"),
    (214, "ProtectHome ProtectSystem"),
    (216, "NoDelay"),
    (227, "FileDescriptorName TasksMax"),
    (229, "AmbientCapabilities StartLimitIntervalSec"),
    (230, "TriggerLimitIntervalSec"),
    (231, "MemoryDenyWriteExecute ReadWritePaths RestrictRealtime"),
    (232, "PrivateUsers ProtectControlGroups ProtectKernelModules ProtectKernelTunables RemoveIPC"),
    (233, "RestrictNamespaces"),
    (234, "LogsDirectoryMode RuntimeDirectoryMode StateDirectoryMode"),
    (235, "KeyringMode LockPersonality RuntimeDirectoryPreserve"),
    (239, "PrivateMounts"),
    (242, "ProtectHostname RestrictSUIDSGID"),
    (244, "ProtectKernelLogs"),
    (245, "ProtectClock"),
    (247, "ProcSubset ProtectProc"),
];

/// What Ubuntu 20.04 has.
const OLDEST: u32 = 245;

/// The directives of a unit that the oldest systemd does not know and that no comment above them calls newer.
fn too_new(text: &str) -> Vec<String> {
    let mut comment = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            comment = line;
        } else if let Some((name, value)) = line.split_once('=') {
            let since =
                SINCE.iter().find(|(_, names)| names.split(' ').any(|known| known == name)).map(|(since, _)| *since);
            // A value may be newer than its directive.
            let since = if (name, value) == ("Type", "notify-reload") { Some(253) } else { since };
            let is_told = |since: u32| comment.starts_with(&format!("# {since}; older ones"));
            if since.is_none_or(|since| since > OLDEST && !is_told(since)) {
                found.push(line.to_owned());
            }
        } else {
            comment = "";
        }
    }
    found
}

#[test]
fn systemd_245_knows_every_directive_but_those_that_the_units_themselves_call_newer() {
    let dir = project().join("manifest/systemd");
    let drop_ins = ["hotgo@blue.service.d/slot.conf", "hotgo@green.service.d/slot.conf"].map(str::to_owned);
    let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let units = entries.filter(|name| [".service", ".socket", ".timer"].iter().any(|kind| name.ends_with(kind)));
    let names: Vec<String> = units.chain(drop_ins).collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        assert_eq!(too_new(&fs::read_to_string(dir.join(&name)).unwrap()), Vec::<String>::new(), "{name}");
    }
    let told = "# 247; older ones say so.\nProtectProc=invisible\nProcSubset=pid\n";
    assert_eq!(too_new(told), Vec::<String>::new());
    for newer in ["ProcSubset=pid", "RestartMode=direct", "Type=notify-reload"] {
        assert_eq!(too_new(&format!("[Service]\nType=notify\n{newer}\n")), [newer]);
        let told_of_another = format!("# 247; older ones say so.\nProtectProc=invisible\n\n{newer}\n");
        assert_eq!(too_new(&told_of_another), [newer]);
    }
}
