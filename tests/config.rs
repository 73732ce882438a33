//! The configuration: where values come from, and what is refused with which words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;

use hotgo::config::{ConfigError, Fault, Loaded, MarketSource, Origin, Problem, Sources, load};
use tempfile::TempDir;

/// Sources that see nothing but what a test gives them.
fn sources(file: &str, env: &[(&str, &str)]) -> (TempDir, Sources) {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("config.yaml"), file).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let sources =
        Sources { dir: Some(dir.path().to_owned()), env, working_dir: dir.path().to_owned(), flags: Vec::new() };
    (dir, sources)
}

fn loaded(file: &str, env: &[(&str, &str)]) -> Loaded {
    let (_dir, sources) = sources(file, env);
    load(&sources).unwrap()
}

fn problems(file: &str, env: &[(&str, &str)]) -> Vec<Problem> {
    let (_dir, sources) = sources(file, env);
    match load(&sources) {
        Err(ConfigError::Invalid(problems)) => problems,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(loaded) => panic!("accepted: {:?}", loaded.config),
    }
}

/// Asserts that the file is refused for exactly this key, and that the message names file, key, value and remedy.
#[track_caller]
fn refused(file: &str, key: &str, given: &str, remedy: &str) {
    let problems = problems(file, &[]);
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line = &lines[0];
    assert!(line.contains("config.yaml: "), "names no file: {line}");
    assert!(
        line.contains(&format!(": {key} = ")) || given.is_empty() && line.contains(key),
        "names no key {key}: {line}"
    );
    assert!(line.contains(given), "does not show {given}: {line}");
    assert!(line.contains(remedy), "does not say {remedy}: {line}");
}

#[test]
fn without_any_file_or_variable_the_defaults_hold() {
    let dir = TempDir::new().unwrap();
    let sources = Sources { dir: None, env: [].into(), working_dir: dir.path().to_owned(), flags: Vec::new() };
    let loaded = load(&sources).unwrap();
    let config = &loaded.config;
    assert_eq!(config.server.bind, "127.0.0.1:8000".parse().unwrap());
    assert_eq!(config.data_dir, PathBuf::from("data"));
    assert_eq!(config.admin.bind, None);
    assert_eq!(config.trading.accounts[0].label, "main");
    assert_eq!(config.market.source, MarketSource::Synthetic);
    assert_eq!(config.market.symbols[0].tick, "0.01".parse().unwrap());
    assert_eq!(config.venue.paper.opening["USDT"], "100000".parse().unwrap());
    assert_eq!(config.shutdown.stop_budget_ms, 45_000);
    assert_eq!(loaded.origin("server.bind"), Origin::Default);
    assert_eq!(loaded.file(), None);
}

#[test]
fn the_shipped_config_file_is_accepted_and_read_from_the_working_directory() {
    let working_dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let sources = Sources { dir: None, env: [].into(), working_dir: working_dir.clone(), flags: Vec::new() };
    load(&sources).unwrap();

    let dir = TempDir::new().unwrap();
    let below = dir.path().join("manifest/config");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("config.yaml"), "log:\n  filter: debug\n").unwrap();
    let sources = Sources { dir: None, env: [].into(), working_dir: dir.path().to_owned(), flags: Vec::new() };
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.log.filter, "debug");
    assert_eq!(loaded.file(), Some(below.join("config.yaml").as_path()));
}

#[test]
fn redis_is_absent_unless_it_has_a_url_and_signals_have_defaults_but_for_their_stream() {
    let nothing = loaded("", &[]).config.redis;
    assert_eq!((nothing.url, nothing.signals, nothing.prefix.as_str()), (None, None, "hotgo"));
    let file = "redis:\n  url: redis://db.internal:6380/1\n  signals:\n    stream: desk\n";
    let signals = loaded(file, &[]).config.redis.signals.unwrap();
    assert_eq!((signals.group.as_str(), signals.max_tries, signals.claim_after_ms), ("hotgo", 5, 10_000));
}

#[test]
fn a_redis_that_cannot_be_used_is_refused_with_a_remedy() {
    refused("redis:\n  url: rediss://host\n", "redis.url", "rediss://host", "not supported");
    refused("redis:\n  url: http://host\n", "redis.url", "http://host", "redis://");
    refused("redis:\n  signals:\n    stream: desk\n", "redis.signals", "desk", "redis.url");
    refused("redis:\n  prefix: a b\n", "redis.prefix", "a b", "without spaces");
    let file = "redis:\n  url: redis://h\n  signals: {stream: desk, claim_after_ms: 5}\n";
    refused(file, "redis.signals.claim_after_ms", "5", "at least 1000");
    refused("redis:\n  password_file: no-such-file\n", "redis.password_file", "no-such-file", "cannot be read");
}

#[test]
fn a_password_in_the_url_of_redis_is_shown_nowhere() {
    let loaded = loaded("redis:\n  url: redis://desk:hunter2@db.internal/0\n", &[]);
    let shown = format!("{:?} {:?}", loaded.config, loaded.settings());
    assert!(!shown.contains("hunter2") && shown.contains("db.internal"), "{shown}");
    let refusals = problems("redis:\n  url: http://desk:hunter2@db.internal/0\n", &[]);
    assert!(!format!("{refusals:?}").contains("hunter2"), "{refusals:?}");
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = "server:\n  bind: 127.0.0.1:1\n  max_connections: 7\ntrading:\n  queue: 9\n";
    let env = [("HOTGO__SERVER__BIND", "127.0.0.1:2"), ("HOTGO__SERVER__MAX_CONNECTIONS", "8")];
    let (dir, mut sources) = sources(file, &env);
    sources.flags.push(("server.bind", "127.0.0.1:3".to_owned(), "--bind"));
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.server.bind.port(), 3);
    assert_eq!(loaded.origin("server.bind"), Origin::Flag("--bind"));
    assert_eq!(loaded.config.server.max_connections, 8);
    assert_eq!(loaded.origin("server.max_connections"), Origin::Variable("HOTGO__SERVER__MAX_CONNECTIONS".to_owned()));
    assert_eq!(loaded.config.trading.queue, 9);
    assert_eq!(loaded.origin("trading.queue"), Origin::File(dir.path().join("config.yaml")));
    assert_eq!(loaded.config.server.idle_timeout_ms, 60_000);
    assert_eq!(loaded.origin("server.idle_timeout_ms"), Origin::Default);
}

#[test]
fn the_directory_comes_from_the_flag_then_our_variable_then_the_plans_variable() {
    let dirs: Vec<TempDir> = (1..=3)
        .map(|n| {
            let dir = TempDir::new().unwrap();
            std::fs::write(dir.path().join("config.yaml"), format!("trading:\n  queue: {n}\n")).unwrap();
            dir
        })
        .collect();
    let path = |n: usize| dirs[n].path().to_str().unwrap().to_owned();
    let mut env = std::collections::BTreeMap::from([("GF_GCFG_PATH".to_owned(), path(0))]);
    let queue = |dir: Option<PathBuf>, env: &std::collections::BTreeMap<String, String>| {
        let sources = Sources { dir, env: env.clone(), working_dir: PathBuf::from("/nonexistent"), flags: Vec::new() };
        load(&sources).unwrap().config.trading.queue
    };
    assert_eq!(queue(None, &env), 1);
    env.insert("HOTGO_CONFIG".to_owned(), path(1));
    assert_eq!(queue(None, &env), 2);
    assert_eq!(queue(Some(dirs[2].path().to_owned()), &env), 3);
}

#[test]
fn a_named_directory_without_the_file_is_refused_and_says_who_named_it() {
    let empty = TempDir::new().unwrap();
    let path = empty.path().to_str().unwrap().to_owned();
    for variable in ["HOTGO_CONFIG", "GF_GCFG_PATH"] {
        let env = [(variable.to_owned(), path.clone())].into();
        let sources = Sources { dir: None, env, working_dir: PathBuf::from("."), flags: Vec::new() };
        let message = load(&sources).unwrap_err().to_string();
        assert!(
            message.contains(variable) && message.contains("config.yaml") && message.contains("create"),
            "{message}"
        );
    }
}

#[test]
fn the_log_directory_has_the_plans_variable_too() {
    assert_eq!(loaded("", &[("GF_GLOG_PATH", "/var/log/a")]).config.log.dir, Some(PathBuf::from("/var/log/a")));
    let both = [("GF_GLOG_PATH", "/var/log/a"), ("HOTGO__LOG__DIR", "/var/log/b")];
    assert_eq!(loaded("", &both).config.log.dir, Some(PathBuf::from("/var/log/b")));
}

#[test]
fn variables_reach_nested_keys_assets_lists_and_optional_numbers() {
    let loaded = loaded(
        "",
        &[
            ("HOTGO__VENUE__PAPER__LATENCY_MS", "50"),
            ("HOTGO__VENUE__PAPER__ALLOW_FAULTS", "true"),
            ("HOTGO__VENUE__PAPER__OPENING__USDT", "5000.5"),
            ("HOTGO__TRADING__ACCOUNTS", "[{label: a, venue: paper}, {label: b, venue: paper}]"),
            ("HOTGO__TRADING__LIMITS__MAX_OPEN_ORDERS", "12"),
            ("HOTGO__TRADING__LIMITS__MAX_ORDER_NOTIONAL", "1000"),
            ("HOTGO__ADMIN__BIND", "[::1]:8001"),
            ("HOTGO__LOG__FILTER", ""),
            ("OTHER__KEY", "1"),
        ],
    );
    let config = &loaded.config;
    assert_eq!(config.venue.paper.latency_ms, 50);
    assert!(config.venue.paper.allow_faults);
    assert_eq!(config.venue.paper.opening["USDT"], "5000.5".parse().unwrap());
    assert_eq!(config.trading.accounts[1].label, "b");
    assert_eq!(config.trading.limits.max_open_orders, Some(12));
    assert_eq!(config.trading.limits.max_order_notional, Some("1000".parse().unwrap()));
    assert_eq!(config.admin.bind, Some("[::1]:8001".parse().unwrap()));
    assert_eq!(config.log.filter, "info", "an empty variable counts as not set");
}

#[test]
fn an_empty_section_changes_nothing() {
    assert_eq!(loaded("server:\nlog:\n  # filter: debug\n", &[]).config, loaded("", &[]).config);
}

#[test]
fn unknown_keys_are_refused_in_the_file_with_the_known_ones() {
    refused("server:\n  bnid: 127.0.0.1:1\n", "server.bnid", "127.0.0.1:1", "`bind`");
    refused("sever:\n  bind: 127.0.0.1:1\n", "sever", "127.0.0.1:1", "`server`");
    refused("venue:\n  paper:\n    latency: 5\n", "venue.paper.latency", "5", "`latency_ms`");
    refused("trading:\n  accounts:\n    - {label: a, venue: paper, x: 1}\n", "trading.accounts[0].x", "1", "`label`");
}

#[test]
fn unknown_keys_are_refused_in_the_environment_with_the_variables_name() {
    let problems = problems("", &[("HOTGO__SERVER__BNID", "127.0.0.1:1"), ("HOTGO__NOPE", "1")]);
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|problem| problem.fault == Fault::UnknownKey));
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(text.iter().any(|line| line.contains("HOTGO__NOPE: nope = \"1\"")), "{text:?}");
    assert!(text.iter().any(|line| line.contains("HOTGO__SERVER__BNID: server.bnid = \"127.0.0.1:1\"")), "{text:?}");
}

#[test]
fn wrong_types_are_refused_and_never_converted() {
    refused("trading:\n  queue: many\n", "trading.queue", "many", "1024");
    refused("trading:\n  queue: 1.5\n", "trading.queue", "1.5", "whole number");
    refused("trading:\n  queue: true\n", "trading.queue", "true", "whole number");
    refused("trading:\n  queue: -1\n", "trading.queue", "-1", "1024");
    refused("trading:\n  queue: \"5\"\n", "trading.queue", "\"5\"", "without quotes");
    refused("trading:\n  queue: [1]\n", "trading.queue", "[1]", "1024");
    refused("venue:\n  paper:\n    allow_faults: 1\n", "venue.paper.allow_faults", "1", "true or false");
    refused("venue:\n  paper:\n    maker_fee_bps: 4294967296\n", "venue.paper.maker_fee_bps", "4294967296", "10");
    refused("trading:\n  namespace: 12\n", "trading.namespace", "12", "quotes");
    refused("server:\n  bind: localhost\n", "server.bind", "localhost", "127.0.0.1:8000");
    refused("log:\n  format: xml\n", "log.format", "xml", "text");
    refused("server: 5\n", "server", "5", "bind");
    refused("trading:\n  accounts:\n    - {label: a}\n", "trading.accounts[0]", "label", "the key `venue` is missing");
}

#[test]
fn decimals_must_be_quoted() {
    refused("venue:\n  paper:\n    opening: {USDT: 0.1}\n", "venue.paper.opening.USDT", "0.1", "quotes: \"0.1\"");
    refused("venue:\n  paper:\n    opening: {USDT: 5}\n", "venue.paper.opening.USDT", "5", "quotes: \"5\"");
    refused("trading:\n  limits: {max_order_notional: 10.5}\n", "trading.limits.max_order_notional", "10.5", "quotes");
    refused("venue:\n  paper:\n    opening: {USDT: \"1e5\"}\n", "venue.paper.opening.USDT", "1e5", "100000");
}

#[test]
fn a_file_that_is_no_yaml_is_refused_with_its_place() {
    for file in ["server: [\n", "- a\n- b\n", "server:\n  bind: a\n  bind: b\n"] {
        let (_dir, sources) = sources(file, &[]);
        let error = load(&sources).unwrap_err();
        assert!(matches!(&error, ConfigError::Syntax { .. }), "{error:?}");
        assert!(error.to_string().contains("config.yaml: "), "{error}");
    }
}

#[test]
fn several_problems_are_reported_together_one_a_line() {
    let file = "server:\n  bnid: x\ntrading:\n  queue: many\n  lease: 1\nstream:\n  max_sessions: 0\n";
    let env = [("HOTGO__SHUTDOWN__STOP_BUDGET_MS", "1"), ("HOTGO__MARKET__SEED", "-3")];
    let (_dir, sources) = sources(file, &env);
    let message = load(&sources).unwrap_err().to_string();
    let lines: Vec<&str> = message.lines().collect();
    for key in ["server.bnid", "trading.queue", "trading.lease", "stream.max_sessions", "stop_budget_ms", "market.seed"]
    {
        assert_eq!(lines.iter().filter(|line| line.contains(key)).count(), 1, "{key} in {message}");
    }
    assert_eq!(lines.len(), 6, "{message}");
}

#[test]
fn the_shutdown_arithmetic_must_hold() {
    let s = |line: &str| format!("shutdown:\n  {line}\n");
    refused(&s("order_drain_ms: 36001"), "shutdown.deadline_ms", "42000", "= 42001");
    refused(&s("hold_ms: 6001"), "shutdown.deadline_ms", "42000", "= 42001");
    refused(&s("watchdog_ms: 3001"), "shutdown.stop_budget_ms", "45000", "= 45001");
    refused(&s("close_streams_ms: 42001"), "shutdown.close_streams_ms", "42001", "shutdown.deadline_ms = 42000");
    refused(&s("linger_ms: 5000"), "shutdown.linger_ms", "5000", "shutdown.stop_accepting_ms = 5000");
    refused(&s("persist_reserve_ms: 0"), "shutdown.persist_reserve_ms", "0", "above 0");
    refused(&s("close_stores_reserve_ms: 0"), "shutdown.close_stores_reserve_ms", "0", "above 0");
    refused(&s("watchdog_ms: 0"), "shutdown.watchdog_ms", "0", "above 0");
    refused(&s("watchdog_ms: 1049"), "shutdown.watchdog_ms", "1049", "at least 1050");
    let huge =
        problems(&s("order_drain_ms: 9223372036854775807"), &[("HOTGO__SHUTDOWN__HOLD_MS", "18446744073709551615")]);
    assert!(huge.iter().any(|problem| problem.key == "shutdown.deadline_ms"), "{huge:?}");
    // What fits exactly is accepted.
    loaded(&s("order_drain_ms: 36000"), &[("HOTGO__SHUTDOWN__WATCHDOG_MS", "3000")]);
}

#[test]
fn listeners_and_limits_that_make_no_sense_are_refused() {
    refused("admin:\n  bind: 0.0.0.0:8001\n", "admin.bind", "0.0.0.0:8001", "loopback");
    refused("admin:\n  bind: 127.0.0.1:8000\n", "admin.bind", "127.0.0.1:8000", "another port");
    refused("server:\n  max_connections: 0\n", "server.max_connections", "0", "above 0");
    refused("server:\n  body_timeout_ms: 30001\n", "server.body_timeout_ms", "30001", "request_timeout_ms = 30000");
    refused("server:\n  allowed_origins: [\"*\"]\n", "server.allowed_origins[0]", "*", "https://");
    refused("server:\n  trusted_proxies: [proxy]\n", "server.trusted_proxies[0]", "proxy", "10.0.0.0/8");
    refused("server:\n  limits: {requests_per_minute: -1}\n", "server.limits.requests_per_minute", "-1", "120000");
    refused("log:\n  filter: \"hotgo=nonsense\"\n", "log.filter", "hotgo=nonsense", "info");
    refused("data_dir: \"\"\n", "data_dir", "\"\"", "directory");
    refused("stream:\n  session_queue: 0\n", "stream.session_queue", "0", "between 1");
}

#[test]
fn accounts_and_venues_that_make_no_sense_are_refused() {
    let accounts = |list: &str| format!("trading:\n  accounts: {list}\n");
    refused(&accounts("[]"), "trading.accounts", "[]", "add an account");
    refused(
        &accounts("[{label: a, venue: paper}, {label: a, venue: paper}]"),
        "trading.accounts[1].label",
        "a",
        "taken",
    );
    refused(&accounts("[{label: a, venue: mtgox}]"), "trading.accounts[0].venue", "mtgox", "paper");
    refused(&accounts("[{label: \"a b\", venue: paper}]"), "trading.accounts[0].label", "a b", "letters");
    refused("trading:\n  queue: 0\n", "trading.queue", "0", "between 1");
    refused("trading:\n  lease_ttl_ms: 2999\n", "trading.lease_ttl_ms", "2999", "at least 3000");
    refused("trading:\n  namespace: \"\"\n", "trading.namespace", "\"\"", "hotgo");
    refused("trading:\n  limits: {max_open_orders: 0}\n", "trading.limits.max_open_orders", "0", "remove it");
    refused("venue:\n  recv_window_ms: 60001\n", "venue.recv_window_ms", "60001", "60000");
    refused("venue:\n  paper: {latency_ms: 10000}\n", "venue.paper.latency_ms", "10000", "request_timeout_ms");
    refused("venue:\n  paper: {maker_fee_bps: 10000}\n", "venue.paper.maker_fee_bps", "10000", "below 10000");
    refused("venue:\n  paper:\n    opening: {USDT: \"-1\"}\n", "venue.paper.opening.USDT", "-1", "negative");
    refused("venue:\n  paper:\n    opening: {usdt: \"1\"}\n", "venue.paper.opening.usdt", "1", "capitals");
}

/// One account at Binance, with a secret file of this mode.
fn at_binance(dir: &TempDir, mode: u32) -> String {
    use std::os::unix::fs::PermissionsExt;
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hmac").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
    format!("[{{label: a, venue: binance, api_key: Key1, secret_file: {}}}]", secret.display())
}

#[test]
fn an_account_at_binance_needs_a_key_and_a_secret_that_nobody_else_can_read() {
    let dir = TempDir::new().unwrap();
    let accounts = |list: &str| format!("trading:\n  accounts: {list}\n");
    let file = "trading.accounts[0].secret_file";
    loaded(&accounts(&at_binance(&dir, 0o600)), &[]);
    refused(&accounts("[{label: a, venue: binance, api_key: K}]"), file, "nothing", "PKCS#8");
    let missing = "[{label: a, venue: binance, api_key: K, secret_file: /no/such/file}]";
    refused(&accounts(missing), file, "/no/such/file", "cannot be read");
    refused(&accounts(&at_binance(&dir, 0o640)), file, "secret", "chmod 600");
    let nameless = at_binance(&dir, 0o600).replace("api_key: Key1, ", "");
    refused(&accounts(&nameless), "trading.accounts[0].api_key", "redacted", "the API key");
    let directory = format!("[{{label: a, venue: binance, api_key: K, secret_file: {}}}]", dir.path().display());
    refused(&accounts(&directory), file, "", "is not a file");
}

#[test]
fn where_binance_is_reached_and_how_must_make_sense() {
    let binance = |line: &str| format!("venue:\n  binance: {{{line}}}\n");
    let key = |name: &str| format!("venue.binance.{name}");
    loaded(&binance("rest_url: \"http://127.0.0.1:9\", ws_api_url: \"ws://localhost:9/x\""), &[]);
    refused(&binance("rest_url: \"http://api.binance.com\""), &key("rest_url"), "api.binance.com", "https://");
    refused(&binance("ws_api_url: \"ws://10.1.1.1/x\""), &key("ws_api_url"), "10.1.1.1", "wss://");
    refused(&binance("ws_stream_url: nonsense"), &key("ws_stream_url"), "nonsense", "not a URL");
    refused(&binance("reconcile_ms: 0"), &key("reconcile_ms"), "0", "above 0");
    refused(&binance("rotate_ms: 86400000"), &key("rotate_ms"), "86400000", "24 hours");
    refused(&binance("weight_reserve_percent: 51"), &key("weight_reserve_percent"), "51", "between 1 and 50");
    let dir = TempDir::new().unwrap();
    let hasty = format!("trading:\n  accounts: {}\nvenue:\n  request_timeout_ms: 4999\n", at_binance(&dir, 0o600));
    refused(&hasty, "venue.request_timeout_ms", "4999", "recv_window_ms = 5000");
}

fn symbol(changed: &str, value: &str) -> String {
    let mut keys = vec![
        ("symbol", "BTCUSDT"),
        ("base", "BTC"),
        ("quote", "USDT"),
        ("tick", "\"0.01\""),
        ("lot", "\"0.001\""),
        ("min_qty", "\"0.001\""),
        ("min_notional", "\"5\""),
        ("max_open_orders", "200"),
        ("start_price", "\"87000\""),
    ];
    for pair in &mut keys {
        if pair.0 == changed {
            pair.1 = value;
        }
    }
    let list: Vec<String> = keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("market:\n  symbols: [{{{}}}]\n", list.join(", "))
}

#[test]
fn symbols_and_filters_that_make_no_sense_are_refused() {
    loaded(&symbol("", ""), &[]);
    let key = |name: &str| format!("market.symbols[0].{name}");
    refused(&symbol("symbol", "btc-usdt"), &key("symbol"), "btc-usdt", "A-Z");
    refused(&symbol("quote", "BTC"), &key("quote"), "BTC", "differ");
    refused(&symbol("tick", "\"0\""), &key("tick"), "", "not above zero");
    refused(&symbol("lot", "\"-1\""), &key("lot"), "", "not above zero");
    refused(&symbol("tick", "\"0.000000001\""), &key("tick"), "", "digits after the point");
    refused(&symbol("tick", "0.01"), &key("tick"), "0.01", "quotes: \"0.01\"");
    refused(&symbol("min_qty", "\"0.0015\""), &key("min_qty"), "0.0015", "multiple of lot");
    refused(&symbol("start_price", "\"87000.001\""), &key("start_price"), "87000.001", "multiple of tick");
    refused(&symbol("max_open_orders", "0"), &key("max_open_orders"), "0", "above 0");
    refused("market:\n  symbols: []\n", "market.symbols", "[]", "add a symbol");
    refused("market:\n  quotes_per_second: 0\n", "market.quotes_per_second", "0", "between 1");
}

#[test]
fn a_replay_needs_its_section_its_files_and_a_known_symbol() {
    refused("market:\n  source: replay\n", "market.source", "replay", "market.replay");
    let dir = TempDir::new().unwrap();
    let trades = dir.path().join("trades.csv");
    let replay = |symbol: &str, file: &str| {
        format!("market:\n  source: replay\n  replay: {{symbol: {symbol}, {file} speed: 0}}\n")
    };
    let file = format!("trades: {},", trades.display());
    refused(&replay("BTCUSDT", &file), "market.replay.trades", "trades.csv", "no such file");
    refused(&replay("BTCUSDT", ""), "market.replay", "no file", "market.replay.trades");
    std::fs::write(&trades, "").unwrap();
    loaded(&replay("BTCUSDT", &file), &[]);
    refused(&replay("DOGEUSDT", &file), "market.replay.symbol", "DOGEUSDT", "BTCUSDT, ETHUSDT");
}

#[test]
fn the_effective_configuration_names_the_origin_of_every_value() {
    let loaded = loaded("trading:\n  queue: 9\n", &[("HOTGO__SERVER__BIND", "127.0.0.1:2")]);
    let settings = loaded.settings();
    let find = |key: &str| settings.iter().find(|setting| setting.key == key).unwrap();
    assert_eq!(
        (find("server.bind").value.as_str(), find("server.bind").origin.to_string()),
        ("127.0.0.1:2", "variable HOTGO__SERVER__BIND".to_owned())
    );
    assert!(find("trading.queue").origin.to_string().ends_with("config.yaml"));
    assert_eq!(find("trading.accounts[0].label").origin, Origin::Default);
    assert!(settings.windows(2).all(|pair| pair[0].key <= pair[1].key), "sorted");
}

#[test]
fn the_database_is_a_file_unless_a_url_names_a_server_and_its_password_is_never_shown() {
    use hotgo::store::Database;
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join("password");
    std::fs::write(&secret, "s3cret\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    let store = |lines: &str| format!("store: {{{lines}}}\n");
    let database = |file: &str| loaded(file, &[]).config.database().unwrap();
    assert!(matches!(database(""), Database::Sqlite(path) if path.ends_with("data/hotgo.db")));
    assert!(matches!(database(&store("path: /x/y.db, url: \"\"")), Database::Sqlite(path) if path.ends_with("x/y.db")));
    let with_file = format!("url: \"postgres://me@db:5433/hotgo\", password_file: {}", secret.display());
    let server = database(&store(&with_file));
    assert_eq!(server.to_string(), "postgres://me@db:5433/hotgo");
    let by_url = loaded(&store("url: \"postgres://me:s3cret@db/hotgo\""), &[]);
    let said = format!("{:?} {:?} {:?}", by_url.config, by_url.settings(), by_url.config.database());
    assert!(!said.contains("s3cret") && said.contains("[redacted]@db/hotgo"), "{said}");
    let socket = database(&store("url: \"postgres:///hotgo?host=/run/postgresql&user=me\""));
    assert_eq!(socket.to_string(), "postgres://me@/run/postgresql:5432/hotgo");

    refused(&store("url: \"mysql://db/x\""), "store.url", "mysql://db/x", "postgres://");
    refused(&store("url: \"postgres://db\""), "store.url", "postgres://db", "names no database");
    refused(&store("url: \"postgres://db/x?password=s3cret\""), "store.url", "[redacted]", "store.password_file");
    refused(&store("url: \"postgres://db/x\", path: y.db"), "store.url", "postgres://db/x", "contradicts store.path");
    refused(&store("max_connections: 1"), "store.max_connections", "1", "between 2 and 1000");
    let file = "store.password_file";
    refused(&store("password_file: /no/such/file"), file, "/no/such/file", "without store.url");
    refused(&store("url: \"postgres://db/x\", password_file: /no/such/file"), file, "/no/such/file", "cannot be read");
    mode(0o644);
    refused(&store(&with_file), file, "password", "chmod 600");
    mode(0o600);
    std::fs::write(&secret, "\n").unwrap();
    refused(&store(&with_file), file, "password", "is empty");
}
