package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/card/id"
)

// maxScanned is how many rows a page of a list looks at, however few of them a
// filter leaves: what a page costs does not grow with the record.
const maxScanned = 1000

// Place is where a list of requests goes on: after the one that was taken in at
// that time under that number. The zero Place is the list's start.
type Place struct {
	At  int64 // milliseconds since 1970
	Seq int64
}

// RequestFilter says which of an operator's requests to list; the zero value is
// all.
type RequestFilter struct {
	EID          *id.EID
	ICCID        *id.ICCID
	States       []State
	User         string // who asked
	Group        string // of the card, as the operator has it now
	Reason       *byte
	Since, Until time.Time // taken in: from Since, before Until
}

// query is a WHERE clause and its arguments.
type query struct {
	where string
	args  []any
}

func (q *query) and(condition string, args ...any) {
	q.where += ` AND ` + condition
	q.args = append(q.args, args...)
}

// ListRequests lists an operator's requests, newest first, after a place, at
// most limit. A next that is not nil says where the list goes on; a page that
// few requests match may have less than limit, or none.
func (s *Store) ListRequests(ctx context.Context, operator int64, f RequestFilter, after Place, limit int) (list []Request, next *Place, err error) {
	q := query{`operator_id = ?`, []any{operator}}
	if f.EID != nil {
		q.and(`eid = ?`, f.EID.String())
	}
	if f.ICCID != nil {
		q.and(`iccid = ?`, f.ICCID.String())
	}
	held := len(f.States) == 1 && f.States[0] == Held
	if held {
		q.and(`state = 'held'`) // as the index says it
	}
	if !f.Since.IsZero() {
		q.and(`created_at >= ?`, millis(f.Since))
	}
	if !f.Until.IsZero() {
		q.and(`created_at < ?`, millis(f.Until))
	}
	if after != (Place{}) {
		q.and(`(created_at, seq) < (?, ?)`, after.At, after.Seq)
	}
	const order = ` ORDER BY created_at DESC, seq DESC LIMIT ?`
	if !held && len(f.States) > 0 || f.User != "" || f.Group != "" || f.Reason != nil {
		var edge Place
		row := reads{s, ctx}.row(`SELECT created_at, seq FROM deactivations WHERE `+q.where+order+` OFFSET ?`, append(q.args, 1, s.scanned-1)...)
		switch err := row.Scan(&edge.At, &edge.Seq); {
		case err == nil:
			q.and(`(created_at, seq) >= (?, ?)`, edge.At, edge.Seq)
			next = &edge
		case !errors.Is(err, sql.ErrNoRows):
			return nil, nil, fmt.Errorf("store: %w", err)
		}
	}
	if !held && len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, state := range f.States {
			states[i] = string(state)
		}
		q.and(s.dialect.in(`state`), s.dialect.list(states))
	}
	if f.User != "" {
		q.and(`user_id = (SELECT id FROM users WHERE operator_id = ? AND name = ?)`, operator, f.User)
	}
	if f.Group != "" {
		q.and(`EXISTS (SELECT 1 FROM registrations r WHERE r.operator_id = ? AND r.eid = deactivations.eid AND `+inGroup+`)`, operator, f.Group)
	}
	if f.Reason != nil {
		q.and(`reason = ?`, int64(*f.Reason))
	}
	list, err = collect(reads{s, ctx}, scanRequest, `SELECT `+requestColumns+` FROM deactivations WHERE `+q.where+order, append(q.args, limit+1)...)
	if len(list) > limit {
		list = list[:limit]
		last := list[limit-1]
		next = &Place{millis(last.CreatedAt), last.Seq}
	}
	return list, next, err
}

// inGroup asks whether registration r has a group, whose name has no % and no _.
const inGroup = `' ' || r.card_groups || ' ' LIKE '% ' || ? || ' %'`

// CardFilter says which of an operator's cards to list; the zero value is all.
type CardFilter struct {
	ICCID     *id.ICCID    // of a profile of the operator's
	State     ProfileState // of one of the operator's profiles, with ICCID of that one
	Group     string
	Unsettled *bool
}

// ListCards lists the cards that an operator registered and owns a profile in,
// by EID, after the EID after, at most limit, as it is to that operator. A next
// that is not empty says after which EID the list goes on, as for ListRequests.
func (s *Store) ListCards(ctx context.Context, op Operator, f CardFilter, after string, limit int) (list []*Card, next string, err error) {
	q := query{`operator_id = ? AND eid > ?`, []any{op.ID, after}}
	if f.ICCID != nil {
		q.and(`eid IN (SELECT eid FROM profiles WHERE iccid = ? AND mccmnc = ?)`, f.ICCID.String(), op.MCCMNC.String())
	}
	err = reads{s, ctx}.row(`SELECT eid FROM registrations r WHERE `+q.where+` ORDER BY eid LIMIT 1 OFFSET ?`, append(q.args, s.scanned-1)...).Scan(&next)
	switch {
	case err == nil:
		q.and(`eid <= ?`, next)
	case !errors.Is(err, sql.ErrNoRows):
		return nil, "", fmt.Errorf("store: %w", err)
	}
	own := query{`p.eid = r.eid AND p.mccmnc = ?`, []any{op.MCCMNC.String()}}
	if f.ICCID != nil {
		own.and(`p.iccid = ?`, f.ICCID.String())
	}
	if f.State != "" {
		own.and(`p.state = ?`, string(f.State))
	}
	q.and(`EXISTS (SELECT 1 FROM profiles p WHERE `+own.where+`)`, own.args...)
	if f.Group != "" {
		q.and(inGroup, f.Group)
	}
	if f.Unsettled != nil {
		q.and(`EXISTS (SELECT 1 FROM cards c WHERE c.eid = r.eid AND c.unsettled = ?)`, *f.Unsettled)
	}
	scan := func(row scanner) (eid string, err error) { return eid, found(row.Scan(&eid)) }
	eids, err := collect(reads{s, ctx}, scan, `SELECT eid FROM registrations r WHERE `+q.where+` ORDER BY eid LIMIT ?`, append(q.args, limit+1)...)
	if err != nil {
		return nil, "", err
	}
	if len(eids) > limit {
		eids = eids[:limit]
		next = eids[limit-1]
	}
	list, err = s.cards(ctx, op.ID, eids)
	return list, next, err
}
