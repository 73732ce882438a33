-- Stage 3, contract, second part: if a row was not filled this fails, nothing has changed, and stage 2 goes on. A CHECK is what
-- makes a statement fail outside a trigger.
CREATE TEMP TABLE unfilled (robot INTEGER, CHECK (robot IS NULL));
INSERT INTO temp.unfilled SELECT id FROM hg_trading_robot WHERE new_feature IS NULL LIMIT 1;
DROP TABLE temp.unfilled;
