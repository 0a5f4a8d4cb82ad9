-- +goose Up
-- What users prove themselves by: several are good at once.
CREATE TABLE credentials (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id    BIGINT NOT NULL REFERENCES users (id),
    kind       TEXT   NOT NULL CHECK (kind IN ('token', 'certificate')),
    hash       BYTEA  NOT NULL CHECK (length(hash) = 32), -- SHA-256 of the token, or of the certificate's SubjectPublicKeyInfo
    label      TEXT   NOT NULL,
    roles      BIGINT NOT NULL, -- those of the user's that it is good for
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    used_at    BIGINT, -- to the hour
    revoked_at BIGINT,
    UNIQUE (kind, hash)
);
CREATE INDEX credentials_by_user ON credentials (user_id, id);
INSERT INTO credentials (user_id, kind, hash, label, roles, created_at)
    SELECT id, 'token', token_hash, 'first', roles, created_at FROM users WHERE roles <> 0;
ALTER TABLE users DROP COLUMN token_hash;

-- +goose Down
-- A user goes back to its newest token that is good for all that it may do, and
-- for good: nothing gets to do more, or for longer, than it was made for.
ALTER TABLE users ADD COLUMN token_hash BYTEA UNIQUE CHECK (length(token_hash) = 32);
UPDATE users SET token_hash = coalesce(
    (SELECT c.hash FROM credentials c
     WHERE c.user_id = users.id AND c.kind = 'token' AND c.roles = users.roles AND c.revoked_at IS NULL AND c.expires_at IS NULL
     ORDER BY c.id DESC LIMIT 1),
    decode(replace(gen_random_uuid()::TEXT || gen_random_uuid()::TEXT, '-', ''), 'hex'));
ALTER TABLE users ALTER COLUMN token_hash SET NOT NULL;
DROP TABLE credentials;
