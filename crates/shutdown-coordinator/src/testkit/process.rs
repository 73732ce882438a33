//! A real process under test.

use std::{
    fmt, io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{ExitStatus, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};

use super::{Failure, Signal, output::Output};

/// How long a wait takes at most, unless told otherwise: enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the rest of the output of a process that has ended is waited for. Only a descendant can hold it up.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A process that a test starts, listens to, signals, and waits for.
///
/// Its standard input is empty and both outputs are read all the time. It leads a process group of its own, so that
/// Ctrl-C in the terminal does not reach it; dropping this kills the group, and reaps the process. If the test itself is
/// killed, a small shell that waits for that kills the group. A test that fails by a panic shows what the process said.
///
/// Time is real here: under a paused clock every wait would fail at once.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
    program: String,
    stdout: Output,
    stderr: Output,
    readers: JoinSet<()>,
    patience: Duration,
    exit: Option<Exit>,
    /// Whether others of its group lived when the process itself was reaped: then the group's id is still theirs.
    outlived: bool,
    guardian: std::process::Child,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By the signal with this number.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or_default()), Self::Code)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(number) => write!(f, "signal {number}"),
        }
    }
}

impl Process {
    /// Starts it. Standard input and outputs and the process group of the command are set here.
    ///
    /// Needs a tokio runtime.
    pub fn start(command: impl Into<Command>) -> Result<Self, Failure> {
        let mut command = command.into();
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(Failure::io(format!("start {program}")))?;
        let missing = || Failure::io(format!("start {program}"))(io::Error::other("an output or the id is missing"));
        let (Some(stdout), Some(stderr), Some(pid)) = (child.stdout.take(), child.stderr.take(), child.id()) else {
            return Err(missing());
        };
        let pid = Pid::from_raw(i32::try_from(pid).map_err(|_| missing())?);
        let guardian = guard(pid).map_err(Failure::io("start the shell that guards the process"))?;
        let mut readers = JoinSet::new();
        let stdout = Output::follow(&mut readers, stdout);
        let stderr = Output::follow(&mut readers, stderr);
        let (patience, exit, outlived) = (PATIENCE, None, false);
        Ok(Self { child, pid, program, stdout, stderr, readers, patience, exit, outlived, guardian })
    }

    /// How long each wait takes at most. 20 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The next line of standard output that contains `text`. Lines before it are passed over, and not found again.
    ///
    /// Fails when the patience or the output ends, showing what the process said. Cancel safe, but for lines that were
    /// passed over.
    pub async fn line(&mut self, text: &str) -> Result<String, Failure> {
        let awaited = format!("a line with {text:?}");
        self.find_line(&awaited, |line| line.contains(text).then(|| line.to_owned())).await
    }

    /// The very next line of standard output. See [`Process::line`].
    pub async fn next_line(&mut self) -> Result<String, Failure> {
        self.find_line("another line", |line| Some(line.to_owned())).await
    }

    /// The first thing that `pick` makes of a line of standard output, as [`Process::line`]. `awaited` is for the failure.
    pub async fn find_line<T>(&mut self, awaited: &str, pick: impl FnMut(&str) -> Option<T>) -> Result<T, Failure> {
        let found = timeout(self.patience, self.stdout.find(pick)).await;
        self.found(found, format!("there is {awaited} on standard output")).await
    }

    /// As [`Process::line`], of standard error.
    pub async fn stderr_line(&mut self, text: &str) -> Result<String, Failure> {
        let pick = |line: &str| line.contains(text).then(|| line.to_owned());
        let found = timeout(self.patience, self.stderr.find(pick)).await;
        self.found(found, format!("there is a line with {text:?} on standard error")).await
    }

    async fn found<T>(
        &mut self,
        found: Result<Option<T>, tokio::time::error::Elapsed>,
        awaited: String,
    ) -> Result<T, Failure> {
        match found {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                // Usually it is ending: worth a moment to say how.
                let _how_it_ended = self.exit_within(LAST_WORDS).await;
                Err(Failure::Never { awaited, why: "the output has ended".to_owned(), seen: self.to_string() })
            }
            Err(_) => Err(self.late(awaited, self.patience)),
        }
    }

    /// All of its standard output so far, or the last 100,000 lines.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// All of its standard error so far, or the last 100,000 lines.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends it a signal.
    ///
    /// Fails if it has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<(), Failure> {
        if self.child.id().is_none() {
            let awaited = format!("{} gets {signal}", self.program);
            return Err(Failure::Never { awaited, why: "it has ended".to_owned(), seen: self.to_string() });
        }
        kill(self.pid, nix::sys::signal::Signal::from(signal))
            .map_err(|error| Failure::io(format!("send {signal} to {}", self.program))(error.into()))
    }

    /// SIGKILL, and its end.
    pub async fn kill(&mut self) -> Result<Exit, Failure> {
        if self.is_running()? {
            self.signal(Signal::Kill)?;
        }
        self.exit().await
    }

    /// SIGSTOP, and on Linux the moment when all of its threads stand still. It goes on with [`Process::thaw`].
    pub async fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::Stop)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let pid = self.pid;
            let stopped = tokio::task::spawn_blocking(move || wait_for_stop(pid));
            match timeout(self.patience, stopped).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => return Err(Failure::io(format!("freeze {}", self.program))(error)),
                Ok(Err(_)) | Err(_) => return Err(self.late("it stands still".to_owned(), self.patience)),
            }
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::Cont)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> Result<bool, Failure> {
        let ended = self.child.try_wait().map_err(Failure::io(format!("look at {}", self.program)))?;
        self.ended(ended);
        Ok(ended.is_none())
    }

    /// Waits until it has ended, and said its last words.
    ///
    /// Fails when the patience ends. Cancel safe.
    pub async fn exit(&mut self) -> Result<Exit, Failure> {
        self.exit_within(self.patience).await
    }

    /// As [`Process::exit`], with this much patience.
    pub async fn exit_within(&mut self, limit: Duration) -> Result<Exit, Failure> {
        let status = match timeout(limit, self.child.wait()).await {
            Ok(status) => status.map_err(Failure::io(format!("wait for {}", self.program)))?,
            Err(_) => return Err(self.late("it ends".to_owned(), limit)),
        };
        self.ended(Some(status));
        if !self.outlived {
            let all_read = async { while self.readers.join_next().await.is_some() {} };
            // A descendant outside of the group may hold an output open for ever.
            let _rest = timeout(LAST_WORDS, all_read).await;
        }
        Ok(status.into())
    }

    /// Notes the end, right after the process was reaped.
    fn ended(&mut self, status: Option<ExitStatus>) {
        if let (Some(status), None) = (status, self.exit) {
            self.exit = Some(status.into());
            self.outlived = killpg(self.pid, None).is_ok();
        }
    }

    fn late(&self, awaited: String, limit: Duration) -> Failure {
        Failure::Late { awaited, limit, seen: self.to_string() }
    }
}

/// Which process it is, and what it has said.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, process {}, ", self.program, self.pid)?;
        match self.exit {
            Some(exit) => writeln!(f, "ended with {exit}")?,
            None => writeln!(f, "was not seen to end")?,
        }
        write!(f, "{}{}", self.stdout.tail("standard output"), self.stderr.tail("standard error"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the last chance to tell why the test fails")]
            {
                eprint!("{self}");
            }
        }
        // Errors: nobody is there any more, which is what this is about.
        let unreaped = self.exit.is_none();
        let runs = unreaped && matches!(self.child.try_wait(), Ok(None));
        if unreaped || self.outlived {
            killpg(self.pid, nix::sys::signal::Signal::SIGKILL).ok();
        }
        if runs {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            wait_for_end(self.pid).ok();
            self.child.try_wait().ok();
        }
        self.guardian.kill().ok();
        self.guardian.wait().ok();
    }
}

/// A shell in a group of its own that kills the process's group when the test is gone: then its input ends.
fn guard(pid: Pid) -> io::Result<std::process::Child> {
    std::process::Command::new("/bin/sh")
        .args(["-c", "read -r _; kill -s KILL -- \"-$1\"", "guardian", &pid.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn wait_for_stop(pid: Pid) -> io::Result<()> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    // Not taken: the child's end is tokio's to reap.
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), flags).map(|_| ()).map_err(io::Error::from)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn wait_for_end(pid: Pid) -> io::Result<()> {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).map(|_| ()).map_err(io::Error::from)
}
