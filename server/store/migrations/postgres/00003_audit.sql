-- +goose Up
-- The same as in migrations/sqlite.
ALTER TABLE events ADD COLUMN chain BYTEA, ADD COLUMN n BIGINT, ADD COLUMN hash BYTEA;
CREATE INDEX events_unchained ON events (seq) WHERE chain IS NULL;
-- Not of those from before.
ALTER TABLE events ADD CONSTRAINT events_chained CHECK (chain IS NOT NULL AND n IS NOT NULL AND hash IS NOT NULL) NOT VALID;

CREATE TABLE audit_checkpoints (
    number BIGINT PRIMARY KEY,
    note   TEXT NOT NULL
);
CREATE TRIGGER audit_checkpoints_no_change BEFORE UPDATE OR DELETE ON audit_checkpoints FOR EACH ROW EXECUTE FUNCTION events_append_only();
CREATE TRIGGER audit_checkpoints_no_truncate BEFORE TRUNCATE ON audit_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION events_append_only();

-- +goose Down
DROP TABLE audit_checkpoints;
ALTER TABLE events DROP COLUMN hash, DROP COLUMN n, DROP COLUMN chain; -- and what speaks of them
