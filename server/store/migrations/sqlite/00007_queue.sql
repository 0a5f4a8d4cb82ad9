-- +goose Up
-- What is watched of the queue is found without looking at all of it.
CREATE INDEX deactivations_queue ON deactivations (seq) WHERE finished_at IS NULL AND state <> 'held';
CREATE INDEX deactivations_sent  ON deactivations (seq) WHERE finished_at IS NULL AND sent_at IS NOT NULL;

-- +goose Down
DROP INDEX IF EXISTS deactivations_queue;
DROP INDEX IF EXISTS deactivations_sent;
