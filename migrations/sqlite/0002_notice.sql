-- What users are told about releases. Additive: a binary that knows only schema 1 works on this one.
CREATE TABLE hg_sys_notice (
    id           INTEGER PRIMARY KEY,
    severity     TEXT NOT NULL CHECK (severity IN ('major', 'minor', 'hotfix')),
    message      TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    effective_at INTEGER
) STRICT;
