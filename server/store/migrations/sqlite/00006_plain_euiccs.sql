-- +goose Up
-- Tables that others refer to are made anew under their names.
PRAGMA defer_foreign_keys = ON;

-- How a card is managed: by the management applet, under its keys, or by ES10c,
-- for a plain eUICC, which has none. It never changes.
ALTER TABLE cards ADD COLUMN management TEXT NOT NULL DEFAULT 'applet'
    CHECK (management IN ('applet', 'es10c') AND (management = 'es10c') = (length(public_keys) = 0));
UPDATE cards SET management = 'es10c', public_keys = x'' WHERE public_keys = CAST('null' AS BLOB); -- Down has left it
CREATE UNIQUE INDEX cards_management ON cards (eid, management);

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
    how          TEXT,    -- it was sent: as the card is managed
    counter      INTEGER, -- the expected event counter of that command; the applet's alone has one
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
    FOREIGN KEY (eid, how) REFERENCES cards (eid, management),
    CHECK ((sent_at IS NULL) = (how IS NULL)),
    CHECK ((counter IS NOT NULL) = (coalesce(how, '') = 'applet')),
    CHECK (state NOT IN ('sending', 'done', 'unknown') OR sent_at IS NOT NULL),
    CHECK (state NOT IN ('expired', 'cancelled', 'held') OR sent_at IS NULL),
    -- Without a receipt nothing is done but by ES10c, which has none.
    CHECK (state <> 'done' OR (receipt IS NOT NULL) = (how = 'applet')),
    CHECK (receipt IS NULL OR how = 'applet')
);
INSERT INTO deactivations
    SELECT seq, id, operator_id, user_id, mccmnc, eid, iccid, reason, unconnected, timeout, deadline, state, created_at, updated_at,
           scopes, epoch, held_why, approved_by, approved_at, sent_at, how, CASE how WHEN 'applet' THEN counter END, told, finished_at, detail,
           rule, subject_code, reason_code, result, status_word, suite, card_counter, command, response, receipt
    FROM (SELECT b.*, CASE WHEN b.sent_at IS NOT NULL THEN (SELECT c.management FROM cards c WHERE c.eid = b.eid) END AS how
          FROM deactivations_before b);
DROP TABLE deactivations_before;
CREATE INDEX deactivations_open        ON deactivations (eid, seq) WHERE finished_at IS NULL;
CREATE INDEX deactivations_held        ON deactivations (operator_id, seq) WHERE state = 'held';
CREATE INDEX deactivations_by_deadline ON deactivations (deadline) WHERE finished_at IS NULL AND sent_at IS NULL;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);

-- +goose Down
PRAGMA defer_foreign_keys = ON;
CREATE TABLE deactivations_before AS SELECT * FROM deactivations;
DROP TABLE deactivations;
CREATE TABLE deactivations (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    operator_id  INTEGER NOT NULL REFERENCES operators (id),
    user_id      INTEGER NOT NULL REFERENCES users (id),
    mccmnc       TEXT    NOT NULL,
    eid          TEXT    NOT NULL,
    iccid        TEXT,
    reason       INTEGER NOT NULL,
    unconnected  INTEGER NOT NULL DEFAULT 0,
    timeout      INTEGER NOT NULL,
    deadline     INTEGER NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('accepted', 'held', 'waiting', 'authenticating', 'sending',
                                                   'done', 'refused', 'failed', 'expired', 'cancelled', 'unknown')),
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    scopes       TEXT    NOT NULL DEFAULT '',
    epoch        INTEGER NOT NULL DEFAULT 0,
    held_why     TEXT    NOT NULL DEFAULT '',
    approved_by  INTEGER REFERENCES users (id),
    approved_at  INTEGER,
    sent_at      INTEGER,
    counter      INTEGER,
    told         INTEGER NOT NULL DEFAULT 0,
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
    CHECK (state NOT IN ('expired', 'cancelled', 'held') OR sent_at IS NULL),
    CHECK (state <> 'done' OR receipt IS NOT NULL)
);
-- What is done without a receipt is not done as far as an older program knows.
INSERT INTO deactivations
    SELECT seq, id, operator_id, user_id, mccmnc, eid, iccid, reason, unconnected, timeout, deadline,
           CASE WHEN how = 'es10c' AND state = 'done' THEN 'unknown' ELSE state END, created_at, updated_at,
           scopes, epoch, held_why, approved_by, approved_at, sent_at, CASE how WHEN 'es10c' THEN 0 ELSE counter END, told, finished_at, detail,
           rule, subject_code, reason_code, result, status_word, suite, card_counter, command, response, receipt
    FROM deactivations_before;
DROP TABLE deactivations_before;
CREATE INDEX deactivations_open        ON deactivations (eid, seq) WHERE finished_at IS NULL;
CREATE INDEX deactivations_held        ON deactivations (operator_id, seq) WHERE state = 'held';
CREATE INDEX deactivations_by_deadline ON deactivations (deadline) WHERE finished_at IS NULL AND sent_at IS NULL;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);
DROP INDEX cards_management;
ALTER TABLE cards DROP COLUMN management;
UPDATE cards SET public_keys = CAST('null' AS BLOB) WHERE length(public_keys) = 0; -- no card record: nothing can be sent to it
