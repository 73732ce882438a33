-- Several instances on one database. Additive: a binary that knows only schema 3 works on this one, alone.

-- Who is here. A row is kept alive by its owner; one that has expired is of an instance that ended without a word.
CREATE TABLE hg_sys_instance (
    id         TEXT PRIMARY KEY,         -- unique per process start: the `owner` of its leases
    name       TEXT NOT NULL,            -- what people call it
    address    TEXT NOT NULL,            -- where it serves
    build_id   TEXT NOT NULL,
    accounts   TEXT NOT NULL CHECK (json_valid(accounts)), -- those it can trade: an array of numbers
    draining   INTEGER NOT NULL CHECK (draining IN (0, 1)), -- it takes no account any more, and gives up those it has
    started_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL          -- by the database's clock
) STRICT, WITHOUT ROWID;

-- Commands for an account that another instance owns: stored here, decided by the owner, and gone with the decision.
CREATE TABLE hg_trading_inbox (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    account     INTEGER NOT NULL REFERENCES hg_trading_account (id),
    source      TEXT NOT NULL,
    dedup_key   TEXT NOT NULL,
    wish        TEXT NOT NULL CHECK (json_valid(wish)),
    received_at INTEGER NOT NULL,
    UNIQUE (source, dedup_key)
) STRICT;
CREATE INDEX hg_trading_inbox_account ON hg_trading_inbox (account, id);

-- Requests that were signed: none is taken twice, even without Redis and after a restart.
CREATE TABLE hg_sys_nonce (
    key_id     TEXT NOT NULL,
    nonce      TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, nonce)
) STRICT, WITHOUT ROWID;
CREATE INDEX hg_sys_nonce_expires ON hg_sys_nonce (expires_at);

-- Requests per window of time, of all instances together.
CREATE TABLE hg_sys_rate (
    name         TEXT NOT NULL,          -- whose, and of what: such as key/<id>
    window_start INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    PRIMARY KEY (name, window_start)
) STRICT, WITHOUT ROWID;
CREATE INDEX hg_sys_rate_window ON hg_sys_rate (window_start);

-- The paper venue's ledger that an account lives in: its balances mean nothing elsewhere.
ALTER TABLE hg_trading_account ADD COLUMN ledger TEXT;

-- Whether the key signs its requests. Its hash is then SHA-256 of SHA-256 of the token, so that a binary that does not know of
-- signatures lets nobody in with it.
ALTER TABLE hg_sys_api_key ADD COLUMN signed INTEGER NOT NULL DEFAULT 0 CHECK (signed IN (0, 1));
