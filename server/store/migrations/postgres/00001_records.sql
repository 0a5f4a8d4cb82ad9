-- +goose Up
-- The same record as in migrations/sqlite. Times are milliseconds since
-- 1970-01-01 UTC. Identifiers are their digits.

-- The one clock of all servers of this record.
-- +goose StatementBegin
CREATE FUNCTION now_ms() RETURNS BIGINT LANGUAGE SQL VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT $$;
-- +goose StatementEnd

CREATE TABLE operators (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    mccmnc     TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE users (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id BIGINT NOT NULL REFERENCES operators (id),
    name        TEXT   NOT NULL,
    roles       BIGINT NOT NULL,
    token_hash  BYTEA  NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at  BIGINT NOT NULL,
    UNIQUE (operator_id, name)
);

CREATE TABLE guard_scopes (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operator_id BIGINT NOT NULL REFERENCES operators (id),
    card_group  TEXT   NOT NULL,
    fleet       BIGINT NOT NULL DEFAULT 0,
    pending     BIGINT NOT NULL DEFAULT 0,
    epoch       BIGINT NOT NULL DEFAULT 0,
    counts      BYTEA  NOT NULL,
    tripped_at  BIGINT,
    tripped_why TEXT   NOT NULL DEFAULT '',
    webhooks    BIGINT NOT NULL DEFAULT 0,
    UNIQUE (operator_id, card_group)
) WITH (fillfactor = 50); -- rows that change all the time

CREATE TABLE cards (
    eid           TEXT    NOT NULL PRIMARY KEY,
    public_keys   BYTEA   NOT NULL,
    event_counter BIGINT  NOT NULL,
    unsettled     BOOLEAN NOT NULL DEFAULT FALSE,
    registered_by BIGINT  NOT NULL REFERENCES operators (id),
    registered_at BIGINT  NOT NULL,
    updated_at    BIGINT  NOT NULL,
    claim_by      TEXT    NOT NULL DEFAULT '',
    claim_token   BIGINT  NOT NULL DEFAULT 0,
    claim_until   BIGINT  NOT NULL DEFAULT 0
) WITH (fillfactor = 70); -- so that claims are updates in place: no index has their columns

CREATE TABLE registrations (
    eid           TEXT   NOT NULL REFERENCES cards (eid),
    operator_id   BIGINT NOT NULL REFERENCES operators (id),
    registered_at BIGINT NOT NULL,
    card_groups   TEXT   NOT NULL DEFAULT '',
    PRIMARY KEY (operator_id, eid)
);
CREATE INDEX registrations_by_card ON registrations (eid, registered_at);

CREATE TABLE profiles (
    eid             TEXT    NOT NULL REFERENCES cards (eid),
    iccid           TEXT    NOT NULL,
    position        BIGINT  NOT NULL,
    mccmnc          TEXT    NOT NULL,
    state           TEXT    NOT NULL CHECK (state IN ('enabled', 'disabled', 'absent')),
    class           TEXT    NOT NULL,
    provider        TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    ppr1            BOOLEAN NOT NULL,
    ppr2            BOOLEAN NOT NULL,
    fallback        BOOLEAN NOT NULL,
    disable_allowed BOOLEAN NOT NULL DEFAULT TRUE,
    enabled_at      BIGINT,
    PRIMARY KEY (eid, iccid)
);
CREATE INDEX profiles_by_owner ON profiles (mccmnc, eid);

CREATE TABLE deactivations (
    seq          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    operator_id  BIGINT  NOT NULL REFERENCES operators (id),
    user_id      BIGINT  NOT NULL REFERENCES users (id),
    mccmnc       TEXT    NOT NULL,
    eid          TEXT    NOT NULL,
    iccid        TEXT,
    reason       BIGINT  NOT NULL,
    unconnected  BOOLEAN NOT NULL DEFAULT FALSE,
    timeout      BIGINT  NOT NULL,
    deadline     BIGINT  NOT NULL,
    state        TEXT    NOT NULL CHECK (state IN ('accepted', 'held', 'waiting', 'authenticating', 'sending',
                                                   'done', 'refused', 'failed', 'expired', 'cancelled', 'unknown')),
    created_at   BIGINT  NOT NULL,
    updated_at   BIGINT  NOT NULL,
    scopes       TEXT    NOT NULL DEFAULT '',
    epoch        BIGINT  NOT NULL DEFAULT 0,
    held_why     TEXT    NOT NULL DEFAULT '',
    approved_by  BIGINT  REFERENCES users (id),
    approved_at  BIGINT,
    sent_at      BIGINT,
    counter      BIGINT,
    told         BOOLEAN NOT NULL DEFAULT FALSE,
    finished_at  BIGINT,
    detail       TEXT    NOT NULL DEFAULT '',
    rule         TEXT    NOT NULL DEFAULT '',
    subject_code TEXT    NOT NULL DEFAULT '',
    reason_code  TEXT    NOT NULL DEFAULT '',
    result       BIGINT,
    status_word  BIGINT,
    suite        BIGINT,
    card_counter BIGINT,
    command      BYTEA,
    response     BYTEA,
    receipt      BYTEA,
    CHECK ((sent_at IS NULL) = (counter IS NULL)),
    CHECK (state NOT IN ('sending', 'done', 'unknown') OR sent_at IS NOT NULL),
    CHECK (state NOT IN ('expired', 'cancelled', 'held') OR sent_at IS NULL),
    CHECK (state <> 'done' OR receipt IS NOT NULL)
) WITH (fillfactor = 70);
CREATE INDEX deactivations_open        ON deactivations (eid, seq) WHERE finished_at IS NULL;
CREATE INDEX deactivations_held        ON deactivations (operator_id, seq) WHERE state = 'held';
CREATE INDEX deactivations_by_deadline ON deactivations (deadline) WHERE finished_at IS NULL AND sent_at IS NULL;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);

CREATE TABLE idempotency_keys (
    operator_id BIGINT NOT NULL REFERENCES operators (id),
    key         TEXT   NOT NULL,
    body_hash   BYTEA  NOT NULL,
    request_id  TEXT   NOT NULL REFERENCES deactivations (id),
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (operator_id, key)
);

-- Endpoints that are told what becomes of requests.
CREATE TABLE webhooks (
    id            TEXT   NOT NULL PRIMARY KEY,
    operator_id   BIGINT NOT NULL REFERENCES operators (id),
    url           TEXT   NOT NULL,
    types         TEXT   NOT NULL DEFAULT '', -- of messages, with a space around each; none: all
    secret        BYTEA  NOT NULL,
    secret_before BYTEA,
    secret_until  BIGINT, -- so long the one before is good
    created_at    BIGINT NOT NULL,
    failing_since BIGINT,
    disabled_at   BIGINT,
    disabled_why  TEXT   NOT NULL DEFAULT '',
    CHECK ((secret_before IS NULL) = (secret_until IS NULL))
);
CREATE INDEX webhooks_by_operator ON webhooks (operator_id, created_at);

-- The outbox: what they were, or are to be, told. An endpoint is removed without
-- waiting for who writes here: no foreign key.
CREATE TABLE webhook_deliveries (
    seq        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         TEXT   NOT NULL,
    webhook_id TEXT   NOT NULL,
    type       TEXT   NOT NULL,
    request_id TEXT,
    record     TEXT   NOT NULL DEFAULT '', -- the request as it was
    state      TEXT   NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    created_at BIGINT NOT NULL,
    due_at     BIGINT, -- while it is sent: when another server may
    ended_at   BIGINT,
    failures   BIGINT NOT NULL DEFAULT 0,
    attempts   TEXT   NOT NULL DEFAULT '[]',
    token      BIGINT NOT NULL DEFAULT 0, -- grows with each claim
    UNIQUE (webhook_id, id),
    CHECK ((state = 'pending') = (due_at IS NOT NULL))
);
CREATE INDEX webhook_deliveries_due        ON webhook_deliveries (webhook_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_request ON webhook_deliveries (request_id, seq) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_list       ON webhook_deliveries (webhook_id, seq);
CREATE INDEX webhook_deliveries_by_age     ON webhook_deliveries (created_at);

-- The audit trail. It only ever grows.
CREATE TABLE events (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          BIGINT  NOT NULL,
    kind        TEXT    NOT NULL,
    request_id  TEXT,
    eid         TEXT,
    operator_id BIGINT,
    internal    BOOLEAN NOT NULL,
    detail      TEXT    NOT NULL
);
CREATE INDEX events_by_request ON events (request_id, seq) WHERE request_id IS NOT NULL;

-- +goose StatementBegin
CREATE FUNCTION events_append_only() RETURNS TRIGGER LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$;
-- +goose StatementEnd
CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_append_only();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION events_append_only();

CREATE TABLE health (id BIGINT PRIMARY KEY CHECK (id = 1), at BIGINT NOT NULL);
INSERT INTO health (id, at) VALUES (1, 0);

-- +goose Down
DROP TABLE webhook_deliveries;
DROP TABLE webhooks;
DROP TABLE health;
DROP TABLE events;
DROP FUNCTION events_append_only;
DROP TABLE idempotency_keys;
DROP TABLE deactivations;
DROP TABLE profiles;
DROP TABLE registrations;
DROP TABLE cards;
DROP TABLE guard_scopes;
DROP TABLE users;
DROP TABLE operators;
DROP FUNCTION now_ms;
