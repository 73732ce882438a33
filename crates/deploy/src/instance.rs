//! A server's private socket: HTTP over a Unix socket, each answer within a deadline that a hanging server cannot stretch.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Error;

const ANSWER_LIMIT_BYTES: u64 = 8 << 20;
const CONNECT_POLL: Duration = Duration::from_millis(20);
/// What a healthy server needs is milliseconds.
pub const ANSWER: Duration = Duration::from_secs(2);
/// A server asks its store for the heir before it answers, for up to 2 s.
const HAND_OVER: Duration = Duration::from_secs(5);

/// `GET /status`, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The build.
    pub build_id: String,
    /// The process.
    pub pid: u32,
    /// Since the start of the process.
    #[serde(default)]
    pub uptime_ms: u64,
    /// `serving`, or what it does instead.
    #[serde(default)]
    pub phase: String,
    /// Whether it would answer that it is ready.
    pub ready: bool,
    /// Whether it takes connections from the public listener.
    #[serde(default)]
    pub accepting: bool,
    /// Its name among instances.
    #[serde(default)]
    pub instance: String,
    /// Every account's engine.
    #[serde(default)]
    pub engines: Vec<Engine>,
    /// Websocket sessions.
    #[serde(default)]
    pub sessions: u64,
}

/// One account's engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The account's number.
    pub account: i64,
    /// What people call it.
    #[serde(default)]
    pub label: String,
    /// `standby`, `running`, ...
    pub state: String,
    /// Whether it trades here.
    pub ready: bool,
    /// Robots that trade.
    #[serde(default)]
    pub robots_running: u64,
    /// Orders that have not ended.
    #[serde(default)]
    pub live_orders: u64,
    /// Orders whose outcome is unknown.
    #[serde(default)]
    pub unresolved: Vec<Unresolved>,
}

/// An order whose outcome is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresolved {
    /// Its id.
    pub client_order_id: String,
    /// For how long.
    pub age_ms: u64,
}

impl Status {
    /// Accounts that trade here.
    pub fn accounts(&self) -> Vec<i64> {
        self.engines.iter().filter(|engine| engine.ready).map(|engine| engine.account).collect()
    }

    /// Robots that trade here, orders that have not ended, and those of unknown outcome among them.
    pub fn trading(&self) -> Trading {
        let mut sum = Trading::default();
        for engine in self.engines.iter().filter(|engine| engine.ready) {
            sum.accounts += 1;
            sum.robots += engine.robots_running;
            sum.live_orders += engine.live_orders;
            sum.unknown_orders += u64::try_from(engine.unresolved.len()).unwrap_or(u64::MAX);
        }
        sum
    }
}

/// What trades, in numbers, to compare before with after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trading {
    /// Accounts that trade.
    pub accounts: u64,
    /// Robots that trade.
    pub robots: u64,
    /// Orders that have not ended.
    pub live_orders: u64,
    /// Those of unknown outcome among them.
    pub unknown_orders: u64,
}

impl std::fmt::Display for Trading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { accounts, robots, live_orders, unknown_orders } = self;
        write!(f, "{accounts} accounts, {robots} robots, {live_orders} live orders, {unknown_orders} unknown")
    }
}

/// `GET /self-test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Whether all is well.
    pub ok: bool,
    /// What was tried.
    pub checks: Vec<Check>,
}

/// One of the self-test's checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// What was found.
    #[serde(default)]
    pub detail: String,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A running server.
#[derive(Debug, Clone)]
pub struct Instance {
    socket: PathBuf,
}

impl Instance {
    /// Behind this socket.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// How it stands.
    ///
    /// # Errors
    /// [`Error::Remote`] when nobody answers in [`ANSWER`], or with something else.
    pub fn status(&self) -> Result<Status, Error> {
        self.get("/status", ANSWER)
    }

    /// Has it test itself.
    ///
    /// # Errors
    /// As [`Instance::status`], with this timeout.
    pub fn self_test(&self, timeout: Duration) -> Result<SelfTest, Error> {
        self.get("/self-test", timeout)
    }

    /// Its metrics as Prometheus reads them.
    ///
    /// # Errors
    /// As [`Instance::status`].
    pub fn metrics(&self) -> Result<String, Error> {
        self.request("GET", "/metrics", None, ANSWER).map(|reply| reply.body)
    }

    /// Has it accept from the public listener. Twice is once.
    ///
    /// # Errors
    /// As [`Instance::status`].
    pub fn accept(&self) -> Result<(), Error> {
        self.post("/accept", None)
    }

    /// Has it give its accounts to another instance. Twice is once.
    ///
    /// # Errors
    /// As [`Instance::status`], with a longer timeout.
    pub fn hand_over(&self, to: &str) -> Result<(), Error> {
        self.request("POST", "/hand-over", Some(json!({ "to": to })), HAND_OVER).map(|_| ())
    }

    /// Has it take its accounts back.
    ///
    /// # Errors
    /// As [`Instance::status`].
    pub fn take_back(&self) -> Result<(), Error> {
        self.post("/take-back", None)
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// As [`Instance::status`].
    pub fn post(&self, path: &str, body: Option<serde_json::Value>) -> Result<(), Error> {
        self.request("POST", path, body, ANSWER).map(|_| ())
    }

    fn get<T: DeserializeOwned>(&self, path: &str, timeout: Duration) -> Result<T, Error> {
        let reply = self.request("GET", path, None, timeout)?;
        serde_json::from_str(&reply.body).map_err(|error| Error::Remote(format!("GET {path}: {error}")))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<serde_json::Value>,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        let failed = |what: &dyn std::fmt::Display| Error::Remote(format!("{method} {path}: {what}"));
        let end = Instant::now() + timeout;
        let body = body.map_or_else(String::new, |body| body.to_string());
        // HTTP/1.0: the answer ends with the connection, and is never chunked.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = open(&self.socket, end).map_err(|error| failed(&error))?;
        let answer = exchange(&mut stream, request.as_bytes(), end).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                failed(&format!("no answer within {} ms", timeout.as_millis()))
            }
            _ => failed(&error),
        })?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| failed(&"not HTTP"))?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| failed(&"not HTTP"))?;
        if !(200..300).contains(&status) {
            let words: String = body.chars().take(200).collect();
            return Err(failed(&format!("status {status} {words}")));
        }
        Ok(Reply { status, body: body.to_owned() })
    }
}

/// Connects. A full backlog, which a frozen server has, is waited for until the deadline only.
fn open(path: &Path, end: Instant) -> std::io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EAGAIN) if Instant::now() < end => thread::park_timeout(CONNECT_POLL),
            Err(Errno::EAGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Writes, and reads to the end. The deadline holds for all of it, however slowly the bytes come.
fn exchange(stream: &mut UnixStream, request: &[u8], end: Instant) -> std::io::Result<Vec<u8>> {
    let left = || match end.saturating_duration_since(Instant::now()) {
        left if left.is_zero() => Err(std::io::Error::from(ErrorKind::TimedOut)),
        left => Ok(Some(left)),
    };
    stream.set_write_timeout(left()?)?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        stream.set_read_timeout(left()?)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if u64::try_from(answer.len()).unwrap_or(u64::MAX) > ANSWER_LIMIT_BYTES {
            return Err(std::io::Error::other("the answer is too long"));
        }
    }
}

/// The sum of the samples of a metric whose labels contain `label` (empty: all). In thousandths; none if there is none.
pub fn metric_milli(text: &str, name: &str, label: &str) -> Option<u64> {
    let mut sum = None;
    for line in text.lines().filter_map(|line| line.strip_prefix(name)) {
        let (labels, value) = match line.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) {
            Some((labels, value)) => (labels, value),
            None if line.starts_with(' ') => ("", line),
            None => continue,
        };
        if labels.contains(label) {
            sum = Some(sum.unwrap_or(0_u64).saturating_add(thousandths(value.trim())?));
        }
    }
    sum
}

/// Whether this line belongs to a metric, or says of which type it is.
pub fn metric_named(line: &str, family: &str) -> bool {
    let line = line.strip_prefix("# TYPE ").unwrap_or(line);
    line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']))
}

/// `1.5`, `2` or `1.25e-3` in thousandths, without a float.
fn thousandths(text: &str) -> Option<u64> {
    let text = text.split(' ').next()?;
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let shift = exponent + 3 - i32::try_from(fraction.len()).ok()?;
    let power = 10_u128.checked_pow(shift.unsigned_abs())?;
    let value = if shift < 0 { digits / power } else { digits.checked_mul(power)? };
    u64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn serve(answer: &'static [&'static str], pause: Duration) -> (tempfile::TempDir, Instance) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _request = stream.read(&mut [0; 1024]);
                for part in answer {
                    if stream.write_all(part.as_bytes()).is_err() {
                        break;
                    }
                    thread::park_timeout(pause);
                }
            }
        });
        (dir, Instance::new(path))
    }

    #[test]
    fn a_status_is_read_and_unknown_fields_do_not_matter() {
        let answer = &[
            "HTTP/1.1 200 OK\r\n\r\n",
            r#"{"build_id":"b","pid":7,"ready":true,"new":1,"engines":[{"account":1,"state":"running","ready":true,"robots_running":2,"live_orders":3},{"account":2,"state":"standby","ready":false,"robots_running":9}]}"#,
        ];
        let (_dir, instance) = serve(answer, Duration::ZERO);
        let status = instance.status().unwrap();
        assert_eq!((status.pid, status.accounts()), (7, vec![1]));
        assert_eq!(status.trading(), Trading { accounts: 1, robots: 2, live_orders: 3, unknown_orders: 0 });
    }

    #[test]
    fn an_endpoint_that_drips_cannot_stretch_the_deadline() {
        static DRIPS: [&str; 1000] = ["x"; 1000];
        let (_dir, instance) = serve(&DRIPS, Duration::from_millis(100));
        let start = Instant::now();
        let error = instance.self_test(Duration::from_millis(500)).unwrap_err().to_string();
        assert!(error.contains("no answer within 500 ms"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_refusal_is_told_with_its_words_and_nobody_is_an_error() {
        let (_dir, instance) = serve(&["HTTP/1.1 409 Conflict\r\n\r\nnot now"], Duration::ZERO);
        let error = instance.accept().unwrap_err().to_string();
        assert_eq!(error, "POST /accept: status 409 not now");
        assert!(Instance::new("/nonexistent".into()).status().is_err());
    }

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# TYPE a counter\na{status=\"200\"} 5\na{status=\"503\"} 2\nab 9\nb_sum 1.5e-1\nb_count 3\n";
        assert_eq!(metric_milli(text, "a", ""), Some(7_000));
        assert_eq!(metric_milli(text, "a", "status=\"5"), Some(2_000));
        assert_eq!(metric_milli(text, "b_sum", ""), Some(150));
        assert_eq!(metric_milli(text, "c", ""), None);
    }
}
