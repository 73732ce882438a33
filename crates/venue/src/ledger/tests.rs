use std::io::Write as _;

use tempfile::TempDir;
use trading::exchange::{NewOrder, OrderKind, Side, TimeInForce, VenueBalance};
use trading::ids::{ClientOrderId, VenueOrderId};
use trading::market::Asset;
use trading::time::Timestamp;

use super::*;
use crate::record::Record;

const AT: Timestamp = Timestamp::from_millis(1000);

fn account(label: &str) -> Entry {
    let opening = vec![VenueBalance { asset: Asset::new("USDT"), total: "1000.5".parse().unwrap() }];
    vec![Record::Account { label: label.into(), opening, at: AT }]
}

fn order(label: &str, number: i64) -> Entry {
    let client_id = ClientOrderId::from_venue(format!("id{number}"));
    let post = Post { client_id: client_id.clone(), timestamp: AT, received_at: AT, accepted: true, reason: None };
    let order = NewOrder {
        client_id,
        symbol: "BTCUSDT".parse().unwrap(),
        side: Side::Buy,
        kind: OrderKind::Limit { price: "10".parse().unwrap() },
        tif: TimeInForce::Gtc,
        qty: "1".parse().unwrap(),
        timestamp: AT,
    };
    vec![
        Record::Post { account: label.into(), post },
        Record::Order {
            account: label.into(),
            venue_id: VenueOrderId(number),
            base: Asset::new("BTC"),
            quote: Asset::new("USDT"),
            order: Box::new(order),
            at: AT,
        },
    ]
}

/// A ledger with an account and two orders, closed again.
fn ledger() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("venue.ledger");
    let mut opened = Ledger::open(&path).unwrap();
    opened.ledger.append(&[account("a"), order("a", 1)]).unwrap();
    opened.ledger.append(&[order("a", 2)]).unwrap();
    (dir, path)
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap()
}

fn append_raw(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// As two processes do: one appends, the other reads ahead, and then opens.
#[test]
fn what_was_read_ahead_need_not_be_read_again_and_nothing_is_missed() {
    let (dir, path) = ledger();
    let id = id(&path).unwrap().unwrap();
    let mut ahead = ReadAhead::default();
    let mut owner = Ledger::open(&path).unwrap();
    ahead.go_on(&path).unwrap();
    for number in 3..10 {
        owner.ledger.append(&[order("a", number)]).unwrap();
        assert!(matches!(Ledger::open_after(&path, &mut ahead), Err(LedgerError::Locked(_))));
        if number % 2 == 0 {
            ahead.go_on(&path).unwrap();
        }
    }
    assert!(ahead.to.bytes > 0, "a lock that is not to be had uses nothing up");
    drop(owner);
    append_raw(&path, b"torn");
    ahead.go_on(&path).unwrap();
    let opened = Ledger::open_after(&path, &mut ahead).unwrap();
    assert_eq!((opened.id.clone(), opened.torn.map(|torn| torn.bytes)), (id, Some(4)));
    assert_eq!(opened.state, Ledger::open(&copy(&dir, &path)).unwrap().state);
    assert_eq!(opened.state.account("a").unwrap().open_orders().count(), 9);
}

#[test]
fn what_was_read_ahead_of_another_file_of_that_name_does_not_count() {
    let (_dir, path) = ledger();
    let mut ahead = ReadAhead::default();
    ahead.go_on(&path).unwrap();
    let (_other, replacement) = ledger();
    std::fs::copy(&replacement, path.with_extension("new")).unwrap();
    std::fs::rename(path.with_extension("new"), &path).unwrap();
    let opened = Ledger::open_after(&path, &mut ahead).unwrap();
    assert_eq!(opened.id, id(&replacement).unwrap().unwrap());
}

fn copy(dir: &TempDir, path: &Path) -> PathBuf {
    let copied = dir.path().join("copy");
    std::fs::copy(path, &copied).unwrap();
    copied
}

#[test]
fn what_was_appended_is_there_when_it_is_opened_again() {
    let (_dir, path) = ledger();
    let opened = Ledger::open(&path).unwrap();
    assert_eq!(opened.torn, None);
    assert_eq!(opened.state.account("a").unwrap().open_orders().count(), 2);
    drop(opened);
    let image = read(&path).unwrap();
    let account = &image.accounts["a"];
    assert_eq!(account.orders[&VenueOrderId(2)].client_id.as_str(), "id2");
    assert_eq!(account.posts.len(), 2);
    assert_eq!(account.opening, account.balances);
}

#[test]
fn a_torn_last_line_is_cut_off_at_every_length_and_what_follows_it_is_whole() {
    let (_dir, path) = ledger();
    let whole = std::fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in last + 1..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(read(&path).unwrap().accounts["a"].orders.len(), 1, "a reader leaves it out");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes(length), "and changes nothing");
        let mut opened = Ledger::open(&path).unwrap();
        assert_eq!(opened.torn, Some(Torn { offset: bytes(last), bytes: bytes(length - last) }));
        opened.ledger.append(&[order("a", 7)]).unwrap();
        drop(opened);
        let orders = read(&path).unwrap().accounts["a"].orders.keys().copied().collect::<Vec<_>>();
        assert_eq!(orders, [VenueOrderId(1), VenueOrderId(7)]);
    }
}

#[test]
fn a_damaged_line_in_the_middle_is_an_error_that_names_it_and_changes_nothing() {
    let (_dir, path) = ledger();
    let whole = std::fs::read(&path).unwrap();
    for place in [0, 4, 20, whole.len() / 2] {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert!(matches!(read(&path), Err(LedgerError::Damaged { .. })), "byte {place}");
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Damaged { .. })), "byte {place}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
}

#[test]
fn a_file_that_is_no_ledger_is_not_touched() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("diary.txt");
    std::fs::write(&path, "Dear diary,\ntoday\n").unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Damaged { line: 1, .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "Dear diary,\ntoday\n");
}

#[test]
fn a_line_that_contradicts_the_ones_before_it_is_an_error_of_its_own() {
    let (_dir, path) = ledger();
    let json = serde_json::to_vec(&order("nobody", 9)).unwrap();
    append_raw(&path, format!("{:08x} ", CRC32.checksum(&json)).as_bytes());
    append_raw(&path, &json);
    append_raw(&path, b"\n");
    assert!(matches!(read(&path), Err(LedgerError::Contradiction { line: 5, .. })));
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Contradiction { line: 5, .. })));
}

#[test]
fn only_one_process_may_append_and_everybody_may_read() {
    let (_dir, path) = ledger();
    let opened = Ledger::open(&path).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Locked(_))));
    assert!(read(&path).is_ok());
    drop(opened);
    assert!(Ledger::open(&path).is_ok());
}

#[test]
fn after_a_failed_write_nothing_is_ever_written_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("venue.ledger");
    let mut ledger = Ledger::open(&path).unwrap().ledger;
    // A file that is open for reading only fails like a full disk does.
    let writable = std::mem::replace(&mut ledger.file, File::open(&path).unwrap());
    assert!(matches!(ledger.append(&[account("a")]), Err(LedgerError::Io { .. })));
    ledger.file = writable;
    assert!(matches!(ledger.append(&[account("a")]), Err(LedgerError::Failed(_))));
    assert!(read(&path).unwrap().accounts.is_empty());
}
