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
/// `tests/real_server.rs`; here is its arithmetic.
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
