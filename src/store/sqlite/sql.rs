//! The statements of a commit. One per table, however many rows: what costs is the statement, not the row.
//!
//! A commit is one text of several statements, so that it is one round trip to the connection's thread; the parameters
//! run across them. An equal text is prepared once and kept.

use sqlx::SqliteConnection;

pub(super) const BEGIN: &str = "BEGIN IMMEDIATE;";
pub(super) const COMMIT: &str = "COMMIT;";

/// A refused lease, in the words of [`GUARD`].
pub(super) const FENCED: &str = "the lease is not held";

/// Ends the transaction where a statement did not change as many rows as it was given: an image was not newer than the
/// stored one. Takes what was given.
pub(super) const ALL_NEWER: &str = "
INSERT INTO refuse SELECT 'an image is not newer than the stored one' WHERE changes() <> ?;";

/// Ends the transaction where a lease is not held, or events do not continue the stored ones.
/// Takes `[lease name, owner, epoch, account, first sequence number]` per account.
pub(super) const GUARD: &str = "
INSERT INTO refuse
SELECT message FROM (
    SELECT CASE
        WHEN NOT EXISTS (
            SELECT 1 FROM hg_trading_lease AS held
            WHERE held.name = given.value ->> 0 AND held.owner = given.value ->> 1 AND held.epoch = given.value ->> 2
              AND held.expires_at > CAST(unixepoch('subsec') * 1000000 AS INTEGER)
        ) THEN 'the lease is not held'
        WHEN (SELECT coalesce(max(seq), 0) FROM hg_trading_event WHERE account = given.value ->> 3)
            <> (given.value ->> 4) - 1 THEN 'the events do not continue the stored ones'
    END AS message
    FROM jsonb_each(?) AS given
) WHERE message IS NOT NULL;";

pub(super) const ROBOTS: &str = "
INSERT INTO hg_trading_robot AS stored
    (id, account, name, kind, symbol, config, limits, desired_state, run_state, reason, stop_policy, decision_seq,
     webhook_hash, created_at, version)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
    value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14
FROM jsonb_each(?) WHERE true
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, kind = excluded.kind, symbol = excluded.symbol, config = excluded.config,
    limits = excluded.limits, desired_state = excluded.desired_state, run_state = excluded.run_state,
    reason = excluded.reason, stop_policy = excluded.stop_policy, decision_seq = excluded.decision_seq,
    webhook_hash = excluded.webhook_hash, version = excluded.version
WHERE excluded.version > stored.version AND excluded.account = stored.account;";

pub(super) const STATES: &str = "
INSERT INTO hg_trading_strategy_state AS stored (robot, account, state, at_seq)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?) WHERE true
ON CONFLICT (robot) DO UPDATE SET state = excluded.state, at_seq = excluded.at_seq
WHERE excluded.at_seq > stored.at_seq AND excluded.account = stored.account;";

pub(super) const SIGNALS: &str = "
INSERT INTO hg_trading_signal (source, dedup_key, account, robot, payload, received_at, expires_at, outcome, detail)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8
FROM jsonb_each(?);";

/// What is decided waits no more: a probe of the inbox's unique key per command. Takes the rows of [`SIGNALS`].
pub(super) const DECIDED: &str = "
DELETE FROM hg_trading_inbox WHERE id IN (
    SELECT waiting.id FROM jsonb_each(?) AS given CROSS JOIN hg_trading_inbox AS waiting
    WHERE waiting.source = given.value ->> 0 AND waiting.dedup_key = given.value ->> 1);";

pub(super) const ORDERS: &str = "
INSERT INTO hg_trading_order AS stored
    (client_id, account, robot, decision, leg, generation, symbol, side, kind, price, stop_price, tif, qty, status,
     cancel_state, attempt, epoch, sent_at, deadline, expires_at, venue_id, filled, filled_quote, reported, reason,
     created_at, updated_at, version)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
    value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14, value ->> 15, value ->> 16,
    value ->> 17, value ->> 18, value ->> 19, value ->> 20, value ->> 21, value ->> 22, value ->> 23, value ->> 24,
    value ->> 25, value ->> 26, value ->> 27
FROM jsonb_each(?) WHERE true
ON CONFLICT (client_id, account) DO UPDATE SET
    status = excluded.status, cancel_state = excluded.cancel_state, attempt = excluded.attempt, epoch = excluded.epoch,
    sent_at = excluded.sent_at, deadline = excluded.deadline, expires_at = excluded.expires_at,
    venue_id = excluded.venue_id, filled = excluded.filled, filled_quote = excluded.filled_quote,
    reported = excluded.reported, reason = excluded.reason, updated_at = excluded.updated_at,
    version = excluded.version
WHERE excluded.version > stored.version;";

pub(super) const FILLS: &str = "
INSERT INTO hg_trading_fill
    (account, robot, client_id, venue_id, symbol, trade_id, side, price, qty, fee, fee_asset, maker, at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
    value ->> 9, value ->> 10, value ->> 11, value ->> 12
FROM jsonb_each(?);";

pub(super) const POSITIONS: &str = "
INSERT INTO hg_trading_position AS stored (robot, symbol, account, qty, cost, realized, fees, version)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
FROM jsonb_each(?) WHERE true
ON CONFLICT (robot, symbol) DO UPDATE SET
    qty = excluded.qty, cost = excluded.cost, realized = excluded.realized, fees = excluded.fees,
    version = excluded.version
WHERE excluded.version > stored.version AND excluded.account = stored.account;";

pub(super) const BALANCES: &str = "
INSERT INTO hg_trading_balance AS stored (account, asset, total, opening, version)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM jsonb_each(?) WHERE true
ON CONFLICT (account, asset) DO UPDATE SET
    total = excluded.total, opening = excluded.opening, version = excluded.version
WHERE excluded.version > stored.version;";

/// Takes all payloads as one blob, then `[account, seq, at, kind, offset, length]` per event: a payload that is not part
/// of the JSON need not be quoted and parsed.
pub(super) const EVENTS: &str = "
INSERT INTO hg_trading_event (payload, account, seq, at, kind)
SELECT CAST(substr(?, value ->> 4, value ->> 5) AS TEXT), value ->> 0, value ->> 1, value ->> 2, value ->> 3
FROM jsonb_each(?);";

/// `INSERT INTO refuse` fails with the row's text. The view is this connection's own and holds nothing.
pub(super) async fn install_refusals(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "CREATE TEMP VIEW refuse (message) AS SELECT '';
         CREATE TEMP TRIGGER refuse_it INSTEAD OF INSERT ON refuse
         BEGIN SELECT RAISE(ABORT, NEW.message); END;",
    )
    .execute(conn)
    .await?;
    Ok(())
}
