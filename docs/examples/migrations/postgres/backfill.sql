-- Stage 2, backfill: again and again until it says UPDATE 0, beside servers that trade. Each run is a short transaction of its
-- own, and leaves out rows that somebody holds; one UPDATE of the whole table would hold a lock on every robot to its end.
UPDATE hg_trading_robot SET new_feature = 'default_value'
 WHERE id IN (SELECT id FROM hg_trading_robot WHERE new_feature IS NULL ORDER BY id LIMIT 500 FOR UPDATE SKIP LOCKED);
