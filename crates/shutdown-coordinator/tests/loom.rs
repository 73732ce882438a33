//! Every interleaving of `src/gate/count.rs`: the code itself, with loom's atomics in the place of the real ones.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../src/gate/count.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod count;

/// Loom has no `Weak`, so this is an `Arc` whose count is loom's: the algorithm of the standard library, step for step.
/// The value itself is kept by a real `Arc`, which is let go without a switch of threads after the count has changed.
mod primitives {
    use std::{ops::Deref, sync};

    use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::Release};
    pub(super) use loom::sync::{
        Mutex,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, SeqCst},
            fence,
        },
    };
    // Only ever read empty here: nothing is opened again while threads race.
    pub(super) use std::sync::OnceLock;

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> loom::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    pub(super) struct Arc<T> {
        count: sync::Arc<AtomicUsize>,
        value: sync::Arc<T>,
    }

    pub(super) struct Weak<T> {
        count: sync::Arc<AtomicUsize>,
        value: sync::Weak<T>,
    }

    impl<T> Arc<T> {
        pub(super) fn new(value: T) -> Self {
            Self { count: sync::Arc::new(AtomicUsize::new(1)), value: sync::Arc::new(value) }
        }

        pub(super) fn downgrade(this: &Self) -> Weak<T> {
            Weak { count: sync::Arc::clone(&this.count), value: sync::Arc::downgrade(&this.value) }
        }

        pub(super) fn strong_count(this: &Self) -> usize {
            this.count.load(Relaxed)
        }
    }

    impl<T> Clone for Arc<T> {
        fn clone(&self) -> Self {
            self.count.fetch_add(1, Relaxed);
            Self { count: sync::Arc::clone(&self.count), value: sync::Arc::clone(&self.value) }
        }
    }

    impl<T> Drop for Arc<T> {
        fn drop(&mut self) {
            if self.count.fetch_sub(1, Release) == 1 {
                fence(Acquire);
            }
        }
    }

    impl<T> Deref for Arc<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> Weak<T> {
        pub(super) fn upgrade(&self) -> Option<Arc<T>> {
            let mut count = self.count.load(Relaxed);
            loop {
                if count == 0 {
                    return None;
                }
                match self.count.compare_exchange_weak(count, count + 1, Acquire, Relaxed) {
                    Ok(_) => break,
                    Err(now) => count = now,
                }
            }
            // Whoever takes the count to zero lets go of the value after that, without a switch in between.
            Some(Arc { count: sync::Arc::clone(&self.count), value: self.value.upgrade().unwrap() })
        }

        pub(super) fn strong_count(&self) -> usize {
            self.count.load(Relaxed)
        }
    }
}

use std::sync::Arc;

use count::{Counter, Wake};
use loom::{
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    },
    thread,
};

/// As tokio's `Notify` with `notify_waiters`: who has registered is woken by every later call.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    changed: Condvar,
}

impl Wake for Arc<Bell> {
    fn wake(&self) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

impl Bell {
    fn register(&self) -> usize {
        *self.rung.lock().unwrap()
    }

    /// Loom fails the test where this could wait for ever.
    fn wait(&self, registered: usize) {
        let mut rung = self.rung.lock().unwrap();
        while *rung == registered {
            rung = self.changed.wait(rung).unwrap();
        }
    }

    /// The loop of `wait_until`.
    fn wait_until(&self, is_drained: impl Fn() -> bool) {
        loop {
            let registered = self.register();
            if is_drained() {
                return;
            }
            self.wait(registered);
        }
    }
}

/// Every interleaving with at most this many preemptions: switches of threads in the middle of something. Few faults need
/// more than two; all interleavings of three threads would take hours.
fn bounded(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

fn counter(shards: usize) -> (Arc<Counter<Arc<Bell>>>, Arc<Bell>) {
    let bell = Arc::new(Bell::default());
    (Arc::new(Counter::new(shards, Arc::clone(&bell))), bell)
}

/// Users enter, each on a shard of its own, while this thread closes. Once drained nobody is inside, and what they did before
/// they left is seen.
fn race(users: usize) {
    let (counter, bell) = counter(users);
    // What is not under test uses plain atomics, which loom does not see and so does not multiply.
    let admitted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let users: Vec<_> = (0..users)
        .map(|slot| {
            let (counter, done, admitted) = (Arc::clone(&counter), Arc::clone(&done), Arc::clone(&admitted));
            thread::spawn(move || {
                if let Some(permit) = counter.enter(slot) {
                    admitted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    done.fetch_add(1, Relaxed);
                    drop(permit);
                }
            })
        })
        .collect();
    counter.close();
    bell.wait_until(|| counter.is_drained());
    // Relaxed: the fence of `is_drained` is what makes it visible.
    let seen = done.load(Relaxed);
    for user in users {
        user.join().unwrap();
    }
    assert_eq!(seen, admitted.load(std::sync::atomic::Ordering::SeqCst), "somebody was inside after the drain");
}

/// Properties 33 and 34, every interleaving.
#[test]
fn close_waits_for_who_was_admitted() {
    loom::model(|| race(1));
}

/// Properties 33 and 34.
#[test]
fn close_waits_for_everybody_who_was_admitted() {
    bounded(3, || race(2));
}

/// Property 33: whoever begins to enter after `close` has returned is refused, also while others are inside.
#[test]
fn after_close_has_returned_nobody_enters() {
    loom::model(|| {
        let (counter, _) = counter(1);
        let held = counter.enter(0);
        assert!(held.is_some());
        let closed = Arc::new(AtomicBool::new(false));
        let closing = {
            let (counter, closed) = (Arc::clone(&counter), Arc::clone(&closed));
            thread::spawn(move || {
                counter.close();
                closed.store(true, SeqCst);
            })
        };
        let after = closed.load(SeqCst);
        let permit = counter.enter(0);
        assert!(!(after && permit.is_some()), "admitted after the close");
        closing.join().unwrap();
        assert!(counter.enter(0).is_none());
    });
}

/// Properties 38 and 39: the last of two permits wakes the waiter, who waits for both; one of them is a fork that is made
/// while the counter closes.
#[test]
fn the_last_permit_wakes_the_waiter_and_a_fork_keeps_the_drain_open() {
    bounded(3, || {
        let (counter, bell) = counter(1);
        let first = counter.enter(0).unwrap();
        let left = Arc::new(AtomicUsize::new(1));
        let user = {
            let left = Arc::clone(&left);
            thread::spawn(move || {
                let fork = first.clone();
                drop(first);
                left.store(0, Relaxed);
                drop(fork);
            })
        };
        counter.close();
        bell.wait_until(|| counter.is_drained());
        assert_eq!(left.load(Relaxed), 0, "drained with a permit held");
        user.join().unwrap();
    });
}

/// Property 46: after an abort the permits of before are still counted, and new ones are given.
#[test]
fn opened_again_it_counts_the_permits_of_before_too() {
    bounded(2, || {
        let (counter, bell) = counter(1);
        let before = counter.enter(0).unwrap();
        counter.close();
        counter.reopen();
        let after = counter.enter(0).unwrap();
        assert_eq!(counter.held(), 2);
        counter.close();
        let users = [before, after].map(|permit| thread::spawn(move || drop(permit)));
        bell.wait_until(|| counter.is_drained());
        assert_eq!(counter.held(), 0);
        for user in users {
            user.join().unwrap();
        }
    });
}
