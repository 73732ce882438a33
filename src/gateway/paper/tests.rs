use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trading::exchange::{OrderKind, Side, TimeInForce, VenueStatus};
use trading::market::Quote;
use trading::money::Amount;
use venue::faults::{Delay, Reject, Scope, Switch};
use venue::host::system_now;
use venue::ledger;

use super::*;

/// What an event is waited for at most.
const LIMIT: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_millis(400);

fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

/// A venue that runs, with one account, and a market of 100 / 101.
struct Bench {
    venue: PaperVenue,
    gateway: PaperGateway,
    driver: JoinHandle<std::io::Result<()>>,
}

async fn start(ledger: &Path) -> Bench {
    let info = SymbolInfo {
        symbol: symbol(),
        base: Asset::new("BTC"),
        quote: Asset::new("USDT"),
        tick: "0.01".parse().unwrap(),
        lot: "0.001".parse().unwrap(),
        min_qty: "0.001".parse().unwrap(),
        min_notional: Amount::ZERO,
        max_open_orders: 100,
    };
    let config = PaperConfig {
        ledger: None,
        opening: BTreeMap::from([("USDT".into(), "100000".parse().unwrap()), ("BTC".into(), "10".parse().unwrap())]),
        maker_fee_bps: 10,
        taker_fee_bps: 10,
        latency_ms: 0,
        allow_faults: true,
    };
    let window = RequestWindow {
        recv_window: Duration::from_secs(1),
        absence_margin: Duration::from_secs(1),
        request_timeout: TIMEOUT,
    };
    let (venue, driver) = PaperVenue::open(ledger, vec![info], &config, window).unwrap();
    let driver = tokio::task::spawn_blocking(|| driver.run_blocking());
    let gateway = venue.gateway("main").await.unwrap();
    let bench = Bench { venue, gateway, driver };
    bench.quote("1").await;
    bench
}

async fn fresh() -> (Bench, TempDir) {
    let dir = TempDir::new().unwrap();
    (start(&dir.path().join("venue.ledger")).await, dir)
}

impl Bench {
    async fn quote(&self, ask_qty: &str) {
        let quote = Quote {
            symbol: symbol(),
            bid: "100".parse().unwrap(),
            bid_qty: "1".parse().unwrap(),
            ask: "101".parse().unwrap(),
            ask_qty: ask_qty.parse().unwrap(),
            at: Timestamp::default(),
        };
        self.venue.on_market(Arc::new(Market::Quote(quote))).await;
    }

    async fn send(&self, id: &str, kind: OrderKind) -> SendResult {
        let order = NewOrder {
            client_id: ClientOrderId::from_venue(id),
            symbol: symbol(),
            side: Side::Buy,
            kind,
            tif: TimeInForce::Gtc,
            qty: "0.1".parse().unwrap(),
            timestamp: system_now(),
        };
        self.gateway.send(&order).await
    }

    async fn rest(&self, id: &str) -> SendResult {
        self.send(id, OrderKind::Limit { price: "90".parse().unwrap() }).await
    }

    async fn buy(&self, id: &str) -> SendResult {
        self.send(id, OrderKind::Market).await
    }

    async fn query(&self, id: &str) -> QueryResult {
        self.gateway.query(&symbol(), &ClientOrderId::from_venue(id), true).await
    }

    fn set(&self, faults: Faults) {
        self.venue.set_faults(faults).unwrap();
    }

    fn fired(&self) -> Fired {
        self.venue.faults().1
    }

    fn posts(&self) -> Vec<ledger::Post> {
        ledger::read(self.venue.ledger()).unwrap().accounts["main"].posts.clone()
    }

    /// Ends the venue as its owner does.
    async fn close(self) {
        self.venue.close();
        timeout(LIMIT, self.driver).await.unwrap().unwrap().unwrap();
    }
}

fn once() -> Switch {
    Switch { on: Scope::Post, times: Some(1) }
}

fn delay(ms: u64) -> Delay {
    Delay { ms, on: Scope::Post, times: Some(1) }
}

fn is_unknown(result: &SendResult) -> bool {
    matches!(result, SendResult::Unknown { .. })
}

async fn next(events: &mut mpsc::Receiver<StreamEvent>) -> StreamEvent {
    timeout(LIMIT, events.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_answer_comes_after_the_ledger_has_it_and_reads_agree_with_it() {
    let (bench, _dir) = fresh().await;
    let SendResult::Accepted(report) = bench.buy("1").await else { panic!() };
    let image = ledger::read(bench.venue.ledger()).unwrap();
    assert_eq!(image.accounts["main"].orders[&report.venue_id].status, VenueStatus::Filled);
    assert_eq!(image.accounts["main"].fills, report.fills);
    assert_eq!(bench.gateway.fills(&symbol(), None, 10).await.unwrap(), report.fills);
    assert_eq!(bench.gateway.balances().await.unwrap(), image.accounts["main"].balances);
    assert_eq!(bench.gateway.symbols().await.unwrap()[0].symbol, symbol());
    assert!(matches!(bench.rest("2").await, SendResult::Accepted(r) if r.status == VenueStatus::New));
    assert_eq!(bench.gateway.open_orders().await.unwrap().len(), 1);
    let id = ClientOrderId::from_venue("2");
    assert!(matches!(bench.gateway.cancel(&symbol(), &id).await, CancelResult::Canceled(_)));
    assert_eq!(bench.gateway.cancel(&symbol(), &id).await, CancelResult::UnknownOrder);
    assert!(matches!(bench.query("2").await, QueryResult::Found(r) if r.status == VenueStatus::Canceled));
    assert_eq!(bench.query("3").await, QueryResult::NotFound { thorough: true });
    bench.close().await;
}

#[tokio::test]
async fn many_accounts_and_orders_at_once_are_all_answered() {
    let (bench, _dir) = fresh().await;
    let bench = Arc::new(bench);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let bench = Arc::clone(&bench);
        tasks.spawn(async move { bench.rest(&format!("o{n}")).await });
    }
    while let Some(result) = timeout(LIMIT, tasks.join_next()).await.unwrap() {
        assert!(matches!(result.unwrap(), SendResult::Accepted(_)));
    }
    assert_eq!(bench.posts().len(), 50);
    Arc::into_inner(bench).unwrap().close().await;
}

#[tokio::test]
async fn a_dropped_request_is_unknown_and_never_was() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { drop_requests: Some(once()), ..Faults::default() });
    assert!(is_unknown(&bench.rest("1").await));
    assert_eq!(bench.query("1").await, QueryResult::NotFound { thorough: true });
    assert!(bench.posts().is_empty());
    assert!(matches!(bench.rest("1").await, SendResult::Accepted(_)), "it fired as often as it was to");
    assert_eq!(bench.fired().drop_requests, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_late_request_is_accepted_when_nobody_waits_for_it_any_more() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { delay_processing: Some(delay(700)), ..Faults::default() });
    assert!(is_unknown(&bench.rest("1").await));
    assert_eq!(bench.query("1").await, QueryResult::NotFound { thorough: true }, "which proves nothing yet");
    let found = async { while !matches!(bench.query("1").await, QueryResult::Found(_)) {} };
    timeout(LIMIT, found).await.unwrap();
    assert_eq!(bench.fired().delay_processing, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_request_that_is_later_than_its_window_is_refused() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { delay_processing: Some(delay(1300)), ..Faults::default() });
    assert!(is_unknown(&bench.rest("1").await));
    let arrived = async {
        while bench.posts().is_empty() {
            drop(bench.query("1").await);
        }
    };
    timeout(LIMIT, arrived).await.unwrap();
    let post = bench.posts().remove(0);
    assert!(!post.accepted && post.reason.unwrap().starts_with("-1021"));
    assert_eq!(bench.query("1").await, QueryResult::NotFound { thorough: true });
    bench.close().await;
}

#[tokio::test]
async fn a_dropped_answer_is_unknown_and_the_order_is_there() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { drop_answers: Some(once()), ..Faults::default() });
    assert!(is_unknown(&bench.buy("1").await));
    assert!(matches!(bench.query("1").await, QueryResult::Found(r) if r.status == VenueStatus::Filled));
    assert_eq!(bench.fired().drop_answers, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_late_answer_is_waited_for_until_the_time_is_up() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { delay_answers: Some(delay(150)), ..Faults::default() });
    let start = Instant::now();
    assert!(matches!(bench.rest("1").await, SendResult::Accepted(_)));
    assert!(start.elapsed() >= Duration::from_millis(150));
    bench.set(Faults { delay_answers: Some(delay(60_000)), ..Faults::default() });
    assert!(is_unknown(&bench.rest("2").await));
    assert_eq!(bench.fired().delay_answers, 2);
    bench.close().await;
}

#[tokio::test]
async fn a_held_answer_comes_with_its_release_or_not_at_all() {
    let (bench, _dir) = fresh().await;
    let hold = Faults { hold_answers: Some(once()), ..Faults::default() };
    bench.set(hold.clone());
    let release = async {
        while bench.fired().hold_answers == 0 || bench.posts().is_empty() {
            tokio::task::yield_now().await;
        }
        bench.set(Faults::default());
    };
    let (result, ()) = timeout(LIMIT, async { tokio::join!(bench.rest("1"), release) }).await.unwrap();
    assert!(matches!(result, SendResult::Accepted(_)), "{result:?}");
    bench.set(hold);
    assert!(is_unknown(&bench.rest("2").await));
    assert!(matches!(bench.query("2").await, QueryResult::Found(_)));
    bench.close().await;
}

#[tokio::test]
async fn a_venue_that_hangs_answers_nothing_within_the_time_of_each_request() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { drop_answers: Some(Switch { on: Scope::All, times: None }), ..Faults::default() });
    assert!(is_unknown(&bench.rest("1").await));
    assert!(matches!(bench.query("1").await, QueryResult::Failed { .. }));
    let id = ClientOrderId::from_venue("1");
    assert!(matches!(bench.gateway.cancel(&symbol(), &id).await, CancelResult::Unknown { .. }));
    assert!(matches!(bench.gateway.balances().await, Err(GatewayError::Unavailable(_))));
    assert_eq!(bench.fired().drop_answers, 4);
    bench.close().await;
}

#[tokio::test]
async fn a_rejection_is_definitive_only_if_its_code_is() {
    let (bench, _dir) = fresh().await;
    let reject = |code| Some(Reject { code, reason: "no".into(), times: Some(1) });
    bench.set(Faults { reject: reject(-1015), ..Faults::default() });
    assert_eq!(bench.rest("1").await, SendResult::Refused { code: -1015, reason: "no".into() });
    bench.set(Faults { reject: reject(-1007), ..Faults::default() });
    assert!(is_unknown(&bench.rest("2").await));
    assert_eq!(bench.posts().iter().map(|post| post.accepted).collect::<Vec<_>>(), [false, false]);
    assert_eq!(bench.fired().reject, 2);
    bench.close().await;
}

#[tokio::test]
async fn a_duplicate_means_query_it() {
    let (bench, _dir) = fresh().await;
    bench.set(Faults { say_duplicate: Some(once()), ..Faults::default() });
    assert!(is_unknown(&bench.rest("1").await), "said of an order that it has accepted");
    assert!(matches!(bench.query("1").await, QueryResult::Found(r) if r.status == VenueStatus::New));
    assert!(is_unknown(&bench.rest("1").await), "and of a second POST of the same id");
    assert_eq!(bench.gateway.open_orders().await.unwrap().len(), 1);
    assert_eq!(bench.fired().say_duplicate, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_query_can_be_told_that_there_is_nothing() {
    let (bench, _dir) = fresh().await;
    assert!(matches!(bench.rest("1").await, SendResult::Accepted(_)));
    bench.set(Faults { query_says_none: Some(Switch { on: Scope::Query, times: Some(2) }), ..Faults::default() });
    for _ in 0..2 {
        assert!(matches!(bench.query("1").await, QueryResult::NotFound { .. }));
    }
    assert!(matches!(bench.query("1").await, QueryResult::Found(_)));
    assert_eq!(bench.fired().query_says_none, 2);
    bench.close().await;
}

#[tokio::test]
async fn withheld_fills_are_reported_first_and_shown_later() {
    let (bench, _dir) = fresh().await;
    let mut events = bench.gateway.subscribe().await.unwrap();
    assert_eq!(next(&mut events).await, StreamEvent::Up);
    bench.set(Faults { withhold_fills: Some(delay(300)), ..Faults::default() });
    let SendResult::Accepted(report) = bench.buy("1").await else { panic!() };
    assert!(report.status == VenueStatus::Filled && report.fills.is_empty(), "{report:?}");
    assert!(matches!(bench.buy("2").await, SendResult::Accepted(r) if r.fills.len() == 1));
    assert_eq!(bench.gateway.fills(&symbol(), None, 10).await.unwrap(), [], "nor any fill after a withheld one");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let StreamEvent::Report(report) = next(&mut events).await else { panic!() };
        seen.push((report.client_id.to_string(), report.fills.len()));
    }
    assert_eq!(seen, [("1".into(), 0), ("2".into(), 1), ("1".into(), 1)]);
    assert_eq!(bench.gateway.fills(&symbol(), None, 10).await.unwrap().len(), 2);
    assert_eq!(bench.fired().withhold_fills, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_cut_stream_says_so_loses_what_happens_and_comes_back() {
    let (bench, _dir) = fresh().await;
    let mut events = bench.gateway.subscribe().await.unwrap();
    bench.set(Faults { cut_stream: Some(delay(50)), ..Faults::default() });
    assert!(matches!(bench.rest("lost").await, SendResult::Accepted(_)));
    for expected in [StreamEvent::Up, StreamEvent::Down, StreamEvent::Up] {
        assert_eq!(next(&mut events).await, expected);
    }
    assert!(matches!(bench.rest("seen").await, SendResult::Accepted(_)));
    assert!(matches!(next(&mut events).await, StreamEvent::Report(r) if r.client_id.as_str() == "seen"));
    assert_eq!(bench.fired().cut_stream, 1);
    bench.close().await;
}

#[tokio::test]
async fn a_consumer_that_falls_behind_is_told_and_holds_up_nobody() {
    let (bench, _dir) = fresh().await;
    let mut events = bench.gateway.subscribe().await.unwrap();
    let id = ClientOrderId::from_venue("again");
    for _ in 0..STREAM_QUEUE / 2 + 10 {
        assert!(matches!(bench.rest("again").await, SendResult::Accepted(_)));
        assert!(matches!(bench.gateway.cancel(&symbol(), &id).await, CancelResult::Canceled(_)));
    }
    assert_eq!(next(&mut events).await, StreamEvent::Up);
    let mut reports = 0;
    while matches!(next(&mut events).await, StreamEvent::Report(_)) {
        reports += 1;
    }
    assert!(reports < STREAM_QUEUE, "then it was told that it is down");
    assert_eq!(next(&mut events).await, StreamEvent::Up);
    assert!(matches!(bench.rest("seen").await, SendResult::Accepted(_)));
    assert!(matches!(next(&mut events).await, StreamEvent::Report(r) if r.client_id.as_str() == "seen"));
    bench.close().await;
}

#[tokio::test]
async fn a_venue_that_is_dropped_and_torn_comes_back_with_all_that_it_answered() {
    let (bench, dir) = fresh().await;
    let path = dir.path().join("venue.ledger");
    assert!(matches!(bench.buy("1").await, SendResult::Accepted(_)));
    assert!(matches!(bench.rest("2").await, SendResult::Accepted(_)));
    let balances = bench.gateway.balances().await.unwrap();
    let Bench { venue, gateway, driver } = bench;
    drop((venue, gateway));
    timeout(LIMIT, driver).await.unwrap().unwrap().unwrap();
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice(b"00000000 [{\"post\":");
    std::fs::write(&path, torn).unwrap();
    let bench = start(&path).await;
    assert_eq!(bench.gateway.balances().await.unwrap(), balances);
    assert!(matches!(bench.query("1").await, QueryResult::Found(r) if r.status == VenueStatus::Filled));
    assert_eq!(bench.gateway.open_orders().await.unwrap().len(), 1);
    assert!(is_unknown(&bench.rest("2").await), "it is open, so its id is a duplicate");
    bench.close().await;
}

#[tokio::test]
async fn a_venue_whose_ledger_cannot_be_written_is_down() {
    let (bench, dir) = fresh().await;
    bench.close().await;
    // A file in memory that is sealed against growth fails like a full disk.
    let memory = memfd_create("ledger", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
    std::fs::write(&path, std::fs::read(dir.path().join("venue.ledger")).unwrap()).unwrap();
    let bench = start(&path).await;
    let mut events = bench.gateway.subscribe().await.unwrap();
    assert!(matches!(bench.rest("1").await, SendResult::Accepted(_)));
    fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
    assert!(is_unknown(&bench.rest("2").await));
    assert!(is_unknown(&bench.rest("3").await));
    assert!(matches!(bench.query("1").await, QueryResult::Failed { .. }));
    assert!(bench.gateway.open_orders().await.is_err());
    while next(&mut events).await != StreamEvent::Down {}
    let image = ledger::read(&path).unwrap();
    assert_eq!(image.accounts["main"].orders.len(), 1);
    bench.close().await;
}

#[tokio::test]
async fn a_closed_venue_takes_nothing_and_says_that_nothing_was_sent() {
    let (bench, _dir) = fresh().await;
    bench.venue.close();
    let (venue, gateway) = (bench.venue.clone(), bench.gateway.clone());
    timeout(LIMIT, bench.driver).await.unwrap().unwrap().unwrap();
    let order = NewOrder {
        client_id: ClientOrderId::from_venue("1"),
        symbol: symbol(),
        side: Side::Buy,
        kind: OrderKind::Market,
        tif: TimeInForce::Gtc,
        qty: "1".parse().unwrap(),
        timestamp: system_now(),
    };
    assert!(matches!(gateway.send(&order).await, SendResult::NotSent { .. }));
    assert!(matches!(gateway.balances().await, Err(GatewayError::Unavailable(_))));
    assert!(matches!(venue.gateway("other").await, Err(GatewayError::Unavailable(_))));
}

#[tokio::test]
async fn settings_that_cannot_hold_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("venue.ledger");
    let window = RequestWindow { recv_window: TIMEOUT, absence_margin: TIMEOUT, request_timeout: TIMEOUT };
    let good = PaperConfig {
        ledger: None,
        opening: BTreeMap::new(),
        maker_fee_bps: 0,
        taker_fee_bps: 0,
        latency_ms: 0,
        allow_faults: false,
    };
    let fee = PaperConfig { taker_fee_bps: 10_000, ..good.clone() };
    assert!(matches!(PaperVenue::open(&path, vec![], &fee, window), Err(PaperError::Fee(10_000))));
    let debt = PaperConfig { opening: BTreeMap::from([("USDT".into(), "-1".parse().unwrap())]), ..good.clone() };
    assert!(matches!(PaperVenue::open(&path, vec![], &debt, window), Err(PaperError::Opening(_))));
    let (venue, _driver) = PaperVenue::open(&path, vec![], &good, window).unwrap();
    assert_eq!(venue.set_faults(Faults::default()), Err(FaultsForbidden));
    assert!(matches!(PaperVenue::open(&path, vec![], &good, window), Err(PaperError::Ledger(LedgerError::Locked(_)))));
}

#[test]
fn faults_are_set_by_json_and_a_word_that_is_none_is_an_error() {
    let faults: Faults = serde_json::from_str(
        r#"{"delay_answers": {"ms": 5, "times": 2, "on": "all"}, "hold_answers": {}, "reject": {"code": -1013, "reason": "x"}}"#,
    )
    .unwrap();
    assert_eq!(faults.delay_answers, Some(Delay { ms: 5, on: Scope::All, times: Some(2) }));
    assert_eq!(faults.hold_answers, Some(Switch::default()));
    assert_eq!(serde_json::from_str::<Faults>("{}").unwrap(), Faults::default());
    for bad in [r#"{"dealy_answers": {"ms": 5}}"#, r#"{"hold_answers": {"tims": 1}}"#, r#"{"delay_answers": {}}"#] {
        assert!(serde_json::from_str::<Faults>(bad).is_err(), "{bad}");
    }
}
