-- +goose Up
-- The same as in migrations/sqlite.
ALTER TABLE cards ADD COLUMN management TEXT NOT NULL DEFAULT 'applet';
UPDATE cards SET management = 'es10c', public_keys = '' WHERE public_keys = 'null'::BYTEA; -- Down has left it
ALTER TABLE cards ADD CHECK (management IN ('applet', 'es10c') AND (management = 'es10c') = (length(public_keys) = 0));
CREATE UNIQUE INDEX cards_management ON cards (eid, management);

ALTER TABLE deactivations ADD COLUMN how TEXT;
ALTER TABLE deactivations DROP CONSTRAINT deactivations_check, DROP CONSTRAINT deactivations_check3;
UPDATE deactivations d SET how = c.management, counter = CASE c.management WHEN 'applet' THEN counter END
    FROM cards c WHERE c.eid = d.eid AND d.sent_at IS NOT NULL;
ALTER TABLE deactivations
    ADD FOREIGN KEY (eid, how) REFERENCES cards (eid, management),
    ADD CHECK ((sent_at IS NULL) = (how IS NULL)),
    ADD CHECK ((counter IS NOT NULL) = (coalesce(how, '') = 'applet')),
    ADD CHECK (state <> 'done' OR (receipt IS NOT NULL) = (how = 'applet')),
    ADD CHECK (receipt IS NULL OR how = 'applet');

-- +goose Down
UPDATE deactivations SET state = 'unknown' WHERE how = 'es10c' AND state = 'done';
ALTER TABLE deactivations DROP COLUMN how; -- and the constraints that speak of it
UPDATE deactivations SET counter = 0 WHERE sent_at IS NOT NULL AND counter IS NULL;
ALTER TABLE deactivations
    ADD CONSTRAINT deactivations_check CHECK ((sent_at IS NULL) = (counter IS NULL)),
    ADD CONSTRAINT deactivations_check3 CHECK (state <> 'done' OR receipt IS NOT NULL);
ALTER TABLE cards DROP COLUMN management;
UPDATE cards SET public_keys = 'null' WHERE length(public_keys) = 0;
