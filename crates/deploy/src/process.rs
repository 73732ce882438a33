//! Other programs, with a deadline; and signals, as something that a wait returns with.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use crate::error::Error;

const POLL: Duration = Duration::from_millis(20);
/// What a program may print, each way. The rest is dropped.
const OUTPUT_LIMIT_BYTES: u64 = 1 << 20;
/// What a program gets to end after SIGTERM.
const TERM_WAIT: Duration = Duration::from_secs(5);

/// SIGINT and SIGTERM. A lost terminal (SIGHUP) ends nothing: an upgrade goes on without its audience.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    state: Arc<(Mutex<Arrived>, Condvar)>,
}

#[derive(Debug, Default)]
struct Arrived {
    signal: Option<Signal>,
    ignored: bool,
}

impl Interrupt {
    /// Takes the process's signals. Call it before there is a second thread.
    ///
    /// # Errors
    /// Should not happen.
    pub fn install() -> Result<Self, Error> {
        let wanted = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        let mut blocked = wanted;
        blocked.add(Signal::SIGHUP);
        let failed = |error: nix::errno::Errno| Error::io("cannot take signals")(error.into());
        blocked.thread_block().map_err(failed)?;
        let interrupt = Self::default();
        let shared = Arc::clone(&interrupt.state);
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while let Ok(signal) = wanted.wait() {
                    shared.0.lock().unwrap_or_else(PoisonError::into_inner).signal = Some(signal);
                    shared.1.notify_all();
                }
            })
            .map_err(Error::io("cannot start a thread"))?;
        Ok(interrupt)
    }

    /// One whose signal has come already.
    #[cfg(test)]
    pub fn arrived() -> Self {
        let interrupt = Self::default();
        interrupt.state.0.lock().unwrap_or_else(PoisonError::into_inner).signal = Some(Signal::SIGTERM);
        interrupt
    }

    /// From here no signal ends a wait: what has failed is undone to the end.
    pub fn ignore(&self) {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner).ignored = true;
    }

    /// Fails if a signal has come.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<(), Error> {
        self.sleep(Duration::ZERO)
    }

    /// Waits.
    ///
    /// # Errors
    /// [`Error::Interrupted`], at once when a signal comes.
    pub fn sleep(&self, time: Duration) -> Result<(), Error> {
        let end = Instant::now() + time;
        let (state, changed) = &*self.state;
        let mut arrived = state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Arrived { signal: Some(signal), ignored: false } = *arrived {
                return Err(Error::Interrupted { signal, state: "nothing was changed".to_owned() });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            arrived = changed.wait_timeout(arrived, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What a program said.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The last lines it wrote, for a message.
    pub fn last_words(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = text.trim().lines().collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }
}

/// Runs a program to its end, in a process group of its own so that Ctrl-C on a terminal does not reach it.
///
/// # Errors
/// When it cannot be started; [`Error::Remote`] when it takes longer than `timeout` (it is killed then, with its children);
/// [`Error::Interrupted`] (it is told to end, and killed if it does not).
pub fn run(
    command: &mut Command,
    input: Option<&[u8]>,
    timeout: Duration,
    interrupt: &Interrupt,
) -> Result<Finished, Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    // A failing systemctl would write its errno into the status of the unit that runs us.
    command.env_remove("NOTIFY_SOCKET").process_group(0);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(Error::io(format!("cannot run {name}")))?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        let input = input.to_owned();
        // Who does not read it says so by its exit status.
        thread::spawn(move || drop(stdin.write_all(&input)));
    }
    let status = wait(&mut child, &name, timeout, interrupt)?;
    let text = |reader: Option<Receiver<String>>| {
        reader.and_then(|reader| reader.recv_timeout(Duration::from_secs(1)).ok()).unwrap_or_default()
    };
    Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
}

fn wait(child: &mut Child, name: &str, timeout: Duration, interrupt: &Interrupt) -> Result<ExitStatus, Error> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io(format!("cannot wait for {name}")))? {
            return Ok(status);
        }
        if let Err(interrupted) = interrupt.sleep(POLL) {
            signal_group(child, Signal::SIGTERM);
            let end = Instant::now() + TERM_WAIT;
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                thread::park_timeout(POLL);
            }
            reap(child);
            return Err(interrupted);
        }
        if Instant::now() >= end {
            reap(child);
            return Err(Error::Remote(format!("{name} did not end within {} s", timeout.as_secs())));
        }
    }
}

fn reap(child: &mut Child) {
    signal_group(child, Signal::SIGKILL);
    // Killed: this returns at once, unless the kernel holds it in a disk that does not answer.
    let end = Instant::now() + TERM_WAIT;
    while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
        thread::park_timeout(POLL);
    }
}

fn signal_group(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // It may have ended meanwhile.
        let _gone = killpg(Pid::from_raw(pid), signal);
    }
}

/// In a thread, which ends with the pipe: a grandchild that keeps it open holds nobody up.
fn read_all(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut pipe = pipe;
        let mut bytes = Vec::new();
        let _partial = pipe.by_ref().take(OUTPUT_LIMIT_BYTES).read_to_end(&mut bytes);
        let _nobody = send.send(String::from_utf8_lossy(&bytes).into_owned());
        let _rest = std::io::copy(&mut pipe, &mut std::io::sink());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_come_back() {
        let done =
            run(&mut sh("cat; echo bad >&2; exit 3"), Some(b"in"), Duration::from_secs(20), &Interrupt::default())
                .unwrap();
        assert_eq!((done.status.code(), done.stdout.as_str(), done.last_words().as_str()), (Some(3), "in", "bad"));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let start = Instant::now();
        let error =
            run(&mut sh("sleep 60 & sleep 60"), None, Duration::from_millis(200), &Interrupt::default()).unwrap_err();
        assert!(matches!(error, Error::Remote(_)), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_signal_ends_every_wait_until_signals_are_ignored() {
        let interrupt = Interrupt::arrived();
        assert!(interrupt.sleep(Duration::from_mins(1)).is_err());
        let error = run(&mut sh("sleep 60"), None, Duration::from_mins(1), &interrupt).unwrap_err();
        assert_eq!(error.exit().number(), 143);
        interrupt.ignore();
        assert!(interrupt.sleep(Duration::from_millis(1)).is_ok());
    }
}
