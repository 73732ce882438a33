//! The way to the venue and back: requests and answers are lost, late, refused or misunderstood; the stream has gaps.

use trading::engine::Input;
use trading::exchange::{CancelResult, NewOrder, OrderReport, QueryResult, SendResult, StreamEvent};
use trading::ids::{ClientOrderId, Epoch, TradeId};
use trading::market::Symbol;
use trading::order::Status;
use venue::exchange::Refusal;

use crate::Break;
use crate::counts::{Fault, State};
use crate::database::DbOp;
use crate::plan::{MS, SECOND, Who};
use crate::venue::{LABEL, Subscription};
use crate::world::{Event, World};

/// For so long a query may not see a new order.
const QUERY_LAG: i64 = 4 * SECOND;

/// What is asked of the venue.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Post(NewOrder),
    Cancel(Symbol, ClientOrderId),
    Query { symbol: Symbol, client_id: ClientOrderId, thorough: bool },
    Fills { symbol: Symbol, after: Option<TradeId> },
    OpenOrders,
    Balances,
}

/// A request that is about to leave.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) epoch: Epoch,
}

/// How the venue treats a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    Refuses,
    FailsAfter,
    FailsBefore,
    SaysDuplicate,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Travel {
    who: Who,
    token: u32,
    ask: Ask,
    epoch: Epoch,
    departed: i64,
    manner: Manner,
    /// How long the answer takes; it does not come if this is absent.
    answer_in: Option<i64>,
}

impl World<'_> {
    /// A request leaves the process.
    pub(crate) fn depart(&mut self, who: Who, request: Request) {
        let Request { ask, epoch } = request;
        let process = self.process(who);
        // The driver ends its jobs before it gives the lease up.
        if process.session.as_ref().is_some_and(|session| session.last) {
            return;
        }
        let token = process.token;
        if let Ask::Post(order) = &ask {
            self.check_departure(who, order, epoch);
            if self.fault(Fault::NotSent) {
                let result = SendResult::NotSent { reason: "connection refused".into() };
                let input = Input::Sent { client_id: order.client_id.clone(), result };
                self.after(MS, Event::Answer(who, token, Box::new(input)));
                return;
            }
        }
        let mut there = self.hop();
        if self.fault(Fault::RequestLate) {
            there += self.dice.delay.between(200, 7_500) * MS;
        }
        let mut back = self.hop();
        if self.fault(Fault::AnswerLate) {
            back += self.dice.delay.between(100, 8_000) * MS;
        }
        let lost = self.fault(Fault::RequestLost);
        let answered = !self.fault(Fault::AnswerLost) && !lost && there + back <= self.plan.request_timeout;
        let manner = self.draw_manner(&ask);
        if !answered {
            let input = unanswered(&ask, "no answer in time");
            self.after(self.plan.request_timeout, Event::Answer(who, token, Box::new(input)));
        }
        let is_post = matches!(ask, Ask::Post(_));
        if !lost {
            let answer_in = answered.then_some(back);
            let travel = Travel { who, token, ask, epoch, departed: self.now, manner, answer_in };
            self.after(there, Event::Arrive(Box::new(travel)));
        }
        if is_post {
            let _fell = self.falls_at_boundary(who, State::CrashOnWire);
        }
    }

    fn draw_manner(&mut self, ask: &Ask) -> Manner {
        let is_post = matches!(ask, Ask::Post(_));
        if is_post && self.fault(Fault::Refusal) {
            Manner::Refuses
        } else if is_post && self.fault(Fault::SaysDuplicate) {
            Manner::SaysDuplicate
        } else if self.fault(Fault::ErrorDone) {
            Manner::FailsAfter
        } else if self.fault(Fault::ErrorUndone) {
            Manner::FailsBefore
        } else {
            Manner::Honest
        }
    }

    /// An order leaves: it must be known durably that it does, under the newest epoch that its sender can know of.
    fn check_departure(&mut self, who: Who, order: &NewOrder, epoch: Epoch) {
        let id = &order.client_id;
        self.note(|| format!("{who:?} sends order {id}"));
        let Some(row) = self.store.peek_order(id) else {
            let what = format!("order {id} leaves without a row");
            return self.violate("write-ahead", what);
        };
        // A successor may have read the row already, or a shutdown have given the order up.
        let fits = matches!(row.status, Status::Sending | Status::Unknown) || self.store.epoch(row.account) > epoch;
        if row.attempt != 1 || !fits {
            let what = format!("order {id} leaves with attempt {} and status {}", row.attempt, row.status.as_str());
            self.violate("write-ahead", what);
        }
    }

    /// A request arrives at the venue.
    pub(crate) fn arrive(&mut self, travel: Travel) {
        let Travel { who, token, ask, epoch, departed, manner, answer_in } = travel;
        let fails = || Refusal { code: -1000, reason: "An unknown error occurred.".into() };
        let resend = match &ask {
            Ask::Post(order) if self.broken == Some(Break::Resends) && answer_in.is_none() => Some(order.clone()),
            _ => None,
        };
        let undone = manner == Manner::FailsBefore;
        let now = self.time();
        let input = match ask {
            Ask::Post(order) => {
                let result = self.take_order(&order, manner, epoch, departed);
                Input::Sent { client_id: order.client_id, result }
            }
            Ask::Cancel(symbol, client_id) => {
                let result =
                    if undone { Err(fails()) } else { self.venue.exchange.cancel(LABEL, &symbol, &client_id, now) };
                let result = self.cancelled(&client_id, result, manner);
                Input::CancelEnded { client_id, result }
            }
            Ask::Query { symbol, client_id, thorough } => {
                let result = self.look_up(&symbol, &client_id, thorough, manner);
                Input::Queried { client_id, result }
            }
            Ask::Fills { symbol, after } => {
                let page = self.venue.page(&symbol, after, self.plan.page);
                let more = page.len() >= self.plan.page;
                let fills = (manner == Manner::Honest).then_some(page);
                Input::Fetched { more: more && fills.is_some(), symbol, fills }
            }
            Ask::OpenOrders => {
                let orders = self.venue.exchange.open_orders(LABEL).ok();
                Input::OpenOrders(orders.filter(|_| manner == Manner::Honest))
            }
            Ask::Balances => {
                let balances = self.venue.exchange.balances(LABEL).ok();
                Input::Balances(balances.filter(|_| manner == Manner::Honest))
            }
        };
        self.publish();
        let input = self.as_shown(input);
        if let Some(delay) = answer_in {
            self.after(delay, Event::Answer(who, token, Box::new(input)));
        }
        if let Some(order) = resend {
            let ask = Ask::Post(order);
            let travel = Travel { who, token, ask, epoch, departed, manner: Manner::Honest, answer_in: Some(MS) };
            self.after(500 * MS, Event::Arrive(Box::new(travel)));
        }
    }

    fn take_order(&mut self, order: &NewOrder, manner: Manner, epoch: Epoch, departed: i64) -> SendResult {
        let id = order.client_id.clone();
        if self.venue.received(&id) > 0 {
            self.violate("C7", format!("the venue receives a second request for order {id}"));
        }
        let refusal = match manner {
            Manner::Refuses => Some(Refusal { code: -1013, reason: "Filter failure: PERCENT_PRICE".into() }),
            Manner::FailsBefore => Some(Refusal { code: -1001, reason: "Internal error; unable to process.".into() }),
            _ => None,
        };
        let result = self.venue.post(order, refusal, self.time());
        self.note(|| {
            format!(
                "the venue gets order {id}: {}",
                result.as_ref().map_or_else(ToString::to_string, |r| format!("{:?}", r.status))
            )
        });
        match result {
            Ok(report) => {
                if self.now > departed + self.plan.request_timeout {
                    self.reach(State::LateAcceptance);
                }
                if self.said_none.remove(&id) {
                    self.reach(State::AcceptedAfterNone);
                }
                let newest = self.store.epoch(Self::account());
                if newest > epoch && departed > self.epoch_began {
                    self.violate("C10", format!("order {id} of epoch {epoch} left after epoch {newest} had begun"));
                }
                match manner {
                    Manner::FailsAfter => SendResult::Unknown { reason: "-1007 Timeout waiting for response".into() },
                    Manner::SaysDuplicate => {
                        self.said_duplicate.insert(id);
                        SendResult::Unknown { reason: "-2010 Duplicate order sent.".into() }
                    }
                    _ => SendResult::Accepted(report),
                }
            }
            Err(refusal) if refusal.is_definitive() => {
                if refusal.code == -1021 {
                    self.reach(State::OutsideWindow);
                }
                SendResult::Refused { code: refusal.code, reason: refusal.reason }
            }
            Err(refusal) => SendResult::Unknown { reason: refusal.to_string() },
        }
    }

    fn cancelled(
        &mut self,
        client_id: &ClientOrderId,
        result: Result<OrderReport, Refusal>,
        manner: Manner,
    ) -> CancelResult {
        self.note(|| format!("the venue is asked to cancel {client_id}: {}", result.is_ok()));
        match result {
            _ if manner == Manner::FailsAfter => CancelResult::Unknown { reason: "-1007 Timeout".into() },
            Ok(report) => CancelResult::Canceled(report),
            Err(Refusal { code: -2011, .. }) => {
                if self.venue.executed(client_id).is_some_and(|executed| !executed.is_zero()) {
                    self.reach(State::CancelRacedFill);
                }
                CancelResult::UnknownOrder
            }
            Err(refusal) if refusal.is_definitive() => CancelResult::Refused { reason: refusal.to_string() },
            Err(refusal) => CancelResult::Unknown { reason: refusal.to_string() },
        }
    }

    fn look_up(&mut self, symbol: &Symbol, client_id: &ClientOrderId, thorough: bool, manner: Manner) -> QueryResult {
        if manner != Manner::Honest {
            return QueryResult::Failed { reason: "-1000 An unknown error occurred.".into() };
        }
        let accepted = self.venue.accepted_at(client_id);
        let is_new = accepted.is_some_and(|at| self.time().micros() - at < QUERY_LAG);
        if is_new && self.fault(Fault::HidesOrder) {
            return QueryResult::NotFound { thorough };
        }
        match self.venue.exchange.query(LABEL, symbol, client_id) {
            Ok(report) => QueryResult::Found(report),
            Err(Refusal { code: -2013, .. }) => {
                self.said_none.insert(client_id.clone());
                QueryResult::NotFound { thorough }
            }
            Err(refusal) => QueryResult::Failed { reason: refusal.to_string() },
        }
    }

    /// Tells the streams what happened at the venue.
    pub(crate) fn publish(&mut self) {
        for report in self.venue.news() {
            if !report.fills.is_empty() && self.fault(Fault::WithholdFills) {
                self.venue.withhold(&report.fills);
                let trades: Vec<TradeId> = report.fills.iter().map(|fill| fill.trade_id).collect();
                self.was_withheld.extend(trades.iter().copied());
                let delay = self.dice.delay.between(100, 6_000) * MS;
                self.after(delay, Event::Show(trades));
            }
            let report = self.venue.without_withheld(report);
            self.tell(&report);
        }
    }

    fn tell(&mut self, report: &OrderReport) {
        for n in 0..self.venue.subscriptions.len() {
            let mut delay = self.hop();
            if self.fault(Fault::StreamLate) {
                delay += self.dice.delay.between(10, 3_000) * MS;
            }
            let now = self.now;
            let Some(subscription) = self.venue.subscriptions.get_mut(n).filter(|to| !to.cut) else { continue };
            subscription.next_at = (now + delay).max(subscription.next_at + 1);
            let (who, token, at) = (subscription.who, subscription.token, subscription.next_at);
            self.push(at, Event::Stream(who, token, Box::new(StreamEvent::Report(report.clone()))));
            if self.fault(Fault::StreamCut) {
                let unnoticed = self.dice.delay.between(0, 2_000) * MS;
                let down = self.dice.delay.between(20, 4_000) * MS;
                self.cut(who, unnoticed, down);
            }
        }
    }

    pub(crate) fn show(&mut self, trades: &[TradeId]) {
        if let Some(report) = self.venue.show(trades) {
            self.tell(&report);
        }
    }

    /// What of an answer is not withheld.
    fn as_shown(&self, input: Input) -> Input {
        match input {
            Input::Sent { client_id, result: SendResult::Accepted(report) } => {
                let result = SendResult::Accepted(self.venue.without_withheld(report));
                Input::Sent { client_id, result }
            }
            other => other,
        }
    }

    /// The stream is subscribed to, and what happens from now on arrives.
    pub(crate) fn subscribed(&mut self, who: Who) {
        let token = self.process(who).token;
        self.venue.subscriptions.push(Subscription { who, token, cut: false, next_at: self.now });
        self.after(MS, Event::Stream(who, token, Box::new(StreamEvent::Up)));
        self.ask_db(who, DbOp::Load);
    }

    /// The stream is cut: what happens from now on is lost, until it is back.
    pub(crate) fn cut(&mut self, who: Who, unnoticed: i64, down: i64) {
        let now = self.now;
        let mine =
            self.venue.subscriptions.iter_mut().find(|subscription| subscription.who == who && !subscription.cut);
        let Some(subscription) = mine else { return };
        subscription.cut = true;
        let token = subscription.token;
        let noticed = (now + unnoticed).max(subscription.next_at + 1);
        subscription.next_at = noticed;
        self.faults.add(Fault::StreamCut);
        self.note(|| format!("the stream of {who:?} is cut"));
        self.push(noticed, Event::Stream(who, token, Box::new(StreamEvent::Down)));
        self.push(noticed + down, Event::Mend(who, token));
    }

    pub(crate) fn mend(&mut self, who: Who, token: u32) {
        let mine = self.venue.subscriptions.iter_mut().find(|to| to.token == token && to.cut);
        let Some(subscription) = mine else { return };
        subscription.cut = false;
        subscription.next_at = self.now + 1;
        self.reach(State::StreamHealed);
        self.after(1, Event::Stream(who, token, Box::new(StreamEvent::Up)));
    }

    /// Notices what is rare among answers.
    pub(crate) fn observe_input(&mut self, who: Who, input: &Input) {
        match input {
            Input::Queried { client_id, result: QueryResult::Found(_) } => {
                let row = self.store.peek_order(client_id);
                let (unknown, cancel) = row.map_or((false, false), |row| {
                    (row.status == Status::Unknown, row.cancel == trading::order::CancelState::Unknown)
                });
                if unknown {
                    self.reach(State::FoundByQuery);
                } else if cancel {
                    self.reach(State::CancelAgain);
                }
            }
            Input::Fetched { fills: Some(fills), more, .. } => {
                if *more {
                    self.reach(State::SeveralPages);
                }
                let account = Self::account();
                if fills.iter().any(|fill| !self.store.has_trade(account, &fill.symbol, fill.trade_id)) {
                    self.reach(State::FetchedFill);
                }
            }
            _ => {}
        }
        self.note(|| match input {
            Input::Market(_) => format!("{who:?} sees the market"),
            Input::Sent { client_id, result } => {
                format!("{who:?} hears of {client_id}: {}", format!("{result:?}").chars().take(60).collect::<String>())
            }
            other => format!("{who:?} hears {}", format!("{other:?}").chars().take(120).collect::<String>()),
        });
    }

    pub(crate) fn observe_stream(&mut self, event: &StreamEvent) {
        if let StreamEvent::Report(report) = event {
            let sending = self.store.peek_order(&report.client_id).is_some_and(|order| order.status == Status::Sending);
            if sending && !report.fills.is_empty() {
                self.reach(State::FillBeforeAck);
            }
        }
        self.note(|| format!("stream: {}", format!("{event:?}").chars().take(150).collect::<String>()));
    }
}

/// What the asker is told when nobody answers.
fn unanswered(ask: &Ask, reason: &str) -> Input {
    let reason = reason.to_owned();
    match ask {
        Ask::Post(order) => Input::Sent { client_id: order.client_id.clone(), result: SendResult::Unknown { reason } },
        Ask::Cancel(_, id) => Input::CancelEnded { client_id: id.clone(), result: CancelResult::Unknown { reason } },
        Ask::Query { client_id, .. } => {
            Input::Queried { client_id: client_id.clone(), result: QueryResult::Failed { reason } }
        }
        Ask::Fills { symbol, .. } => Input::Fetched { symbol: symbol.clone(), fills: None, more: false },
        Ask::OpenOrders => Input::OpenOrders(None),
        Ask::Balances => Input::Balances(None),
    }
}
