//! The records as an [`Image`], for those who judge and do not trade: without books, and with every name kept once.

use std::collections::{BTreeMap, BTreeSet};

use trading::exchange::{Fill, NewOrder, Side, VenueBalance, VenueStatus};
use trading::ids::VenueOrderId;
use trading::market::{Asset, Symbol};
use trading::money::Amount;

use super::image::{AccountImage, Image, OrderImage, Post};
use crate::record::{Label, Record};

/// What is wrong with a record.
type Contradiction = &'static str;

#[derive(Debug, Default)]
struct Account {
    image: AccountImage,
    totals: BTreeMap<Asset, Amount>,
    pairs: BTreeMap<Symbol, (Asset, Asset)>,
}

/// What the records so far add up to.
#[derive(Debug, Default)]
pub(super) struct Fold {
    accounts: BTreeMap<Label, Account>,
    symbols: BTreeSet<Symbol>,
    assets: BTreeSet<Asset>,
    last_order: i64,
    last_trade: i64,
}

/// The one copy of an equal name.
fn shared<T: Ord + Clone>(names: &mut BTreeSet<T>, name: T) -> T {
    if let Some(known) = names.get(&name) {
        return known.clone();
    }
    names.insert(name.clone());
    name
}

impl Fold {
    /// Takes in one record.
    pub(super) fn apply(&mut self, record: Record) -> Result<(), Contradiction> {
        match record {
            Record::Format { .. } => Ok(()),
            Record::Account { label, opening, .. } => self.open_account(label, opening),
            Record::Post { account, post } => self.post(&account, post),
            Record::Order { account, venue_id, base, quote, order, .. } => {
                self.accept(&account, venue_id, (base, quote), *order)
            }
            Record::Trigger { account, venue_id, .. } => open_order(self.account(&account)?, venue_id).map(drop),
            Record::Fill { account, fill } => self.fill(&account, *fill),
            Record::End { account, venue_id, status, .. } => {
                open_order(self.account(&account)?, venue_id)?.status = status;
                Ok(())
            }
        }
    }

    pub(super) fn into_image(self) -> Image {
        let accounts = self.accounts.into_iter().map(|(label, account)| {
            let mut image = account.image;
            image.balances = account.totals.into_iter().map(|(asset, total)| VenueBalance { asset, total }).collect();
            (label.to_string(), image)
        });
        Image { accounts: accounts.collect() }
    }

    fn account(&mut self, label: &str) -> Result<&mut Account, Contradiction> {
        self.accounts.get_mut(label).ok_or("a record of an unknown account")
    }

    fn open_account(&mut self, label: Label, opening: Vec<VenueBalance>) -> Result<(), Contradiction> {
        let totals = opening.iter().map(|balance| (shared(&mut self.assets, balance.asset.clone()), balance.total));
        let account = Account { totals: totals.collect(), ..Account::default() };
        let image = AccountImage { opening, ..AccountImage::default() };
        match self.accounts.insert(label, Account { image, ..account }) {
            None => Ok(()),
            Some(_) => Err("an account that exists is opened"),
        }
    }

    fn post(&mut self, label: &str, post: Post) -> Result<(), Contradiction> {
        self.account(label)?.image.posts.push(post);
        Ok(())
    }

    fn accept(
        &mut self,
        label: &str,
        venue_id: VenueOrderId,
        (base, quote): (Asset, Asset),
        new: NewOrder,
    ) -> Result<(), Contradiction> {
        if venue_id.0 <= self.last_order {
            return Err("an order number does not grow");
        }
        self.last_order = venue_id.0;
        let symbol = shared(&mut self.symbols, new.symbol);
        let account = self.accounts.get_mut(label).ok_or("an order of an unknown account")?;
        if !account.pairs.contains_key(&symbol) {
            let pair = (shared(&mut self.assets, base), shared(&mut self.assets, quote));
            account.pairs.insert(symbol.clone(), pair);
        }
        let order = OrderImage {
            client_id: new.client_id,
            symbol,
            side: new.side,
            kind: new.kind,
            tif: new.tif,
            qty: new.qty,
            status: VenueStatus::New,
            executed: trading::money::Qty::ZERO,
        };
        account.image.orders.insert(venue_id, order);
        Ok(())
    }

    fn fill(&mut self, label: &str, mut fill: Fill) -> Result<(), Contradiction> {
        if fill.trade_id.0 <= self.last_trade {
            return Err("a trade number does not grow");
        }
        self.last_trade = fill.trade_id.0;
        fill.symbol = shared(&mut self.symbols, fill.symbol);
        fill.fee_asset = shared(&mut self.assets, fill.fee_asset);
        let account = self.accounts.get_mut(label).ok_or("a fill of an unknown account")?;
        let order = open_order(account, fill.venue_id)?;
        if fill.symbol != order.symbol || fill.side != order.side || fill.client_id != order.client_id {
            return Err("a fill that is not of its order");
        }
        order.executed += fill.qty;
        if order.executed > order.qty {
            return Err("more is filled than was ordered");
        }
        order.status = if order.executed == order.qty { VenueStatus::Filled } else { VenueStatus::PartiallyFilled };
        let (base, quote) = account.pairs.get(&fill.symbol).ok_or("a fill of an unknown symbol")?;
        let paid = fill.price.notional(fill.qty);
        let (base_change, quote_change) = match fill.side {
            Side::Buy => (fill.qty.amount(), -paid),
            Side::Sell => (-fill.qty.amount(), paid),
        };
        for (asset, change) in [(base, base_change), (quote, quote_change), (&fill.fee_asset, -fill.fee)] {
            match account.totals.get_mut(asset) {
                Some(total) => *total += change,
                None => drop(account.totals.insert(asset.clone(), change)),
            }
        }
        account.image.fills.push(fill);
        Ok(())
    }
}

fn open_order(account: &mut Account, venue_id: VenueOrderId) -> Result<&mut OrderImage, Contradiction> {
    let order = account.image.orders.get_mut(&venue_id).ok_or("a change of an unknown order")?;
    if matches!(order.status, VenueStatus::New | VenueStatus::PartiallyFilled) {
        Ok(order)
    } else {
        Err("a change of an order that has ended")
    }
}
