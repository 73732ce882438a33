//! What systemd is told, read from a real notification socket. Property 47.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::PathBuf,
    process::Stdio,
    sync::mpsc,
    time::{Duration, Instant as RealInstant},
};

use common::{manual, ms, secs, soon};
use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use shutdown_coordinator::{
    Builder, ShutdownCoordinator, ShutdownHandle,
    systemd::{Systemd, SystemdError},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, advance, sleep},
};

/// What systemd would listen on.
struct Bus {
    socket: UnixDatagram,
    address: OsString,
    _directory: Option<tempfile::TempDir>,
}

/// One datagram.
#[derive(Debug)]
struct Heard(Vec<String>);

impl Heard {
    fn says(&self, line: &str) -> bool {
        self.0.iter().any(|said| said == line)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.value(name).map(|value| value.parse().unwrap())
    }
}

impl Bus {
    fn at_path() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, address: path.into(), _directory: Some(directory) }
    }

    fn in_abstract() -> Self {
        let name = format!("shutdown-coordinator-{}-{:?}", std::process::id(), std::thread::current().id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, address: format!("@{name}").into(), _directory: None }
    }

    fn try_next(&self) -> Option<Heard> {
        let mut buffer = [0; 4097];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                assert!(length <= 4096, "systemd ignores what is longer");
                let text = std::str::from_utf8(&buffer[..length]).unwrap();
                Some(Heard(text.lines().map(str::to_owned).collect()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// What was heard so far.
    fn all(&self) -> Vec<Heard> {
        std::iter::from_fn(|| self.try_next()).collect()
    }

    /// Waits for a message, in real time.
    async fn next(&self) -> Heard {
        let end = RealInstant::now() + secs(15);
        loop {
            if let Some(heard) = self.try_next() {
                return heard;
            }
            assert!(RealInstant::now() < end, "systemd waited in vain");
            sleep(ms(5)).await;
        }
    }

    /// Waits for a message that says this, and gives back what came before and it.
    async fn until(&self, says: impl Fn(&Heard) -> bool) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            heard.push(self.next().await);
            if says(heard.last().unwrap()) {
                return heard;
            }
        }
    }
}

/// A phase that can be called off, then one that cannot.
fn two_phases() -> Builder {
    let mut builder = ShutdownCoordinator::builder();
    let announce = builder.phase("announce").hold(secs(2)).id();
    builder.phase("drain").after(&[announce]).point_of_no_return().id();
    builder.deadline(secs(10))
}

fn connect(bus: &Bus, handle: &ShutdownHandle, watchdog: Option<Duration>) -> Systemd {
    Systemd::connect(handle, &bus.address, watchdog).unwrap()
}

fn positions(heard: &[Heard], line: &str) -> Vec<usize> {
    heard.iter().enumerate().filter(|(_, heard)| heard.says(line)).map(|(index, _)| index).collect()
}

/// Property 47.
#[tokio::test(start_paused = true)]
async fn stopping_is_said_at_the_point_of_no_return_and_not_at_the_trigger() {
    let bus = Bus::at_path();
    let (coordinator, handle) = two_phases().build().unwrap();
    let systemd = connect(&bus, &handle, None);
    systemd.ready("serving");
    let drain = handle.phase("drain").unwrap();
    let guard = handle.gate(drain, "orders").enter_named("order 17").unwrap();
    let watch = async {
        let report = systemd.watch(coordinator.run()).await;
        assert_eq!(report.exit_code(), 0);
    };
    let script = async {
        sleep(secs(1)).await;
        assert_eq!(bus.all().len(), 1, "only READY=1 is said while nothing happens");
        handle.trigger(manual());
        sleep(ms(1900)).await;
        let announced = bus.all();
        assert!(positions(&announced, "STOPPING=1").is_empty(), "{announced:?}");
        let status = announced[0].value("STATUS").unwrap();
        assert_eq!(status, "shutting down (manual: test), 10 s left: announce");
        sleep(ms(200)).await;
        let draining = bus.all();
        assert_eq!(positions(&draining, "STOPPING=1"), [0], "{draining:?}");
        sleep(secs(2)).await;
        assert!(positions(&bus.all(), "STOPPING=1").is_empty(), "it is said once");
        drop(guard);
    };
    tokio::join!(watch, script);
    let last = bus.all().pop().unwrap();
    assert_eq!(last.0, ["STATUS=stopped (manual: test)"]);
}

/// Property 47.
#[tokio::test(start_paused = true)]
async fn without_a_point_of_no_return_stopping_is_the_last_word() {
    let bus = Bus::in_abstract();
    let mut builder = ShutdownCoordinator::builder();
    builder.phase("only").hold(secs(3));
    let (coordinator, handle) = builder.build().unwrap();
    let systemd = connect(&bus, &handle, None);
    handle.trigger(manual());
    systemd.ready("serving");
    systemd.watch(coordinator.run()).await;
    let heard = bus.all();
    assert_eq!(heard[0].0, ["READY=1"], "the status belongs to the shutdown: {heard:?}");
    assert_eq!(positions(&heard, "STOPPING=1"), [heard.len() - 1], "{heard:?}");
}

/// Property 47: also when everything is over before systemd could be told of any of it.
#[tokio::test]
async fn the_last_word_is_sent_even_when_nothing_else_was() {
    let bus = Bus::at_path();
    let (coordinator, handle) = ShutdownCoordinator::builder().build().unwrap();
    handle.trigger(manual());
    connect(&bus, &handle, None).watch(coordinator.run()).await;
    assert_eq!(bus.all().pop().unwrap().0, ["STOPPING=1", "STATUS=stopped (manual: test)"]);
}

/// Property 47: the status says for what, since when, and how long still, also when a name would be another assignment
/// or too long for a datagram.
#[tokio::test(start_paused = true)]
async fn the_status_names_what_has_been_waited_for_longest_on_one_line() {
    let bus = Bus::at_path();
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").id();
    let (coordinator, handle) = builder.deadline(secs(5)).build().unwrap();
    let orders = handle.gate(drain, "orders");
    let oldest = orders.enter_named(format!("order 1\nMAINPID=1\n{}", "ü".repeat(5_000))).unwrap();
    advance(secs(1)).await;
    let others = [orders.enter().unwrap(), orders.enter().unwrap()];
    let systemd = connect(&bus, &handle, None);
    let watch = systemd.watch(coordinator.run());
    let script = async {
        handle.trigger(manual());
        sleep(ms(10)).await;
        drop(oldest);
        sleep(secs(1)).await;
        drop(others);
    };
    tokio::join!(watch, script);
    let heard = bus.all();
    assert!(heard.iter().all(|heard| heard.value("MAINPID").is_none()), "{heard:?}");
    let statuses: Vec<_> = heard.iter().filter_map(|heard| heard.value("STATUS")).collect();
    let long = statuses.iter().find(|status| status.contains("order 1 ")).unwrap();
    assert!(long.contains("5 s left: drain: gate \"orders\", order 1 MAINPID=1 üü"), "{long}");
    assert!(long.len() <= 500 && long.len() > 490, "{}", long.len());
    assert!(statuses.contains(&"shutting down (manual: test), 4 s left: drain: gate \"orders\" (2 guards), for 1.0s"));
}

/// Property 47: each extension ends at one and the same moment, whatever was said before. With the watchdog that is the
/// moment when it ends the process, and a second for the exit.
#[tokio::test(start_paused = true)]
async fn the_stop_timeout_is_extended_every_second_and_never_past_the_deadline_and_its_margin() {
    for (watchdog, end) in [(Some(ms(1500)), secs(10) + ms(2500)), (None, secs(11) + 2 * ms(150))] {
        let bus = Bus::at_path();
        let mut builder = two_phases();
        if let Some(margin) = watchdog {
            builder = builder.watchdog(margin);
        }
        let (coordinator, handle) = builder.build().unwrap();
        let drain = handle.phase("drain").unwrap();
        let _held = handle.gate(drain, "orders").enter().unwrap();
        let systemd = connect(&bus, &handle, None);
        let triggered = Instant::now();
        handle.trigger(manual());
        let mut extensions = Vec::new();
        let mut watch = std::pin::pin!(systemd.watch(coordinator.run()));
        loop {
            tokio::select! {
                biased;
                report = &mut watch => {
                    assert!(report.took >= secs(10), "the guard was never given back");
                    break;
                }
                () = sleep(ms(10)) => {}
            }
            for heard in bus.all() {
                let Some(micros) = heard.number("EXTEND_TIMEOUT_USEC") else { continue };
                let latest = triggered.elapsed() + Duration::from_micros(micros);
                assert!(latest <= end + ms(15) && latest + ms(15) >= end, "{latest:?} instead of {end:?}");
                extensions.push(triggered.elapsed());
            }
        }
        let gaps = extensions.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        assert!(gaps.max().unwrap() <= ms(1020) && extensions.len() >= 10, "{extensions:?}");
        assert!(bus.all().iter().all(|heard| heard.value("EXTEND_TIMEOUT_USEC").is_none()), "not in the last word");
    }
}

/// Properties 46 and 47.
#[tokio::test(start_paused = true)]
async fn an_abort_goes_back_to_ready_and_to_the_services_own_status() {
    let bus = Bus::at_path();
    let (coordinator, handle) = two_phases().build().unwrap();
    let systemd = connect(&bus, &handle, None);
    systemd.ready("serving");
    let script = async {
        handle.trigger(manual());
        sleep(secs(1)).await;
        systemd.status("serving, with a new price list");
        handle.abort().unwrap();
        sleep(ms(10)).await;
        let heard = bus.all();
        assert_eq!(heard.last().unwrap().0, ["READY=1", "STATUS=serving, with a new price list"]);
        assert_eq!(positions(&heard, "STATUS=serving, with a new price list").len(), 1, "hidden until then: {heard:?}");
        assert!(positions(&heard, "STOPPING=1").is_empty(), "{heard:?}");
        sleep(secs(5)).await;
        assert!(bus.all().is_empty(), "nothing is extended any more");
        handle.trigger(manual());
    };
    tokio::join!(systemd.watch(coordinator.run()), script);
    let heard = bus.all();
    assert_eq!(positions(&heard, "STOPPING=1").len(), 1);
    let stopping = positions(&heard, "STOPPING=1")[0];
    systemd.ready("too late");
    drop(systemd.reloading());
    assert!(bus.all().is_empty(), "there is no way back from STOPPING=1, said in message {stopping}");
}

/// Property 47.
#[tokio::test(start_paused = true)]
async fn an_abort_while_the_service_starts_does_not_call_it_ready() {
    let bus = Bus::at_path();
    let (coordinator, handle) = two_phases().build().unwrap();
    let systemd = connect(&bus, &handle, None);
    drop(systemd.reloading());
    let script = async {
        handle.trigger(manual());
        sleep(secs(1)).await;
        handle.abort().unwrap();
        sleep(secs(1)).await;
        let heard = bus.all();
        assert!(positions(&heard, "READY=1").is_empty(), "{heard:?}");
        assert_eq!(heard.last().unwrap().0, ["STATUS="]);
    };
    tokio::select! {
        _ = systemd.watch(coordinator.run()) => panic!("it was called off"),
        () = script => {}
    }
}

/// Property 47.
#[tokio::test(start_paused = true)]
async fn pings_come_twice_per_interval_before_and_during_the_shutdown() {
    let bus = Bus::at_path();
    let (coordinator, handle) = two_phases().build().unwrap();
    let drain = handle.phase("drain").unwrap();
    let guard = handle.gate(drain, "orders").enter().unwrap();
    let systemd = connect(&bus, &handle, Some(secs(3)));
    let script = async {
        sleep(ms(15_100)).await;
        assert_eq!(positions(&bus.all(), "WATCHDOG=1").len(), 10);
        handle.trigger(manual());
        sleep(secs(6)).await;
        let heard = bus.all();
        let extensions = heard.iter().filter(|heard| heard.value("EXTEND_TIMEOUT_USEC").is_some());
        // An extension moves systemd's watchdog too; a ping in the same message moves it back.
        assert!(
            extensions.clone().count() >= 6 && extensions.clone().all(|heard| heard.says("WATCHDOG=1")),
            "{heard:?}"
        );
        drop(guard);
    };
    tokio::join!(systemd.watch(coordinator.run()), script);
}

/// Property 47: pings stop when every worker is blocked, although the thread that awaits `watch` is free; they come back
/// with the runtime.
#[test]
fn a_starved_runtime_stops_pinging() {
    let bus = Bus::at_path();
    let mut builder = ShutdownCoordinator::builder();
    let drain = builder.phase("drain").id();
    let (coordinator, handle) = builder.build().unwrap();
    // A ping is due every 50 ms.
    let systemd = connect(&bus, &handle, Some(ms(100)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    bus.socket.set_nonblocking(false).unwrap();
    bus.socket.set_read_timeout(Some(secs(1))).unwrap();
    let silent = || bus.socket.recv(&mut [0; 4096]).is_err();
    let assert_alive = || assert!((0..5).all(|_| (0..15).any(|_| !silent())));
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| runtime.block_on(systemd.watch(coordinator.run())));
        assert_alive();
        let (begun, begins) = mpsc::channel();
        let releases: Vec<_> = (0..2)
            .map(|_| {
                let (begun, (release, released)) = (begun.clone(), mpsc::channel::<()>());
                let _entered = runtime.enter();
                let block = async move {
                    begun.send(()).unwrap();
                    released.recv().unwrap_err();
                };
                let _task = handle.spawn(drain, "blocks", block).unwrap();
                release
            })
            .collect();
        begins.iter().take(2).for_each(drop);
        // One may have been on its way.
        assert!(silent() || silent(), "both workers are blocked");
        drop(releases);
        assert_alive();
        handle.trigger(manual());
        watch.join().unwrap();
    });
}

/// Property 47: for `Type=notify-reload`, systemd waits for a RELOADING=1 that is younger than its SIGHUP, and READY=1.
#[tokio::test(start_paused = true)]
async fn a_reload_says_when_it_began_and_is_over_when_the_last_of_them_is() {
    let now = || u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros()).unwrap();
    let bus = Bus::at_path();
    let (_coordinator, handle) = two_phases().build().unwrap();
    let systemd = connect(&bus, &handle, None);
    systemd.ready("serving");
    bus.all();
    let before = now();
    let first = systemd.reloading();
    let heard = bus.all().remove(0);
    assert!(heard.says("RELOADING=1"));
    let began = heard.number("MONOTONIC_USEC").unwrap();
    assert!((before..=now()).contains(&began), "{began}");
    let second = systemd.clone().reloading();
    drop(first);
    assert!(positions(&bus.all(), "READY=1").is_empty(), "one is still under way");
    systemd.status("serving, reloaded");
    drop(second);
    assert_eq!(bus.all().pop().unwrap().0, ["READY=1", "STATUS=serving, reloaded"]);
}

/// Property 47: a socket that cannot be used is an error at once; one that goes away later does no harm.
#[tokio::test]
async fn a_bad_address_is_an_error_and_a_lost_socket_is_not() {
    let (coordinator, handle) = two_phases().build().unwrap();
    for bad in ["/nonexistent/notify", "relative/notify", "vsock:2:1234", "@no-such-name", "@"] {
        let error = Systemd::connect(&handle, bad, None).unwrap_err();
        assert!(matches!(&error, SystemdError::Socket { address, .. } if address == bad), "{error:?}");
        assert!(error.to_string().contains(bad), "{error}");
    }
    let bus = Bus::at_path();
    let systemd = connect(&bus, &handle, Some(ms(10)));
    drop(bus);
    systemd.ready("nobody listens");
    handle.trigger(manual());
    handle.force(manual());
    assert!(soon(systemd.watch(coordinator.run())).await.forced_by.is_some());
}

/// Property 47: when nobody reads, sending gives up instead of blocking the service.
#[tokio::test]
async fn a_full_socket_does_not_hold_up_the_shutdown() {
    let bus = Bus::at_path();
    let (coordinator, handle) = two_phases().build().unwrap();
    let systemd = connect(&bus, &handle, None);
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"X=1", PathBuf::from(&bus.address)).is_ok() {}
    handle.trigger(manual());
    handle.force(manual());
    soon(systemd.watch(coordinator.run())).await;
}

/// The example, with only these variables of systemd's.
fn example(variables: &[(&str, &OsStr)]) -> Child {
    // Cargo builds examples with the tests, next to their directory.
    let tests = std::env::current_exe().unwrap();
    let mut command = Command::new(tests.parent().unwrap().parent().unwrap().join("examples/systemd"));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().expect("the example `systemd` is built with the tests")
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), signal).unwrap();
}

/// Property 47, in a process of its own, by path and by abstract name.
#[tokio::test]
async fn a_process_says_ready_reloading_stopping_and_its_last_word() {
    for bus in [Bus::at_path(), Bus::in_abstract()] {
        let mut child = example(&[("NOTIFY_SOCKET", &bus.address), ("WATCHDOG_USEC", OsStr::new("400000"))]);
        assert_eq!(bus.next().await.0, ["READY=1", "STATUS=serving"]);
        bus.until(|heard| heard.says("WATCHDOG=1")).await;
        signal(&child, Signal::SIGHUP);
        bus.until(|heard| heard.says("RELOADING=1")).await;
        bus.until(|heard| heard.says("READY=1")).await;
        signal(&child, Signal::SIGTERM);
        let heard = bus.until(|heard| heard.says("STATUS=stopped (SIGTERM)")).await;
        assert_eq!(positions(&heard, "STOPPING=1").len(), 1, "{heard:?}");
        assert!(soon(child.wait()).await.unwrap().success());
        assert!(bus.all().is_empty(), "that was the last word");
    }
}

/// Property 47: the watchdog of another process is none of ours.
#[tokio::test]
async fn there_are_no_pings_for_the_watchdog_of_another_process() {
    let bus = Bus::at_path();
    let watchdog = [("WATCHDOG_USEC", OsStr::new("20000")), ("WATCHDOG_PID", OsStr::new("1"))];
    let mut child = example(&[&watchdog[..], &[("NOTIFY_SOCKET", &bus.address)]].concat());
    bus.next().await;
    signal(&child, Signal::SIGTERM);
    let heard = bus.until(|heard| heard.says("STATUS=stopped (SIGTERM)")).await;
    assert!(positions(&heard, "WATCHDOG=1").is_empty(), "{heard:?}");
    assert!(soon(child.wait()).await.unwrap().success());
}

/// Property 47: without systemd the service is the same; with a broken environment it says so and does not start.
#[tokio::test]
async fn without_systemd_nothing_is_missing_and_a_broken_environment_is_named() {
    for variables in [&[][..], &[("NOTIFY_SOCKET", OsStr::new("")), ("WATCHDOG_USEC", OsStr::new("nonsense"))]] {
        let mut child = example(variables);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(soon(lines.next_line()).await.unwrap().as_deref(), Some("ready"));
        signal(&child, Signal::SIGTERM);
        assert!(soon(child.wait()).await.unwrap().success());
    }
    let bus = Bus::at_path();
    for (variables, words) in [
        (vec![("NOTIFY_SOCKET", OsStr::new("/nonexistent/notify"))], "/nonexistent/notify"),
        (vec![("NOTIFY_SOCKET", &*bus.address), ("WATCHDOG_USEC", OsStr::new("0"))], "WATCHDOG_USEC"),
        (vec![("NOTIFY_SOCKET", &*bus.address), ("WATCHDOG_PID", OsStr::new("me"))], "WATCHDOG_PID"),
    ] {
        let output = soon(example(&variables).wait_with_output()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(words), "{text}");
    }
}
