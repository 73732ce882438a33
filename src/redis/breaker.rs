//! A circuit breaker: after several failures in a row nobody is let through any more but one probe now and then, so that nobody
//! waits for what does not answer. A pure state machine; the clock and chance are its inputs.

use std::time::{Duration, Instant};

/// When it opens, and how long it stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Opens after this many failures in a row.
    pub failures: u32,
    /// The first probe comes at most this long after it has opened.
    pub first_wait: Duration,
    /// Each failed probe doubles the wait, up to this.
    pub longest_wait: Duration,
}

/// Whether callers are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All are; this many have failed in a row.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// None is.
    Open {
        /// When one is let through as a probe.
        until: Instant,
        /// The wait that `until` was drawn from.
        wait: Duration,
    },
    /// A probe is on its way; nobody else is let through.
    HalfOpen {
        /// The wait before this probe.
        wait: Duration,
    },
}

/// Somebody was let through, and says later how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// As one of many.
    Caller,
    /// Alone, to find out.
    Probe,
}

/// The breaker.
#[derive(Debug, Clone, Copy)]
pub struct Breaker {
    rules: Rules,
    state: State,
}

impl Breaker {
    /// Closed.
    pub fn new(rules: Rules) -> Self {
        Self { rules, state: State::Closed { failures: 0 } }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Lets a caller through, or does not. Whoever is let through must say how it went.
    pub fn admit(&mut self, now: Instant) -> Option<Pass> {
        match self.state {
            State::Closed { .. } => Some(Pass::Caller),
            State::Open { until, wait } if now >= until => {
                self.state = State::HalfOpen { wait };
                Some(Pass::Probe)
            }
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// It went well. Of those that were let through before it opened this says nothing about now.
    pub fn succeeded(&mut self, pass: Pass) {
        match (self.state, pass) {
            (State::Closed { .. }, _) | (State::HalfOpen { .. }, Pass::Probe) => {
                self.state = State::Closed { failures: 0 };
            }
            _ => {}
        }
    }

    /// It failed. `chance` is a random number: the wait is drawn from its upper half, so that several do not probe in step.
    pub fn failed(&mut self, pass: Pass, now: Instant, chance: u16) {
        let wait = match (self.state, pass) {
            (State::Closed { failures }, _) => {
                let failures = failures.saturating_add(1);
                if failures < self.rules.failures {
                    self.state = State::Closed { failures };
                    return;
                }
                self.rules.first_wait
            }
            (State::HalfOpen { wait }, Pass::Probe) => wait.saturating_mul(2).min(self.rules.longest_wait),
            _ => return,
        };
        let half = wait / 2;
        let drawn = half + half * u32::from(chance) / u32::from(u16::MAX);
        self.state = State::Open { until: now + drawn, wait };
    }

    /// Nobody knows how it went: the caller went away. The next one may probe.
    pub fn abandoned(&mut self, pass: Pass, now: Instant) {
        if let (State::HalfOpen { wait }, Pass::Probe) = (self.state, pass) {
            self.state = State::Open { until: now, wait };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Breaker, Pass, Rules, State};

    const RULES: Rules =
        Rules { failures: 3, first_wait: Duration::from_millis(100), longest_wait: Duration::from_millis(350) };
    const MS: Duration = Duration::from_millis(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(RULES);
        for _ in 0..3 {
            let pass = breaker.admit(now).unwrap();
            breaker.failed(pass, now, u16::MAX);
        }
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let now = Instant::now();
        let mut breaker = Breaker::new(RULES);
        for _ in 0..5 {
            breaker.failed(Pass::Caller, now, 0);
            breaker.failed(Pass::Caller, now, 0);
            breaker.succeeded(Pass::Caller);
        }
        assert_eq!(breaker.state(), State::Closed { failures: 0 });
        assert!(matches!(opened(now).state(), State::Open { .. }));
    }

    #[test]
    fn an_open_one_lets_one_probe_through_when_its_time_has_come() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.admit(now + 99 * MS), None);
        assert_eq!(breaker.admit(now + 100 * MS), Some(Pass::Probe));
        assert_eq!(breaker.admit(now + 100 * MS), None, "one at a time");
        breaker.succeeded(Pass::Probe);
        assert_eq!(breaker.admit(now + 101 * MS), Some(Pass::Caller));
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_the_longest_and_chance_takes_up_to_half() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for expected in [200, 350, 350] {
            now += Duration::from_secs(1);
            let pass = breaker.admit(now).unwrap();
            breaker.failed(pass, now, u16::MAX);
            let wait = expected * MS;
            assert_eq!(breaker.state(), State::Open { until: now + wait, wait });
        }
        now += Duration::from_secs(1);
        let pass = breaker.admit(now).unwrap();
        breaker.failed(pass, now, 0);
        assert_eq!(breaker.state(), State::Open { until: now + 175 * MS, wait: 350 * MS });
    }

    #[test]
    fn what_was_let_through_before_it_opened_changes_nothing_afterwards() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let before = breaker.state();
        breaker.succeeded(Pass::Caller);
        breaker.failed(Pass::Caller, now + MS, 0);
        assert_eq!(breaker.state(), before);
    }

    #[test]
    fn a_probe_that_was_given_up_leaves_room_for_the_next() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + Duration::from_secs(1);
        let probe = breaker.admit(later).unwrap();
        breaker.abandoned(probe, later);
        assert_eq!(breaker.admit(later), Some(Pass::Probe));
    }

    proptest! {
        /// Whatever happens: at most one is on its way while it is not closed, and it is never shut for longer than the rules say.
        #[test]
        fn it_never_lets_many_through_and_never_stays_shut(steps in prop::collection::vec((0_u8..4, 0_u64..400, any::<u16>()), 1..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(RULES);
            let mut probing = false;
            for (step, passed_ms, chance) in steps {
                now += Duration::from_millis(passed_ms);
                let pass = if probing { Pass::Probe } else { Pass::Caller };
                match step {
                    0 => if let Some(admitted) = breaker.admit(now) {
                        prop_assert!(!probing);
                        probing = admitted == Pass::Probe;
                    },
                    1 => { breaker.succeeded(pass); probing = false; }
                    2 => { breaker.failed(pass, now, chance); probing = false; }
                    _ => { breaker.abandoned(pass, now); probing = false; }
                }
                if let State::Open { until, .. } = breaker.state() {
                    prop_assert!(until <= now + RULES.longest_wait);
                }
            }
            if !probing {
                prop_assert!(breaker.admit(now + RULES.longest_wait).is_some());
            }
        }
    }
}
