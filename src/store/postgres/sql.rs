//! The statement of a commit: one call of a function, so that it is one round trip and one transaction. Inside it there is
//! one statement per table, however many rows.
//!
//! The function is the session's own (`pg_temp`), not part of the schema: every binary brings the one that it was built with.

/// A refused lease.
pub(super) const FENCED: &str = "HG001";
/// What contradicts what is stored.
pub(super) const CONFLICT: &str = "HG002";

/// Calls the function that [`INSTALL`] makes.
pub(super) const COMMIT: &str = "SELECT pg_temp.hg_commit(
    $1::jsonb, $2::jsonb, $3::jsonb, $4::jsonb, $5::jsonb, $6::jsonb, $7::jsonb, $8::jsonb, $9, $10, $11, $12, $13)";

/// Takes `[lease name, owner, epoch, account, first sequence number]` per account; then an array of rows per table, or NULL;
/// then the events by columns: their payloads are large, and need no quoting that way. Refuses by raising an error.
pub(super) const INSTALL: &str = r"
CREATE FUNCTION pg_temp.hg_commit(
    guard jsonb, robots jsonb, states jsonb, signals jsonb, orders jsonb, fills jsonb, positions jsonb, balances jsonb,
    event_accounts bigint[], event_seqs bigint[], event_ats bigint[], event_kinds text[], event_payloads text[]
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    written bigint;
BEGIN
    -- The rows of the leases stay locked until this transaction has ended: nobody takes one over between check and commit.
    -- Who does so at this moment is waited for, and then the row is looked at again.
    WITH held AS (
        SELECT FROM jsonb_array_elements(guard) AS given
        JOIN hg_trading_lease AS lease ON lease.name = given.value ->> 0
        WHERE lease.owner = given.value ->> 1 AND lease.epoch = (given.value ->> 2)::bigint
            AND lease.expires_at > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        FOR SHARE OF lease
    )
    SELECT count(*) INTO written FROM held;
    IF written <> jsonb_array_length(guard) THEN
        RAISE EXCEPTION 'the lease is not held' USING ERRCODE = 'HG001';
    END IF;
    -- A statement of its own, so that it sees what was committed while the locks were waited for.
    PERFORM FROM jsonb_array_elements(guard) AS given
    WHERE (SELECT coalesce(max(event.seq), 0) FROM hg_trading_event AS event
           WHERE event.account = (given.value ->> 3)::bigint) <> (given.value ->> 4)::bigint - 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the events do not continue the stored ones' USING ERRCODE = 'HG002';
    END IF;
    IF robots IS NOT NULL THEN
        INSERT INTO hg_trading_robot AS stored
            (id, account, name, kind, symbol, config, limits, desired_state, run_state, reason, stop_policy,
            decision_seq, webhook_hash, created_at, version)
        SELECT
            (value ->> 0)::bigint, (value ->> 1)::bigint, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
            value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, (value ->> 11)::bigint, value ->> 12,
            (value ->> 13)::bigint, (value ->> 14)::bigint
        FROM jsonb_array_elements(robots)
        ON CONFLICT (id) DO UPDATE SET
            name = excluded.name, kind = excluded.kind, symbol = excluded.symbol, config = excluded.config,
            limits = excluded.limits, desired_state = excluded.desired_state, run_state = excluded.run_state,
            reason = excluded.reason, stop_policy = excluded.stop_policy, decision_seq = excluded.decision_seq,
            webhook_hash = excluded.webhook_hash, version = excluded.version
        WHERE excluded.version > stored.version AND excluded.account = stored.account;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> jsonb_array_length(robots) THEN
            RAISE EXCEPTION 'an image is not newer than the stored one' USING ERRCODE = 'HG002';
        END IF;
    END IF;
    IF states IS NOT NULL THEN
        INSERT INTO hg_trading_strategy_state AS stored
            (robot, account, state, at_seq)
        SELECT
            (value ->> 0)::bigint, (value ->> 1)::bigint, value ->> 2, (value ->> 3)::bigint
        FROM jsonb_array_elements(states)
        ON CONFLICT (robot) DO UPDATE SET
            state = excluded.state, at_seq = excluded.at_seq
        WHERE excluded.at_seq > stored.at_seq AND excluded.account = stored.account;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> jsonb_array_length(states) THEN
            RAISE EXCEPTION 'an image is not newer than the stored one' USING ERRCODE = 'HG002';
        END IF;
    END IF;
    IF signals IS NOT NULL THEN
        INSERT INTO hg_trading_signal
            (source, dedup_key, account, robot, payload, received_at, expires_at, outcome, detail)
        SELECT
            value ->> 0, value ->> 1, (value ->> 2)::bigint, (value ->> 3)::bigint, value ->> 4,
            (value ->> 5)::bigint, (value ->> 6)::bigint, value ->> 7, value ->> 8
        FROM jsonb_array_elements(signals);
        -- What is decided waits no more.
        DELETE FROM hg_trading_inbox AS waiting USING jsonb_array_elements(signals) AS given
        WHERE waiting.source = given.value ->> 0 AND waiting.dedup_key = given.value ->> 1;
    END IF;
    IF orders IS NOT NULL THEN
        INSERT INTO hg_trading_order AS stored
            (client_id, account, robot, decision, leg, generation, symbol, side, kind, price, stop_price, tif, qty,
            status, cancel_state, attempt, epoch, sent_at, deadline, expires_at, venue_id, filled, filled_quote,
            reported, reason, created_at, updated_at, version)
        SELECT
            value ->> 0, (value ->> 1)::bigint, (value ->> 2)::bigint, (value ->> 3)::bigint, (value ->> 4)::bigint,
            (value ->> 5)::bigint, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11,
            value ->> 12, value ->> 13, value ->> 14, (value ->> 15)::bigint, (value ->> 16)::bigint,
            (value ->> 17)::bigint, (value ->> 18)::bigint, (value ->> 19)::bigint, (value ->> 20)::bigint,
            value ->> 21, value ->> 22, value ->> 23, value ->> 24, (value ->> 25)::bigint, (value ->> 26)::bigint,
            (value ->> 27)::bigint
        FROM jsonb_array_elements(orders)
        ON CONFLICT (client_id, account) DO UPDATE SET
            status = excluded.status, cancel_state = excluded.cancel_state, attempt = excluded.attempt,
            epoch = excluded.epoch, sent_at = excluded.sent_at, deadline = excluded.deadline,
            expires_at = excluded.expires_at, venue_id = excluded.venue_id, filled = excluded.filled,
            filled_quote = excluded.filled_quote, reported = excluded.reported, reason = excluded.reason,
            updated_at = excluded.updated_at, version = excluded.version
        WHERE excluded.version > stored.version;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> jsonb_array_length(orders) THEN
            RAISE EXCEPTION 'an image is not newer than the stored one' USING ERRCODE = 'HG002';
        END IF;
    END IF;
    IF fills IS NOT NULL THEN
        INSERT INTO hg_trading_fill
            (account, robot, client_id, venue_id, symbol, trade_id, side, price, qty, fee, fee_asset, maker, at)
        SELECT
            (value ->> 0)::bigint, (value ->> 1)::bigint, value ->> 2, (value ->> 3)::bigint, value ->> 4,
            (value ->> 5)::bigint, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10,
            (value ->> 11)::boolean::integer, (value ->> 12)::bigint
        FROM jsonb_array_elements(fills);
    END IF;
    IF positions IS NOT NULL THEN
        INSERT INTO hg_trading_position AS stored
            (robot, symbol, account, qty, cost, realized, fees, version)
        SELECT
            (value ->> 0)::bigint, value ->> 1, (value ->> 2)::bigint, value ->> 3, value ->> 4, value ->> 5,
            value ->> 6, (value ->> 7)::bigint
        FROM jsonb_array_elements(positions)
        ON CONFLICT (robot, symbol) DO UPDATE SET
            qty = excluded.qty, cost = excluded.cost, realized = excluded.realized, fees = excluded.fees,
            version = excluded.version
        WHERE excluded.version > stored.version AND excluded.account = stored.account;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> jsonb_array_length(positions) THEN
            RAISE EXCEPTION 'an image is not newer than the stored one' USING ERRCODE = 'HG002';
        END IF;
    END IF;
    IF balances IS NOT NULL THEN
        INSERT INTO hg_trading_balance AS stored
            (account, asset, total, opening, version)
        SELECT
            (value ->> 0)::bigint, value ->> 1, value ->> 2, value ->> 3, (value ->> 4)::bigint
        FROM jsonb_array_elements(balances)
        ON CONFLICT (account, asset) DO UPDATE SET
            total = excluded.total, opening = excluded.opening, version = excluded.version
        WHERE excluded.version > stored.version;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written <> jsonb_array_length(balances) THEN
            RAISE EXCEPTION 'an image is not newer than the stored one' USING ERRCODE = 'HG002';
        END IF;
    END IF;
    INSERT INTO hg_trading_event (account, seq, at, kind, payload)
    SELECT * FROM unnest(event_accounts, event_seqs, event_ats, event_kinds, event_payloads);
END $$";
