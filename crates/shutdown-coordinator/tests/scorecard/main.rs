//! The scorecard: six ways in which a shutdown goes wrong, tried on the coordinator and on its peers, with a table of who
//! stands. `cargo test -p shutdown-coordinator --features axum --test scorecard`
//!
//! Every peer is used as its own documentation does it, in its best way; a dash means that it does not offer the thing at all.
//! Where the traps are on record:
//!
//! 1. Blocked runtime: a tokio timer needs a worker, so `timeout` is no deadline (measured: a limit of 200 ms returned after
//!    2.05 s, as `Ok`); failures that exit with 0: dotnet/runtime#67146.
//! 2. Admission: `TaskTracker::spawn` works after `close` (tokio-rs/tokio#6759).
//! 3. Late guards: weak guards upgraded after the shutdown are not waited for (plabayo/tokio-graceful#6).
//! 4. Abandonment: who waits for a signal that nobody can send any more waits for ever.
//! 5. Blocking jobs: a `spawn_blocking` that does not return outlives everything (tokio-rs/tokio#5338).
//! 6. Websockets: `axum::serve` does not wait for upgraded connections (tokio-rs/axum#3003).
//!
//! The program has no test harness, so that scenarios 1 and 5 can run it again as a process with a real `main`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; the peers spawn their tasks as their users do"
)]

mod abandoned;
mod admission;
mod blocked;
mod blocking;
mod card;
mod guards;
mod process;
mod websocket;

use std::process::ExitCode;

use card::{
    Mark::{self, Absent, Fail, Pass},
    Peer, Scenario,
};
use futures_util::{FutureExt as _, future::join_all};

const SCENARIOS: [Scenario; 6] = [
    Scenario {
        title: "every worker is blocked: ends by its deadline, not with 0",
        judge: |peer| blocked::judge(peer).boxed(),
    },
    Scenario { title: "work that comes after the close is refused", judge: |peer| admission::judge(peer).boxed() },
    Scenario { title: "a guard obtained around the close is waited for", judge: |peer| guards::judge(peer).boxed() },
    Scenario { title: "abandoned: whoever waits learns of it", judge: |peer| abandoned::judge(peer).boxed() },
    Scenario {
        title: "a blocking job that never ends: left behind, and named",
        judge: |peer| blocking::judge(peer).boxed(),
    },
    Scenario { title: "a websocket is told, waited for, and closed", judge: |peer| websocket::judge(peer).boxed() },
];

/// What is documented in `docs/performance.md`, one mark for each scenario.
const DOCUMENTED: [(Peer, [Mark; 6]); 7] = [
    (Peer::Ours, [Pass, Pass, Pass, Pass, Pass, Pass]),
    (Peer::TokioUtil, [Absent, Fail, Fail, Pass, Fail, Pass]),
    (Peer::TokioGraceful, [Fail, Fail, Fail, Fail, Fail, Pass]),
    (Peer::TokioGracefulShutdown, [Fail, Fail, Absent, Pass, Fail, Pass]),
    (Peer::Drain, [Absent, Fail, Pass, Pass, Absent, Pass]),
    (Peer::AsyncShutdown, [Absent, Fail, Pass, Pass, Absent, Pass]),
    (Peer::AxumServe, [Absent, Pass, Absent, Absent, Absent, Fail]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--child", "blocked", peer] => return blocked::child(Peer::named(peer)),
        ["--child", "blocking", peer] => return blocking::child(Peer::named(peer)),
        // What nextest asks of a program without a harness.
        _ if words.contains(&"--list") => {
            if !words.contains(&"--ignored") {
                println!("scorecard: test");
            }
            return ExitCode::SUCCESS;
        }
        // Cargo gives a filter to every test program.
        _ if words.iter().any(|word| !word.starts_with('-') && !"scorecard".contains(word)) => {
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let differences = runtime.block_on(scorecard());
    for difference in &differences {
        println!("{difference}");
    }
    if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Tries everything, prints the table, and returns what is not as documented.
async fn scorecard() -> Vec<String> {
    // All at once: most of the time is spent waiting for what never happens.
    let trials = SCENARIOS.iter().map(|scenario| {
        join_all(DOCUMENTED.iter().map(async |(peer, _)| tokio::spawn((scenario.judge)(*peer)).await.unwrap()))
    });
    let results = join_all(trials).await;
    let mut differences = Vec::new();
    let mut rows = DOCUMENTED.map(|(peer, _)| format!("{:<24}", peer.name()));
    for (number, (scenario, verdicts)) in SCENARIOS.iter().zip(results).enumerate() {
        println!("\n{}. {}", number + 1, scenario.title);
        for (((peer, documented), verdict), row) in DOCUMENTED.iter().zip(verdicts).zip(&mut rows) {
            println!("   {} {:<24} {}", verdict.mark, peer.name(), verdict.why);
            row.extend([' ', verdict.mark.symbol()]);
            let Some(documented) = documented.get(number) else { continue };
            if verdict.mark != *documented {
                differences.push(card::difference(*peer, scenario, *documented, &verdict));
            }
        }
    }
    println!("\n{:<24} 1 2 3 4 5 6", "");
    for row in rows {
        println!("{row}");
    }
    println!();
    differences
}
