-- +goose Up
-- Tables that others refer to are made anew under their names.
PRAGMA defer_foreign_keys = ON;

-- Who asks in an operator's name: four eyes need two users.
CREATE TABLE users (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    operator_id INTEGER NOT NULL REFERENCES operators (id),
    name        TEXT    NOT NULL,
    roles       INTEGER NOT NULL, -- 1 read, 2 request, 4 approve, 8 administer
    token_hash  BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at  INTEGER NOT NULL,
    UNIQUE (operator_id, name)
);
INSERT INTO users (operator_id, name, roles, token_hash, created_at) SELECT id, 'default', 15, token_hash, created_at FROM operators;
CREATE TABLE operators_before AS SELECT id, name, mccmnc, created_at FROM operators;
DROP TABLE operators;
CREATE TABLE operators (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    mccmnc     TEXT    NOT NULL,
    created_at INTEGER NOT NULL
);
INSERT INTO operators SELECT * FROM operators_before;
DROP TABLE operators_before;

-- The guard's counts: of an operator (card_group ''), and of each of its card groups.
CREATE TABLE guard_scopes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    operator_id INTEGER NOT NULL REFERENCES operators (id),
    card_group  TEXT    NOT NULL,
    fleet       INTEGER NOT NULL DEFAULT 0, -- cards
    pending     INTEGER NOT NULL DEFAULT 0, -- let in, not sent yet
    epoch       INTEGER NOT NULL DEFAULT 0, -- of the breaker: what was let in before does not count after
    counts      BLOB    NOT NULL,           -- package guard
    tripped_at  INTEGER,                    -- the operator's breaker
    tripped_why TEXT    NOT NULL DEFAULT '',
    webhooks    INTEGER NOT NULL DEFAULT 0, -- endpoints that are told of the operator's requests
    UNIQUE (operator_id, card_group)
);
INSERT INTO guard_scopes (operator_id, card_group, fleet, counts)
    SELECT id, '', (SELECT count(*) FROM registrations r WHERE r.operator_id = operators.id), x'' FROM operators;

ALTER TABLE registrations ADD COLUMN card_groups TEXT NOT NULL DEFAULT ''; -- names, with a space between

ALTER TABLE cards ADD COLUMN claim_by    TEXT    NOT NULL DEFAULT ''; -- the server that works on the card
ALTER TABLE cards ADD COLUMN claim_token INTEGER NOT NULL DEFAULT 0;  -- the fencing token: grows with each claim
ALTER TABLE cards ADD COLUMN claim_until INTEGER NOT NULL DEFAULT 0;  -- its lease; 0: free
CREATE INDEX cards_claimed ON cards (claim_by) WHERE claim_until > 0;

ALTER TABLE profiles ADD COLUMN enabled_at INTEGER; -- since when the server knows it enabled

CREATE TABLE deactivations_before AS SELECT * FROM deactivations;
DROP TABLE deactivations;
CREATE TABLE deactivations (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    operator_id  INTEGER NOT NULL REFERENCES operators (id),
    user_id      INTEGER NOT NULL REFERENCES users (id),
    mccmnc       TEXT    NOT NULL,
    eid          TEXT    NOT NULL, -- as asked for: a refused one may name no card
    iccid        TEXT,
    reason       INTEGER NOT NULL,
    unconnected  INTEGER NOT NULL DEFAULT 0, -- the asker knows that no profile stays enabled
    timeout      INTEGER NOT NULL,           -- milliseconds from when it is let in
    deadline     INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('accepted', 'held', 'waiting', 'authenticating', 'sending',
                                                   'done', 'refused', 'failed', 'expired', 'cancelled', 'unknown')),
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    scopes       TEXT    NOT NULL DEFAULT '', -- guard scopes in which it is pending, or was sent
    epoch        INTEGER NOT NULL DEFAULT 0,  -- of the operator's breaker when it was let in
    held_why     TEXT    NOT NULL DEFAULT '',
    approved_by  INTEGER REFERENCES users (id),
    approved_at  INTEGER,
    sent_at      INTEGER, -- the durable mark: a command may be on its way
    counter      INTEGER, -- the expected event counter of that command
    told         INTEGER NOT NULL DEFAULT 0, -- the operator had a webhook when it was sent
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
    CHECK (state NOT IN ('expired', 'cancelled', 'held') OR sent_at IS NULL),
    CHECK (state <> 'done' OR receipt IS NOT NULL)
);
INSERT INTO deactivations (seq, id, operator_id, user_id, mccmnc, eid, iccid, reason, timeout, deadline, state, created_at, updated_at,
                           sent_at, counter, finished_at, detail, rule, subject_code, reason_code,
                           result, status_word, suite, card_counter, command, response, receipt)
    SELECT seq, id, operator_id, (SELECT u.id FROM users u WHERE u.operator_id = d.operator_id), mccmnc, eid, iccid, reason,
           max(deadline - created_at, 0), deadline, state, created_at, updated_at,
           sent_at, counter, finished_at, detail, rule, subject_code, reason_code,
           result, status_word, suite, card_counter, command, response, receipt
    FROM deactivations_before d;
DROP TABLE deactivations_before;
CREATE INDEX deactivations_open        ON deactivations (eid, seq) WHERE finished_at IS NULL;
CREATE INDEX deactivations_held        ON deactivations (operator_id, seq) WHERE state = 'held';
CREATE INDEX deactivations_by_deadline ON deactivations (deadline) WHERE finished_at IS NULL AND sent_at IS NULL;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);

-- Endpoints that are told what becomes of requests.
CREATE TABLE webhooks (
    id            TEXT   NOT NULL PRIMARY KEY,
    operator_id   INTEGER NOT NULL REFERENCES operators (id),
    url           TEXT   NOT NULL,
    types         TEXT   NOT NULL DEFAULT '', -- of messages, with a space around each; none: all
    secret        BLOB  NOT NULL,
    secret_before BLOB,
    secret_until  INTEGER, -- so long the one before is good
    created_at    INTEGER NOT NULL,
    failing_since INTEGER,
    disabled_at   INTEGER,
    disabled_why  TEXT   NOT NULL DEFAULT '',
    CHECK ((secret_before IS NULL) = (secret_until IS NULL))
);
CREATE INDEX webhooks_by_operator ON webhooks (operator_id, created_at);

-- The outbox: what they were, or are to be, told. An endpoint is removed without
-- waiting for who writes here: no foreign key.
CREATE TABLE webhook_deliveries (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT   NOT NULL,
    webhook_id TEXT   NOT NULL,
    type       TEXT   NOT NULL,
    request_id TEXT,
    record     TEXT   NOT NULL DEFAULT '', -- the request as it was
    state      TEXT   NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    created_at INTEGER NOT NULL,
    due_at     INTEGER, -- while it is sent: when another server may
    ended_at   INTEGER,
    failures   INTEGER NOT NULL DEFAULT 0,
    attempts   TEXT   NOT NULL DEFAULT '[]',
    token      INTEGER NOT NULL DEFAULT 0, -- grows with each claim
    UNIQUE (webhook_id, id),
    CHECK ((state = 'pending') = (due_at IS NOT NULL))
);
CREATE INDEX webhook_deliveries_due        ON webhook_deliveries (webhook_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_request ON webhook_deliveries (request_id, seq) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_list       ON webhook_deliveries (webhook_id, seq);
CREATE INDEX webhook_deliveries_by_age     ON webhook_deliveries (created_at);

-- +goose Down
PRAGMA defer_foreign_keys = ON;
DROP TABLE webhook_deliveries;
DROP TABLE webhooks;
CREATE TABLE deactivations_before AS SELECT * FROM deactivations;
DROP TABLE deactivations;
CREATE TABLE deactivations (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    operator_id  INTEGER NOT NULL REFERENCES operators (id),
    mccmnc       TEXT    NOT NULL,
    eid          TEXT    NOT NULL,
    iccid        TEXT,
    reason       INTEGER NOT NULL,
    deadline     INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('accepted', 'waiting', 'authenticating', 'sending',
                                                   'done', 'refused', 'failed', 'expired', 'unknown')),
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    sent_at      INTEGER,
    counter      INTEGER,
    finished_at  INTEGER,
    detail       TEXT    NOT NULL DEFAULT '',
    rule         TEXT    NOT NULL DEFAULT '',
    subject_code TEXT    NOT NULL DEFAULT '',
    reason_code  TEXT    NOT NULL DEFAULT '',
    result       INTEGER,
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
-- What waits for an approval must not go out unapproved, and what was cancelled was not done.
INSERT INTO deactivations
    SELECT seq, id, operator_id, mccmnc, eid, iccid, reason, deadline,
           CASE WHEN state IN ('held', 'cancelled') THEN 'expired' ELSE state END, created_at, updated_at,
           sent_at, counter, CASE WHEN state = 'held' THEN updated_at ELSE finished_at END, detail, rule, subject_code, reason_code,
           result, status_word, suite, card_counter, command, response, receipt
    FROM deactivations_before;
DROP TABLE deactivations_before;
CREATE INDEX deactivations_open        ON deactivations (eid, seq) WHERE finished_at IS NULL;
CREATE INDEX deactivations_by_deadline ON deactivations (deadline) WHERE finished_at IS NULL AND sent_at IS NULL;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);

ALTER TABLE profiles DROP COLUMN enabled_at;
DROP INDEX cards_claimed;
ALTER TABLE cards DROP COLUMN claim_by;
ALTER TABLE cards DROP COLUMN claim_token;
ALTER TABLE cards DROP COLUMN claim_until;
ALTER TABLE registrations DROP COLUMN card_groups;
DROP TABLE guard_scopes;

-- An operator goes back to the token of its first user.
CREATE TABLE operators_before AS
    SELECT o.id, o.name, o.mccmnc, (SELECT token_hash FROM users u WHERE u.operator_id = o.id ORDER BY u.id LIMIT 1) AS token_hash, o.created_at
    FROM operators o;
DROP TABLE users;
DROP TABLE operators;
CREATE TABLE operators (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    mccmnc     TEXT    NOT NULL,
    token_hash BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at INTEGER NOT NULL
);
INSERT INTO operators SELECT * FROM operators_before;
DROP TABLE operators_before;
