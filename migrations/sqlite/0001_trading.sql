-- The ledger. Decimals are canonical TEXT, times are microseconds since the Unix epoch, JSON is TEXT.
-- Only ever add here: a column or table is removed two releases after the last binary that reads it.

CREATE TABLE hg_trading_account (
    id         INTEGER PRIMARY KEY,
    venue      TEXT NOT NULL,
    label      TEXT NOT NULL UNIQUE,
    secret_ref TEXT                      -- where the secret is; never the secret
) STRICT;

CREATE TABLE hg_trading_lease (
    name       TEXT PRIMARY KEY,         -- account/<id>
    owner      TEXT NOT NULL,
    epoch      INTEGER NOT NULL CHECK (epoch > 0),
    expires_at INTEGER NOT NULL          -- by the database's clock
) STRICT, WITHOUT ROWID;

CREATE TABLE hg_trading_robot (
    id            INTEGER PRIMARY KEY,
    account       INTEGER NOT NULL REFERENCES hg_trading_account (id),
    name          TEXT NOT NULL,
    kind          TEXT NOT NULL,
    symbol        TEXT NOT NULL,
    config        TEXT NOT NULL CHECK (json_valid(config)),
    limits        TEXT NOT NULL CHECK (json_valid(limits)),
    desired_state TEXT NOT NULL CHECK (desired_state IN ('running', 'stopped')),
    run_state     TEXT NOT NULL CHECK (run_state IN ('running', 'stopping', 'stopped', 'halted', 'quarantined')),
    reason        TEXT,
    stop_policy   TEXT NOT NULL CHECK (stop_policy IN ('keep', 'cancel', 'flatten')),
    decision_seq  INTEGER NOT NULL CHECK (decision_seq >= 0),
    webhook_hash  TEXT,
    created_at    INTEGER NOT NULL,
    version       INTEGER NOT NULL
) STRICT;
CREATE INDEX hg_trading_robot_account ON hg_trading_robot (account);

-- A robot that a command names need not exist (that is then its outcome), so `robot` is no foreign key.
CREATE TABLE hg_trading_signal (
    source      TEXT NOT NULL,
    dedup_key   TEXT NOT NULL,
    account     INTEGER NOT NULL REFERENCES hg_trading_account (id),
    robot       INTEGER,
    payload     TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    expires_at  INTEGER,
    outcome     TEXT NOT NULL CHECK (outcome IN ('done', 'denied', 'skipped', 'invalid', 'not_found')),
    detail      TEXT NOT NULL,
    UNIQUE (source, dedup_key)
) STRICT;

CREATE TABLE hg_trading_order (
    client_id    TEXT NOT NULL,
    account      INTEGER NOT NULL REFERENCES hg_trading_account (id),
    robot        INTEGER NOT NULL REFERENCES hg_trading_robot (id),
    decision     INTEGER NOT NULL,
    leg          INTEGER NOT NULL,
    generation   INTEGER NOT NULL,
    symbol       TEXT NOT NULL,
    side         TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
    kind         TEXT NOT NULL CHECK (kind IN ('market', 'limit', 'post_only', 'stop_limit')),
    price        TEXT CHECK ((price IS NULL) = (kind = 'market')),
    stop_price   TEXT CHECK ((stop_price IS NOT NULL) = (kind = 'stop_limit')),
    tif          TEXT NOT NULL CHECK (tif IN ('gtc', 'ioc', 'fok')),
    qty          TEXT NOT NULL CHECK (CAST(qty AS REAL) > 0),
    status       TEXT NOT NULL CHECK (status IN ('INTENT', 'SENDING', 'UNKNOWN', 'OPEN', 'PARTIAL', 'FILLED', 'CANCELED',
                                                 'EXPIRED', 'REJECTED', 'ABSENT', 'DENIED', 'SKIPPED')),
    cancel_state TEXT NOT NULL CHECK (cancel_state IN ('NONE', 'REQUESTED', 'SENT', 'DONE', 'REJECTED', 'UNKNOWN')),
    attempt      INTEGER NOT NULL CHECK (attempt IN (0, 1)),
    epoch        INTEGER NOT NULL,
    sent_at      INTEGER,
    deadline     INTEGER,
    expires_at   INTEGER,
    venue_id     INTEGER,
    filled       TEXT NOT NULL CHECK (CAST(filled AS REAL) >= 0),
    filled_quote TEXT NOT NULL,
    reported     TEXT NOT NULL,
    reason       TEXT,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    UNIQUE (client_id, account),
    UNIQUE (robot, decision, leg, generation)
) STRICT;
CREATE UNIQUE INDEX hg_trading_order_venue ON hg_trading_order (account, symbol, venue_id) WHERE venue_id IS NOT NULL;
CREATE INDEX hg_trading_order_live ON hg_trading_order (account)
    WHERE status IN ('INTENT', 'SENDING', 'UNKNOWN', 'OPEN', 'PARTIAL') OR reported <> filled;
CREATE INDEX hg_trading_order_newest ON hg_trading_order (created_at, client_id);
CREATE INDEX hg_trading_order_account ON hg_trading_order (account, created_at, client_id);
CREATE INDEX hg_trading_order_robot ON hg_trading_order (robot, created_at, client_id);

CREATE TABLE hg_trading_fill (
    id        INTEGER PRIMARY KEY,
    account   INTEGER NOT NULL,
    robot     INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    venue_id  INTEGER NOT NULL,
    symbol    TEXT NOT NULL,
    trade_id  INTEGER NOT NULL,
    side      TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
    price     TEXT NOT NULL CHECK (CAST(price AS REAL) > 0),
    qty       TEXT NOT NULL CHECK (CAST(qty AS REAL) > 0),
    fee       TEXT NOT NULL,
    fee_asset TEXT NOT NULL,
    maker     INTEGER NOT NULL CHECK (maker IN (0, 1)),
    at        INTEGER NOT NULL,
    UNIQUE (account, symbol, trade_id),
    FOREIGN KEY (client_id, account) REFERENCES hg_trading_order (client_id, account)
) STRICT;
CREATE INDEX hg_trading_fill_account ON hg_trading_fill (account);
CREATE INDEX hg_trading_fill_robot ON hg_trading_fill (robot);
CREATE INDEX hg_trading_fill_order ON hg_trading_fill (client_id);

CREATE TABLE hg_trading_position (
    robot    INTEGER NOT NULL REFERENCES hg_trading_robot (id),
    symbol   TEXT NOT NULL,
    account  INTEGER NOT NULL,
    qty      TEXT NOT NULL,
    cost     TEXT NOT NULL,
    realized TEXT NOT NULL,
    fees     TEXT NOT NULL,
    version  INTEGER NOT NULL,
    PRIMARY KEY (robot, symbol)
) STRICT, WITHOUT ROWID;
CREATE INDEX hg_trading_position_account ON hg_trading_position (account);

CREATE TABLE hg_trading_balance (
    account INTEGER NOT NULL REFERENCES hg_trading_account (id),
    asset   TEXT NOT NULL,
    total   TEXT NOT NULL,
    opening TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (account, asset)
) STRICT, WITHOUT ROWID;

CREATE TABLE hg_trading_strategy_state (
    robot   INTEGER PRIMARY KEY REFERENCES hg_trading_robot (id),
    account INTEGER NOT NULL,
    state   TEXT NOT NULL CHECK (json_valid(state)),
    at_seq  INTEGER NOT NULL
) STRICT;
CREATE INDEX hg_trading_strategy_state_account ON hg_trading_strategy_state (account);

-- With a row id, so that the large payloads of all accounts are appended at one place.
CREATE TABLE hg_trading_event (
    account INTEGER NOT NULL REFERENCES hg_trading_account (id),
    seq     INTEGER NOT NULL CHECK (seq > 0),
    at      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (account, seq)
) STRICT;

CREATE TABLE hg_sys_api_key (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    hash       TEXT NOT NULL UNIQUE,     -- SHA-256 in hex; the key itself is kept nowhere
    role       TEXT NOT NULL CHECK (role IN ('viewer', 'trader', 'admin')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE hg_sys_audit (
    id     INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    act    TEXT NOT NULL,
    target TEXT NOT NULL
) STRICT;
CREATE TRIGGER hg_sys_audit_is_append_only BEFORE UPDATE ON hg_sys_audit
BEGIN SELECT RAISE(ABORT, 'hg_sys_audit is append-only'); END;
CREATE TRIGGER hg_sys_audit_is_kept BEFORE DELETE ON hg_sys_audit
BEGIN SELECT RAISE(ABORT, 'hg_sys_audit is append-only'); END;
