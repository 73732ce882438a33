-- Stage 2, backfill: again and again until no row is changed, beside a server that trades. Each run is a short transaction of its
-- own. With a constant default there is nothing to fill, except where a new release wrote NULL.
UPDATE hg_trading_robot SET new_feature = 'default_value'
 WHERE id IN (SELECT id FROM hg_trading_robot WHERE new_feature IS NULL ORDER BY id LIMIT 500);
