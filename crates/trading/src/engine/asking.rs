//! How an unknown outcome is resolved: by asking the venue, and by proving absence.
//!
//! "No such order" proves nothing before the order's deadline (its request may still be on its way). After it, three spaced
//! and thorough answers while the stream is healthy are the proof (`orders.md`, Proof of absence). For the orders of an
//! earlier process the time counts from this one's start: the two clocks may differ.

use std::time::Duration;

use super::{Effect, Engine};
use crate::exchange::QueryResult;
use crate::ids::ClientOrderId;
use crate::order::{CancelState, Order, OrderEvent, Status};
use crate::time::Timestamp;

/// An order that is being asked for.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) next_at: Timestamp,
    pub(super) in_flight: bool,
    /// Whether the query under way was sent after the order's deadline, so that its "no" counts.
    thorough: bool,
    tries: u32,
    noes: u32,
}

const PROOFS_OF_ABSENCE: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

impl Asking {
    fn wait(&self) -> Duration {
        FIRST_WAIT.saturating_mul(1 << self.tries.min(5)).min(LONGEST_WAIT)
    }
}

/// Whether the venue must be asked for this order.
fn needs_asking(order: &Order) -> bool {
    order.status == Status::Unknown || (!order.status.is_terminal() && order.cancel == CancelState::Unknown)
}

impl Engine {
    /// Starts asking for an order, unless that is under way. `now` asks in this very step.
    pub(super) fn ask(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        self.asking.entry(client_id.clone()).or_insert(Asking {
            next_at: now,
            in_flight: false,
            thorough: false,
            tries: 0,
            noes: 0,
        });
    }

    /// Stops asking for an order whose state is known again.
    pub(super) fn stop_asking_if_known(&mut self, order: &Order) {
        if !needs_asking(order) {
            self.asking.remove(&order.client_id);
            self.recovery.heard_of(&order.client_id);
        }
    }

    /// Sends the queries that are due.
    pub(super) fn ask_due(&mut self, now: Timestamp) {
        let due: Vec<ClientOrderId> =
            self.asking.iter().filter(|(_, a)| !a.in_flight && a.next_at <= now).map(|(id, _)| id.clone()).collect();
        for client_id in due {
            let Some((symbol, deadline)) = self.order(&client_id).map(|o| (o.symbol.clone(), self.deadline_of(o)))
            else {
                self.asking.remove(&client_id);
                continue;
            };
            let thorough = deadline.is_none_or(|deadline| now > deadline);
            if let Some(asking) = self.asking.get_mut(&client_id) {
                asking.in_flight = true;
                asking.thorough = thorough;
                asking.tries += 1;
            }
            self.effect(Effect::Query { symbol, client_id, thorough });
        }
    }

    /// From when on "no such order" means something. An order's own deadline is a time of the clock of the process that sent
    /// it. Another process may have another clock, but it started after the request was made.
    fn deadline_of(&self, order: &Order) -> Option<Timestamp> {
        let own = order.epoch == self.epoch;
        order.deadline.map(|deadline| if own { deadline } else { self.predecessors_deadline })
    }

    pub(super) fn on_queried(&mut self, client_id: &ClientOrderId, result: QueryResult, now: Timestamp) {
        let stream_up = self.stream_up;
        let mut proven = false;
        if let Some(asking) = self.asking.get_mut(client_id) {
            asking.in_flight = false;
            asking.next_at = now.after(asking.wait());
            match &result {
                QueryResult::NotFound { thorough: true } if asking.thorough && stream_up => asking.noes += 1,
                QueryResult::NotFound { .. } | QueryResult::Found(_) => asking.noes = 0,
                QueryResult::Failed { .. } => {}
            }
            proven = asking.noes >= PROOFS_OF_ABSENCE;
        }
        match result {
            QueryResult::Found(report) => {
                self.on_report(&report, now);
                self.recovery.heard_of(client_id);
                self.after_found(client_id, now);
            }
            QueryResult::NotFound { .. } => {
                self.recovery.heard_of(client_id);
                if proven {
                    self.on_absent(client_id, now);
                }
            }
            QueryResult::Failed { .. } => {}
        }
    }

    /// The order lives, and its cancellation got lost: ask for the cancellation again. Cancelling twice is harmless.
    fn after_found(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        let lost = self.order(client_id).is_some_and(|order| {
            matches!(order.status, Status::Open | Status::Partial) && order.cancel == CancelState::Unknown
        });
        if lost {
            self.send_cancel(client_id, now);
        } else if let Some(order) = self.order(client_id).cloned() {
            self.stop_asking_if_known(&order);
        }
    }

    fn on_absent(&mut self, client_id: &ClientOrderId, now: Timestamp) {
        self.asking.remove(client_id);
        let Some(order) = self.order(client_id).cloned() else { return };
        if order.status != Status::Unknown {
            // It was seen at the venue before and is gone now: somebody must look.
            self.alarm("the venue does not know an order that it had", Some(client_id), Some(order.robot), now);
            return;
        }
        self.apply(client_id, &OrderEvent::ProveAbsent, now);
        self.send_next_generation(&order, now);
    }
}
