-- +goose Up
-- Which operators vouch for the keys of a card: each one that acts on it.
CREATE TABLE registrations (
    eid           TEXT    NOT NULL REFERENCES cards (eid),
    operator_id   INTEGER NOT NULL REFERENCES operators (id),
    registered_at INTEGER NOT NULL,
    PRIMARY KEY (operator_id, eid)
);
CREATE INDEX registrations_by_card ON registrations (eid, registered_at);
INSERT INTO registrations (eid, operator_id, registered_at) SELECT eid, registered_by, registered_at FROM cards;

-- What a card record says of the card's state is the registrant's word.
UPDATE cards SET unsettled = 1;

-- A row to write, so as to know whether the record can be written.
CREATE TABLE health (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL);
INSERT INTO health (id, at) VALUES (1, 0);

-- +goose Down
DROP TABLE health;
DROP TABLE registrations;
