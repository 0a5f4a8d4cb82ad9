package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/audit"
)

// chains reads all entries and checks that each is what its chain says. It gives
// their number in each chain.
func (f *fixture) chains(t testing.TB) map[audit.ChainID]int64 {
	list, err := collect(reads{f.Store, t.Context()}, scanEntry, `SELECT `+entryColumns+` FROM events WHERE chain IS NOT NULL ORDER BY seq`)
	require.NoError(t, err)
	heads := map[audit.ChainID]audit.Head{}
	out := map[audit.ChainID]int64{}
	for _, e := range list {
		head := heads[e.Chain]
		head.Chain = e.Chain
		again := e
		head.Extend(&again, nil)
		require.Equal(t, e, again)
		assert.Equal(t, e.N == 1, e.Kind == audit.Began)
		heads[e.Chain] = head
		out[e.Chain]++
	}
	return out
}

// Several servers write at once, and each session has a chain of its own that
// goes on whatever becomes of its transactions: refused ones, such that fail in
// the middle, those done again one by one.
func TestChainsInterleave(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		stores := []*Store{f.Store, f.open(t), f.open(t)}
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				s := stores[w%len(stores)]
				for n := range 12 {
					sub := f.submission(0)
					sub.ID = id.RequestID{0: byte(w), 1: byte(n), 2: 1}
					if _, err := s.Submit(context.Background(), sub, func(*Moment) Verdict { return Verdict{Window: 1} }); !assert.NoError(t, err) {
						return
					}
					if rand.IntN(3) > 0 {
						continue
					}
					err := s.write(context.Background(), "bad", func(tx *tx) error {
						if err := tx.addEvents(Event{Kind: "undone"}, Event{Kind: "undone"}); err != nil {
							return err
						}
						if w%2 == 0 {
							return errors.New("no")
						}
						_, err := tx.exec(`INSERT INTO health (id, at) VALUES (2, 0)`)
						return err
					})
					assert.Error(t, err)
				}
			})
		}
		wg.Wait()
		chains := f.chains(t)
		assert.GreaterOrEqual(t, len(chains), len(stores))
		events, err := f.Events(t.Context(), 0, 10_000)
		require.NoError(t, err)
		for _, e := range events {
			assert.NotEqual(t, "undone", e.Kind)
		}
	})
}

// Where it is not known whether a commit is on disk, the session ends, and so
// does its chain.
func TestChainEndsWithItsSession(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		s := f.open(t)
		var fail atomic.Bool
		d := *s.dialect
		bind := d.bind
		d.bind = func(q string) string {
			if q == `COMMIT` && fail.Load() {
				return `SELECT no_such_function()`
			}
			return bind(q)
		}
		s.dialect = &d
		fail.Store(true)
		assert.Error(t, s.Note(t.Context(), Event{Kind: "lost"}))
		fail.Store(false)
		require.NoError(t, s.Note(t.Context(), Event{Kind: "kept"}))
		before := f.chains(t)
		require.NoError(t, s.Note(t.Context(), Event{Kind: "kept"}))
		after := f.chains(t)
		assert.LessOrEqual(t, len(after)-len(before), 1)
		for range 20 {
			require.NoError(t, s.Note(t.Context(), Event{Kind: "kept"}))
		}
		assert.LessOrEqual(t, len(f.chains(t)), len(before)+postgresWriters, "a chain for each session")
	})
}

// A crash at a commit leaves a chain that is whole, whether the commit counts or
// not.
func TestChainsOverFaults(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		for _, committed := range []bool{false, true} {
			died := errors.New("died")
			s := f.open(t, WithFaults(func(_ string, c bool) error {
				if c == committed {
					return died
				}
				return nil
			}))
			assert.ErrorIs(t, s.Note(t.Context(), Event{Kind: fmt.Sprint("committed ", committed)}), died)
			f.chains(t)
		}
		var kinds []string
		events, err := f.Events(t.Context(), 0, 100)
		require.NoError(t, err)
		for _, e := range events {
			kinds = append(kinds, e.Kind)
		}
		assert.Contains(t, kinds, "committed true")
		assert.NotContains(t, kinds, "committed false")
	})
}

// Entries from before there were chains are counted and digested by the first
// chain, and by no other; what is not of a chain cannot be written any more.
func TestMigratesEntriesWithoutChain(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		before := int64(4)
		if f.Shared() {
			before = 2
		}
		require.NoError(t, f.Downgrade(t.Context(), before))
		require.NoError(t, f.Close())
		f.Store = f.open(t)
		assert.Len(t, f.chains(t), 1)
		second := f.open(t)
		require.NoError(t, second.Note(t.Context(), Event{Kind: "x"}))
		assert.Len(t, f.chains(t), 2)
		events, err := f.Events(t.Context(), 0, 100)
		require.NoError(t, err)
		var said []any
		old := 0
		for i, e := range events {
			if e.Kind == "schema taken back" {
				old, said = i+1, nil // what was said before is an old entry now
			}
			if e.Kind == audit.Began {
				assert.NotEmpty(t, e.Detail["program"])
				said = append(said, e.Detail["earlier"])
			}
		}
		require.Len(t, said, 2)
		assert.Nil(t, said[1])
		again, err := earlier(reads{f.Store, t.Context()})
		require.NoError(t, err)
		assert.Equal(t, int64(old), again.Events)
		assert.Equal(t, map[string]any{"events": float64(old), "digest": again.Digest}, said[0])
		_, err = f.db.Exec(`INSERT INTO events (at, kind, internal, detail) VALUES (1, 'x', FALSE, '{}')`)
		require.Error(t, err)
		assert.True(t, strings.Contains(err.Error(), "of a chain") || strings.Contains(err.Error(), "events_chained"), err)
	})
}
