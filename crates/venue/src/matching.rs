//! How orders are filled. The rules, kept simple on purpose:
//!
//! - Liquidity is the market feed alone: the best bid and ask, and the trades of others. Our accounts' orders never fill
//!   each other, but they share that liquidity: what one of them takes is gone for the next.
//! - An order that arrives and crosses the best quote takes at the quote's price. A market order is filled as a whole,
//!   whatever the quoted quantity; a limit order gets what is quoted. The rest of it rests, or expires if it is IOC; a FOK
//!   expires as a whole if the quote does not cover it.
//! - A resting order is filled at its own price, as maker, when a new quote crosses it (ask at or below a buy, bid at or
//!   above a sell) or when a trade goes through it (strictly below a buy, strictly above a sell: at its very price we
//!   would stand in a queue of unknown length). Best price first, then first come, first served, and in all no more than
//!   the quantity of that quote or trade.
//! - Each new quote brings its full quantity anew.
//! - A stop is triggered by a trade at its price or beyond, or by a quote whose taker would get that price. It then arrives
//!   like a limit order.

use rust_decimal::Decimal;
use trading::exchange::{Fill, Side, TimeInForce, VenueStatus};
use trading::market::{Asset, Market, Symbol};
use trading::money::{Amount, Price, Qty};
use trading::time::Timestamp;

use crate::book::OrderRef;
use crate::exchange::Exchange;
use crate::filters::{taker_price, triggers};
use crate::record::Record;
use crate::state::{Order, crosses, may_rest};

const BPS: Decimal = Decimal::from_parts(10_000, 0, 0, false, 0);
/// Fees are cut after as many digits as every venue shows.
const FEE_SCALE: u32 = 8;

impl Exchange {
    /// Takes in one market event and fills and triggers what it reaches.
    pub fn on_market(&mut self, market: &Market, now: Timestamp) {
        let symbol = market.symbol();
        if !self.symbols.contains_key(symbol) {
            return;
        }
        match market {
            Market::Quote(quote) => {
                self.quotes.insert(symbol.clone(), quote.clone());
                let ask_left = self.fill_resting(symbol, Side::Buy, quote.ask_qty, now, |limit| quote.ask <= limit);
                let bid_left = self.fill_resting(symbol, Side::Sell, quote.bid_qty, now, |limit| quote.bid >= limit);
                if let Some(quote) = self.quotes.get_mut(symbol) {
                    quote.ask_qty = ask_left;
                    quote.bid_qty = bid_left;
                }
                self.trigger_stops(symbol, Side::Buy, quote.ask, now);
                self.trigger_stops(symbol, Side::Sell, quote.bid, now);
            }
            Market::Trade(trade) => {
                let left = self.fill_resting(symbol, Side::Buy, trade.qty, now, |limit| trade.price < limit);
                self.fill_resting(symbol, Side::Sell, left, now, |limit| trade.price > limit);
                self.trigger_stops(symbol, Side::Buy, trade.price, now);
                self.trigger_stops(symbol, Side::Sell, trade.price, now);
            }
        }
        self.commit();
    }

    /// Fills the resting orders of one side that are `reached`, out of `available`. Returns what is left of it.
    fn fill_resting(
        &mut self,
        symbol: &Symbol,
        side: Side,
        mut available: Qty,
        now: Timestamp,
        reached: impl Fn(Price) -> bool,
    ) -> Qty {
        while available > Qty::ZERO {
            let best = self.state.book(symbol).and_then(|book| book.best(side));
            let Some((price, reference)) = best.filter(|(price, _)| reached(*price)) else { break };
            let reference = reference.clone();
            let Some(order) = self.state.order(&reference) else { break };
            let qty = order.remaining().min(available);
            available = available - qty;
            self.fill(&reference, price, qty, true, now);
        }
        available
    }

    fn trigger_stops(&mut self, symbol: &Symbol, side: Side, price: Price, now: Timestamp) {
        loop {
            let next = self.state.book(symbol).and_then(|book| book.next_stop(side));
            let Some((_, reference)) = next.filter(|(stop_price, _)| triggers(side, *stop_price, price)) else { break };
            let reference = reference.clone();
            let (account, venue_id) = (reference.account.clone(), reference.venue_id);
            if !self.record(Record::Trigger { account, venue_id, at: now }) {
                break;
            }
            self.take(&reference, now);
        }
    }

    /// Fills what an arriving order can take from the quote, and ends it if it may not rest.
    pub(crate) fn take(&mut self, reference: &OrderRef, now: Timestamp) {
        let Some(order) = self.state.order(reference).filter(|order| order.triggered) else { return };
        let (side, limit, remaining) = (order.new.side, order.new.kind.price(), order.remaining());
        let (may_rest, all_or_none) = (may_rest(&order.new), limit.is_some() && order.new.tif == TimeInForce::Fok);
        let symbol = order.new.symbol.clone();
        let mut unfilled = remaining;
        let quote = self.quotes.get_mut(&symbol);
        if let Some(quote) = quote.filter(|quote| crosses(side, limit, taker_price(side, quote))) {
            let price = taker_price(side, quote);
            let quoted = match side {
                Side::Buy => &mut quote.ask_qty,
                Side::Sell => &mut quote.bid_qty,
            };
            let qty = if limit.is_none() { remaining } else { remaining.min(*quoted) };
            if qty > Qty::ZERO && !(all_or_none && qty < remaining) {
                *quoted = if *quoted > qty { *quoted - qty } else { Qty::ZERO };
                unfilled = remaining - qty;
                self.fill(reference, price, qty, false, now);
            }
        }
        if !unfilled.is_zero() && !may_rest {
            self.end(reference, VenueStatus::Expired, now);
        }
    }

    fn fill(&mut self, reference: &OrderRef, price: Price, qty: Qty, maker: bool, now: Timestamp) {
        let Some(order) = self.state.order(reference) else { return };
        let (fee, fee_asset) = self.fee(order, price, qty, maker);
        let fill = Fill {
            trade_id: self.state.next_trade(),
            client_id: order.new.client_id.clone(),
            venue_id: order.venue_id,
            symbol: order.new.symbol.clone(),
            side: order.new.side,
            price,
            qty,
            fee,
            fee_asset,
            maker,
            at: now,
        };
        self.record(Record::Fill { account: reference.account.clone(), fill: Box::new(fill) });
    }

    /// The fee is a share of what is received, cut after [`FEE_SCALE`] digits.
    fn fee(&self, order: &Order, price: Price, qty: Qty, maker: bool) -> (Amount, Asset) {
        let bps = Decimal::from(if maker { self.maker_fee_bps } else { self.taker_fee_bps });
        let (received, asset) = match order.new.side {
            Side::Buy => (qty.amount(), &order.base),
            Side::Sell => (price.notional(qty), &order.quote),
        };
        (Amount::new((received.get() * bps / BPS).trunc_with_scale(FEE_SCALE)), asset.clone())
    }
}
