package hwtest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/term"

	"github.com/cardbridge/cardbridge/hwtest/report"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// lacksHand says why nothing can be pulled here.
func lacksHand(s *station) string {
	switch {
	case onVirtual():
		return ""
	case !s.Person:
		return "nobody is there (person: true in the bench file)"
	case !term.IsTerminal(int(os.Stdin.Fd())):
		return "standard input is no terminal: nobody sees what to do"
	}
	return ""
}

// step is one of the things that can happen to a reader in use.
type step struct {
	name   string
	prompt string
	want   reader.EventKind
	// virtual does it on the virtual bench; nil where that cannot be done there.
	virtual func(*virtualSlot)
}

var steps = []step{
	{"card-pulled", "pull the card out of %s", reader.CardRemoved, func(s *virtualSlot) { s.pull() }},
	{"card-inserted", "put the card back into %s", reader.CardInserted, (*virtualSlot).insert},
	{"reader-unplugged", "unplug the reader %s", reader.ReaderRemoved, nil},
	{"reader-plugged", "plug the reader %s in again, where it was", reader.ReaderAdded, nil},
}

// checkHotPlug has the card pulled and inserted and the reader unplugged and
// plugged in, and waits for the events that tell of it.
func checkHotPlug(t *testing.T, s *station) {
	if conn := s.conn(t); conn == nil {
		return
	} else {
		require.NoError(t, conn.Close())
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan reader.Event, 64)
	ended := make(chan error, 1)
	go func() {
		ended <- s.source.Watch(ctx, func(e reader.Event) {
			if e.Reader.ID == s.reader.ID {
				select {
				case events <- e:
				case <-ctx.Done():
				}
			}
		})
	}()
	defer func() {
		cancel()
		assert.ErrorIs(t, <-ended, context.Canceled)
	}()
	await := func(t *testing.T, want reader.EventKind, d time.Duration) (reader.Event, bool) {
		t.Helper()
		late := time.After(d)
		for {
			select {
			case e := <-events:
				t.Logf("%s: %s", e.Reader.Name, e.Kind)
				if e.Kind == want {
					return e, true
				}
			case <-late:
				return reader.Event{}, assert.Fail(t, "no event: "+want.String())
			}
		}
	}
	if _, ok := await(t, reader.CardInserted, 10*time.Second); !ok { // as it is at the start
		return
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) {
			start := time.Now()
			switch slot := s.virtual[s.reader.Name]; {
			case slot == nil:
				report.Prompt(t, step.prompt, s.reader.Name)
			case step.virtual == nil:
				report.Omit(t, "a virtual reader has no plug")
				return
			default:
				step.virtual(slot)
			}
			e, ok := await(t, step.want, s.config.Limits.Person)
			if !ok {
				return
			}
			if s.virtual != nil { // a person's time says nothing of the reader
				report.Measure(t, report.Measurement{Name: "until the event", Unit: "ms", Values: []float64{millis(time.Since(start))}})
			}
			switch step.want {
			case reader.CardInserted:
				s.works(t)
			case reader.ReaderAdded:
				s.reader.Name = e.Reader.Name // it may have another, the ID is the same
				if _, ok := await(t, reader.CardInserted, 10*time.Second); ok {
					s.works(t)
				}
			}
		}) {
			return // what follows would prompt for the wrong thing
		}
	}
}

// works makes sure that the card in the reader answers.
func (s *station) works(t *testing.T) {
	t.Helper()
	conn := s.conn(t)
	require.NotNil(t, conn)
	capdu, err := shortest.AppendBinary(nil)
	require.NoError(t, err)
	_, err = conn.Transmit(t.Context(), capdu)
	assert.NoError(t, err, "the card answers again")
}
