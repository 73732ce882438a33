-- Stage 1, expand. Additive: a binary that knows only schema 5 works on this one.
-- SQLite keeps the default beside the table: rows that exist show it at once, and none is rewritten.
ALTER TABLE hg_trading_robot ADD COLUMN new_feature TEXT DEFAULT 'default_value';
