-- Stage 1, expand. Additive: a binary that knows only schema 5 works on this one.
-- New rows get the default, whoever inserts them; existing rows stay NULL and are not touched. A moment's lock, no rewrite.
ALTER TABLE hg_trading_robot ADD COLUMN new_feature VARCHAR(100);
ALTER TABLE hg_trading_robot ALTER COLUMN new_feature SET DEFAULT 'default_value';
