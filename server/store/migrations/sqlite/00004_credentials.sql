-- +goose Up
-- What users prove themselves by: several are good at once.
CREATE TABLE credentials (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id    INTEGER NOT NULL REFERENCES users (id),
    kind       TEXT    NOT NULL CHECK (kind IN ('token', 'certificate')),
    hash       BLOB    NOT NULL CHECK (length(hash) = 32), -- SHA-256 of the token, or of the certificate's SubjectPublicKeyInfo
    label      TEXT    NOT NULL,
    roles      INTEGER NOT NULL, -- those of the user's that it is good for
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    used_at    INTEGER, -- to the hour
    revoked_at INTEGER,
    UNIQUE (kind, hash)
);
CREATE INDEX credentials_by_user ON credentials (user_id, id);
INSERT INTO credentials (user_id, kind, hash, label, roles, created_at)
    SELECT id, 'token', token_hash, 'first', roles, created_at FROM users WHERE roles <> 0;

-- Tables that others refer to are made anew under their names.
PRAGMA defer_foreign_keys = ON;
CREATE TABLE users_before AS SELECT id, operator_id, name, roles, created_at FROM users;
DROP TABLE users;
CREATE TABLE users (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    operator_id INTEGER NOT NULL REFERENCES operators (id),
    name        TEXT    NOT NULL,
    roles       INTEGER NOT NULL, -- 1 read, 2 request, 4 approve, 8 administer
    created_at  INTEGER NOT NULL,
    UNIQUE (operator_id, name)
);
INSERT INTO users SELECT * FROM users_before;
DROP TABLE users_before;

-- +goose Down
PRAGMA defer_foreign_keys = ON;
-- A user goes back to its newest token that is good for all that it may do, and
-- for good: nothing gets to do more, or for longer, than it was made for.
CREATE TABLE users_before AS
    SELECT id, operator_id, name, roles,
           coalesce((SELECT c.hash FROM credentials c
                     WHERE c.user_id = users.id AND c.kind = 'token' AND c.roles = users.roles AND c.revoked_at IS NULL AND c.expires_at IS NULL
                     ORDER BY c.id DESC LIMIT 1), randomblob(32)) AS token_hash, created_at
    FROM users;
DROP TABLE credentials;
DROP TABLE users;
CREATE TABLE users (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    operator_id INTEGER NOT NULL REFERENCES operators (id),
    name        TEXT    NOT NULL,
    roles       INTEGER NOT NULL,
    token_hash  BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at  INTEGER NOT NULL,
    UNIQUE (operator_id, name)
);
INSERT INTO users SELECT * FROM users_before;
DROP TABLE users_before;
