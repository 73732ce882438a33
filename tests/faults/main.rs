//! Faults, for real: signals, kills, a disk that fails, a clock that jumps, clients that misbehave. Whatever the fault, it must
//! have fired, and after healing `main audit` finds nothing lost and nothing doubled.
//!
//! Each row of the fault matrix and its tests, wherever they are:
//!
//! | fault | tests |
//! |---|---|
//! | SIGTERM at P0-P2 | blackbox/shutdown: sigterm_before_the_request_is_read_finishes_it sigterm_before_authorisation_finishes_it sigterm_before_the_commit_finishes_it sigterm_before_an_endless_commit_ends_in_time |
//! | SIGTERM at P3-P7 | blackbox/shutdown: sigterm_before_the_answer_finishes_it sigterm_before_the_send_finishes_it sigterm_on_the_wire_finishes_it sigterm_after_the_venues_answer_finishes_it sigterm_after_the_result_is_committed_finishes_it sigterm_while_the_venue_is_silent_leaves_the_order_unknown_names_it_and_the_next_start_resolves_it |
//! | SIGKILL at P0-P7 | faults/kill: sigkill_before_the_request_is_read sigkill_before_authorisation sigkill_before_the_commit sigkill_before_the_answer sigkill_before_the_send sigkill_on_the_wire sigkill_after_the_venues_answer sigkill_after_the_result_is_committed; blackbox/crash: a_signal_is_answered_only_after_it_is_durable |
//! | SIGKILL at any time | blackbox/crash: kills_under_load_lose_nothing_and_double_nothing a_kill_in_the_middle_of_a_start_is_survived |
//! | SIGKILL at the n-th sync | faults/strace_kill: strace_kills_the_first_start_at_every_sync_and_the_next_one_recovers strace_kills_at_every_sync_of_a_dozen_orders_and_nothing_is_lost |
//! | power loss | faults/power: strace_shows_that_every_answer_and_every_order_at_the_venue_comes_after_the_sync_of_its_commit strace_tells_what_a_power_loss_leaves_at_each_answer_and_every_answered_signal_is_in_it strace_in_the_place_of_every_sync_is_found_out_by_the_same_check strace_shows_that_the_first_start_shows_its_token_only_when_it_is_durable |
//! | SIGTERM twice | blackbox/shutdown: a_second_sigterm_shortens_the_drain_and_still_persists |
//! | SIGTERM in start-up | blackbox/shutdown: sigterm_every_10_ms_through_start_up_never_leaves_a_half_made_data_directory |
//! | venue hangs | faults/venue: a_venue_that_hangs_leaves_the_order_unknown_and_is_only_asked_about_it; blackbox/shutdown: sigterm_while_the_venue_is_silent_leaves_the_order_unknown_names_it_and_the_next_start_resolves_it |
//! | late acceptance | faults/venue: an_order_that_arrives_late_is_not_sent_again_although_queries_said_that_there_is_none an_order_that_queries_do_not_show_for_a_while_is_found_and_not_doubled |
//! | venue says duplicate | faults/venue: an_order_that_the_venue_calls_a_duplicate_is_adopted |
//! | request lost | blackbox/crash: a_request_that_was_lost_on_the_way_is_proven_absent_and_never_sent_again |
//! | disk full | faults/disk: a_full_disk_on_tmpfs_refuses_signals_sends_nothing_and_recovers_when_there_is_room |
//! | fsync EIO | faults/strace_kill: strace_fails_a_sync_of_the_log_and_the_server_stops_sending_and_ends_with_75 |
//! | clock +-1 h | faults/clock: wall_clock_jumps_of_an_hour_lose_nothing_and_change_no_deadline |
//! | slow or silent client | faults/clients: slow_and_silent_clients_are_cut_and_others_are_served_meanwhile a_client_that_reads_nothing_is_cut; blackbox/shutdown: two_hundred_websockets_half_sent_requests_and_idle_connections_do_not_hold_up_the_end |
//! | 10,000 websockets at SIGTERM | faults/swarm: ten_thousand_websockets_get_a_close_frame_within_five_seconds_of_the_phase |
//! | robot panics | faults/robots: a_robot_that_panics_is_quarantined_and_reported_and_its_account_trades_on |
//! | runtime starved | faults/robots: a_starved_runtime_is_ended_by_the_watchdog_which_names_the_blockers_and_no_order_is_lost |
//! | fds exhausted | faults/clients: two_hundred_connections_on_64_descriptors_leave_the_admin_socket_answering_and_the_server_recovers |
//! | invalid config on reload | faults/reload: an_invalid_configuration_changes_nothing_and_is_seen_in_log_and_status a_valid_configuration_changes_the_log_filter_and_the_limits_of_a_running_server systemd_hears_when_a_reload_begins_and_ends; blackbox/shutdown: sighup_does_not_end_the_process |
//! | migration killed halfway | faults/strace_kill: strace_kills_a_migration_at_every_sync_and_it_goes_on_where_it_was |
//! | two processes overlap | blackbox/crash: a_second_process_on_the_same_data_directory_is_refused |
//! | Redis down, stalled, flushed | redis/server: a_start_without_redis_is_ready_and_degraded_and_takes_up_the_stream_when_redis_comes orders_continue_while_redis_is_killed_and_frozen_and_the_stream_goes_on_afterwards a_shutdown_waits_for_no_frozen_redis; redis/intake: after_flushall_orders_continue_and_nothing_is_replayed |
//! | poison message on the stream | redis/intake: a_poison_entry_goes_to_the_dead_letters_with_the_reason_and_the_stream_moves_on an_entry_that_was_delivered_too_often_goes_to_the_dead_letters |
//! | owner frozen past its lease | faults/lease: an_owner_frozen_past_its_lease_notices_when_it_thaws_and_takes_a_new_epoch_before_it_sends an_order_whose_owner_froze_between_commit_and_send_is_not_sent_under_the_old_epoch |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::as_conversions,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod clock;
mod disk;
#[cfg(feature = "failpoints")]
mod kill;
#[cfg(feature = "failpoints")]
mod lease;
mod power;
mod reload;
#[cfg(feature = "failpoints")]
mod robots;
mod strace_kill;
mod swarm;
mod tools;
mod trace;
mod venue;

/// The table above: fault, file below `tests/`, test.
fn table() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut rows = Vec::new();
    for line in include_str!("main.rs").lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1) {
        let Some((fault, places)) = line.trim_end_matches(" |").split_once(" | ") else { continue };
        for place in places.split("; ") {
            let (file, tests) = place.split_once(": ").unwrap_or_else(|| panic!("{fault}: no file in {place:?}"));
            rows.extend(tests.split(' ').map(|test| (fault, file, test)));
        }
    }
    rows
}

#[test]
fn every_row_of_the_fault_matrix_names_tests_that_exist() {
    let rows = table();
    let faults: std::collections::BTreeSet<&str> = rows.iter().map(|(fault, ..)| *fault).collect();
    assert_eq!(faults.len(), 26, "{faults:?}");
    for (fault, file, test) in rows {
        let path = format!("tests/{file}.rs");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{fault}: {path}: {error}"));
        let names = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let mut words = names.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        assert!(words.any(|word| word == test), "{fault}: there is no test {test} in {path}");
    }
}

#[test]
fn every_test_of_this_suite_is_in_the_table() {
    let named: std::collections::BTreeSet<&str> = table().into_iter().map(|(.., test)| test).collect();
    for file in std::fs::read_dir("tests/faults").unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let tests =
            text.split("#[tokio::test]\n").skip(1).filter_map(|rest| rest.trim_start().strip_prefix("async fn "));
        for test in tests.filter_map(|rest| rest.split_once('(')).map(|(name, _)| name) {
            assert!(test.starts_with('$') || named.contains(test), "{} is in no row: {}", test, path.display());
        }
    }
}
