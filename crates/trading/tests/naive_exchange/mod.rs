//! An engine, a naive exchange and a market in the fewest words, around one robot.

use std::collections::{BTreeMap, VecDeque};

use rust_decimal::Decimal;
use trading::exchange::{Side, VenueStatus};
use trading::ids::{ClientOrderId, Epoch, OrderKey, VenueOrderId};
use trading::market::{Quote, SymbolInfo};
use trading::money::{Amount, Price, Qty};
use trading::order::{Order, OrderEvent};
use trading::position::Position;
use trading::robot::grid::MAX_PLACES;
use trading::robot::{
    Answer, Intent, Occasion, OrderSpec, Robot, RobotConfig, StrategyState, View, decide, grid, wake_at,
};
use trading::time::Timestamp;

use super::common::{self, amount, at, quote, symbol};

/// See the [module](self).
pub(crate) struct World {
    pub(crate) robot: Robot,
    pub(crate) symbol: SymbolInfo,
    pub(crate) state: StrategyState,
    pub(crate) live: BTreeMap<ClientOrderId, Order>,
    pub(crate) placed: Vec<(Timestamp, OrderSpec)>,
    pub(crate) position: Position,
    pub(crate) quote: Option<Quote>,
    pub(crate) now: Timestamp,
    /// What becomes of new orders.
    pub(crate) refuse: bool,
    /// The robot does not hear what becomes of its orders.
    pub(crate) deaf: bool,
    /// Fee of a buy in the base asset, in ten thousandths.
    pub(crate) base_fee: i64,
    pub(crate) free_quote: Amount,
    /// Partly filled orders that were cancelled: what they leave may be too little to sell.
    pub(crate) crumbs: i64,
}

impl World {
    pub(crate) fn new(config: RobotConfig) -> Self {
        config.validate(&symbol()).expect("a valid configuration");
        Self {
            state: StrategyState::initial(&config),
            robot: common::robot(config),
            symbol: symbol(),
            live: BTreeMap::new(),
            placed: Vec::new(),
            position: Position::empty(common::ROBOT, symbol().symbol),
            quote: None,
            now: at(1_000_000),
            refuse: false,
            deaf: false,
            base_fee: 0,
            free_quote: amount("1000000"),
            crumbs: 0,
        }
    }

    /// What the robot answers; nothing comes of it yet. The same question always gets the same answer.
    pub(crate) fn ask(&self, occasion: Occasion<'_>) -> Answer {
        let view = View {
            now: self.now,
            robot: &self.robot,
            symbol: &self.symbol,
            quote: self.quote.as_ref(),
            position: &self.position,
            live: &self.live,
            decision: self.robot.decision_seq + 1,
            free_quote: self.free_quote - self.live.values().filter(|o| o.side == Side::Buy).map(worth).sum(),
            free_base: Amount::new(self.position.qty.get() - self.selling().get()),
        };
        let answer = decide(&view, &self.state, occasion);
        assert_eq!(answer, decide(&view, &self.state, occasion), "deterministic");
        let next = answer.state.as_ref().unwrap_or(&self.state);
        if answer.state.is_some() {
            assert_ne!(*next, self.state, "a state is given only when it changed");
        }
        if let (false, Some(at)) =
            (matches!(occasion, Occasion::Signal(_) | Occasion::Order(_)), wake_at(&self.robot.config, next))
        {
            assert!(at > self.now, "a timer that is already over would fire without end");
        }
        answer
    }

    /// Asks, commits and lets the venue answer, until nothing is left to be told.
    pub(crate) fn tell(&mut self, occasion: Occasion<'_>) {
        let answer = self.ask(occasion);
        let mut news: VecDeque<Order> = self.commit(answer).into();
        let mut answers = 0;
        while let Some(order) = news.pop_front() {
            answers += 1;
            assert!(answers < 1_000, "it answers its own answers without end");
            if !self.deaf {
                let answer = self.ask(Occasion::Order(&order));
                news.extend(self.commit(answer));
            }
        }
    }

    pub(crate) fn commit(&mut self, answer: Answer) -> Vec<Order> {
        if let Some(state) = answer.state {
            // What is kept is what can be read back.
            let text = serde_json::to_string(&state).unwrap();
            self.state = serde_json::from_str(&text).unwrap();
            assert_eq!(self.state, state);
        }
        assert!(answer.intents.len() <= MAX_PLACES);
        if answer.intents.is_empty() {
            return Vec::new();
        }
        self.robot.decision_seq += 1;
        let mut news = Vec::new();
        for (leg, intent) in answer.intents.into_iter().enumerate() {
            let Intent::Place(spec) = intent else { panic!("no robot of these cancels") };
            let key = OrderKey { decision: self.robot.decision_seq, leg: i32::try_from(leg).unwrap() };
            let mut order = common::order(&spec, key, self.now);
            self.placed.push((self.now, spec));
            order.apply(&OrderEvent::Attempt { epoch: Epoch(1), deadline: self.now }, self.now);
            if self.refuse {
                order.apply(&OrderEvent::Refuse("no".into()), self.now);
            } else {
                let venue_id = VenueOrderId(i64::try_from(self.placed.len()).unwrap());
                let report = OrderEvent::Report { venue_id, status: VenueStatus::New, executed: Qty::ZERO };
                order.apply(&report, self.now);
                self.live.insert(order.client_id.clone(), order.clone());
            }
            news.push(order);
        }
        news
    }

    pub(crate) fn selling(&self) -> Qty {
        self.live.values().filter(|order| order.side == Side::Sell).map(Order::remaining).sum()
    }

    pub(crate) fn buying(&self) -> Qty {
        self.live.values().filter(|order| order.side == Side::Buy).map(Order::remaining).sum()
    }

    /// Fills an order up to `part`, at its own price or the market's, and tells the robot.
    pub(crate) fn fill(&mut self, id: &ClientOrderId, part: Qty, by_report_first: bool) {
        let Some(order) = self.live.get_mut(id) else { return };
        let part = part.min(order.remaining());
        let Some(at_price) = order.kind.price().or(self.quote.as_ref().map(|quote| quote.ask)) else { return };
        if part.is_zero() {
            return;
        }
        if by_report_first && part == order.remaining() {
            // The venue says that it is filled before the fill itself arrives.
            let report = OrderEvent::Report {
                venue_id: order.venue_id.unwrap(),
                status: VenueStatus::Filled,
                executed: order.qty,
            };
            order.apply(&report, self.now);
            let image = order.clone();
            if !self.deaf {
                self.tell(Occasion::Order(&image));
                self.tell(Occasion::Quote);
            }
        }
        let order = self.live.get_mut(id).unwrap();
        order.apply(&OrderEvent::Fill { qty: part, notional: at_price.notional(part) }, self.now);
        let image = order.clone();
        if image.status.is_terminal() && !image.lacks_fills() {
            self.live.remove(id);
        }
        let fee = match image.side {
            Side::Buy => part.get() * Decimal::new(self.base_fee, 4),
            Side::Sell => Decimal::ZERO,
        };
        let fill = common::fill(image.side, at_price, part, Amount::new(fee), &self.symbol.base.clone());
        self.position.book(&fill, &self.symbol);
        if !self.deaf {
            self.tell(Occasion::Order(&image));
        }
    }

    /// The market moves; what it crosses fills, best prices first.
    pub(crate) fn move_to(&mut self, bid: Price, partly: bool, by_report_first: bool) {
        self.quote = Some(quote(bid, self.now));
        let ask = bid + self.symbol.tick;
        let mut crossed: Vec<(Price, Side, ClientOrderId)> = self
            .live
            .values()
            .filter_map(|order| {
                let limit = order.kind.price()?;
                let crosses = if order.side == Side::Buy { limit >= ask } else { limit <= bid };
                crosses.then(|| (limit, order.side, order.client_id.clone()))
            })
            .collect();
        crossed.sort();
        if crossed.first().is_some_and(|(_, side, _)| *side == Side::Buy) {
            crossed.reverse();
        }
        let last = crossed.len().saturating_sub(1);
        for (i, (_, _, id)) in crossed.iter().enumerate() {
            let part = if partly && i == last { self.symbol.lot } else { Qty::new(Decimal::from(1_000)) };
            self.fill(id, part, by_report_first);
        }
        if !self.deaf {
            self.tell(Occasion::Quote);
        }
    }

    pub(crate) fn cancel(&mut self, id: &ClientOrderId) {
        let Some(mut order) = self.live.remove(id) else { return };
        self.crumbs += i64::from(!order.filled.is_zero());
        let report = OrderEvent::Report {
            venue_id: order.venue_id.unwrap(),
            status: VenueStatus::Canceled,
            executed: order.filled,
        };
        order.apply(&report, self.now);
        if !self.deaf {
            self.tell(Occasion::Order(&order));
        }
    }

    /// Time passes; the robot is woken when it wants to be.
    pub(crate) fn pass(&mut self, ms: i64) {
        let end = at(self.now.millis() + ms);
        while let Some(due) = wake_at(&self.robot.config, &self.state).filter(|due| *due <= end && !self.deaf) {
            self.now = self.now.max(due);
            self.tell(Occasion::Timer);
        }
        self.now = end;
    }

    /// Everything but what was committed is gone.
    pub(crate) fn restart(&mut self) {
        self.quote = None;
        self.deaf = false;
        self.tell(Occasion::Start);
    }

    pub(crate) fn grid(&self) -> &grid::State {
        let StrategyState::Grid(state) = &self.state else { panic!("not a grid") };
        state
    }
}

fn worth(order: &Order) -> Amount {
    order.kind.price().map_or(Amount::ZERO, |price| price.notional(order.remaining()))
}
