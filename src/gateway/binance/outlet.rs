//! The consumer's end of an account's stream: bounded, and honest about what it leaves out.

use tokio::sync::mpsc;
use trading::exchange::{OrderReport, StreamEvent};

/// Places in the queue that only [`StreamEvent::Down`] and [`StreamEvent::Up`] may take.
const RESERVED: usize = 2;

/// Tells the consumer of reports while it is up, and of every loss. Never waits.
#[derive(Debug)]
pub(super) struct Outlet {
    events: mpsc::Sender<StreamEvent>,
    /// Whether the connection is up.
    connected: bool,
    /// What the consumer was told last.
    told_up: bool,
}

impl Outlet {
    pub(super) fn new(events: mpsc::Sender<StreamEvent>) -> Self {
        Self { events, connected: false, told_up: false }
    }

    /// The connection came up: from now on everything arrives.
    pub(super) fn up(&mut self) {
        self.connected = true;
        self.settle();
    }

    /// Events may be missing from now on.
    pub(super) fn down(&mut self) {
        self.connected = false;
        self.tell_down();
    }

    /// Hands over a report. A consumer that is behind misses it, and is told so.
    pub(super) fn report(&mut self, report: OrderReport) {
        if !self.told_up {
            return;
        }
        if self.events.capacity() <= RESERVED || self.events.try_send(StreamEvent::Report(report)).is_err() {
            tracing::warn!("the account's stream is read too slowly: events are left out, and fetched later");
            self.tell_down();
        }
    }

    /// Tells a consumer that was behind that it may come back, if it has caught up.
    pub(super) fn settle(&mut self) {
        let room = self.events.capacity() > self.events.max_capacity() / 2;
        if self.waits() && room {
            self.told_up = self.events.try_send(StreamEvent::Up).is_ok();
        }
    }

    /// Whether [`Outlet::settle`] is wanted again soon.
    pub(super) fn waits(&self) -> bool {
        self.connected && !self.told_up
    }

    /// Waits until the consumer is gone. Cancel safe.
    pub(super) async fn closed(&self) {
        self.events.closed().await;
    }

    fn tell_down(&mut self) {
        if self.told_up {
            // Up is only told with half of the queue free, so there is a place; if the consumer is gone, so is the need.
            drop(self.events.try_send(StreamEvent::Down));
            self.told_up = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use trading::exchange::VenueStatus;
    use trading::ids::{ClientOrderId, VenueOrderId};
    use trading::money::Qty;

    use super::*;

    fn report(id: i64) -> OrderReport {
        OrderReport {
            client_id: ClientOrderId::from_venue("x"),
            venue_id: VenueOrderId(id),
            symbol: "BTCUSDT".parse().unwrap(),
            status: VenueStatus::New,
            executed: Qty::ZERO,
            fills: Vec::new(),
        }
    }

    #[test]
    fn a_slow_consumer_is_told_of_its_gap_and_comes_back_once_it_has_caught_up() {
        let (events, mut receiver) = mpsc::channel(8);
        let mut outlet = Outlet::new(events);
        outlet.up();
        (1..=20).for_each(|id| outlet.report(report(id)));
        assert!(outlet.waits());
        outlet.settle();
        assert!(outlet.waits(), "there is no room yet");
        let seen: Vec<StreamEvent> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert_eq!(seen.first(), Some(&StreamEvent::Up));
        assert_eq!(seen.last(), Some(&StreamEvent::Down));
        assert_eq!(seen.len(), 7, "five reports fit, two places are reserved");
        outlet.settle();
        outlet.report(report(21));
        assert_eq!(receiver.try_recv(), Ok(StreamEvent::Up));
        assert_eq!(receiver.try_recv(), Ok(StreamEvent::Report(report(21))));
    }

    #[test]
    fn every_down_finds_a_place_however_often_the_connection_is_lost() {
        let (events, mut receiver) = mpsc::channel(8);
        let mut outlet = Outlet::new(events);
        for _ in 0..50 {
            outlet.up();
            (0..9).for_each(|id| outlet.report(report(id)));
            outlet.down();
        }
        let mut up = false;
        while let Ok(event) = receiver.try_recv() {
            match event {
                StreamEvent::Up => assert!(!std::mem::replace(&mut up, true), "up twice"),
                StreamEvent::Down => assert!(std::mem::replace(&mut up, false), "down twice"),
                StreamEvent::Report(_) => assert!(up, "a report while down"),
            }
        }
        assert!(!up);
    }
}
