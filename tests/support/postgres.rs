//! A PostgreSQL of a test's own: it may be killed, frozen and restarted, and is gone with the test.
//!
//! Made from a template that `initdb` fills once per target directory. With fsync on: the same promises as in production.

#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a harness fails the test by panicking"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);
const USER: &str = "hotgo";
const MISSING: &str = "PostgreSQL's programs are missing: install the Debian package `postgresql`, or put initdb and postgres on \
                       the PATH (scripts/test does so by itself)";

/// A running server. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    // Ended before the directory goes.
    child: Option<Child>,
    port: u16,
    directory: TempDir,
    data: PathBuf,
    databases: AtomicU32,
    extra: Vec<String>,
}

/// The directory with `initdb` and `postgres`, and this one of their company.
fn programs(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
        versions.sort();
        found.extend(versions.into_iter().rev());
    }
    found
        .into_iter()
        .find(|dir| ["initdb", "postgres", name].iter().all(|name| dir.join(name).is_file()))
        .expect(MISSING)
}

/// Who runs the server, as arguments of `setpriv`: it refuses to run as root.
fn account() -> Vec<String> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let known = |name| nix::unistd::User::from_name(name).ok().flatten();
    let user = known("postgres").or_else(|| known("nobody")).expect("a user `postgres` or `nobody`");
    vec![format!("--reuid={}", user.uid), format!("--regid={}", user.gid), "--clear-groups".to_owned()]
}

/// One of its programs, which ends with the thread that starts it.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null());
    command.args(account()).args(["--pdeathsig", "KILL", "--"]).arg(programs(name).join(name));
    command
}

/// Lets the account of the server in.
fn give(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        let known = |name| nix::unistd::User::from_name(name).ok().flatten();
        let user = known("postgres").or_else(|| known("nobody")).unwrap();
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

/// A data directory as `initdb` leaves it, made once per target directory.
fn template() -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(base).unwrap();
    let lock = File::create(base.join("postgres.lock")).unwrap();
    lock.lock().unwrap();
    let version = program("postgres").arg("--version").output().expect(MISSING).stdout;
    let version: String = String::from_utf8_lossy(&version).chars().filter(char::is_ascii_alphanumeric).collect();
    let template = base.join(format!("{version}-{}", nix::unistd::geteuid()));
    if !template.exists() {
        // The target directory need not be where the server's account may go.
        let made = tempfile::tempdir().unwrap();
        give(made.path());
        let data = made.path().join("data");
        let initdb = program("initdb")
            .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--wal-segsize=1"])
            .args(["--username", USER, "--pgdata"])
            .arg(&data)
            .output()
            .expect(MISSING);
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let making = template.with_extension("making");
        let _leftover = fs::remove_dir_all(&making);
        copy(&data, &making);
        fs::rename(&making, &template).unwrap();
    }
    template
}

/// A file system of so many bytes, gone when dropped; none where this user may not make one.
#[derive(Debug)]
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("hotgo-disk-").tempdir().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            give(directory.path());
            return Some(Self(directory));
        }
        // Past the capture of the test's output: a test that did not run must be seen.
        std::io::stderr().write_all(b"NOT TESTED: a really full disk: no tmpfs may be mounted here\n").unwrap();
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Postgres {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further settings, such as `fsync=off`.
    pub(crate) fn start_with(settings: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("hotgo-pg-").tempdir().unwrap();
        give(directory.path());
        let data = directory.path().join("data");
        copy(&template(), &data);
        let extra = settings.iter().map(|&setting| setting.to_owned()).collect();
        let databases = AtomicU32::new(0);
        let mut server = Self { child: None, port: free_port(), directory, data, databases, extra };
        server.run();
        server
    }

    fn run(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = program("postgres");
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=60", "-c", "autovacuum=off"])
            .args(["-c", "dynamic_shared_memory_type=mmap", "-c", "log_line_prefix=%m [%p] %a "])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.directory.path().display()))
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        for setting in &self.extra {
            command.args(["-c", setting]);
        }
        self.child = Some(command.spawn().unwrap());
        let began = Instant::now();
        while !self.is_ready() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < DEADLINE, "PostgreSQL does not start:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote into `postmaster.pid`: its own number, and whether connections are taken.
    fn is_ready(&self) -> bool {
        let state = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let own = self.pid().to_string();
        state.lines().next() == Some(&own) && state.lines().last().is_some_and(|line| line.trim() == "ready")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Its own words.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The server's first process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Where the data is.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The database that every server has, over TCP.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The same over the Unix socket.
    pub(crate) fn socket_url(&self) -> String {
        self.socket_url_of("postgres")
    }

    pub(crate) fn socket_url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost:{}/{database}?host={}", self.port, self.directory.path().display())
    }

    /// A new database; its name.
    pub(crate) async fn new_database(&self) -> String {
        self.new_database_like("template1").await
    }

    /// A copy of one to which nobody is connected; its name.
    pub(crate) async fn new_database_like(&self, template: &str) -> String {
        let name = format!("db{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        name
    }

    /// Runs statements in the first database, as its superuser.
    pub(crate) async fn execute(&self, sql: &str) {
        use sqlx::{Connection as _, Executor as _};
        let mut conn = sqlx::PgConnection::connect(&self.url()).await.unwrap();
        conn.execute(sqlx::AssertSqlSafe(sql.to_owned())).await.unwrap();
        conn.close().await.unwrap();
    }

    /// The first column of a statement's only row, as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        use sqlx::Connection as _;
        let mut conn = sqlx::PgConnection::connect(&self.url()).await.unwrap();
        let sql = format!("SELECT coalesce(({sql})::text, '')");
        let answer = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        answer
    }

    /// The first process, and those that it started.
    fn processes(&self) -> Vec<Pid> {
        let own = self.pid();
        let mut all = vec![own];
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            if parent == Some(own) {
                all.push(pid);
            }
        }
        all.into_iter().map(|pid| Pid::from_raw(pid.try_into().unwrap())).collect()
    }

    fn signal_all(&self, signal: Signal) {
        for process in self.processes() {
            // It may have ended meanwhile.
            let _gone = kill(process, signal);
        }
    }

    /// Stops the time of all its processes.
    pub(crate) fn freeze(&self) {
        // The first one first, so that it starts no other meanwhile.
        self.signal_all(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Ends all its processes at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
        self.reap();
    }

    /// Stops it in order: transactions are undone, sessions are ended.
    pub(crate) fn stop(&mut self) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), Signal::SIGINT).unwrap();
        self.reap();
    }

    /// Starts it again on the same data and port.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.run();
    }

    fn reap(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let began = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() > DEADLINE {
                let _gone = child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("PostgreSQL said:\n{}", self.said());
        }
        self.thaw();
        // At once, without a checkpoint; unlike after SIGKILL its shared memory is given back.
        let _gone = kill(Pid::from_raw(self.pid().try_into().unwrap_or(i32::MAX)), Signal::SIGQUIT);
        self.reap();
    }
}
