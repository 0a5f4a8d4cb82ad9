-- +goose Up
-- What lists of requests and cards are looked up by, in their order.
DROP INDEX deactivations_by_operator;
DROP INDEX deactivations_held;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, created_at, seq);
CREATE INDEX deactivations_held        ON deactivations (operator_id, created_at, seq) WHERE state = 'held';
CREATE INDEX deactivations_by_card     ON deactivations (eid, operator_id, created_at, seq);
CREATE INDEX deactivations_by_profile  ON deactivations (iccid, operator_id, created_at, seq) WHERE iccid IS NOT NULL;
CREATE INDEX profiles_by_iccid         ON profiles (iccid, mccmnc);

-- +goose Down
DROP INDEX profiles_by_iccid;
DROP INDEX deactivations_by_profile;
DROP INDEX deactivations_by_card;
DROP INDEX deactivations_held;
DROP INDEX deactivations_by_operator;
CREATE INDEX deactivations_by_operator ON deactivations (operator_id, seq);
CREATE INDEX deactivations_held        ON deactivations (operator_id, seq) WHERE state = 'held';
