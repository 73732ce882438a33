-- When an API key was revoked. Its hash is then overwritten, so that a binary that does not know this column refuses it too.
ALTER TABLE hg_sys_api_key ADD COLUMN revoked_at BIGINT;
