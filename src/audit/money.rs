//! C8: balances add up, exactly.

use std::collections::{BTreeMap, BTreeSet};

use trading::exchange::{Fill, Side, VenueBalance};
use trading::market::{Asset, Symbol};
use trading::money::Amount;
use venue::ledger::AccountImage;

use super::data::AccountData;

type Sums = BTreeMap<Asset, Amount>;

/// What does not add up, in sentences. The venue's books and ours are summed each by itself, since new fills may lie between
/// the two; that the fills are the same is C2's work, and then equal openings make equal balances.
pub(super) fn check(venue: &AccountImage, ours: &AccountData) -> Vec<String> {
    let mut found = Vec::new();
    let assets: BTreeSet<&Asset> = ours
        .balances
        .keys()
        .chain(venue.opening.iter().chain(&venue.balances).map(|balance| &balance.asset))
        .chain(venue.fills.iter().map(|fill| &fill.fee_asset))
        .collect();
    let mut pairs = BTreeMap::new();
    let fills = venue.fills.iter().chain(ours.fills.values().map(|(_, fill)| fill));
    for fill in fills {
        if !pairs.contains_key(&fill.symbol) {
            let Some(pair) = split(&fill.symbol, &assets) else {
                found.push(format!("{} is no pair of assets of the account", fill.symbol));
                return found;
            };
            pairs.insert(fill.symbol.clone(), pair);
        }
    }
    compare("the venue's", &totals(&venue.opening), &totals(&venue.balances), venue.fills.iter(), &pairs, &mut found);
    let of_ours = |amount: fn(&trading::position::Balance) -> Amount| -> Sums {
        ours.balances.iter().map(|(asset, balance)| (asset.clone(), amount(balance))).collect()
    };
    let (opening, total) = (of_ours(|balance| balance.opening), of_ours(|balance| balance.total));
    compare("our", &opening, &total, ours.fills.values().map(|(_, fill)| fill), &pairs, &mut found);
    // A foreign order may have traded before we came.
    let alone = venue.orders.values().all(|order| ours.orders.contains_key(&order.client_id));
    if alone {
        let venues = totals(&venue.opening);
        for (asset, opening) in
            opening.iter().filter(|(asset, opening)| venues.get(*asset).copied().unwrap_or_default() != **opening)
        {
            let venues = venues.get(asset).copied().unwrap_or_default();
            found.push(format!("{asset} began with {venues} at the venue and with {opening} here"));
        }
    }
    found
}

fn totals(balances: &[VenueBalance]) -> Sums {
    balances.iter().map(|balance| (balance.asset.clone(), balance.total)).collect()
}

fn compare<'a>(
    whose: &str,
    opening: &Sums,
    total: &Sums,
    fills: impl Iterator<Item = &'a Fill>,
    pairs: &BTreeMap<Symbol, (Asset, Asset)>,
    found: &mut Vec<String>,
) {
    let mut expected = opening.clone();
    for fill in fills {
        let Some((base, quote)) = pairs.get(&fill.symbol) else { continue };
        let notional = fill.price.notional(fill.qty);
        let (base_change, quote_change) = match fill.side {
            Side::Buy => (fill.qty.amount(), -notional),
            Side::Sell => (-fill.qty.amount(), notional),
        };
        for (asset, change) in [(base, base_change), (quote, quote_change), (&fill.fee_asset, -fill.fee)] {
            *expected.entry(asset.clone()).or_default() += change;
        }
    }
    let assets: BTreeSet<&Asset> = expected.keys().chain(total.keys()).collect();
    for asset in assets {
        let expected = expected.get(asset).copied().unwrap_or_default();
        let total = total.get(asset).copied().unwrap_or_default();
        if expected != total {
            found.push(format!("{whose} balance of {asset} is {total}, but its opening and fills make {expected}"));
        }
    }
}

/// The base and quote asset of a symbol, whose name is theirs put together.
fn split(symbol: &Symbol, assets: &BTreeSet<&Asset>) -> Option<(Asset, Asset)> {
    assets.iter().find_map(|base| {
        let quote = symbol.as_str().strip_prefix(base.as_str())?;
        assets.iter().find(|asset| asset.as_str() == quote).map(|quote| ((*base).clone(), (*quote).clone()))
    })
}
