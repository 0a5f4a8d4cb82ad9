package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/cardbridge/cardbridge/server/audit"
)

// Trail is the audit trail at one moment: what is written after it does not
// show. It holds a connection until it is closed, and serves one goroutine.
type Trail struct {
	s  *Store
	tx *sql.Tx
	r  reads
}

// Trail opens the audit trail as it is now.
func (s *Store) Trail(ctx context.Context) (*Trail, error) {
	options := &sql.TxOptions{ReadOnly: true}
	if s.dialect.remote {
		options.Isolation = sql.LevelRepeatableRead
	}
	tx, err := s.db.BeginTx(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	t := &Trail{s: s, tx: tx, r: reads{s, ctx}}
	var at int64
	if err := t.row(`SELECT at FROM health WHERE id = 1`).Scan(&at); err != nil { // its moment is that of its first statement
		return nil, errors.Join(fmt.Errorf("store: %w", err), t.Close())
	}
	return t, nil
}

// Close lets the moment go.
func (t *Trail) Close() error { return t.tx.Rollback() }

func (t *Trail) rows(query string, args ...any) (*sql.Rows, func(), error) {
	rows, err := t.tx.QueryContext(t.r.ctx, t.s.dialect.bind(query), args...)
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	return rows, func() { rows.Close() }, nil
}

func (t *Trail) row(query string, args ...any) scanner { return oneRowOf{t, query, args} }

// Events is how many entries there are, more or less.
func (t *Trail) Events() (n int64, err error) {
	if err := t.row(`SELECT coalesce(max(seq), 0) FROM events`).Scan(&n); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	return n, nil
}

// signed is a checkpoint as it is kept, and what it says; nil where that cannot
// be read.
type signed struct {
	number int64
	note   string
	says   *audit.Checkpoint
}

func scanSigned(row scanner) (signed, error) {
	var out signed
	if err := row.Scan(&out.number, &out.note); err != nil {
		return out, found(err)
	}
	if c, err := audit.ParseCheckpoint(out.note); err == nil {
		out.says = &c
	}
	return out, nil
}

// maxHeld bounds the entries that are kept back while the checkpoint that covers
// them is looked for.
const maxHeld = 100_000

// Lines are entries and checkpoints in the order of an export: after what no
// chain has, what each checkpoint adds, and it; then what none covers yet.
func (t *Trail) Lines() iter.Seq2[audit.Line, error] {
	return func(yield func(audit.Line, error) bool) {
		if err := t.lines(func(l audit.Line) bool { return yield(l, nil) }); err != nil && !errors.Is(err, errStopped) {
			yield(audit.Line{}, err)
		}
	}
}

var errStopped = errors.New("store: nobody reads on")

func (t *Trail) lines(yield func(audit.Line) bool) error {
	send := func(l audit.Line) error {
		if !yield(l) {
			return errStopped
		}
		return nil
	}
	var through int64 // what has been read
	var held []audit.Entry
	// read sends the entries up to a number, but those that keep says to keep.
	read := func(until int64, keep func(int64) bool) error {
		for through < until {
			page, err := collect(t, scanEntry, `SELECT `+entryColumns+` FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?`, through, until, trailPage)
			if err != nil {
				return err
			}
			for i := range page {
				through = page[i].Seq
				if keep(through) {
					if held = append(held, page[i]); len(held) > maxHeld {
						return fmt.Errorf("store: more than %d events are covered by no checkpoint, though some after them are", maxHeld)
					}
					continue
				}
				if err := send(audit.Line{Entry: &page[i]}); err != nil {
					return err
				}
			}
			if len(page) < trailPage {
				through = until
			}
		}
		return nil
	}
	none := func(int64) bool { return false }
	var unchained int64
	if err := t.row(lastUnchained).Scan(&unchained); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := read(unchained, none); err != nil {
		return err
	}
	for number := int64(0); ; {
		page, err := collect(t, scanSigned, `SELECT number, note FROM audit_checkpoints WHERE number > ? ORDER BY number LIMIT ?`, number, trailPage)
		if err != nil {
			return err
		}
		for _, c := range page {
			number = c.number
			if c.says != nil {
				missing := c.says.Misses
				late := held
				held = nil
				for i := range late {
					if missing(late[i].Seq) {
						held = append(held, late[i])
					} else if err := send(audit.Line{Entry: &late[i]}); err != nil {
						return err
					}
				}
				if err := read(c.says.Through, missing); err != nil {
					return err
				}
			}
			if err := send(audit.Line{Note: c.note}); err != nil {
				return err
			}
		}
		if len(page) < trailPage {
			break
		}
	}
	for i := range held {
		if err := send(audit.Line{Entry: &held[i]}); err != nil {
			return err
		}
	}
	return read(1<<63-1, none)
}

const lastUnchained = `SELECT coalesce(max(seq), 0) FROM events WHERE chain IS NULL`

// Requests are all requests of the record, with what the trail has of their
// states.
func (t *Trail) Requests() iter.Seq2[audit.Recorded, error] {
	return func(yield func(audit.Recorded, error) bool) {
		kinds := `('` + strings.Join(audit.States, `', '`) + `')`
		for after := ""; ; {
			page, err := collect(t, scanRecorded, `SELECT id, state, finished_at IS NOT NULL, command, response, receipt
				FROM deactivations WHERE id > ? ORDER BY id LIMIT ?`, after, trailPage)
			if err != nil {
				yield(audit.Recorded{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
			after = page[len(page)-1].Request
			steps, err := collect(t, scanEntry, `SELECT `+entryColumns+` FROM events
				WHERE request_id >= ? AND request_id <= ? AND kind IN `+kinds+` ORDER BY request_id, seq`, page[0].Request, after)
			if err != nil {
				yield(audit.Recorded{}, err)
				return
			}
			for _, r := range page {
				for len(steps) > 0 && steps[0].Request < r.Request {
					steps = steps[1:] // of one that is not in the record: Removed
				}
				n := slices.IndexFunc(steps, func(e audit.Entry) bool { return e.Request != r.Request })
				if n < 0 {
					n = len(steps)
				}
				r.Steps, steps = steps[:n], steps[n:]
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

func scanRecorded(row scanner) (r audit.Recorded, err error) {
	return r, found(row.Scan(&r.Request, &r.State, &r.Finished, &r.Command, &r.Response, &r.Receipt))
}

// Removed are requests that the trail tells of and the record does not have, at
// most limit of them.
func (t *Trail) Removed(limit int) ([]string, error) {
	return collect(t, func(row scanner) (s string, err error) { return s, found(row.Scan(&s)) },
		`SELECT DISTINCT e.request_id FROM events e WHERE e.request_id IS NOT NULL
		 AND NOT EXISTS (SELECT 1 FROM deactivations d WHERE d.id = e.request_id) LIMIT ?`, limit)
}

// Keys are the keys of all cards, by their EIDs.
func (t *Trail) Keys() iter.Seq2[CardKeys, error] {
	return func(yield func(CardKeys, error) bool) {
		for after := ""; ; {
			page, err := collect(t, func(row scanner) (k CardKeys, err error) { return k, found(row.Scan(&k.EID, &k.PublicKeys)) },
				`SELECT eid, public_keys FROM cards WHERE eid > ? ORDER BY eid LIMIT ?`, after, trailPage)
			if err != nil {
				yield(CardKeys{}, err)
				return
			}
			for _, k := range page {
				if after = k.EID; !yield(k, nil) {
					return
				}
			}
			if len(page) < trailPage {
				return
			}
		}
	}
}

// CardKeys are the keys that the record has of a card.
type CardKeys struct {
	EID        string
	PublicKeys []byte
}

// ErrRewritten says that the last checkpoint is not the one that was there before.
var ErrRewritten = errors.New("store: the audit trail was written anew: its last checkpoint is another than before")

// Checkpoint signs all events that are there and covered by no checkpoint. It
// gives an empty note where there are none, or another server was faster. before
// is the note that this process saw last, empty for none; the error matches
// ErrRewritten where the record has another of that number, or none.
func (s *Store) Checkpoint(ctx context.Context, by note.Signer, before string) (string, error) {
	next, now, err := s.nextCheckpoint(ctx, before)
	if err != nil || next == nil {
		return "", err
	}
	next.Time = now
	text, err := next.Sign(by)
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	err = s.write(ctx, "checkpoint", func(tx *tx) error {
		res, err := tx.exec(`INSERT INTO audit_checkpoints (number, note) SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM audit_checkpoints WHERE number >= ?) ON CONFLICT DO NOTHING`,
			next.Number, text, next.Number)
		return oneRow(res, err, ErrExists)
	})
	switch {
	case errors.Is(err, ErrExists):
		return "", nil
	case err != nil:
		return "", err
	}
	return text, nil
}

const lastCheckpoint = `SELECT number, note FROM audit_checkpoints WHERE number = (SELECT max(number) FROM audit_checkpoints)`

// nextCheckpoint is the checkpoint of what is there and covered by none, nil
// where nothing is; and the time.
func (s *Store) nextCheckpoint(ctx context.Context, before string) (*audit.Checkpoint, int64, error) {
	t, err := s.Trail(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer t.Close()
	now := millis(s.now())
	if s.clock == nil {
		if err := t.row(`SELECT now_ms()`).Scan(&now); err != nil {
			return nil, 0, fmt.Errorf("store: %w", err)
		}
	}
	if err := t.still(before); err != nil {
		return nil, 0, err
	}
	var c audit.Checkpoint
	switch last, err := scanSigned(t.row(lastCheckpoint)); {
	case errors.Is(err, ErrNotFound):
		if err := t.row(lastUnchained).Scan(&c.Through); err != nil {
			return nil, 0, fmt.Errorf("store: %w", err)
		}
	case err != nil:
		return nil, 0, err
	case last.says == nil || last.says.Number != last.number:
		return nil, 0, fmt.Errorf("%w: checkpoint %d cannot be read", ErrRewritten, last.number)
	default:
		c = *last.says
		c.Before = audit.HashNote(last.note)
	}
	c.Number++
	now = max(now, c.Time)
	was, digest := c.Events, audit.Digest{Sum: c.Digest}
	// What was missing and has come is taken in first, then what is new.
	missing := c.Missing
	c.Missing = nil
	for _, m := range missing {
		if err := t.cover(&c, &digest, m.From-1, m.To, m.Since); err != nil {
			return nil, 0, err
		}
		if c.Through < m.To {
			return nil, 0, fmt.Errorf("%w: checkpoint %d cannot be", ErrRewritten, c.Number-1)
		}
	}
	var until int64
	if err := t.row(`SELECT coalesce(max(seq), 0) FROM events`).Scan(&until); err != nil {
		return nil, 0, fmt.Errorf("store: %w", err)
	}
	if until > c.Through {
		if err := t.cover(&c, &digest, c.Through, until, now); err != nil {
			return nil, 0, err
		}
		c.Through = until
	}
	c.Digest = digest.Sum
	if c.Events == was {
		return nil, 0, nil
	}
	return &c, now, nil
}

// cover takes in the entries after a number until another, and says what is
// missing there, since when.
func (t *Trail) cover(c *audit.Checkpoint, digest *audit.Digest, after, until, since int64) error {
	rows, done, err := t.rows(`SELECT seq, chain, n, hash, 0, '', NULL, NULL, NULL, FALSE, '' FROM events WHERE seq > ? AND seq <= ? AND chain IS NOT NULL ORDER BY seq`, after, until)
	if err != nil {
		return err
	}
	defer done()
	for rows.Next() {
		e, err := scanEntry(rows)
		if err != nil {
			return err
		}
		c.Miss(after+1, e.Seq-1, since)
		c.Add(digest, &e)
		after = e.Seq
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	c.Miss(after+1, until, since)
	return nil
}

// still checks that a note that was there is there.
func (t *Trail) still(note string) error {
	if note == "" {
		return nil
	}
	c, err := audit.ParseCheckpoint(note)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	var is string
	err = t.row(`SELECT note FROM audit_checkpoints WHERE number = ?`, c.Number).Scan(&is)
	if err != nil && !isNoRow(err) {
		return fmt.Errorf("store: %w", err)
	}
	if is != note {
		return fmt.Errorf("%w: number %d", ErrRewritten, c.Number)
	}
	return nil
}

// Verify has v check the trail, and the record's requests and cards against it.
// progress, where it is not nil, is told of each line.
func (t *Trail) Verify(v *audit.Verifier, progress func()) (audit.Report, error) {
	for l, err := range t.Lines() {
		if err == nil {
			err = v.Add(l)
		}
		if err != nil {
			return audit.Report{}, err
		}
		if progress != nil {
			progress()
		}
	}
	for r, err := range t.Requests() {
		if err != nil {
			return audit.Report{}, err
		}
		v.Request(r)
		if progress != nil {
			progress()
		}
	}
	removed, err := t.Removed(removedAtOnce)
	if err != nil {
		return audit.Report{}, err
	}
	for _, r := range removed {
		v.NoRequest(r)
	}
	for k, err := range t.Keys() {
		if err == nil {
			err = v.Card(k.EID, k.PublicKeys)
		}
		if err != nil {
			return audit.Report{}, err
		}
	}
	return v.End(), nil
}

const removedAtOnce = 100
