//! What must hold between the values. Each fault names a key, what it holds, and what to do.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use rust_decimal::Decimal;
use tracing_subscriber::EnvFilter;
use trading::market::Symbol;
use trading::money::{Price, Qty};

use super::binance::{endpoint_fault, secret_file_fault};
use super::redis::parse_redis_url;
use super::{AccountConfig, BINANCE, Config, MarketSource, PAPER, ReplayConfig, SymbolConfig};

/// A lease shorter than this is lost to an ordinary pause of the disk or the scheduler.
const MIN_LEASE_TTL_MS: u64 = 3_000;
/// Binance refuses a larger `recvWindow` (spot API documentation, "Timing security").
const MAX_RECV_WINDOW_MS: u64 = 60_000;
/// No queue needs more, and its memory is bounded by it.
const MAX_QUEUE: usize = 1_000_000;

/// A consumer that lives says so three times as often as this.
const MIN_CLAIM_AFTER_MS: u64 = 1_000;

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Such as `shutdown.deadline_ms`.
    pub key: String,
    /// What it holds.
    pub given: String,
    /// What is wrong and what to do about it.
    pub remedy: String,
    /// The keys that it contradicts.
    pub related: &'static [&'static str],
}

/// Everything that keeps this configuration from being used; empty if it can be.
pub fn validate(config: &Config) -> Vec<Unfit> {
    let mut faults = Faults::default();
    server(config, &mut faults);
    instance(config, &mut faults);
    store(config, &mut faults);
    accounts(config, &mut faults);
    venue(config, &mut faults);
    binance(config, &mut faults);
    market(config, &mut faults);
    stream(config, &mut faults);
    redis(config, &mut faults);
    shutdown(config, &mut faults);
    faults.0
}

#[derive(Default)]
struct Faults(Vec<Unfit>);

impl Faults {
    fn add(&mut self, key: impl Into<String>, given: impl Display, remedy: impl Into<String>) {
        self.0.push(Unfit { key: key.into(), given: given.to_string(), remedy: remedy.into(), related: &[] });
    }

    fn unless(&mut self, holds: bool, key: impl Into<String>, given: impl Display, remedy: impl Into<String>) {
        if !holds {
            self.add(key, given, remedy);
        }
    }

    /// For a value that is wrong only together with others: `related` names them.
    fn agree(
        &mut self,
        holds: bool,
        key: &str,
        given: impl Display,
        related: &'static [&'static str],
        remedy: impl Into<String>,
    ) {
        if !holds {
            self.0.push(Unfit { key: key.into(), given: given.to_string(), remedy: remedy.into(), related });
        }
    }

    fn above_zero<T: Display + Default + PartialEq>(&mut self, values: &[(&str, T)]) {
        for (key, value) in values {
            self.unless(*value != T::default(), *key, value, "must be above 0");
        }
    }
}

fn server(config: &Config, faults: &mut Faults) {
    let server = &config.server;
    faults.above_zero(&[
        ("server.max_connections", server.max_connections),
        ("server.body_limit_bytes", server.body_limit_bytes),
    ]);
    faults.above_zero(&[
        ("server.header_timeout_ms", server.header_timeout_ms),
        ("server.body_timeout_ms", server.body_timeout_ms),
        ("server.write_timeout_ms", server.write_timeout_ms),
        ("server.idle_timeout_ms", server.idle_timeout_ms),
        ("server.request_timeout_ms", server.request_timeout_ms),
    ]);
    faults.agree(
        server.body_timeout_ms <= server.request_timeout_ms,
        "server.body_timeout_ms",
        server.body_timeout_ms,
        &["server.request_timeout_ms"],
        format!("must not exceed server.request_timeout_ms = {}, which includes it", server.request_timeout_ms),
    );
    for (index, origin) in server.allowed_origins.iter().enumerate() {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://")).unwrap_or_default();
        let bare = !host.is_empty() && !host.contains(['/', '*', ' ', '?', '#']);
        let key = format!("server.allowed_origins[{index}]");
        faults.unless(
            bare,
            key,
            origin,
            "write scheme and host, without path or wildcard, such as https://desk.example",
        );
    }
    if let Some(bind) = config.admin.bind {
        faults.unless(
            bind.ip().is_loopback(),
            "admin.bind",
            bind,
            "must be a loopback address such as 127.0.0.1:8001; it asks for no credentials",
        );
        faults.unless(
            bind != config.server.bind || bind.port() == 0,
            "admin.bind",
            bind,
            "is the public listener's address too; choose another port, or remove it to use the Unix socket only",
        );
    }
    faults.unless(!config.data_dir.as_os_str().is_empty(), "data_dir", "\"\"", "name a directory, such as data");
    if let Err(error) = EnvFilter::try_new(&config.log.filter) {
        let remedy = format!("is not a filter ({error}); write such as info or info,hotgo::engines=debug");
        faults.add("log.filter", &config.log.filter, remedy);
    }
}

fn instance(config: &Config, faults: &mut Faults) {
    let instance = &config.instance;
    if let Some(name) = &instance.name {
        let fits = (1..=64).contains(&name.len()) && !name.chars().any(char::is_control);
        faults.unless(fits, "instance.name", name, "use 1 to 64 characters, or remove it to use the host's name");
    }
}

fn store(config: &Config, faults: &mut Faults) {
    let store = &config.store;
    faults.unless(
        (2..=1_000).contains(&store.max_connections),
        "store.max_connections",
        store.max_connections,
        "must be between 2 and 1000: one connection writes, the others read",
    );
    if let Err(fault) = config.database() {
        let given = match fault.key {
            "store.password_file" => {
                store.password_file.as_deref().map_or_else(String::new, |path| path.display().to_string())
            }
            _ => store.url.clone().unwrap_or_default(),
        };
        faults.agree(false, fault.key, given, &["store.path", "store.url", "store.password_file"], fault.problem);
    }
}

fn accounts(config: &Config, faults: &mut Faults) {
    let trading = &config.trading;
    faults.unless(
        !trading.namespace.is_empty(),
        "trading.namespace",
        "\"\"",
        "name this installation, such as hotgo; it keeps its orders apart from others' at the same venue",
    );
    faults.unless(
        !trading.accounts.is_empty(),
        "trading.accounts",
        "[]",
        "add an account: {label: main, venue: paper}",
    );
    let mut labels = BTreeSet::new();
    for (index, account) in trading.accounts.iter().enumerate() {
        let key = |name: &str| format!("trading.accounts[{index}].{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let fits = (1..=64).contains(&account.label.len()) && account.label.chars().all(plain);
        faults.unless(fits, key("label"), &account.label, "use 1 to 64 letters, digits, `-`, `_` or `.`");
        faults.unless(
            labels.insert(&account.label),
            key("label"),
            &account.label,
            "is taken by an account above; choose another",
        );
        match account.venue.as_str() {
            PAPER => {}
            BINANCE => credentials(account, &key, faults),
            unknown => faults.add(key("venue"), unknown, "there is no such venue; write paper or binance"),
        }
    }
    queue("trading.queue", trading.queue, faults);
    faults.unless(
        trading.lease_ttl_ms >= MIN_LEASE_TTL_MS,
        "trading.lease_ttl_ms",
        trading.lease_ttl_ms,
        format!("must be at least {MIN_LEASE_TTL_MS}: a shorter lease is lost to an ordinary pause"),
    );
    faults.above_zero(&[("trading.signal_ttl_ms", trading.signal_ttl_ms)]);
    let limits = &trading.limits;
    for (name, value) in
        [("max_order_notional", limits.max_order_notional), ("max_position_notional", limits.max_position_notional)]
    {
        if let Some(value) = value.filter(|value| value.get() <= Decimal::ZERO) {
            faults.add(format!("trading.limits.{name}"), value, "must be above 0; remove it to have no limit");
        }
    }
    for (name, value) in
        [("max_open_orders", limits.max_open_orders), ("max_orders_per_minute", limits.max_orders_per_minute)]
    {
        if let Some(value) = value.filter(|value| *value == 0) {
            faults.add(format!("trading.limits.{name}"), value, "must be above 0; remove it to have no limit");
        }
    }
}

/// What an account at a real venue needs.
fn credentials(account: &AccountConfig, key: &dyn Fn(&str) -> String, faults: &mut Faults) {
    let api_key = account.api_key.as_deref().unwrap_or_default();
    faults.agree(
        !api_key.is_empty() && api_key.bytes().all(|b| b.is_ascii_alphanumeric()),
        &key("api_key"),
        if api_key.is_empty() { "nothing" } else { api_key },
        &["trading.accounts"],
        "write the API key that the venue gave you, letters and digits only",
    );
    match &account.secret_file {
        None => faults.agree(
            false,
            &key("secret_file"),
            "nothing",
            &["trading.accounts"],
            "name the file that holds the key's secret: an HMAC secret, or an Ed25519 private key as PKCS#8 PEM",
        ),
        Some(path) => {
            if let Some(fault) = secret_file_fault(path) {
                faults.add(key("secret_file"), path.display(), fault);
            }
        }
    }
}

fn binance(config: &Config, faults: &mut Faults) {
    let binance = &config.venue.binance;
    for (name, url, secure, plain) in [
        ("rest_url", &binance.rest_url, "https", "http"),
        ("ws_api_url", &binance.ws_api_url, "wss", "ws"),
        ("ws_stream_url", &binance.ws_stream_url, "wss", "ws"),
    ] {
        if let Some(fault) = endpoint_fault(url, secure, plain) {
            faults.add(format!("venue.binance.{name}"), url, fault);
        }
    }
    faults.above_zero(&[
        ("venue.binance.reconcile_ms", binance.reconcile_ms),
        ("venue.binance.clock_sync_ms", binance.clock_sync_ms),
        ("venue.binance.silence_ms", binance.silence_ms),
    ]);
    faults.unless(
        (1..86_400_000).contains(&binance.rotate_ms),
        "venue.binance.rotate_ms",
        binance.rotate_ms,
        "must be above 0 and below 86400000: the venue ends a connection after 24 hours",
    );
    faults.unless(
        (1..=50).contains(&binance.weight_reserve_percent),
        "venue.binance.weight_reserve_percent",
        binance.weight_reserve_percent,
        "must be between 1 and 50: cancels need some, and entries the rest",
    );
    let used = config.trading.accounts.iter().any(|account| account.venue == BINANCE);
    faults.agree(
        !used || config.venue.request_timeout_ms >= config.venue.recv_window_ms,
        "venue.request_timeout_ms",
        config.venue.request_timeout_ms,
        &["venue.recv_window_ms"],
        format!(
            "must be at least venue.recv_window_ms = {}, or orders are given up for unknown that the venue still takes",
            config.venue.recv_window_ms
        ),
    );
}

fn venue(config: &Config, faults: &mut Faults) {
    let venue = &config.venue;
    faults.unless(
        (1..=MAX_RECV_WINDOW_MS).contains(&venue.recv_window_ms),
        "venue.recv_window_ms",
        venue.recv_window_ms,
        format!("must be between 1 and {MAX_RECV_WINDOW_MS}, the most that venues accept"),
    );
    faults.above_zero(&[
        ("venue.absence_margin_ms", venue.absence_margin_ms),
        ("venue.request_timeout_ms", venue.request_timeout_ms),
    ]);
    let paper = &venue.paper;
    faults.agree(
        paper.latency_ms < venue.request_timeout_ms || paper.latency_ms == 0,
        "venue.paper.latency_ms",
        paper.latency_ms,
        &["venue.request_timeout_ms"],
        format!(
            "must stay below venue.request_timeout_ms = {}, or no order is ever answered",
            venue.request_timeout_ms
        ),
    );
    for (key, fee) in
        [("venue.paper.maker_fee_bps", paper.maker_fee_bps), ("venue.paper.taker_fee_bps", paper.taker_fee_bps)]
    {
        faults.unless(fee < 10_000, key, fee, "must be below 10000, which is the whole amount");
    }
    for (asset, amount) in &paper.opening {
        let key = format!("venue.paper.opening.{asset}");
        faults.unless(is_asset(asset), &*key, amount, "name an asset in capitals and digits, such as USDT");
        faults.unless(amount.get() >= Decimal::ZERO, key, amount, "must not be negative; write \"0\" for none");
    }
}

fn market(config: &Config, faults: &mut Faults) {
    let market = &config.market;
    if market.source == MarketSource::Synthetic {
        faults.unless(
            (1..=1_000).contains(&market.quotes_per_second),
            "market.quotes_per_second",
            market.quotes_per_second,
            "must be between 1 and 1000",
        );
    }
    faults.unless(
        !market.symbols.is_empty(),
        "market.symbols",
        "[]",
        "add a symbol; see manifest/config/defaults.yaml",
    );
    let mut names = BTreeSet::new();
    for (index, symbol) in market.symbols.iter().enumerate() {
        let prefix = format!("market.symbols[{index}]");
        faults.unless(
            names.insert(symbol.symbol.as_str()),
            format!("{prefix}.symbol"),
            &symbol.symbol,
            "stands twice; remove one",
        );
        filters(&prefix, symbol, faults);
    }
    match (&market.replay, market.source) {
        (None, MarketSource::Replay) => {
            faults.add(
                "market.source",
                "replay",
                "needs the section market.replay (symbol, trades or book, speed); or write synthetic",
            );
        }
        (Some(replay), source) => replayed(replay, &names, source == MarketSource::Replay, faults),
        (None, MarketSource::Synthetic | MarketSource::Binance) => {}
    }
}

fn filters(prefix: &str, symbol: &SymbolConfig, faults: &mut Faults) {
    let key = |name: &str| format!("{prefix}.{name}");
    if let Err(error) = Symbol::from_str(&symbol.symbol) {
        faults.add(key("symbol"), &symbol.symbol, error.to_string());
    }
    for (name, asset) in [("base", &symbol.base), ("quote", &symbol.quote)] {
        faults.unless(is_asset(asset), key(name), asset, "name an asset in capitals and digits, such as USDT");
    }
    faults.unless(symbol.base != symbol.quote, key("quote"), &symbol.quote, "must differ from base");
    let (tick, lot) = (symbol.tick.get(), symbol.lot.get());
    let numbers = [
        ("tick", Price::from_str(&symbol.tick.to_string()).err()),
        ("lot", Qty::from_str(&symbol.lot.to_string()).err()),
        ("min_qty", Qty::from_str(&symbol.min_qty.to_string()).err()),
        ("min_notional", Price::from_str(&symbol.min_notional.to_string()).err()),
        ("start_price", Price::from_str(&symbol.start_price.to_string()).err()),
    ];
    for (name, error) in &numbers {
        if let Some(error) = error {
            faults.add(key(name), format!("in {}", symbol.symbol), format!("{error}; write such as \"0.01\""));
        }
    }
    if numbers.iter().all(|(_, error)| error.is_none()) {
        let multiple = |value: Decimal, step: Decimal| (value % step).is_zero();
        faults.unless(
            multiple(symbol.min_qty.get(), lot),
            key("min_qty"),
            symbol.min_qty,
            format!("must be a multiple of lot = {lot}"),
        );
        faults.unless(
            multiple(symbol.start_price.get(), tick) && symbol.start_price.get() > tick,
            key("start_price"),
            symbol.start_price,
            format!("must be a multiple of tick = {tick}, and above it"),
        );
    }
    faults.unless(symbol.max_open_orders > 0, key("max_open_orders"), symbol.max_open_orders, "must be above 0");
}

fn replayed(replay: &ReplayConfig, known: &BTreeSet<&str>, in_use: bool, faults: &mut Faults) {
    if !known.contains(replay.symbol.as_str()) {
        let list = known.iter().copied().collect::<Vec<_>>().join(", ");
        faults.add(
            "market.replay.symbol",
            &replay.symbol,
            format!("is not among market.symbols ({list}); add it there"),
        );
    }
    faults.unless(
        replay.trades.is_some() || replay.book.is_some(),
        "market.replay",
        "no file",
        "name a file in market.replay.trades or market.replay.book",
    );
    for (name, path) in [("trades", &replay.trades), ("book", &replay.book)] {
        let missing = path.as_deref().filter(|path: &&Path| in_use && !path.is_file());
        if let Some(path) = missing {
            faults.add(format!("market.replay.{name}"), path.display(), "there is no such file; correct the path");
        }
    }
}

fn stream(config: &Config, faults: &mut Faults) {
    let stream = &config.stream;
    faults.above_zero(&[("stream.max_sessions", stream.max_sessions)]);
    queue("stream.session_queue", stream.session_queue, faults);
    faults.above_zero(&[
        ("stream.auth_timeout_ms", stream.auth_timeout_ms),
        ("stream.ping_interval_ms", stream.ping_interval_ms),
    ]);
}

fn redis(config: &Config, faults: &mut Faults) {
    let redis = &config.redis;
    let parsed = redis.url.as_deref().map(|url| (url, parse_redis_url(url)));
    if let Some((url, Err(fault))) = &parsed {
        faults.add("redis.url", url, fault);
    }
    if let Some(path) = &redis.password_file {
        if let Some(fault) = secret_file_fault(path) {
            faults.add("redis.password_file", path.display(), fault);
        }
        let twice = matches!(&parsed, Some((_, Ok(info))) if info.redis_settings().password().is_some());
        let remedy = "the password stands in redis.url too; take it out there";
        faults.agree(!twice, "redis.password_file", path.display(), &["redis.url"], remedy);
    }
    let plain = |text: &str| (1..=200).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    let names = "use 1 to 200 ASCII characters without spaces, such as hotgo";
    faults.unless(plain(&redis.prefix), "redis.prefix", &redis.prefix, names);
    let Some(signals) = &redis.signals else { return };
    faults.agree(
        redis.url.is_some(),
        "redis.signals",
        &signals.stream,
        &["redis.url"],
        "needs a server; write its URL to redis.url, or remove redis.signals",
    );
    faults.unless(plain(&signals.stream), "redis.signals.stream", &signals.stream, names);
    faults.unless(plain(&signals.group), "redis.signals.group", &signals.group, names);
    faults.above_zero(&[("redis.signals.max_tries", signals.max_tries)]);
    faults.unless(
        signals.claim_after_ms >= MIN_CLAIM_AFTER_MS,
        "redis.signals.claim_after_ms",
        signals.claim_after_ms,
        format!("must be at least {MIN_CLAIM_AFTER_MS}: entries would be taken from consumers that live"),
    );
}

/// What a shutdown that keeps to its rules may take beyond its deadline: `Plan::overrun` of the phases in `boot`.
pub const WATCHDOG_LEAST_MS: u64 = 1_050;

/// With 300 ms one kept connection in 198,000 was reset in upgrades under load; with a second none was.
const SHARED_LINGER_LEAST_MS: u64 = 1_000;

/// The arithmetic of the shutdown: the reserved phases keep their time although the drain took all of its own, the
/// process ends by itself before the watchdog, and the watchdog before the supervisor's SIGKILL.
fn shutdown(config: &Config, faults: &mut Faults) {
    let s = &config.shutdown;
    faults.above_zero(&[
        ("shutdown.stop_accepting_ms", s.stop_accepting_ms),
        ("shutdown.stop_signals_ms", s.stop_signals_ms),
        ("shutdown.persist_reserve_ms", s.persist_reserve_ms),
        ("shutdown.close_streams_ms", s.close_streams_ms),
        ("shutdown.close_stores_reserve_ms", s.close_stores_reserve_ms),
        ("shutdown.watchdog_ms", s.watchdog_ms),
    ]);
    for (key, budget) in [
        ("shutdown.hold_ms", s.hold_ms),
        ("shutdown.stop_accepting_ms", s.stop_accepting_ms),
        ("shutdown.stop_signals_ms", s.stop_signals_ms),
        ("shutdown.order_drain_ms", s.order_drain_ms),
        ("shutdown.persist_reserve_ms", s.persist_reserve_ms),
        ("shutdown.close_streams_ms", s.close_streams_ms),
        ("shutdown.close_stores_reserve_ms", s.close_stores_reserve_ms),
    ] {
        faults.agree(
            budget <= s.deadline_ms,
            key,
            budget,
            &["shutdown.deadline_ms"],
            format!("must not exceed shutdown.deadline_ms = {}", s.deadline_ms),
        );
    }
    let needed = [s.hold_ms, s.order_drain_ms, s.persist_reserve_ms, s.close_stores_reserve_ms]
        .into_iter()
        .fold(0_u64, u64::saturating_add);
    faults.agree(
        needed <= s.deadline_ms,
        "shutdown.deadline_ms",
        s.deadline_ms,
            &["shutdown.hold_ms", "shutdown.order_drain_ms", "shutdown.persist_reserve_ms", "shutdown.close_stores_reserve_ms"],
        format!(
            "must be at least hold_ms {} + order_drain_ms {} + persist_reserve_ms {} + close_stores_reserve_ms {} = {needed}; \
             raise it, or shorten one of them",
            s.hold_ms, s.order_drain_ms, s.persist_reserve_ms, s.close_stores_reserve_ms
        ),
    );
    faults.agree(
        s.watchdog_ms >= WATCHDOG_LEAST_MS || s.watchdog_ms == 0,
        "shutdown.watchdog_ms",
        s.watchdog_ms,
        &[],
        format!("must be at least {WATCHDOG_LEAST_MS}: each of the seven phases may overrun its time by 150 ms"),
    );
    let last = s.deadline_ms.saturating_add(s.watchdog_ms);
    faults.agree(
        last <= s.stop_budget_ms,
        "shutdown.stop_budget_ms",
        s.stop_budget_ms,
            &["shutdown.deadline_ms", "shutdown.watchdog_ms"],
        format!("must be at least deadline_ms + watchdog_ms = {last}; raise it (and the supervisor's TimeoutStopSec), or lower deadline_ms"),
    );
    linger(config, faults);
}

fn linger(config: &Config, faults: &mut Faults) {
    let s = &config.shutdown;
    faults.agree(
        s.linger_ms < s.stop_accepting_ms || s.stop_accepting_ms == 0,
        "shutdown.linger_ms",
        s.linger_ms,
        &["shutdown.stop_accepting_ms"],
        format!("must stay below shutdown.stop_accepting_ms = {}, of which it is a part", s.stop_accepting_ms),
    );
    faults.agree(
        !config.instance.share || s.linger_ms >= SHARED_LINGER_LEAST_MS,
        "shutdown.linger_ms",
        s.linger_ms,
        &["instance.share"],
        format!(
            "must be at least {SHARED_LINGER_LEAST_MS} with instance.share, and shutdown.stop_accepting_ms longer: kept \
             connections are ended one answer after another, so that no request of an upgrade fails"
        ),
    );
}

fn queue(key: &str, size: usize, faults: &mut Faults) {
    faults.unless((1..=MAX_QUEUE).contains(&size), key, size, format!("must be between 1 and {MAX_QUEUE}"));
}

fn is_asset(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}
