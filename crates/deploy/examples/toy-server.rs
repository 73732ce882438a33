//! A server for the tests of the tool: it speaks systemd's protocol, the private socket and `main`'s commands, trades
//! pretended accounts, and misbehaves as `manifest/behaviour` of its release says.
//!
//! `says.json` in the data directory changes what a running one tells: `unknown_ms` (age of an order of unknown outcome),
//! `lease_age_s`, `event_lag_s`, `not_ready`, `hangs`.
//!
//! An account is a file in the data directory that holds its owner's process, and is written again and again while that
//! lives: a lease.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a tool of the tests"
)]

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

struct Toy {
    release: PathBuf,
    behaviour: String,
    build_id: String,
    colour: String,
    data: PathBuf,
    accepting: AtomicBool,
    draining: AtomicBool,
    requests: AtomicU64,
    turn: Mutex<()>,
}

const LEASE: Duration = Duration::from_millis(1_500);

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn main() {
    let release = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let behaviour = read(&release.join("manifest/behaviour"));
    let build_id = read(&release.join("manifest/build"));
    let schema: Value = serde_json::from_str(&read(&release.join("manifest/schema"))).unwrap_or(json!([1, 2, 1]));
    let words: Vec<String> = std::env::args().skip(1).collect();
    let migrated = data().join("schema");
    let applied: i64 = read(&migrated).parse().unwrap_or(1);
    let own = schema[2].as_i64().unwrap();
    match words.first().map(String::as_str) {
        Some("--version") => println!("main {build_id}"),
        Some("check") if behaviour == "check-fails" => exit(3, "config.yaml: trading.limits is wrong"),
        Some("check") if fs::write(data().join("checked-by"), "").is_err() => exit(5, "the data directory is not ours"),
        Some("check") if applied < schema[0].as_i64().unwrap() || applied > schema[1].as_i64().unwrap() => {
            exit(6, "the schema does not fit");
        }
        Some("migrate") if words.contains(&"contract".to_owned()) => contract(&schema, applied, &words, &migrated),
        Some("migrate") if words.contains(&"up".to_owned()) => {
            if behaviour == "migrate-fails" {
                exit(1, "lock timeout");
            }
            fs::write(migrated, own.max(applied).to_string()).unwrap();
        }
        Some("migrate") => {
            let state = |version: i64| match version {
                _ if version > own.max(schema[3].as_i64().unwrap_or(0)) => "unknown",
                _ if version <= applied => "applied",
                _ if version > own => "contract",
                _ => "pending",
            };
            let versions = (1..=own.max(applied)).chain(schema[3].as_i64().filter(|version| *version > applied));
            let steps: Vec<Value> =
                versions.map(|version| json!({ "version": version, "state": state(version) })).collect();
            println!("{}", json!({ "accepted": [schema[0], schema[1]], "migrations": steps }));
        }
        Some("http") => http(release, behaviour, build_id),
        Some("load") => load(Path::new(&words[1])),
        _ => {}
    }
}

/// The schema's fourth number is what it makes.
fn contract(schema: &Value, applied: i64, words: &[String], migrated: &Path) {
    let dry_run = words.contains(&"--dry-run".to_owned());
    if data().join("other-build").exists() {
        exit(4, "instance x of build 0.9+old lives");
    }
    let due: Vec<i64> = schema[3].as_i64().into_iter().filter(|version| *version > applied).collect();
    if let (Some(version), false) = (due.first(), dry_run) {
        fs::write(migrated, version.to_string()).unwrap();
    }
    let steps: Vec<Value> = due.iter().map(|version| json!({ "version": version, "state": "contract" })).collect();
    let key = if dry_run { "would_apply" } else { "applied" };
    println!("{}", json!({ key: steps }));
}

fn me() -> String {
    std::process::id().to_string()
}

fn data() -> PathBuf {
    std::env::var_os("TOY_DATA").map_or_else(|| "/var/lib/hotgo".into(), PathBuf::from)
}

/// Asks port 8000 from two threads, each request on a connection of its own, until the file is gone. Prints how many were
/// answered, how many were not, and the longest wait.
fn load(until_gone: &Path) {
    let ask = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", 8000))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(answer)) }
    };
    let (good, bad, longest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while until_gone.exists() {
                    let start = Instant::now();
                    match ask() {
                        Ok(()) => good.fetch_add(1, SeqCst),
                        Err(error) => {
                            let _unseen = writeln!(std::io::stderr(), "{error}");
                            bad.fetch_add(1, SeqCst)
                        }
                    };
                    longest.fetch_max(u64::try_from(start.elapsed().as_millis()).unwrap(), SeqCst);
                    thread::park_timeout(Duration::from_millis(2));
                }
            });
        }
    });
    println!("{}", json!({ "good": good, "bad": bad, "longest_ms": longest }));
}

fn exit(code: i32, why: &str) -> ! {
    let _unseen = writeln!(std::io::stderr(), "{why}");
    std::process::exit(code)
}

fn notify(text: &str) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match address.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&address),
    };
    UnixDatagram::unbound().unwrap().send_to_addr(text.as_bytes(), &address.unwrap()).unwrap();
}

fn http(release: PathBuf, behaviour: String, build_id: String) {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().unwrap();
    let socket = PathBuf::from(std::env::var_os("HOTGO__ADMIN__SOCKET").unwrap());
    let colour = socket.file_stem().unwrap().to_string_lossy().into_owned();
    let at_once = std::env::var_os("HOTGO__SERVER__ACCEPT").is_none();
    if behaviour == "crash-start" {
        exit(3, "toy: cannot start, as told");
    }
    let toy = Arc::new(Toy {
        release,
        behaviour,
        build_id,
        colour,
        data: data(),
        accepting: AtomicBool::new(at_once),
        draining: AtomicBool::new(false),
        requests: AtomicU64::new(0),
        turn: Mutex::new(()),
    });
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let _fresh = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let private = Arc::clone(&toy);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let toy = Arc::clone(&private);
            thread::spawn(move || toy.answer(stream.unwrap()));
        }
    });
    if let Ok(Some(public)) = listenfd::ListenFd::from_env().take_tcp_listener(0) {
        let toy = Arc::clone(&toy);
        thread::spawn(move || {
            while !toy.draining.load(SeqCst) {
                if toy.accepting.load(SeqCst)
                    && let Ok((stream, _)) = public.accept()
                {
                    let toy = Arc::clone(&toy);
                    thread::spawn(move || toy.serve(stream));
                    continue;
                }
                thread::park_timeout(Duration::from_millis(5));
            }
        });
    }
    if toy.behaviour == "hang-start" {
        thread::park_timeout(Duration::from_mins(10));
    }
    notify("READY=1");
    let background = Arc::clone(&toy);
    thread::spawn(move || background.live());
    signals.wait().unwrap();
    toy.draining.store(true, SeqCst);
    let slow = if toy.behaviour == "slow-drain" { 3_000 } else { 300 };
    thread::park_timeout(Duration::from_millis(slow));
    let _to_the_end = toy.turn.lock().unwrap();
    for account in toy.accounts() {
        if read(&account) == me() {
            toy.own(&account, "");
        }
    }
    std::process::exit(0);
}

fn unresolved(says: &Value) -> Value {
    says["unknown_ms"].as_u64().map_or(json!([]), |age| json!([{ "client_order_id": "order-7", "age_ms": age }]))
}

impl Toy {
    fn is_active(&self) -> bool {
        let active = self.release.join("../../slots/active");
        fs::read_link(active).is_ok_and(|link| link == Path::new(&self.colour))
    }

    /// Takes accounts whose owner is dead, satisfies the watchdog, and dies when told to.
    fn live(&self) {
        let ready = Instant::now();
        let mut accepted = None;
        loop {
            notify("WATCHDOG=1");
            self.renew();
            if accepted.is_none() && self.accepting.load(SeqCst) {
                accepted = Some(Instant::now());
            }
            let once = self.data.join(format!("died-{}", self.build_id));
            let dies = match self.behaviour.as_str() {
                "die-probation" => ready.elapsed() > Duration::from_millis(700),
                "die-traffic" => {
                    accepted.is_some_and(|at| at.elapsed() > Duration::from_millis(500)) && !self.is_active()
                }
                "die-drain" => self.is_active() && !once.exists() && fs::write(&once, "").is_ok(),
                "die-watch" => self.is_active() && ready.elapsed() > Duration::from_millis(700),
                _ => false,
            };
            if dies {
                exit(5, "toy: dies, as told");
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn accounts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.data.join("accounts")).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_none()).collect();
        paths.sort();
        paths
    }

    /// Keeps what is its own, and takes what nobody has kept.
    fn renew(&self) {
        let _turn = self.turn.lock().unwrap();
        for account in self.accounts() {
            let owner = read(&account);
            let age = fs::metadata(&account).and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
            if owner == me() || owner.is_empty() || age.is_some_and(|age| age > LEASE) {
                self.own(&account, &me());
            }
        }
    }

    #[expect(clippy::unused_self, reason = "the server owns")]
    fn own(&self, account: &Path, owner: &str) {
        let temporary = account.with_extension(me());
        fs::write(&temporary, owner).and_then(|()| fs::rename(&temporary, account)).unwrap();
    }

    fn says(&self) -> Value {
        serde_json::from_str(&read(&self.data.join("says.json"))).unwrap_or_default()
    }

    fn status(&self) -> Value {
        let says = self.says();
        let engines: Vec<Value> = self
            .accounts()
            .iter()
            .enumerate()
            .map(|(number, path)| {
                let mine = read(path) == me() && self.behaviour != "takes-no-accounts";
                json!({ "account": number, "label": "toy", "state": if mine { "running" } else { "standby" }, "ready": mine,
                    "robots_running": 2, "live_orders": 1, "unresolved": unresolved(&says) })
            })
            .collect();
        let build = if self.behaviour == "wrong-build" { "0.0+liar" } else { &self.build_id };
        let sick = ["sick-later", "mute-later", "die-asked"].contains(&self.behaviour.as_str()) && self.is_active();
        let ready = !sick && says["not_ready"] != true;
        json!({ "build_id": build, "pid": std::process::id(), "uptime_ms": 1, "phase": "serving", "ready": ready,
            "accepting": self.accepting.load(SeqCst), "instance": me(), "engines": engines, "sessions": 0 })
    }

    /// The private socket.
    fn answer(&self, mut stream: impl Read + Write) {
        let mut bytes = vec![0; 4096];
        let count = stream.read(&mut bytes).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        if (self.behaviour == "hang-later" && self.is_active()) || self.says()["hangs"] == true {
            thread::park_timeout(Duration::from_mins(10));
        }
        let path = head.split(' ').nth(1).unwrap_or_default();
        let answer = match path {
            "/status" => self.status().to_string(),
            "/self-test" => {
                let ok = self.behaviour != "self-test-fails";
                json!({ "ok": ok, "checks": [{ "name": "store", "ok": ok, "detail": "writes" }] }).to_string()
            }
            "/accept" => {
                self.accepting.store(true, SeqCst);
                "{}".to_owned()
            }
            "/metrics" if self.behaviour == "mute-later" && self.is_active() => String::new(),
            "/hand-over" if self.behaviour == "die-asked" => exit(5, "toy: dies, as told"),
            "/hand-over" => {
                let to = serde_json::from_str::<Value>(body).unwrap_or_default();
                self.give(to["to"].as_str().unwrap_or_default());
                "{}".to_owned()
            }
            "/take-back" => {
                self.give(&me());
                "{}".to_owned()
            }
            "/metrics" => {
                let (bad, says) = (u64::from(self.behaviour == "errors"), self.says());
                let all = self.requests.fetch_add(50, SeqCst) + 50;
                format!(
                    "hotgo_http_requests_total{{status=\"200\"}} {}\nhotgo_http_requests_total{{status=\"500\"}} {}\n\
                     hotgo_http_request_duration_seconds_sum {}\nhotgo_http_request_duration_seconds_count {all}\n\
                     hotgo_lease_age_seconds {}\nhotgo_event_lag_seconds {}\n",
                    all * (1 - bad),
                    all * bad,
                    all / 1_000,
                    says["lease_age_s"].as_u64().unwrap_or(0),
                    says["event_lag_s"].as_u64().unwrap_or(0)
                )
            }
            _ => "{}".to_owned(),
        };
        let _gone = stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{answer}").as_bytes());
    }

    fn give(&self, to: &str) {
        let _turn = self.turn.lock().unwrap();
        for account in self.accounts() {
            self.own(&account, to);
        }
    }

    /// The public listener: one request, one answer.
    fn serve(&self, mut stream: std::net::TcpStream) {
        let _blocking = stream.set_nonblocking(false);
        let _limit = stream.set_read_timeout(Some(Duration::from_secs(5)));
        let _request = stream.read(&mut [0; 4096]);
        self.requests.fetch_add(1, SeqCst);
        let body = &self.build_id;
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        let _gone = stream.write_all(answer.as_bytes());
    }
}
