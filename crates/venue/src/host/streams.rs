//! The accounts' own streams, for those who listen within the process.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use trading::exchange::{OrderReport, StreamEvent};

use crate::faults::Injector;
use crate::record::Label;

/// Places in every queue that only [`StreamEvent::Down`] and [`StreamEvent::Up`] may take.
const RESERVED: usize = 2;
/// How often a consumer that fell behind is looked at.
const RETRY: Duration = Duration::from_millis(20);

/// All subscribers. Nothing here ever waits: who falls behind is told so, and misses what comes until there is room again.
#[derive(Debug, Default)]
pub(super) struct Streams {
    subscribers: Vec<Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    account: Label,
    events: mpsc::Sender<StreamEvent>,
    /// Set while the stream is down: it comes back at this time at the earliest.
    down_until: Option<Instant>,
}

impl Streams {
    /// Adds a subscriber, whose stream begins with [`StreamEvent::Up`].
    pub(super) fn add(&mut self, account: Label, events: mpsc::Sender<StreamEvent>) {
        if events.try_send(StreamEvent::Up).is_ok() {
            self.subscribers.push(Subscriber { account, events, down_until: None });
        }
    }

    /// Tells the account's subscribers of an order.
    pub(super) fn publish(&mut self, account: &Label, report: &OrderReport, injector: &mut Injector, now: Instant) {
        for subscriber in self.subscribers.iter_mut().filter(|s| s.account == *account && s.down_until.is_none()) {
            if let Some(duration) = injector.cuts_stream() {
                subscriber.cut(now + duration);
            } else if !subscriber.deliver(report) {
                subscriber.cut(now);
            }
        }
    }

    /// Brings back the streams whose time has come and that have room, and forgets those that nobody reads.
    pub(super) fn revive(&mut self, now: Instant) {
        self.subscribers.retain(|subscriber| !subscriber.events.is_closed());
        for subscriber in &mut self.subscribers {
            let room = subscriber.events.capacity() > subscriber.events.max_capacity() / 2;
            if subscriber.down_until.is_some_and(|until| until <= now)
                && room
                && subscriber.events.try_send(StreamEvent::Up).is_ok()
            {
                subscriber.down_until = None;
            }
        }
    }

    /// When [`Streams::revive`] has something to do again, if ever.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let down = self.subscribers.iter().filter_map(|subscriber| subscriber.down_until);
        down.min().map(|until| if until > now { until } else { now + RETRY })
    }

    /// Ends all streams.
    pub(super) fn end(&mut self) {
        for mut subscriber in self.subscribers.drain(..) {
            if subscriber.down_until.is_none() {
                subscriber.cut(Instant::now());
            }
        }
    }
}

impl Subscriber {
    /// Whether there was room for it.
    fn deliver(&self, report: &OrderReport) -> bool {
        self.events.capacity() > RESERVED && self.events.try_send(StreamEvent::Report(report.clone())).is_ok()
    }

    fn cut(&mut self, until: Instant) {
        // There is a reserved place for it; if the consumer is gone, so is the need.
        drop(self.events.try_send(StreamEvent::Down));
        self.down_until = Some(until);
    }
}
