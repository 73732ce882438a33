//! Reads, the same ones on every database: statements of a common dialect, and how their rows are understood.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as ValueError, StrDeserializer};
use trading::command::{Command, Record};
use trading::engine::{RECENT_TRADES, Snapshot};
use trading::event::Recorded;
use trading::exchange::{Fill, OrderKind};
use trading::ids::{AccountId, ClientOrderId, Epoch, OrderKey, RobotId, Seq, TradeId, VenueOrderId};
use trading::market::Symbol;
use trading::order::Order;
use trading::position::{Balance, Position};
use trading::robot::{Robot, StrategyState};
use trading::time::Timestamp;

use super::{Account, ApiKey, FillFilter, Head, LeaseRow, OrderFilter, StoreError, Stored, StoredFill, Waiting};

pub(super) type Read<T> = Result<T, StoreError>;

/// How long a read may take.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Bounds a read.
pub(super) async fn bounded<T>(read: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
    tokio::time::timeout(READ_TIMEOUT, read)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {READ_TIMEOUT:?}"))))
}

/// Errors of statements that are no commit, of either database.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolClosed) {
            return StoreError::Closed;
        }
        if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
            return StoreError::Corrupt(error.to_string());
        }
        match error.as_database_error().and_then(|error| error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()) {
            Some(refusal) => super::postgres::store_error(refusal),
            None => super::sqlite::store_error(&error),
        }
    }
}

/// The most rows that one call gives, whatever it asks for.
const MAX_LIMIT: u32 = 10_000;

pub(super) const ACCOUNT: &str = "SELECT id, venue, label FROM hg_trading_account";
pub(super) const ROBOT: &str =
    "SELECT id, account, name, symbol, config, limits, desired_state, run_state, reason, stop_policy,
    decision_seq, webhook_hash, created_at, version FROM hg_trading_robot";
pub(super) const ORDER: &str =
    "SELECT client_id, account, robot, decision, leg, generation, symbol, side, kind, price, stop_price, tif,
    qty, status, cancel_state, attempt, epoch, sent_at, deadline, expires_at, venue_id, filled, filled_quote, reported,
    reason, created_at, updated_at, version FROM hg_trading_order";
pub(super) const FILL: &str =
    "SELECT id, account, robot, client_id, venue_id, symbol, trade_id, side, price, qty, fee, fee_asset, maker,
    at FROM hg_trading_fill";
pub(super) const POSITION: &str = "SELECT robot, symbol, qty, cost, realized, fees, version FROM hg_trading_position";
const BALANCE: &str = "SELECT asset, total, opening, version FROM hg_trading_balance";
const API_KEY: &str = "SELECT id, name, hash, signed, role, created_at, revoked_at FROM hg_sys_api_key";
/// The same condition as that of the index `hg_trading_order_live`.
const LIVE: &str = "status IN ('INTENT', 'SENDING', 'UNKNOWN', 'OPEN', 'PARTIAL')";

fn corrupt(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

/// Reads a name, a number in words, or anything else that serde writes as one string.
fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Read<T> {
    T::deserialize(StrDeserializer::<ValueError>::new(text)).map_err(|error| corrupt(format!("`{text}`: {error}")))
}

/// A row as one of the drivers gives it.
pub(super) trait Row {
    fn integer(&self, index: usize) -> Read<Option<i64>>;
    fn text(&self, index: usize) -> Read<Option<Cow<'_, str>>>;
}

/// Whatever runs one statement: a connection, a pool, or a transaction.
pub(super) trait Reader: Send {
    /// What its driver gives.
    type Row: Row + Send + Sync;

    /// All rows of a statement.
    fn fetch(&mut self, query: Query) -> impl Future<Output = Read<Vec<Self::Row>>> + Send;
}

/// A row's columns in their order.
pub(super) struct Columns<'a, R> {
    row: &'a R,
    next: usize,
}

impl<'a, R: Row> Columns<'a, R> {
    pub(super) fn of(row: &'a R) -> Self {
        Self { row, next: 0 }
    }

    fn next(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn integer<T: TryFrom<i64>>(&mut self) -> Read<T> {
        self.integer_opt()?.ok_or_else(|| corrupt("NULL where a number must be"))
    }

    fn integer_opt<T: TryFrom<i64>>(&mut self) -> Read<Option<T>> {
        let index = self.next();
        let Some(number) = self.row.integer(index)? else { return Ok(None) };
        T::try_from(number).map(Some).map_err(|_| corrupt(format!("{number} is out of range")))
    }

    pub(super) fn text(&mut self) -> Read<Cow<'a, str>> {
        self.text_opt()?.ok_or_else(|| corrupt("NULL where a text must be"))
    }

    fn text_opt(&mut self) -> Read<Option<Cow<'a, str>>> {
        let index = self.next();
        self.row.text(index)
    }

    pub(super) fn parse<T: for<'de> Deserialize<'de>>(&mut self) -> Read<T> {
        parse(&self.text()?)
    }

    fn parse_opt<T: for<'de> Deserialize<'de>>(&mut self) -> Read<Option<T>> {
        self.text_opt()?.map(|text| parse(&text)).transpose()
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Read<T> {
        serde_json::from_str(&self.text()?).map_err(corrupt)
    }

    pub(super) fn time(&mut self) -> Read<Timestamp> {
        self.integer().map(Timestamp::from_micros)
    }

    pub(super) fn time_opt(&mut self) -> Read<Option<Timestamp>> {
        Ok(self.integer_opt()?.map(Timestamp::from_micros))
    }
}

pub(super) fn to_account<R: Row>(row: &R) -> Read<Account> {
    let mut row = Columns::of(row);
    Ok(Account { id: AccountId(row.integer()?), venue: row.text()?.into_owned(), label: row.text()?.into_owned() })
}

pub(super) fn to_robot<R: Row>(row: &R) -> Read<Robot> {
    let mut row = Columns::of(row);
    Ok(Robot {
        id: RobotId(row.integer()?),
        account: AccountId(row.integer()?),
        name: row.text()?.into_owned(),
        symbol: row.parse()?,
        config: row.json()?,
        limits: row.json()?,
        desired: row.parse()?,
        run: row.parse()?,
        reason: row.text_opt()?.map(Cow::into_owned),
        stop_policy: row.parse()?,
        decision_seq: row.integer()?,
        webhook_hash: row.text_opt()?.map(Cow::into_owned),
        created_at: row.time()?,
        version: row.integer()?,
    })
}

fn to_kind<R: Row>(row: &mut Columns<'_, R>) -> Read<OrderKind> {
    let (kind, price, stop_price) = (row.text()?, row.parse_opt()?, row.parse_opt()?);
    match (&*kind, price, stop_price) {
        ("market", None, None) => Ok(OrderKind::Market),
        ("limit", Some(price), None) => Ok(OrderKind::Limit { price }),
        ("post_only", Some(price), None) => Ok(OrderKind::PostOnly { price }),
        ("stop_limit", Some(price), Some(stop_price)) => Ok(OrderKind::StopLimit { stop_price, price }),
        _ => Err(corrupt(format!("an order of kind `{kind}` with price {price:?} and stop price {stop_price:?}"))),
    }
}

pub(super) fn to_order<R: Row>(row: &R) -> Read<Order> {
    let mut row = Columns::of(row);
    Ok(Order {
        client_id: row.parse()?,
        account: AccountId(row.integer()?),
        robot: RobotId(row.integer()?),
        key: OrderKey { decision: row.integer()?, leg: row.integer()? },
        generation: row.integer()?,
        symbol: row.parse()?,
        side: row.parse()?,
        kind: to_kind(&mut row)?,
        tif: row.parse()?,
        qty: row.parse()?,
        status: row.parse()?,
        cancel: row.parse()?,
        attempt: row.integer()?,
        epoch: Epoch(row.integer()?),
        sent_at: row.time_opt()?,
        deadline: row.time_opt()?,
        expires_at: row.time_opt()?,
        venue_id: row.integer_opt()?.map(VenueOrderId),
        filled: row.parse()?,
        filled_quote: row.parse()?,
        reported: row.parse()?,
        reason: row.text_opt()?.map(Cow::into_owned),
        created_at: row.time()?,
        updated_at: row.time()?,
        version: row.integer()?,
    })
}

pub(super) fn to_fill<R: Row>(row: &R) -> Read<StoredFill> {
    let mut row = Columns::of(row);
    Ok(StoredFill {
        row: row.integer()?,
        account: AccountId(row.integer()?),
        robot: RobotId(row.integer()?),
        fill: Fill {
            client_id: row.parse()?,
            venue_id: VenueOrderId(row.integer()?),
            symbol: row.parse()?,
            trade_id: TradeId(row.integer()?),
            side: row.parse()?,
            price: row.parse()?,
            qty: row.parse()?,
            fee: row.parse()?,
            fee_asset: row.parse()?,
            maker: row.integer::<i64>()? != 0,
            at: row.time()?,
        },
    })
}

pub(super) fn to_position<R: Row>(row: &R) -> Read<Position> {
    let mut row = Columns::of(row);
    Ok(Position {
        robot: RobotId(row.integer()?),
        symbol: row.parse()?,
        qty: row.parse()?,
        cost: row.parse()?,
        realized: row.parse()?,
        fees: row.parse()?,
        version: row.integer()?,
    })
}

pub(super) fn to_balance<R: Row>(row: &mut Columns<'_, R>) -> Read<Balance> {
    Ok(Balance { asset: row.parse()?, total: row.parse()?, opening: row.parse()?, version: row.integer()? })
}

pub(super) fn to_event<R: Row>(row: &mut Columns<'_, R>) -> Read<Recorded> {
    Ok(Recorded { seq: Seq(row.integer()?), at: row.time()?, event: row.json()? })
}

pub(super) fn to_record<R: Row>(row: &mut Columns<'_, R>) -> Read<Record> {
    Ok(Record {
        command: Command { source: row.text()?.into_owned(), dedup_key: row.text()?.into_owned(), wish: row.json()? },
        received_at: row.time()?,
        outcome: row.json()?,
    })
}

fn to_api_key<R: Row>(row: &R) -> Read<ApiKey> {
    let mut row = Columns::of(row);
    Ok(ApiKey {
        id: row.text()?.into_owned(),
        name: row.text()?.into_owned(),
        hash: row.text()?.into_owned(),
        signed: row.integer::<i64>()? != 0,
        role: row.parse()?,
        created_at: row.time()?,
        revoked_at: row.time_opt()?,
    })
}

fn to_state<R: Row>(row: &R) -> Read<(RobotId, StrategyState)> {
    let mut row = Columns::of(row);
    Ok((RobotId(row.integer()?), row.json()?))
}

fn to_trade<R: Row>(row: &R) -> Read<(Symbol, TradeId)> {
    let mut row = Columns::of(row);
    Ok((row.parse()?, TradeId(row.integer()?)))
}

/// A statement with numbers and texts to bind, put together from parts of its own. A parameter is written `?`.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) binds: Vec<Bind>,
}

#[derive(Debug, Clone)]
pub(super) enum Bind {
    Number(i64),
    Text(String),
}

impl From<i64> for Bind {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Bind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Query {
    pub(super) fn new(select: &str) -> Self {
        Self { text: select.to_owned(), binds: Vec::new() }
    }

    /// Adds a condition without parameters.
    fn when(self, condition: &str) -> Self {
        let glue = if self.text.contains("\nWHERE ") { "\nAND " } else { "\nWHERE " };
        self.part(glue, condition)
    }

    fn part(mut self, glue: &str, text: &str) -> Self {
        self.text.push_str(glue);
        self.text.push_str(text);
        self
    }

    /// Adds a condition with a parameter, if there is one.
    pub(super) fn filter(self, condition: &str, bind: Option<impl Into<Bind>>) -> Self {
        match bind {
            Some(bind) => self.when(condition).bind(bind),
            None => self,
        }
    }

    /// Adds the condition that a column is one of these accounts.
    fn among(self, column: &str, accounts: &[AccountId]) -> Self {
        let marks = vec!["?"; accounts.len()].join(", ");
        let condition = format!("{column} IN ({marks})");
        accounts.iter().fold(self.when(&condition), |query, account| query.bind(account.0))
    }

    fn bind(mut self, bind: impl Into<Bind>) -> Self {
        self.binds.push(bind.into());
        self
    }

    pub(super) fn page(self, order: &str, limit: u32) -> Self {
        self.part("\nORDER BY ", order).part(" ", "LIMIT ?").bind(i64::from(limit.min(MAX_LIMIT)))
    }

    pub(super) async fn all<R: Reader, T>(self, on: &mut R, to: impl Fn(&R::Row) -> Read<T>) -> Read<Vec<T>> {
        on.fetch(self).await?.iter().map(to).collect()
    }

    async fn one<R: Reader, T>(self, on: &mut R, to: impl Fn(&R::Row) -> Read<T>) -> Read<Option<T>> {
        Ok(self.all(on, to).await?.pop())
    }

    /// The number that the statement gives.
    async fn number<R: Reader>(self, on: &mut R) -> Read<i64> {
        let number = self.one(on, |row| Columns::of(row).integer()).await?;
        number.ok_or_else(|| corrupt("no row where one must be"))
    }
}

pub(super) async fn account(on: &mut impl Reader, label: &str) -> Read<Option<Account>> {
    Query::new(ACCOUNT).filter("label = ?", Some(label)).one(on, to_account).await
}

pub(super) async fn accounts(on: &mut impl Reader) -> Read<Vec<Account>> {
    Query::new(ACCOUNT).part("\n", "ORDER BY id").all(on, to_account).await
}

pub(super) async fn robots(on: &mut impl Reader, account: Option<AccountId>) -> Read<Vec<Robot>> {
    Query::new(ROBOT).filter("account = ?", account.map(|id| id.0)).part("\n", "ORDER BY id").all(on, to_robot).await
}

pub(super) async fn robot(on: &mut impl Reader, robot: RobotId) -> Read<Option<Robot>> {
    Query::new(ROBOT).filter("id = ?", Some(robot.0)).one(on, to_robot).await
}

pub(super) async fn order(on: &mut impl Reader, client_id: &ClientOrderId) -> Read<Option<Order>> {
    Query::new(ORDER).filter("client_id = ?", Some(client_id.as_str())).one(on, to_order).await
}

pub(super) async fn orders(on: &mut impl Reader, filter: &OrderFilter) -> Read<Vec<Order>> {
    let mut query = Query::new(ORDER)
        .filter("account = ?", filter.account.map(|id| id.0))
        .filter("robot = ?", filter.robot.map(|id| id.0));
    if filter.live {
        query = query.when(LIVE);
    }
    if let Some((at, client_id)) = &filter.before {
        query = query.when("(created_at, client_id) < (?, ?)").bind(at.micros()).bind(client_id.as_str());
    }
    query.page("created_at DESC, client_id DESC", filter.limit).all(on, to_order).await
}

pub(super) async fn fills(on: &mut impl Reader, filter: &FillFilter) -> Read<Vec<StoredFill>> {
    Query::new(FILL)
        .filter("account = ?", filter.account.map(|id| id.0))
        .filter("robot = ?", filter.robot.map(|id| id.0))
        .filter("client_id = ?", filter.order.as_ref().map(ClientOrderId::as_str))
        .filter("id < ?", filter.before)
        .page("id DESC", filter.limit)
        .all(on, to_fill)
        .await
}

pub(super) async fn positions(on: &mut impl Reader, account: Option<AccountId>) -> Read<Vec<Position>> {
    Query::new(POSITION)
        .filter("account = ?", account.map(|id| id.0))
        .part("\n", "ORDER BY robot, symbol")
        .all(on, to_position)
        .await
}

pub(super) async fn balances(on: &mut impl Reader, account: AccountId) -> Read<Vec<Balance>> {
    balances_query(account).all(on, |row| to_balance(&mut Columns::of(row))).await
}

fn balances_query(account: AccountId) -> Query {
    Query::new(BALANCE).filter("account = ?", Some(account.0)).part("\n", "ORDER BY asset")
}

pub(super) async fn events(on: &mut impl Reader, account: AccountId, since: Seq, limit: u32) -> Read<Vec<Recorded>> {
    Query::new("SELECT seq, at, payload FROM hg_trading_event")
        .filter("account = ?", Some(account.0))
        .filter("seq > ?", Some(since.0))
        .page("seq", limit)
        .all(on, |row| to_event(&mut Columns::of(row)))
        .await
}

pub(super) async fn head(on: &mut impl Reader, account: AccountId) -> Read<Head> {
    Ok(Head { account, seq: last_seq(on, account).await? })
}

async fn last_seq(on: &mut impl Reader, account: AccountId) -> Read<Seq> {
    let last = Query::new("SELECT coalesce(max(seq), 0) FROM hg_trading_event").filter("account = ?", Some(account.0));
    last.number(on).await.map(Seq)
}

pub(super) async fn command(on: &mut impl Reader, source: &str, dedup_key: &str) -> Read<Option<Record>> {
    Query::new("SELECT source, dedup_key, payload, received_at, detail FROM hg_trading_signal")
        .filter("source = ?", Some(source))
        .filter("dedup_key = ?", Some(dedup_key))
        .one(on, |row| to_record(&mut Columns::of(row)))
        .await
}

/// Where these accounts' histories stand: a probe of the primary key's end per account.
pub(super) async fn heads(on: &mut impl Reader, accounts: &[AccountId]) -> Read<Vec<Head>> {
    if accounts.is_empty() {
        return Ok(Vec::new());
    }
    Query::new("SELECT id, (SELECT coalesce(max(seq), 0) FROM hg_trading_event WHERE account = owned.id) FROM hg_trading_account AS owned")
        .among("id", accounts)
        .all(on, |row| {
            let mut row = Columns::of(row);
            Ok(Head { account: AccountId(row.integer()?), seq: Seq(row.integer()?) })
        })
        .await
}

/// What waits, but was not decided.
fn waiting() -> Query {
    Query::new("SELECT id, account, source, dedup_key, wish, received_at FROM hg_trading_inbox AS waiting").when(
        "NOT EXISTS (SELECT 1 FROM hg_trading_signal AS decided
             WHERE decided.source = waiting.source AND decided.dedup_key = waiting.dedup_key)",
    )
}

pub(super) async fn waiting_commands(on: &mut impl Reader, accounts: &[AccountId], limit: u32) -> Read<Vec<Waiting>> {
    if accounts.is_empty() {
        return Ok(Vec::new());
    }
    // The sum keeps the search to these accounts, however many commands of others wait.
    waiting().among("account", accounts).page("id + 0", limit).all(on, to_waiting).await
}

pub(super) async fn waiting_command(on: &mut impl Reader, source: &str, dedup_key: &str) -> Read<Option<Waiting>> {
    waiting().filter("source = ?", Some(source)).filter("dedup_key = ?", Some(dedup_key)).one(on, to_waiting).await
}

/// Why a command was not stored.
pub(super) async fn not_stored(on: &mut impl Reader, source: &str, dedup_key: &str) -> Read<Stored> {
    if let Some(record) = command(on, source, dedup_key).await? {
        return Ok(Stored::Decided(Box::new(record)));
    }
    let waiting = waiting_command(on, source, dedup_key).await?;
    Ok(waiting.map_or(Stored::Full, |waiting| Stored::Waiting(Box::new(waiting))))
}

fn to_waiting<R: Row>(row: &R) -> Read<Waiting> {
    let mut row = Columns::of(row);
    Ok(Waiting {
        id: row.integer()?,
        account: AccountId(row.integer()?),
        source: row.text()?.into_owned(),
        dedup_key: row.text()?.into_owned(),
        wish: serde_json::from_str(&row.text()?).map_err(|error| error.to_string()),
        received_at: row.time()?,
    })
}

/// `now` is the database's clock in microseconds, in its own words.
pub(super) async fn leases(on: &mut impl Reader, now: &str) -> Read<Vec<LeaseRow>> {
    let select = format!(
        "SELECT CAST(substr(name, 9) AS BIGINT) AS account, owner, epoch, expires_at - {now},
             CAST(CASE WHEN expires_at = 0 THEN 1 ELSE 0 END AS BIGINT)
         FROM hg_trading_lease"
    );
    Query::new(&select).when("name LIKE 'account/%'").part("\n", "ORDER BY account").all(on, to_lease).await
}

fn to_lease<R: Row>(row: &R) -> Read<LeaseRow> {
    let mut row = Columns::of(row);
    Ok(LeaseRow {
        account: AccountId(row.integer()?),
        owner: Arc::from(&*row.text()?),
        epoch: Epoch(row.integer()?),
        remaining: Duration::from_micros(row.integer::<i64>()?.try_into().unwrap_or(0)),
        released: row.integer::<i64>()? != 0,
    })
}

/// Which ledger an account is bound to.
pub(super) async fn ledger(on: &mut impl Reader, account: AccountId) -> Read<Option<String>> {
    let ledger = Query::new("SELECT ledger FROM hg_trading_account").filter("id = ?", Some(account.0));
    let found = ledger.one(on, |row| Ok(Columns::of(row).text_opt()?.map(Cow::into_owned))).await?;
    Ok(found.flatten())
}

pub(super) async fn api_key(on: &mut impl Reader, hash: &str) -> Read<Option<ApiKey>> {
    Query::new(API_KEY).filter("hash = ?", Some(hash)).one(on, to_api_key).await
}

pub(super) async fn api_key_by_id(on: &mut impl Reader, id: &str) -> Read<Option<ApiKey>> {
    Query::new(API_KEY).filter("id = ?", Some(id)).one(on, to_api_key).await
}

pub(super) async fn api_keys(on: &mut impl Reader) -> Read<Vec<ApiKey>> {
    Query::new(API_KEY).part("\n", "ORDER BY created_at, id").all(on, to_api_key).await
}

pub(super) async fn has_api_keys(on: &mut impl Reader) -> Read<bool> {
    Ok(Query::new("SELECT count(*) FROM (SELECT 1 FROM hg_sys_api_key LIMIT 1) AS one").number(on).await? > 0)
}

/// The account, as the one transaction that `on` is sees it.
pub(super) async fn load(on: &mut impl Reader, account: AccountId) -> Read<Snapshot> {
    let of_account = |select: &str| Query::new(select).filter("account = ?", Some(account.0));
    Ok(Snapshot {
        account,
        last_seq: last_seq(on, account).await?,
        robots: of_account(ROBOT).part("\n", "ORDER BY id").all(on, to_robot).await?,
        states: of_account("SELECT robot, state FROM hg_trading_strategy_state")
            .part("\n", "ORDER BY robot")
            .all(on, to_state)
            .await?,
        orders: of_account(ORDER)
            .when(&format!("({LIVE} OR reported <> filled)"))
            .part("\n", "ORDER BY created_at, client_id")
            .all(on, to_order)
            .await?,
        positions: of_account(POSITION).part("\n", "ORDER BY robot, symbol").all(on, to_position).await?,
        balances: balances_query(account).all(on, |row| to_balance(&mut Columns::of(row))).await?,
        recent_trades: recent_trades(account).all(on, to_trade).await?,
    })
}

/// The last trades of each symbol, found through the unique index from its end.
fn recent_trades(account: AccountId) -> Query {
    let skip = i64::try_from(RECENT_TRADES).unwrap_or(i64::MAX);
    Query::new(
        "SELECT f.symbol, f.trade_id
         FROM (SELECT DISTINCT symbol FROM hg_trading_robot WHERE account = ?) AS s
         JOIN hg_trading_fill AS f ON f.account = ? AND f.symbol = s.symbol
         WHERE f.trade_id > coalesce(
             (SELECT trade_id FROM hg_trading_fill
              WHERE account = ? AND symbol = s.symbol ORDER BY trade_id DESC LIMIT 1 OFFSET ?), ?)
         ORDER BY f.symbol, f.trade_id",
    )
    .bind(account.0)
    .bind(account.0)
    .bind(account.0)
    .bind(skip)
    .bind(i64::MIN)
}
