-- +goose Up
-- Each entry of the audit trail is the n-th of a chain, and its hash covers the
-- one before it (docs/audit.md). Entries from before have none: the first chain
-- says how many they are, and their digest.
ALTER TABLE events ADD COLUMN chain BLOB;    -- 16 bytes
ALTER TABLE events ADD COLUMN n     INTEGER; -- from 1
ALTER TABLE events ADD COLUMN hash  BLOB;    -- 32 bytes
CREATE INDEX events_unchained ON events (seq) WHERE chain IS NULL;
-- +goose StatementBegin
CREATE TRIGGER events_chained BEFORE INSERT ON events
WHEN NEW.chain IS NULL OR NEW.n IS NULL OR NEW.hash IS NULL
BEGIN SELECT RAISE(ABORT, 'an entry of the audit trail is of a chain: a newer program writes here'); END;
-- +goose StatementEnd

-- What servers signed of the trail, as signed notes.
CREATE TABLE audit_checkpoints (
    number INTEGER PRIMARY KEY,
    note   TEXT NOT NULL
);
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_no_update BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_no_delete BEFORE DELETE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_checkpoints_no_replace BEFORE INSERT ON audit_checkpoints
WHEN EXISTS (SELECT 1 FROM audit_checkpoints WHERE number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE audit_checkpoints;
DROP TRIGGER events_chained;
DROP INDEX events_unchained;
ALTER TABLE events DROP COLUMN hash;
ALTER TABLE events DROP COLUMN n;
ALTER TABLE events DROP COLUMN chain;
