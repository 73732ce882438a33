-- Two processes of one host while one takes over from the other. Additive: a binary that knows only schema 4 works on this one.

-- It takes accounts only when another hands them over to it, or when nobody else is able to trade them.
ALTER TABLE hg_sys_instance ADD COLUMN standby BIGINT NOT NULL DEFAULT 0 CHECK (standby IN (0, 1));
-- To whom it hands its accounts over, as long as that one lives: an instance's id.
ALTER TABLE hg_sys_instance ADD COLUMN successor TEXT COLLATE "C";
