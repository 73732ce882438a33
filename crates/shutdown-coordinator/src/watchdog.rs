//! The watchdog: a thread that ends the process when the shutdown does not.
//!
//! It uses the operating system's clock and no runtime, so that a runtime whose every thread is blocked cannot stop it.

use std::{
    io::{self, Write as _},
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use crate::{report::EXIT_WATCHDOG, shared::Shared, sync::lock};

/// What the watchdog waits for.
#[derive(Clone, Default)]
pub(crate) struct Alarm(Arc<Inner>);

#[derive(Default)]
struct Inner {
    setting: Mutex<Setting>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
enum Setting {
    #[default]
    Off,
    At(Instant),
    Quit,
}

impl Alarm {
    pub(crate) fn arm(&self, wait: Duration) {
        // Longer than the clock can say is never.
        self.set(Instant::now().checked_add(wait).map_or(Setting::Off, Setting::At));
    }

    pub(crate) fn disarm(&self) {
        self.set(Setting::Off);
    }

    /// Ends the thread, unless it is armed: a shutdown that was dropped midway is still watched.
    pub(crate) fn quit(&self) {
        if !matches!(*lock(&self.0.setting), Setting::At(_)) {
            self.set(Setting::Quit);
        }
    }

    fn set(&self, setting: Setting) {
        *lock(&self.0.setting) = setting;
        self.0.changed.notify_all();
    }

    /// Waits until the alarm goes off (`true`) or nobody needs it any more.
    fn wait(&self) -> bool {
        let mut setting = lock(&self.0.setting);
        loop {
            setting = match *setting {
                Setting::Quit => return false,
                Setting::Off => self.0.changed.wait(setting).unwrap_or_else(PoisonError::into_inner),
                Setting::At(time) => {
                    let left = time.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    self.0.changed.wait_timeout(setting, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Starts the thread. It ends with the coordinator and its handles.
pub(crate) fn start(alarm: Alarm, shared: Weak<Shared>) -> io::Result<()> {
    thread::Builder::new().name("shutdown-watchdog".to_owned()).spawn(move || {
        if alarm.wait() {
            bark(shared.upgrade().as_deref());
        }
    })?;
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the phases have had their time, and the runtime may be blocked for ever"
)]
fn bark(shared: Option<&Shared>) {
    let mut lines = vec![format!("shutdown watchdog: not over in time, exiting with code {EXIT_WATCHDOG}")];
    match shared.map(Shared::blockers) {
        Some(blockers) if blockers.is_empty() => lines.push("  nothing is running: the run is not polled".to_owned()),
        Some(blockers) => lines.extend(blockers.iter().map(|blocker| format!("  waiting for {blocker}"))),
        None => lines.push("  the coordinator was dropped midway".to_owned()),
    }
    lines.push(String::new());
    // Standard error may be closed; the exit must come all the same.
    io::stderr().lock().write_all(lines.join("\n").as_bytes()).ok();
    std::process::exit(i32::from(EXIT_WATCHDOG));
}
