//! Processes under strace, which kills them at a system call of our choice.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Installation, Server};

/// Whether processes can be traced here.
pub(crate) fn works() -> bool {
    let output = std::process::Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    output.is_ok_and(|output| output.status.success())
}

impl Installation {
    /// Starts a process that is killed as it enters its n-th `fdatasync` or `fsync`, counted from its start. What it was about
    /// to make durable has been written and nothing more.
    pub(crate) fn spawn_killed_at_sync(&mut self, n: u64) -> Server {
        let inject = format!("inject=fdatasync,fsync:signal=SIGKILL:when={n}");
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject];
        self.wrap(strace);
        let server = self.spawn();
        self.wrap::<[&str; 0]>([]);
        server
    }
}

impl Server {
    /// SIGKILL for the process that strace runs; strace then ends by itself.
    pub(crate) fn kill_traced(&self) {
        let tracer = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // It may have ended meanwhile.
            let _ended = kill(Pid::from_raw(child), Signal::SIGKILL);
        }
    }
}
