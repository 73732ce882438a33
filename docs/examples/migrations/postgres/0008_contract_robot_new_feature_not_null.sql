-- Stage 3, contract, first part. From here on no row without a value is taken; those that exist are not looked at yet, so this
-- takes a moment's lock. A number is left out: the release before this one accepts 7 at most, and refuses to start on 8.
ALTER TABLE hg_trading_robot
    ADD CONSTRAINT hg_trading_robot_new_feature CHECK (new_feature IS NOT NULL) NOT VALID;
