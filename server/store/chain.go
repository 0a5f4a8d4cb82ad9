package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/cardbridge/cardbridge/server/audit"
)

// chained writes the events of a transaction in the session's own chain: chains
// wait for nobody. The head moves with the transaction's commit, and goes back
// where it is undone (session.begin).
func (t *tx) chained(list []Event) ([]Event, error) {
	if t.head.N > 0 || len(list) == 0 {
		return list, nil
	}
	begun, err := t.beginChain()
	if err != nil {
		return nil, err
	}
	return append([]Event{begun}, list...), nil
}

// beginChain makes a chain of a random name, and gives its first event.
func (t *tx) beginChain() (Event, error) {
	t.head = audit.Head{}
	rand.Read(t.head.Chain[:]) // never fails
	begun := Event{Kind: audit.Began, Internal: true, Detail: maps.Clone(self())}
	// The statement about entries without a chain is made by whoever finds no
	// chain after them.
	var last []byte
	err := t.row(`SELECT chain FROM events WHERE seq = (SELECT max(seq) FROM events)`).Scan(&last)
	if err == nil && last == nil {
		begun.Detail["earlier"], err = earlier(t)
	}
	if err != nil && !isNoRow(err) {
		return Event{}, fmt.Errorf("store: %w", err)
	}
	return begun, nil
}

// self is who writes a chain.
var self = sync.OnceValue(func() map[string]any {
	out := map[string]any{"pid": os.Getpid(), "user": strconv.Itoa(os.Getuid())}
	if exe, err := os.Executable(); err == nil {
		out["program"] = filepath.Base(exe)
	}
	if host, err := os.Hostname(); err == nil {
		out["host"] = host
	}
	if u, err := user.Current(); err == nil {
		out["user"] = u.Username
	}
	return out
})

// earlier counts the entries from before there were chains.
func earlier(q querier) (*audit.Earlier, error) {
	var digest audit.Digest
	out := &audit.Earlier{}
	for after := int64(0); ; {
		page, err := collect(q, scanEntry, `SELECT `+entryColumns+` FROM events WHERE chain IS NULL AND seq > ? ORDER BY seq LIMIT ?`, after, trailPage)
		if err != nil {
			return nil, err
		}
		for i := range page {
			digest.AddUnchained(&page[i])
			out.Events++
			after = page[i].Seq
		}
		if len(page) < trailPage {
			out.Digest = hex.EncodeToString(digest.Sum[:])
			return out, nil
		}
	}
}

// trailPage is how many entries are read at once.
const trailPage = 1000

const entryColumns = `seq, chain, n, hash, at, kind, request_id, eid, operator_id, internal, detail`

var errEntry = errors.New("its columns are of another form")

// scanEntry reads an event as it is stored. A row whose columns do not have the
// form that they are written in is an error: its hash would not show it.
func scanEntry(row scanner) (audit.Entry, error) {
	var (
		e            audit.Entry
		chain, hash  []byte
		n, operator  *int64
		request, eid *string
	)
	err := row.Scan(&e.Seq, &chain, &n, &hash, &e.At, &e.Kind, &request, &eid, &operator, &e.Internal, &e.Detail)
	if err != nil {
		return e, fmt.Errorf("store: an entry of the audit trail: %w", err)
	}
	ok := (chain == nil) == (n == nil) && (chain == nil) == (hash == nil)
	if ok && chain != nil {
		ok = len(chain) == len(e.Chain) && len(hash) == len(e.Hash) && *n > 0
		e.N = *n
		copy(e.Chain[:], chain)
		copy(e.Hash[:], hash)
	}
	for _, text := range []struct {
		from *string
		to   *string
	}{{request, &e.Request}, {eid, &e.EID}} {
		if text.from != nil {
			*text.to = *text.from
			ok = ok && *text.from != ""
		}
	}
	if operator != nil {
		e.Operator = *operator
		ok = ok && *operator != 0
	}
	if !ok {
		return e, fmt.Errorf("store: event %d: %w", e.Seq, errEntry)
	}
	return e, nil
}
