//! The test's side of named points.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::unistd::mkdtemp;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Notify, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::Failure;
use crate::{
    gate::wait_until,
    points::{DIE, ENVIRONMENT},
    sync::lock,
};

/// How long a point is waited for, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a process may say about itself, in bytes.
const QUESTION_LIMIT: u64 = 1024;

/// Holds processes under test at named points ([`point`](super::point)).
///
/// Give its environment to the processes, arm a point, wait until one of them has reached it, do what is to be done at
/// that very moment, and let it go. Points that are not armed let everybody pass, and count.
///
/// Dropping this lets everybody go. It fails the test if a point was armed and nobody ever reached it while it was: a
/// fault that was never injected proves nothing. (So `unwrap` other errors in such a test: a `?` would drop this, whose
/// complaint would hide the error.)
#[derive(Debug)]
pub struct Points {
    directory: PathBuf,
    socket: PathBuf,
    table: Arc<Table>,
    patience: Duration,
    /// The listener and its connections.
    _server: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Table {
    points: Mutex<BTreeMap<String, Point>>,
    reached: Notify,
}

#[derive(Debug, Default)]
struct Point {
    armed: bool,
    /// How often it was passed or reached.
    hits: u64,
    /// Whether it was armed and nobody has reached it since.
    missed: bool,
    waiting: VecDeque<Held>,
}

/// A process that is held at a point. Dropping this lets it go.
#[derive(Debug)]
#[must_use = "dropping it lets the process go"]
pub struct Held {
    point: String,
    pid: i32,
    word: oneshot::Sender<&'static str>,
}

impl Points {
    /// Listens, on a socket in a new temporary directory. Needs a tokio runtime with I/O.
    pub fn new() -> Result<Self, Failure> {
        let template = std::env::temp_dir().join("points-XXXXXX");
        let directory = mkdtemp(&template).map_err(|error| Failure::io("make a directory")(error.into()))?;
        let socket = directory.join("socket");
        let listener = UnixListener::bind(&socket).map_err(Failure::io(format!("listen on {}", socket.display())))?;
        let table = Arc::<Table>::default();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, Arc::clone(&table)));
        Ok(Self { directory, socket, table, patience: PATIENCE, _server: server })
    }

    /// How long a point is waited for at most. 20 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The environment variable for the processes, as in `command.envs([points.env()])`.
    pub fn env(&self) -> (&'static str, &Path) {
        (ENVIRONMENT, &self.socket)
    }

    /// Holds everybody who reaches the point from now on, until it is disarmed.
    pub fn arm(&self, name: &str) {
        let mut points = lock(&self.table.points);
        let point = points.entry(name.to_owned()).or_default();
        point.armed = true;
        point.missed = true;
    }

    /// Lets everybody pass the point from now on, and lets those go who wait there and were not given to the test.
    pub fn disarm(&self, name: &str) {
        let freed = lock(&self.table.points).get_mut(name).map(|point| {
            point.armed = false;
            mem::take(&mut point.waiting)
        });
        drop(freed);
    }

    /// Waits until a process is held at this point, or takes the one that has been longest.
    ///
    /// Fails if the point is not armed, and when the patience ends. Cancel safe.
    pub async fn reached(&self, name: &str) -> Result<Held, Failure> {
        let awaited = || format!("a process reaches the point {name:?}");
        if !lock(&self.table.points).get(name).is_some_and(|point| point.armed || !point.waiting.is_empty()) {
            return Err(Failure::Never { awaited: awaited(), why: "it is not armed".to_owned(), seen: self.seen() });
        }
        let next = async {
            loop {
                wait_until(&self.table.reached, || self.table.is_waiting(name)).await;
                if let Some(held) = self.table.take(name) {
                    return held;
                }
            }
        };
        timeout(self.patience, next).await.map_err(|_| {
            // Said once, here.
            if let Some(point) = lock(&self.table.points).get_mut(name) {
                point.missed = false;
            }
            Failure::Late { awaited: awaited(), limit: self.patience, seen: self.seen() }
        })
    }

    /// How often the point was reached, armed or not.
    pub fn hits(&self, name: &str) -> u64 {
        lock(&self.table.points).get(name).map_or(0, |point| point.hits)
    }

    /// Every point that was armed has been reached since. Dropping this asserts the same.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_all_reached(&self) {
        let missed: Vec<String> =
            lock(&self.table.points).iter().filter(|(_, point)| point.missed).map(|(name, _)| name.clone()).collect();
        assert!(missed.is_empty(), "never reached though armed: {}\n{}", missed.join(", "), self.seen());
    }

    /// All points, and how often each was reached.
    fn seen(&self) -> String {
        let points = lock(&self.table.points);
        if points.values().all(|point| point.hits == 0) {
            return format!(
                "no process has reached any point: was it started with {ENVIRONMENT} (`command.envs([points.env()])`), and \
                 built with the feature `points`?"
            );
        }
        let mut text = String::from("points reached so far:");
        for (name, point) in points.iter() {
            let _infallible = write!(text, "\n  {name}: {} times, {} held now", point.hits, point.waiting.len());
        }
        text
    }
}

impl Drop for Points {
    fn drop(&mut self) {
        // Errors: somebody else has removed it.
        std::fs::remove_file(&self.socket).ok();
        std::fs::remove_dir(&self.directory).ok();
        if !thread::panicking() {
            self.assert_all_reached();
        }
    }
}

impl Held {
    /// The name of the point.
    pub fn point(&self) -> &str {
        &self.point
    }

    /// The process that is held.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it go on.
    pub fn release(self) {}

    /// Makes it abort itself there and then, which like SIGKILL lets it do nothing more. It ends by SIGABRT.
    pub fn die(self) {
        // If it is gone, it has died already.
        self.word.send(DIE).ok();
    }
}

impl Table {
    fn is_waiting(&self, name: &str) -> bool {
        lock(&self.points).get(name).is_some_and(|point| !point.waiting.is_empty())
    }

    /// The one who has waited longest and is still there.
    fn take(&self, name: &str) -> Option<Held> {
        let mut points = lock(&self.points);
        let waiting = &mut points.get_mut(name)?.waiting;
        waiting.retain(|held| !held.word.is_closed());
        waiting.pop_front()
    }

    /// Counts, and queues the process for the test if the point is armed.
    fn hit(&self, name: &str, pid: i32) -> Option<oneshot::Receiver<&'static str>> {
        let mut points = lock(&self.points);
        let point = points.entry(name.to_owned()).or_default();
        point.hits += 1;
        if !point.armed {
            return None;
        }
        point.missed = false;
        let (word, answer) = oneshot::channel();
        point.waiting.push_back(Held { point: name.to_owned(), pid, word });
        drop(points);
        self.reached.notify_waiters();
        Some(answer)
    }
}

async fn serve(listener: UnixListener, table: Arc<Table>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Without file descriptors nothing can be held: then everybody goes on.
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(answer(stream, Arc::clone(&table)));
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// Serves one pass of one process. When this ends the process goes on, since its connection ends.
async fn answer(mut stream: UnixStream, table: Arc<Table>) -> io::Result<()> {
    let mut question = String::new();
    BufReader::new(&mut stream).take(QUESTION_LIMIT).read_line(&mut question).await?;
    let asked = question.trim_end().split_once(' ').and_then(|(pid, name)| Some((pid.parse().ok()?, name)));
    let Some((pid, name)) = asked else { return Ok(()) };
    let Some(word) = table.hit(name, pid) else { return Ok(()) };
    let word = tokio::select! {
        word = word => word.unwrap_or_default(),
        // It says nothing more: this is its end.
        _ = stream.read_u8() => return Ok(()),
    };
    stream.write_all(word.as_bytes()).await
}
