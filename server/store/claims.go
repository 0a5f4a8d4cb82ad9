package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// Claim is a server's right to work on a card for as long as its lease lasts.
// The token grows with each claim on the card: writes under an older one, or
// after the lease, are refused (ErrFenced).
type Claim struct {
	EID   id.EID
	Token int64
}

// Server is one that claims cards.
type Server struct {
	// Name is unique among all servers there ever were: of one start of one
	// process.
	Name  string
	Lease time.Duration
}

// MaxLease is the longest lease. One that would hold for longer is of a clock
// that has gone back since, and holds no more.
const MaxLease = 5 * time.Minute

// free is the condition that a card may be claimed, at a moment that is given
// twice.
func free(claimUntil, now string) string {
	return fmt.Sprintf(`(%[1]s <= %[2]s OR %[1]s - %[3]d > %[2]s)`, claimUntil, now, MaxLease.Milliseconds())
}

// Work is a card that a server has claimed, and what there is to do with it.
type Work struct {
	Claim   Claim
	Card    *Card    // as it is to the operator of Request
	Request *Request // the next one; nil where the card's state alone is to be read
	Asker   Operator // of Request, and its user
	At      time.Time
}

const hasWork = `(c.unsettled OR EXISTS (SELECT 1 FROM deactivations d WHERE d.eid = c.eid AND d.finished_at IS NULL AND d.state <> 'held'))`

// Waiting gives those of some EIDs whose cards have something to do and are
// free to be claimed, at most limit of them.
func (s *Store) Waiting(ctx context.Context, eids []id.EID, limit int) ([]id.EID, error) {
	now := `?`
	args := []any{s.dialect.list(texts(eids))}
	if s.clock == nil {
		now = `(SELECT now_ms())`
	} else {
		args = append(args, millis(s.now()), millis(s.now()))
	}
	return collect(reads{s, ctx}, scanEID,
		`SELECT c.eid FROM cards c WHERE `+s.dialect.in("c.eid")+` AND `+free("c.claim_until", now)+` AND `+hasWork+` LIMIT ?`, append(args, limit)...)
}

func texts(eids []id.EID) []string {
	out := make([]string, len(eids))
	for i, e := range eids {
		out[i] = e.String()
	}
	return out
}

func scanEID(row scanner) (id.EID, error) {
	var text string
	if err := row.Scan(&text); err != nil {
		return id.EID{}, fmt.Errorf("store: %w", err)
	}
	return id.ParseEID(text)
}

// Claim claims a card that is free and has something to do. What another server
// left in the middle goes back to where it can go on from: a request that was
// being sent is Unknown, one that was being authenticated is Waiting. The error
// matches ErrNotFound where there is nothing to do, or somebody else does it.
func (s *Store) Claim(ctx context.Context, by Server, eid id.EID) (Work, error) {
	var w Work
	err := s.write(ctx, "claim", func(tx *tx) (err error) {
		w = Work{Claim: Claim{EID: eid}}
		if w.Claim.Token, err = tx.claim(by, eid, ""); err != nil {
			return err
		}
		r, err := scanRequest(tx.row(nextRequest, eid.String()))
		if err == nil && (r.State == Sending || r.State == Authenticating) {
			// It is changed below: its end, by a deadline or by its operator, must
			// not be under way.
			if r, err = tx.lockRequest(r.ID); err == nil && r.FinishedAt != nil {
				err = ErrNotFound // the next one is for the next claim
			}
		}
		switch {
		case err == nil:
			w.Request = &r
		case !errors.Is(err, ErrNotFound):
			return err
		}
		operator := int64(0)
		if w.Request != nil {
			operator = r.Operator
		}
		if w.Card, _, err = readCard(tx, eid, operator, ""); err != nil {
			return err
		}
		w.At = tx.now
		if w.Request == nil {
			if !w.Card.Unsettled {
				return tx.giveBack(w.Claim) // what there was has ended meanwhile
			}
			return nil
		}
		if w.Asker, err = tx.asker(&r); err != nil {
			return err
		}
		var to State
		var text string
		switch r.State {
		case Sending:
			to, text = Unknown, "the server that sent the command works on it no more"
		case Authenticating:
			to, text = Waiting, "the server that authenticated works on it no more"
		default:
			return nil
		}
		if _, err := tx.exec(`UPDATE deactivations SET state = ?, updated_at = ? WHERE id = ?`, string(to), millis(tx.now), r.ID.String()); err != nil {
			return err
		}
		w.Request.State, w.Request.UpdatedAt = to, fromMillis(millis(tx.now))
		if to == Unknown {
			tx.came(Unknown, ByServer)
			if err := tx.tellUnknown(r); err != nil {
				return err
			}
		}
		return tx.addEvents(r.step(Event{Kind: string(to), Detail: map[string]any{"text": text}}))
	})
	if err == nil && w.Request == nil && !w.Card.Unsettled {
		err = ErrNotFound
	}
	return w, err
}

// The oldest request for a card that is not finished: they are carried out one
// at a time, in order, but what was sent comes before all else.
const nextRequest = `SELECT ` + requestColumns + ` FROM deactivations
	WHERE eid = ? AND finished_at IS NULL AND state <> 'held' ORDER BY CASE WHEN sent_at IS NULL THEN 1 ELSE 0 END, seq LIMIT 1`

// noWork is a claim's condition that the card has no open request.
const noWork = ` AND NOT EXISTS (SELECT 1 FROM deactivations d WHERE d.eid = cards.eid AND d.finished_at IS NULL AND d.state <> 'held')`

// claim takes a card that is free. It waits for nobody.
func (t *tx) claim(by Server, eid id.EID, only string) (token int64, err error) {
	now := millis(t.now)
	err = t.row(`UPDATE cards SET claim_by = ?, claim_token = claim_token + 1, claim_until = ?
	             WHERE eid = (SELECT eid FROM cards WHERE eid = ? AND `+free("claim_until", "?")+only+t.s.dialect.skipLocked+`) RETURNING claim_token`,
		by.Name, now+min(by.Lease, MaxLease).Milliseconds(), eid.String(), now, now).Scan(&token)
	if err == nil {
		t.writes++
	}
	return token, found(err)
}

// hold locks a claimed card and reads it, as it is to an operator. until is when
// the lease passes. The error matches ErrFenced where the claim does not hold
// any more.
func (t *tx) hold(c Claim, operator int64) (card *Card, until int64, err error) {
	card, by, err := readCard(t, c.EID, operator, t.s.dialect.forUpdate("c"))
	if err != nil {
		return nil, 0, err
	}
	t.tick()
	if by.token != c.Token || by.until <= millis(t.now) {
		return nil, 0, fmt.Errorf("%w: card %s", ErrFenced, c.EID)
	}
	return card, by.until, nil
}

// giveBack ends a claim that holds.
func (t *tx) giveBack(c Claim) error {
	_, err := t.exec(`UPDATE cards SET claim_until = 0 WHERE eid = ? AND claim_token = ?`, c.EID.String(), c.Token)
	return err
}

// Release gives a claim back, and writes what there is to tell of the card. One
// that has passed is left alone.
func (s *Store) Release(ctx context.Context, c Claim, events ...Event) error {
	return s.write(ctx, "release", func(tx *tx) error {
		if err := tx.addEvents(of(c.EID, events)...); err != nil {
			return err
		}
		return tx.giveBack(c)
	})
}

// of are events of a card.
func of(eid id.EID, events []Event) []Event {
	out := slices.Clone(events)
	for i := range out {
		out[i].EID = &eid
	}
	return out
}

// Renew lengthens the leases of a server's claims on some cards, where they have
// not passed, and gives those. Cards that are being written at this moment may
// be left out until the next time. A claim that nobody asks for passes: its
// server may have lost it, such as with the answer to a commit.
func (s *Store) Renew(ctx context.Context, by Server, eids []id.EID) (renewed []id.EID, err error) {
	renew := func(q querier, now string, moment ...any) ([]id.EID, error) {
		args := append(slices.Clone(moment), min(by.Lease, MaxLease).Milliseconds(), by.Name, s.dialect.list(texts(eids)))
		return collect(q, scanEID, `UPDATE cards SET claim_until = `+now+` + ? WHERE eid IN
			(SELECT eid FROM cards WHERE claim_by = ? AND `+s.dialect.in("eid")+` AND claim_until > `+now+s.dialect.skipLocked+`) RETURNING eid`,
			append(args, moment...)...)
	}
	if !s.dialect.remote {
		err := s.write(ctx, "renew", func(tx *tx) (err error) {
			renewed, err = renew(tx, `?`, millis(tx.now))
			tx.writes++
			return err
		})
		return renewed, err
	}
	// On its own, so that it holds no card while it waits for another.
	if err := s.at("renew", false); err != nil {
		return nil, err
	}
	if s.clock != nil {
		renewed, err = renew(reads{s, ctx}, `?::BIGINT`, millis(s.clock()))
	} else {
		renewed, err = renew(reads{s, ctx}, `(SELECT now_ms())`)
	}
	if err != nil {
		return nil, err
	}
	return renewed, s.at("renew", true)
}

// releaseAll gives back the claims of every server, in the name of the one that
// owns an SQLite record: there is no other.
func (s *Store) releaseAll(ctx context.Context) error {
	return s.write(ctx, "release all", func(tx *tx) error {
		_, err := tx.exec(`UPDATE cards SET claim_until = 0 WHERE claim_until > 0`)
		return err
	})
}
