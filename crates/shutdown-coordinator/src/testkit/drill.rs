//! A shutdown under paused time, step by step.

use std::{
    fmt::{self, Write as _},
    sync::mpsc,
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinSet, yield_now},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Failure, Signal};
use crate::{
    PhaseProgress, PhaseStage, PhaseStatus, Progress, Quit, Reason, Report, RunStage, ShutdownCoordinator,
    ShutdownHandle, Trigger, signal::Reaction,
};

/// How much longer than the shutdown's own deadline the test's clock may run in one wait.
const PATIENCE: Duration = Duration::from_hours(1);
/// How long a whole drill may take by the wall clock.
const REAL_LIMIT: Duration = Duration::from_mins(1);
/// How often everything that can run is let run, until it must all be waiting for time or for another thread.
const SETTLE: usize = 256;

/// Runs a coordinator and drives it step by step, under a clock that passes only while everything waits.
///
/// For `#[tokio::test(start_paused = true)]`; see [Time](super#time) for what that clock does. Every wait is
/// bounded: by the shutdown's deadline plus an hour of the test's clock, and all of them by a minute of the real one,
/// should something spin or the clock not be paused. What blocks the thread itself blocks the test as well.
#[derive(Debug)]
pub struct Drill {
    handle: ShutdownHandle,
    run: JoinSet<Report>,
    progress: watch::Receiver<Progress>,
    patience: Duration,
    real_limit: Duration,
    /// Cancelled when the real time is over.
    overdue: CancellationToken,
    /// Ends the thread that watches the real time.
    _watched: mpsc::Sender<()>,
}

impl Drill {
    /// Starts the run. Nothing shuts down before a trigger.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and if no thread can be started.
    #[track_caller]
    pub fn start(coordinator: ShutdownCoordinator, handle: &ShutdownHandle) -> Self {
        Self::start_within(REAL_LIMIT, coordinator, handle)
    }

    /// As [`Drill::start`], with another limit to the real time.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and if no thread can be started.
    #[track_caller]
    #[expect(clippy::expect_used, reason = "a test without threads cannot go on")]
    pub fn start_within(real_limit: Duration, coordinator: ShutdownCoordinator, handle: &ShutdownHandle) -> Self {
        let mut run = JoinSet::new();
        run.spawn(coordinator.run());
        let overdue = CancellationToken::new();
        let (watched, ended) = mpsc::channel();
        let alarm = overdue.clone();
        let watch = move || {
            if ended.recv_timeout(real_limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                alarm.cancel();
            }
        };
        thread::Builder::new().name("drill".to_owned()).spawn(watch).expect("a thread");
        let patience = handle.plan().deadline.saturating_add(PATIENCE);
        Self {
            handle: handle.clone(),
            run,
            progress: handle.progress(),
            patience,
            real_limit,
            overdue,
            _watched: watched,
        }
    }

    /// Starts the shutdown.
    pub fn trigger(&self, reason: Reason) -> Trigger {
        self.handle.trigger(reason)
    }

    /// Does what this signal would do to the real process, by the same code: the policy given to
    /// [`Builder::signals`](crate::Builder::signals), debounce window included.
    ///
    /// # Panics
    /// If the signal would end the process instead, or no process can handle it.
    #[track_caller]
    #[expect(clippy::panic, reason = "an assertion")]
    pub fn signal(&self, signal: Signal) -> Reaction {
        let shared = self.handle.shared();
        let Some(rules) = &shared.signals else {
            panic!("{signal} would end the process: the coordinator was built without `Builder::signals`");
        };
        match signal {
            Signal::Quit if rules.policy().quit == Quit::System => {
                panic!("{signal} would end the process: the policy leaves it to the operating system")
            }
            Signal::Kill | Signal::Stop | Signal::Cont => {
                panic!("no shutdown sees {signal}: use it on a real process, see `testkit::Process`")
            }
            Signal::Hup | Signal::Int | Signal::Quit | Signal::Term => rules.hear(signal.number(), shared),
        }
    }

    /// Lets everything run that can, and no time pass.
    pub async fn settle(&self) {
        for _ in 0..SETTLE {
            yield_now().await;
        }
    }

    /// Lets this much time pass. Whatever becomes due in it happens when it is due, one after the other.
    pub async fn pass(&self, time: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.overdue.cancelled() => Err(self.late(format!("{time:?} have passed"))),
            () = sleep(time) => {
                self.settle().await;
                Ok(())
            }
        }
    }

    /// Lets time pass until this phase has started; no time if it has already. Returns at the very moment.
    ///
    /// Fails if the phase does not exist, was skipped, or does not start in time.
    pub async fn until_phase(&mut self, name: &str) -> Result<(), Failure> {
        let awaited = || format!("the phase {name:?} starts");
        let stage = |progress: &Progress| find(progress, name).map(|phase| phase.stage);
        if stage(&self.progress.borrow()).is_none() {
            return Err(self.never(awaited(), "there is no such phase"));
        }
        let reached =
            |progress: &Progress| stage(progress) != Some(PhaseStage::Waiting) || progress.stage == RunStage::Abandoned;
        let seen = tokio::select! {
            biased;
            // The sender is in the handle.
            seen = self.progress.wait_for(reached) => seen.ok().map(|progress| (stage(&progress), progress.stage)),
            () = self.overdue.cancelled() => None,
            () = sleep(self.patience) => None,
        };
        match seen {
            Some((Some(PhaseStage::Over(PhaseStatus::Skipped)), _)) => Err(self.never(awaited(), "it was skipped")),
            Some((_, RunStage::Abandoned)) => Err(self.never(awaited(), "the run was dropped")),
            Some(_) => Ok(()),
            None => Err(self.late(awaited())),
        }
    }

    /// Lets time pass until the shutdown is over.
    pub async fn report(mut self) -> Result<Report, Failure> {
        let awaited = || "the shutdown is over".to_owned();
        let ended = tokio::select! {
            biased;
            ended = self.run.join_next() => ended,
            () = self.overdue.cancelled() => return Err(self.late(awaited())),
            () = sleep(self.patience) => return Err(self.late(awaited())),
        };
        match ended {
            Some(Ok(report)) => Ok(report),
            Some(Err(error)) => Err(self.never(awaited(), &error.to_string())),
            None => Err(self.never(awaited(), "the run is gone")),
        }
    }

    fn late(&self, awaited: String) -> Failure {
        let (limit, awaited) = if self.overdue.is_cancelled() {
            (self.real_limit, format!("{awaited} (something spins, or the clock is not paused)"))
        } else {
            (self.patience, awaited)
        };
        Failure::Late { awaited, limit, seen: self.to_string() }
    }

    fn never(&self, awaited: String, why: &str) -> Failure {
        Failure::Never { awaited, why: why.to_owned(), seen: self.to_string() }
    }
}

fn find<'a>(progress: &'a Progress, name: &str) -> Option<&'a PhaseProgress> {
    progress.phases.iter().find(|phase| phase.name == name)
}

/// How far the shutdown is, and what it waits for.
impl fmt::Display for Drill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not borrowed while the blockers are asked for: they take the lock under which progress is published.
        let progress = self.progress.borrow().clone();
        let now = Instant::now();
        match (&progress.reason, progress.deadline) {
            (Some(reason), Some(deadline)) => {
                let left = deadline.saturating_duration_since(now);
                writeln!(f, "shutdown ({reason}), {left:.1?} before its deadline")?;
            }
            _ => writeln!(f, "no shutdown was triggered")?,
        }
        let width = progress.phases.iter().map(|phase| phase.name.len()).max().unwrap_or(0);
        for phase in &progress.phases {
            write!(f, "  {:width$}  ", phase.name)?;
            match phase.stage {
                PhaseStage::Waiting => f.write_str("waiting")?,
                PhaseStage::Running { deadline } => {
                    write!(f, "running, {:.1?} left", deadline.saturating_duration_since(now))?;
                }
                PhaseStage::Over(status) => write!(f, "{status}")?,
            }
            f.write_char('\n')?;
        }
        for blocker in self.handle.blockers() {
            writeln!(f, "waiting for {blocker}")?;
        }
        Ok(())
    }
}
