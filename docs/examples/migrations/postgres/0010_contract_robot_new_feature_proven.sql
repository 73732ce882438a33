-- Stage 3, contract, second part, in a transaction of its own: reads the whole table while others write. If a row was not filled
-- it fails, nothing has changed, and stage 2 goes on.
ALTER TABLE hg_trading_robot VALIDATE CONSTRAINT hg_trading_robot_new_feature;
-- The validated constraint proves what NOT NULL asks for, so that nothing is read again: a moment's lock.
ALTER TABLE hg_trading_robot ALTER COLUMN new_feature SET NOT NULL;
ALTER TABLE hg_trading_robot DROP CONSTRAINT hg_trading_robot_new_feature;
