//! For the tests of services that use this crate (cargo feature `testkit`).
//!
//! A shutdown is tested in two ways, and this has something for both:
//!
//! | | inside the test | as a real process |
//! |---|---|---|
//! | what runs | the coordinator, under a paused clock ([`Drill`]) | the binary ([`Process`]) |
//! | a signal | [`Drill::signal`]: simulated, decided by the same code | [`Process::signal`] |
//! | a moment | [`Drill::until_phase`], [`Drill::pass`] | [`Points`]: held at a [`point`] in its code |
//! | the end | [`Drill::report`], then [`assert_clean`], [`assert_order`], [`outcome`] | [`Process::exit`] |
//!
//! Every wait is bounded, and fails with what was seen by then: phases and blockers, or the process's own words. Waits
//! return a [`Failure`], made for `unwrap`; assertions panic. Processes and points are for Unix.
//!
//! # Inside the test
//!
//! ```
//! use std::time::Duration;
//!
//! use shutdown_coordinator::{
//!     ShutdownCoordinator, SignalPolicy,
//!     testkit::{Drill, Reaction, Signal, assert_clean, assert_order},
//! };
//! use tokio::time::{Instant, sleep};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)] // in a test: #[tokio::test(start_paused = true)]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut builder = ShutdownCoordinator::builder();
//!     let announce = builder.phase("announce").hold(Duration::from_secs(5)).id();
//!     let drain = builder.phase("drain").after(&[announce]).timeout(Duration::from_secs(20)).id();
//!     let persist = builder.phase("persist").after(&[drain]).reserve(Duration::from_secs(2)).id();
//!     let builder = builder.signals(SignalPolicy::default()).simulated_signals();
//!     let (coordinator, handle) = builder.build()?;
//!     let guard = handle.gate(drain, "orders").enter_named("order 7")?;
//!     handle.on(persist, "save", |_| sleep(Duration::from_millis(300)))?;
//!
//!     let mut drill = Drill::start(coordinator, &handle);
//!     let begin = Instant::now();
//!     assert_eq!(drill.signal(Signal::Term), Reaction::Triggered);
//!     drill.until_phase("drain").await?;
//!     assert_eq!(begin.elapsed(), Duration::from_secs(5)); // to the microsecond, in no time
//!     drill.pass(Duration::from_secs(3)).await?;
//!     assert_eq!(handle.blockers()[0].name, "order 7");
//!     drop(guard);
//!
//!     let report = drill.report().await?;
//!     assert_clean(&report);
//!     assert_order(&report, ["orders", "save"]);
//!     Ok(())
//! }
//! ```
//!
//! [`Builder::simulated_signals`](crate::Builder::simulated_signals) leaves the handlers of the test's process alone, so
//! that Ctrl-C still ends it; the policy is the real one, debounce window, second signal and SIGHUP included.
//!
//! ## Time
//!
//! A paused clock moves by itself: whenever every task waits, it jumps to the next timer (tokio's *auto-advance*). Hence
//!
//! - while the test runs without awaiting, no time passes; as soon as it awaits anything that is not ready, time may, as
//!   far as the next timer. [`Drill::settle`] lets everything run that can run now, and no time pass;
//! - use [`Drill::pass`], not `tokio::time::advance`: that moves the clock in one jump, so that what was due on the way
//!   happens at its end, and a hook of three seconds is late for a deadline of five;
//! - time does not wait for other threads. A hook of [`on_blocking`](crate::ShutdownHandle::on_blocking), a real socket or
//!   a file in a drill races with a clock that jumps to its deadline. Test those as a process, or with the clock running;
//! - while something spins (`yield_now` in a loop) no time passes at all. The drill notices after a minute of real time.
//!   What blocks the thread blocks the test as well, which only its runner can end;
//! - [`Process`] and [`Points`] live in real time: under a paused clock all their waits end at once.
//!
//! # As a real process
//!
//! In the service, at the moments that matter, a line that compiles to nothing unless the feature `points` is on (see
//! [`points`](crate::points) for how to keep it out of what is shipped):
//!
//! ```
//! # use shutdown_coordinator::points::point;
//! # async fn send_order() {}
//! # async fn example() {
//! send_order().await;
//! point("order-sent").await;
//! # }
//! ```
//!
//! In the test, SIGTERM exactly there:
//!
//! ```no_run
//! # #[cfg(unix)]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::process::Command;
//!
//! use shutdown_coordinator::testkit::{Exit, Points, Process, Signal};
//!
//! let points = Points::new()?;
//! points.arm("order-sent");
//! let mut command = Command::new("target/debug/service"); // env!("CARGO_BIN_EXE_service")
//! command.envs([points.env()]);
//! let mut service = Process::start(command)?;
//! service.line("ready").await?;
//!
//! let held = points.reached("order-sent").await?;
//! service.signal(Signal::Term)?; // or service.kill(), or held.die()
//! service.line("draining").await?;
//! held.release();
//! assert_eq!(service.exit().await?, Exit::Code(0));
//! # Ok(())
//! # }
//! ```
//!
//! Nothing polls and nothing sleeps: the service says where it is over a socket, and waits for the answer. A point that
//! was armed and never reached fails the test. When the test is gone, whoever was held goes on, and the test's processes
//! are killed.
//!
//! # What is deliberately absent
//!
//! Injecting errors and delays (let the thing that is called do that: a test's venue, a proxy), and any way to end a
//! thread that is blocked.

mod assert;
mod drill;
mod failure;
#[cfg(unix)]
mod output;
#[cfg(unix)]
mod points;
#[cfg(unix)]
mod process;
mod signal;

pub use assert::{assert_clean, assert_order, entry, outcome, phase};
pub use drill::Drill;
pub use failure::Failure;
#[cfg(unix)]
pub use points::{Held, Points};
#[cfg(unix)]
pub use process::{Exit, Process};
pub use signal::Signal;

pub use crate::{
    points::{point, point_blocking},
    signal::Reaction,
};
