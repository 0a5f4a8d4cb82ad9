-- +goose Up
-- Times are milliseconds since 1970-01-01 UTC. Identifiers are their digits.

CREATE TABLE operators (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    mccmnc     TEXT    NOT NULL,
    token_hash BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at INTEGER NOT NULL
);

CREATE TABLE cards (
    eid            TEXT    NOT NULL PRIMARY KEY,
    public_keys    BLOB    NOT NULL,
    event_counter  INTEGER NOT NULL,
    unsettled      INTEGER NOT NULL DEFAULT 0, -- GET STATUS has to say what the card's state is
    registered_by  INTEGER NOT NULL REFERENCES operators (id),
    registered_at  INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
);

CREATE TABLE profiles (
    eid             TEXT    NOT NULL REFERENCES cards (eid),
    iccid           TEXT    NOT NULL,
    position        INTEGER NOT NULL,
    mccmnc          TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled', 'absent')),
    class           TEXT    NOT NULL,
    provider        TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    ppr1            INTEGER NOT NULL,
    ppr2            INTEGER NOT NULL,
    fallback        INTEGER NOT NULL,
    disable_allowed INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (eid, iccid)
);
CREATE INDEX profiles_by_owner ON profiles (mccmnc, eid);

CREATE TABLE deactivations (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    operator_id  INTEGER NOT NULL REFERENCES operators (id),
    mccmnc       TEXT    NOT NULL,
    eid          TEXT    NOT NULL, -- as asked for: a refused one may name no card
    iccid        TEXT,
    reason       INTEGER NOT NULL,
    deadline     INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('accepted', 'waiting', 'authenticating', 'sending',
                                                   'done', 'refused', 'failed', 'expired', 'unknown')),
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    sent_at      INTEGER, -- the durable mark: a command may be on its way
    counter      INTEGER, -- the expected event counter of that command
    finished_at  INTEGER, -- nothing more will happen
    detail       TEXT    NOT NULL DEFAULT '',
    rule         TEXT    NOT NULL DEFAULT '',
    subject_code TEXT    NOT NULL DEFAULT '',
    reason_code  TEXT    NOT NULL DEFAULT '',
    result       INTEGER, -- the verified answer of the card, with the bytes that prove it
    status_word  INTEGER,
    suite        INTEGER,
    card_counter INTEGER,
    command      BLOB,
    response     BLOB,
    receipt      BLOB,
    CHECK ((sent_at IS NULL) = (counter IS NULL)),
    CHECK (state NOT IN ('sending', 'done', 'unknown') OR sent_at IS NOT NULL),
    CHECK (state <> 'expired' OR sent_at IS NULL),
    CHECK (state <> 'done' OR receipt IS NOT NULL)
);
CREATE INDEX deactivations_open        ON deactivations (eid, seq) WHERE finished_at IS NULL;
CREATE INDEX deactivations_by_deadline ON deactivations (deadline) WHERE finished_at IS NULL AND sent_at IS NULL;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);

CREATE TABLE idempotency_keys (
    operator_id INTEGER NOT NULL REFERENCES operators (id),
    key         TEXT    NOT NULL,
    body_hash   BLOB    NOT NULL,
    request_id  TEXT    NOT NULL REFERENCES deactivations (id),
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (operator_id, key)
);

-- The audit trail. It only ever grows.
CREATE TABLE events (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    request_id  TEXT,
    eid         TEXT,
    operator_id INTEGER,
    internal    INTEGER NOT NULL, -- not shown to operators
    detail      TEXT    NOT NULL  -- a JSON object
);
CREATE INDEX events_by_request ON events (request_id, seq) WHERE request_id IS NOT NULL;

-- +goose StatementBegin
CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd
-- INSERT OR REPLACE would delete without the trigger above.
-- +goose StatementBegin
CREATE TRIGGER events_no_replace BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE idempotency_keys;
DROP TABLE deactivations;
DROP TABLE profiles;
DROP TABLE cards;
DROP TABLE operators;
DROP TABLE events;
