//! C8: balances and positions add up, exactly.

use std::collections::{BTreeMap, BTreeSet};

use trading::exchange::{Side, VenueBalance};
use trading::ids::RobotId;
use trading::market::{Asset, Symbol};
use trading::money::{Amount, Price, Qty};
use venue::ledger::AccountImage;

use super::ours::Ours;
use super::report::Findings;

type Sums = BTreeMap<Asset, Amount>;
type Pairs = BTreeMap<Symbol, (Asset, Asset)>;

/// What a fill moves, whoever tells of it.
struct Deal<'a> {
    symbol: &'a Symbol,
    side: Side,
    price: Price,
    qty: Qty,
    fee: Amount,
    fee_asset: &'a Asset,
}

fn their_deals(venue: &AccountImage) -> impl Iterator<Item = Deal<'_>> {
    venue.fills.iter().map(|fill| Deal {
        symbol: &fill.symbol,
        side: fill.side,
        price: fill.price,
        qty: fill.qty,
        fee: fill.fee,
        fee_asset: &fill.fee_asset,
    })
}

fn our_deals(ours: &Ours) -> impl Iterator<Item = (RobotId, Deal<'_>)> {
    ours.fills.iter().map(|fill| {
        let deal = Deal {
            symbol: &fill.symbol,
            side: fill.side,
            price: fill.price,
            qty: fill.qty,
            fee: fill.fee,
            fee_asset: &fill.fee_asset,
        };
        (fill.robot, deal)
    })
}

/// Finds what does not add up. The venue's books and ours are summed each by itself, since new fills may lie between the two;
/// that the fills are the same is C2's work, and then equal openings make equal balances.
pub(super) fn check(venue: &AccountImage, ours: &Ours, findings: &mut Findings) {
    let assets: BTreeSet<&Asset> = ours
        .balances
        .keys()
        .chain(venue.opening.iter().chain(&venue.balances).map(|balance| &balance.asset))
        .chain(venue.fills.iter().map(|fill| &fill.fee_asset))
        .collect();
    let symbols: BTreeSet<&Symbol> =
        venue.fills.iter().map(|fill| &fill.symbol).chain(ours.fills.iter().map(|fill| &fill.symbol)).collect();
    let mut pairs = Pairs::new();
    for symbol in symbols {
        let Some(pair) = split(symbol, &assets) else {
            let what = format!("{symbol} was traded, but is no pair of assets of the account");
            findings.find(8, what, "its balances cannot be checked: see which assets the venue lists for the account");
            return;
        };
        pairs.insert(symbol.clone(), pair);
    }
    compare("the venue's", &totals(&venue.opening), &totals(&venue.balances), their_deals(venue), &pairs, findings);
    let of_ours = |amount: fn(&trading::position::Balance) -> Amount| -> Sums {
        ours.balances.iter().map(|(asset, balance)| (asset.clone(), amount(balance))).collect()
    };
    let (opening, total) = (of_ours(|balance| balance.opening), of_ours(|balance| balance.total));
    compare("our", &opening, &total, our_deals(ours).map(|(_, deal)| deal), &pairs, findings);
    // A foreign order may have traded before we came.
    if venue.orders.values().all(|order| ours.orders.get(order.client_id.as_str()).is_some()) {
        openings(&totals(&venue.opening), &opening, findings);
    }
    positions(ours, &pairs, findings);
}

fn openings(theirs: &Sums, ours: &Sums, findings: &mut Findings) {
    for (asset, opening) in ours {
        let there = theirs.get(asset).copied().unwrap_or_default();
        if there != *opening {
            let what = format!("{asset} began with {there} at the venue and with {opening} here");
            findings.find(8, what, "see that this ledger belongs to this database; deposits are not known here");
        }
    }
}

fn totals(balances: &[VenueBalance]) -> Sums {
    balances.iter().map(|balance| (balance.asset.clone(), balance.total)).collect()
}

fn add<K: Ord + Clone>(sums: &mut BTreeMap<K, Amount>, key: &K, change: Amount) {
    match sums.get_mut(key) {
        Some(sum) => *sum += change,
        None => drop(sums.insert(key.clone(), change)),
    }
}

fn compare<'a>(
    whose: &str,
    opening: &Sums,
    total: &Sums,
    deals: impl Iterator<Item = Deal<'a>>,
    pairs: &Pairs,
    findings: &mut Findings,
) {
    let mut expected = opening.clone();
    for deal in deals {
        let Some((base, quote)) = pairs.get(deal.symbol) else { continue };
        let notional = deal.price.notional(deal.qty);
        let (base_change, quote_change) = match deal.side {
            Side::Buy => (deal.qty.amount(), -notional),
            Side::Sell => (-deal.qty.amount(), notional),
        };
        add(&mut expected, base, base_change);
        add(&mut expected, quote, quote_change);
        add(&mut expected, deal.fee_asset, -deal.fee);
    }
    let assets: BTreeSet<&Asset> = expected.keys().chain(total.keys()).collect();
    for asset in assets {
        let expected = expected.get(asset).copied().unwrap_or_default();
        let total = total.get(asset).copied().unwrap_or_default();
        if expected != total {
            let (off, opening) = (total - expected, opening.get(asset).copied().unwrap_or_default());
            let what = format!(
                "{whose} balance of {asset} is {total}, but its opening {opening} and its fills make {expected}, which is \
                 {off} off"
            );
            findings.find(8, what, "halt the account and compare its trades in this asset with the venue's statement");
        }
    }
}

/// What fills add up to, in whatever order they were booked: the cost of what is held less the profit of what was sold is what
/// was paid less what was received.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Held {
    qty: Amount,
    paid: Amount,
    fees: Amount,
}

/// A position is the sum of its fills.
fn positions(ours: &Ours, pairs: &Pairs, findings: &mut Findings) {
    let mut sums = BTreeMap::<(RobotId, &Symbol), Held>::new();
    for (robot, deal) in our_deals(ours) {
        let Some((base, quote)) = pairs.get(deal.symbol) else { continue };
        let held = sums.entry((robot, deal.symbol)).or_default();
        let notional = deal.price.notional(deal.qty);
        let (qty, paid) = match deal.side {
            Side::Buy => (deal.qty.amount(), notional),
            Side::Sell => (-deal.qty.amount(), -notional),
        };
        held.qty += qty;
        held.paid += paid;
        if deal.fee_asset == base {
            held.qty += -deal.fee;
            held.fees += Amount::new(deal.fee.get() * deal.price.get());
        } else if deal.fee_asset == quote {
            held.fees += deal.fee;
        }
    }
    for ((robot, symbol), position) in &ours.positions {
        let expected = sums.remove(&(*robot, symbol)).unwrap_or_default();
        let found = Held { qty: position.qty, paid: position.cost - position.realized, fees: position.fees };
        differ(*robot, symbol, found, expected, findings);
    }
    for ((robot, symbol), expected) in sums {
        differ(robot, symbol, Held::default(), expected, findings);
    }
}

fn differ(robot: RobotId, symbol: &Symbol, found: Held, expected: Held, findings: &mut Findings) {
    let fields = [
        ("quantity", found.qty, expected.qty),
        ("cost less profit", found.paid, expected.paid),
        ("fees", found.fees, expected.fees),
    ];
    let off = fields.iter().filter(|(_, found, expected)| found != expected);
    let off: Vec<String> =
        off.map(|(name, found, expected)| format!("its {name} is {found} and should be {expected}")).collect();
    if !off.is_empty() {
        let what = format!("the position of robot {robot} in {symbol} is not the sum of its fills: {}", off.join(", "));
        findings.find(8, what, "halt the robot: it trades on what it believes to hold");
    }
}

/// The base and quote asset of a symbol, whose name is theirs put together.
fn split(symbol: &Symbol, assets: &BTreeSet<&Asset>) -> Option<(Asset, Asset)> {
    assets.iter().find_map(|base| {
        let quote = symbol.as_str().strip_prefix(base.as_str())?;
        assets.iter().find(|asset| asset.as_str() == quote).map(|quote| ((*base).clone(), (*quote).clone()))
    })
}
