use std::io::Write;

use trading::market::Symbol;

use super::*;
use crate::config::{MarketSource, ReplayConfig, SymbolConfig};

const LIMIT: Duration = Duration::from_secs(10);

fn clock() -> Clock {
    Clock::standing(Timestamp::from_millis(42))
}

fn config() -> MarketConfig {
    MarketConfig {
        source: MarketSource::Synthetic,
        seed: 7,
        quotes_per_second: 10,
        replay: None,
        symbols: vec![SymbolConfig {
            symbol: "BTCUSDT".into(),
            base: "BTC".into(),
            quote: "USDT".into(),
            tick: "0.01".parse().unwrap(),
            lot: "0.00001".parse().unwrap(),
            min_qty: "0.00001".parse().unwrap(),
            min_notional: "5".parse().unwrap(),
            max_open_orders: 10,
            start_price: "87000".parse().unwrap(),
        }],
    }
}

fn binance() -> BinanceConfig {
    BinanceConfig {
        rest_url: String::new(),
        ws_api_url: String::new(),
        ws_stream_url: "ws://127.0.0.1:9".into(),
        reconcile_ms: 30_000,
        clock_sync_ms: 60_000,
        silence_ms: 60_000,
        rotate_ms: 82_800_000,
        weight_reserve_percent: 20,
    }
}

fn replay(speed: u32) -> (MarketConfig, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for (id, ms) in [(1, 0), (2, 1_000), (3, 60_000)] {
        writeln!(file, "{id},87000,0.1,8700,{},True,True", 1_742_944_020_000_i64 + ms).unwrap();
    }
    let files = ReplayConfig { symbol: "BTCUSDT".into(), trades: Some(file.path().into()), book: None, speed };
    (MarketConfig { source: MarketSource::Replay, replay: Some(files), ..config() }, file)
}

/// Runs a feed for as long as `watch` takes.
async fn running<T>(config: &MarketConfig, watch: impl AsyncFnOnce(MarketHub) -> T) -> T {
    let (runner, hub) = MarketRunner::open(config, &binance(), clock()).unwrap();
    let stop = CancellationToken::new();
    let watched = async {
        let result = watch(hub).await;
        stop.cancel();
        result
    };
    let both = async { tokio::join!(biased; watched, runner.run(None, stop.clone())) };
    let (result, ran) = tokio::time::timeout(LIMIT * 60, both).await.unwrap();
    ran.unwrap();
    result
}

#[tokio::test(start_paused = true)]
async fn a_synthetic_feed_comes_at_its_rate_with_the_time_now() {
    let elapsed = running(&config(), async |hub| {
        let mut events = hub.subscribe();
        let start = Instant::now();
        let mut quotes = 0;
        while quotes < 21 {
            let event = events.recv().await.unwrap();
            assert_eq!(event.at(), clock().now());
            quotes += usize::from(matches!(*event, Market::Quote(_)));
        }
        start.elapsed()
    })
    .await;
    assert!((Duration::from_millis(1_990)..Duration::from_millis(2_110)).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replay_runs_at_its_speed_and_then_says_that_it_is_finished() {
    for (speed, expected_ms) in [(1, 60_000), (60, 1_000), (0, 0)] {
        let (config, _file) = replay(speed);
        let (count, elapsed) = running(&config, async |hub| {
            let mut events = hub.subscribe();
            let start = Instant::now();
            hub.finished().wait_for(|finished| *finished).await.unwrap();
            let mut count = 0;
            while events.try_recv().is_ok() {
                count += 1;
            }
            (count, start.elapsed())
        })
        .await;
        assert_eq!(count, 3);
        let expected = Duration::from_millis(expected_ms);
        assert!(expected <= elapsed && elapsed < expected + Duration::from_millis(20), "{speed}: {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_was_frozen_does_not_rush_through_what_it_missed() {
    let mut pace = Pace { speed: 1, origin: None };
    let start = Instant::now();
    assert_eq!(pace.due(Timestamp::from_millis(0), start), None);
    assert_eq!(pace.due(Timestamp::from_millis(100), start), Some(start + Duration::from_millis(100)));
    let thawed = start + Duration::from_hours(1);
    assert_eq!(pace.due(Timestamp::from_millis(200), thawed), None);
    assert_eq!(pace.due(Timestamp::from_millis(300), thawed), Some(thawed + Duration::from_millis(100)));
}

#[tokio::test]
async fn a_replay_without_files_and_a_symbol_that_is_none_are_errors() {
    let nothing = MarketConfig { source: MarketSource::Replay, ..config() };
    assert!(matches!(MarketRunner::open(&nothing, &binance(), clock()), Err(MarketError::NothingToReplay)));
    let mut bad = config();
    bad.symbols[0].symbol = "btc".into();
    assert!(matches!(MarketRunner::open(&bad, &binance(), clock()), Err(MarketError::Symbol(_))));
    assert!(matches!(super::super::symbols(&bad), Err(MarketError::Symbol(_))));
    let info = super::super::symbols(&config()).unwrap().remove(0);
    assert_eq!(info.symbol, "BTCUSDT".parse::<Symbol>().unwrap());
}

#[tokio::test]
async fn a_damaged_file_ends_the_feed_with_an_error() {
    let (config, mut file) = replay(0);
    writeln!(file, "4,none,0.1,8700,1742944090000,True,True").unwrap();
    let (runner, _hub) = MarketRunner::open(&config, &binance(), clock()).unwrap();
    let result = tokio::time::timeout(LIMIT, runner.run(None, CancellationToken::new())).await.unwrap();
    assert!(matches!(result, Err(MarketError::Feed(_))), "{result:?}");
}
