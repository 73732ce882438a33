//! The one writer of a store, whichever database: takes what waits, merges it, commits it, answers.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, oneshot};

use trading::ids::AccountId;

use super::batch::check_shape;
use super::{Commit, CommitError, Lease, LeaseError, StoreError};

/// A transaction takes no further commit once it has this many events, so that its callers do not wait long.
const MAX_EVENTS: usize = 4096;
/// So many leases are changed in one transaction: their rows are locked until it has ended.
const MAX_LEASES: usize = 256;
/// How long a caller waits for its commit. The commit may still happen after that.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = oneshot::Sender<Result<(), CommitError>>;
/// The lease as it is then.
pub(super) type Leased = Result<Lease, LeaseError>;
/// Work between transactions. Says whether the connection is of no use any more.
pub(super) type Task<C> = Box<dyn for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, bool> + Send>;

pub(super) enum Job<C> {
    Commit(Commit, Answer),
    Lease(Change, oneshot::Sender<Leased>),
    Task(Task<C>),
    Close(oneshot::Sender<()>),
}

/// What is to become of an account's lease.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Acquire { account: AccountId, owner: Arc<str>, ttl: Duration, predecessor_is_dead: bool },
    Renew { lease: Lease, ttl: Duration },
    Release { lease: Lease },
    Transfer { lease: Lease, to: Arc<str>, ttl: Duration },
}

impl Change {
    fn account(&self) -> AccountId {
        match self {
            Self::Acquire { account, .. } => *account,
            Self::Renew { lease, .. } | Self::Release { lease } | Self::Transfer { lease, .. } => lease.account,
        }
    }
}

/// The connection that writes.
pub(super) trait Backend: Send {
    /// What tasks work on.
    type Conn: Send + 'static;

    /// Writes these commits in one transaction, or nothing.
    fn commit(&mut self, commits: &[Commit]) -> impl Future<Output = Result<(), CommitError>> + Send;
    /// Changes these leases in one transaction, or none of them.
    fn leases(&mut self, changes: &[Change]) -> impl Future<Output = Result<Vec<Leased>, StoreError>> + Send;
    /// Whether it is worth to try anything.
    fn is_up(&self) -> bool;
    /// Runs the task, or drops it: that tells its caller that nothing was done.
    fn perform(&mut self, task: Task<Self::Conn>) -> impl Future<Output = ()> + Send;
    /// Closes the connection.
    fn end(self) -> impl Future<Output = ()> + Send;
}

/// The way to the writer. Cheap to clone.
#[derive(Debug)]
pub(super) struct Jobs<C> {
    queue: mpsc::Sender<Job<C>>,
    /// Whether after this error the connection is of no use any more.
    is_lost: fn(&sqlx::Error) -> bool,
}

impl<C> Clone for Jobs<C> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), is_lost: self.is_lost }
    }
}

impl<C: Send + 'static> Jobs<C> {
    /// A queue of this many jobs, and its reading end.
    pub(super) fn new(room: usize, is_lost: fn(&sqlx::Error) -> bool) -> (Self, mpsc::Receiver<Job<C>>) {
        let (queue, jobs) = mpsc::channel(room);
        (Self { queue, is_lost }, jobs)
    }

    /// See [`Store::commit`](super::Store::commit).
    pub(super) async fn commit(&self, commit: Commit) -> Result<(), CommitError> {
        check_shape(&commit)?;
        if commit.events.is_empty() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.queue.send_timeout(Job::Commit(commit, reply), COMMIT_TIMEOUT).await.map_err(|error| match error {
            SendTimeoutError::Closed(_) => CommitError::Closed,
            SendTimeoutError::Timeout(_) => CommitError::Unknown("the writer is busy".into()),
        })?;
        match tokio::time::timeout(COMMIT_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CommitError::Unknown("the writer ended".into())),
            Err(_) => Err(CommitError::Unknown(format!("no answer within {COMMIT_TIMEOUT:?}"))),
        }
    }

    /// Changes an account's lease.
    pub(super) async fn lease(&self, change: Change) -> Leased {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Lease(change, reply)).await?;
        match tokio::time::timeout(COMMIT_TIMEOUT, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Closed.into()),
            Err(_) => Err(StoreError::Unavailable("the writer did not answer".into()).into()),
        }
    }

    async fn send(&self, job: Job<C>) -> Result<(), StoreError> {
        self.queue.send_timeout(job, COMMIT_TIMEOUT).await.map_err(|error| match error {
            SendTimeoutError::Closed(_) => StoreError::Closed,
            SendTimeoutError::Timeout(_) => StoreError::Unavailable("the writer is busy".into()),
        })
    }

    /// Runs `work` on the writer's connection, between transactions, unless the caller has given up by then.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut C) -> BoxFuture<'c, Result<T, sqlx::Error>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let is_lost = self.is_lost;
        let task: Task<C> = Box::new(move |conn| {
            Box::pin(async move {
                if reply.is_closed() {
                    return false;
                }
                let result = work(conn).await;
                let lost = result.as_ref().err().is_some_and(is_lost);
                // The caller may have given up.
                let _gone = reply.send(result);
                lost
            })
        });
        self.send(Job::Task(task)).await?;
        match tokio::time::timeout(COMMIT_TIMEOUT, answer).await {
            Ok(Ok(result)) => result.map_err(StoreError::from),
            Ok(Err(_)) if self.queue.is_closed() => Err(StoreError::Closed),
            Ok(Err(_)) => Err(StoreError::Unavailable("the writer has no connection".into())),
            Err(_) => Err(StoreError::Unavailable("the writer did not answer".into())),
        }
    }

    /// Waits until what was accepted is written and the writer has ended.
    pub(super) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Job::Close(reply)).await.is_ok() {
            // An error means that the writer has ended already.
            let _ended = answer.await;
        }
    }
}

/// Writes until the store is closed or dropped; then ends the connection.
///
/// Cancel safety: none. Dropping it leaves the commits in hand unanswered; they may or may not have been written.
pub(super) async fn run<B: Backend>(mut backend: B, mut queue: mpsc::Receiver<Job<B::Conn>>) {
    let mut closers = Vec::new();
    let mut put_back = None;
    loop {
        let job = match put_back.take() {
            Some(job) => job,
            None => match queue.recv().await {
                Some(job) => job,
                None => break,
            },
        };
        match job {
            job @ (Job::Commit(..) | Job::Lease(..)) => {
                // Lets callers that are ready to commit do so: not a wait, only their turn.
                tokio::task::yield_now().await;
                let (waiting, other) = Waiting::gather(job, &mut queue);
                put_back = other;
                // First: a lease that is prolonged is one that a commit can have.
                change_leases(&mut backend, waiting.leases).await;
                commit_all(&mut backend, waiting.commits, waiting.answers).await;
            }
            Job::Task(task) => backend.perform(task).await,
            Job::Close(reply) => {
                // What was accepted before is still received.
                queue.close();
                closers.push(reply);
            }
        }
    }
    backend.end().await;
    for reply in closers {
        // The closer may have stopped waiting.
        let _gone = reply.send(());
    }
}

/// What waits and shares transactions.
#[derive(Default)]
struct Waiting {
    commits: Vec<Commit>,
    answers: Vec<Answer>,
    leases: Vec<(Change, oneshot::Sender<Leased>)>,
}

impl Waiting {
    /// This one and those that wait behind it, and the first job of another kind. A commit and a change of a lease that wait at
    /// the same time are of two callers who do not know of each other.
    fn gather<C>(first: Job<C>, queue: &mut mpsc::Receiver<Job<C>>) -> (Self, Option<Job<C>>) {
        let (mut waiting, mut events, mut next) = (Self::default(), 0, Some(first));
        while let Some(job) = next {
            match job {
                Job::Commit(commit, answer) => {
                    events += commit.events.len();
                    waiting.commits.push(commit);
                    waiting.answers.push(answer);
                }
                Job::Lease(change, reply) => waiting.leases.push((change, reply)),
                other => return (waiting, Some(other)),
            }
            let has_room = events < MAX_EVENTS && waiting.leases.len() < MAX_LEASES;
            next = if has_room { queue.try_recv().ok() } else { None };
        }
        (waiting, None)
    }
}

async fn change_leases<B: Backend>(backend: &mut B, mut leases: Vec<(Change, oneshot::Sender<Leased>)>) {
    // Whoever has given up by now does not expect it any more.
    leases.retain(|(_, reply)| !reply.is_closed());
    // All instances lock rows in the same order, so none waits for one that waits for it.
    leases.sort_by_key(|(change, _)| change.account());
    let (changes, replies): (Vec<_>, Vec<_>) = leases.into_iter().unzip();
    if changes.is_empty() {
        return;
    }
    match backend.leases(&changes).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                let _gone = reply.send(answer);
            }
        }
        Err(error) => {
            for (change, reply) in changes.iter().zip(replies) {
                let mut answer = Err(error.clone().into());
                // Nothing was changed, and each alone may be.
                if changes.len() > 1 && backend.is_up() {
                    let alone = backend.leases(std::slice::from_ref(change)).await;
                    answer = alone
                        .map_err(LeaseError::from)
                        .and_then(|answers| answers.into_iter().next().unwrap_or(answer));
                }
                let _gone = reply.send(answer);
            }
        }
    }
}

/// Commits these in one transaction.
async fn commit_all<B: Backend>(backend: &mut B, commits: Vec<Commit>, answers: Vec<Answer>) {
    if commits.is_empty() {
        return;
    }
    let merged = backend.commit(&commits).await;
    match (commits.as_slice(), &merged) {
        // Nothing was written, and each alone may fit.
        ([_, _, ..], Err(CommitError::Conflict { .. } | CommitError::Fenced(_) | CommitError::Full)) => {
            for (commit, answer) in commits.iter().zip(answers) {
                let result = backend.commit(std::slice::from_ref(commit)).await;
                let _gone = answer.send(result);
            }
        }
        // Of an unknown one it is not known either whether trying again writes it twice.
        _ => {
            for answer in answers {
                let _gone = answer.send(merged.clone());
            }
        }
    }
}
