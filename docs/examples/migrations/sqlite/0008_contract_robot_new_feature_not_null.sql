-- Stage 3, contract, first part. From here on no row without a value is taken. SQLite adds NOT NULL to a column only by building
-- the table anew; two triggers say the same. A number is left out: the release before this one accepts 7 at most.
CREATE TRIGGER hg_trading_robot_new_feature_insert BEFORE INSERT ON hg_trading_robot WHEN NEW.new_feature IS NULL
BEGIN
    SELECT RAISE(ABORT, 'NOT NULL constraint failed: hg_trading_robot.new_feature');
END;
CREATE TRIGGER hg_trading_robot_new_feature_update BEFORE UPDATE OF new_feature ON hg_trading_robot
    WHEN NEW.new_feature IS NULL
BEGIN
    SELECT RAISE(ABORT, 'NOT NULL constraint failed: hg_trading_robot.new_feature');
END;
