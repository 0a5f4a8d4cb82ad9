package inventory_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func start(t *testing.T, source reader.Source) (*inventory.Inventory, <-chan id.EID) {
	inv := inventory.New(source, slog.New(slog.NewTextHandler(io.Discard, nil)))
	seen := make(chan id.EID, 16)
	inv.Notify(func(eid id.EID, _ uint32) { seen <- eid })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- inv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.ErrorIs(t, <-ended, context.Canceled)
	})
	return inv, seen
}

func TestCardsComeAndGo(t *testing.T) {
	readers := servertest.NewReaders()
	readers.Insert("b", servertest.Card(servertest.Image(1)), nil)
	inv, seen := start(t, readers)
	assert.Equal(t, servertest.EID(1), <-seen)
	readers.Insert("a", servertest.Card(servertest.Image(1)), nil)
	<-seen
	assert.Equal(t, []string{"a", "b"}, inv.Readers(servertest.EID(1)), "two claim it")
	readers.Remove("b")
	assert.Equal(t, []string{"a"}, inv.Readers(servertest.EID(1)))
	eid := servertest.EID(1)
	assert.Equal(t, []inventory.Entry{{Reader: "a", Card: true, EID: &eid}}, inv.List())
	_, err := inv.Open(t.Context(), "b")
	assert.ErrorIs(t, err, apdu.ErrNoReader)
}

func TestBusyReaderIsTriedAgainAndStopsNobody(t *testing.T) {
	readers := servertest.NewReaders()
	stuck := make(chan struct{})
	defer close(stuck)
	readers.Insert("stuck", servertest.Card(servertest.Image(1)), func([]byte, servertest.Next) ([]byte, error) {
		<-stuck
		return nil, apdu.ErrTimeout
	})
	var fails atomic.Int32
	readers.Insert("moody", servertest.Card(servertest.Image(2)), func(capdu []byte, next servertest.Next) ([]byte, error) {
		if fails.Add(1) < 3 {
			return nil, apdu.ErrCardReset
		}
		return next(capdu)
	})
	busy := servertest.Card(servertest.Image(3))
	readers.Insert("busy", busy, nil)
	conn, err := readers.Open(t.Context(), "busy", reader.Exclusive)
	require.NoError(t, err)
	inv, seen := start(t, readers)
	assert.Equal(t, servertest.EID(2), <-seen)
	assert.Empty(t, inv.Readers(servertest.EID(3)))
	require.NoError(t, conn.Close())
	assert.Equal(t, servertest.EID(3), <-seen)
}

func TestCardsThatTellNoEID(t *testing.T) {
	for name, answer := range map[string]servertest.Intercept{
		"no applet":    func([]byte, servertest.Next) ([]byte, error) { return []byte{0x6A, 0x82}, nil },
		"garbage":      func([]byte, servertest.Next) ([]byte, error) { return []byte{1, 2, 3, 0x90, 0}, nil },
		"one byte":     func([]byte, servertest.Next) ([]byte, error) { return []byte{0x90}, nil },
		"no end":       func([]byte, servertest.Next) ([]byte, error) { return []byte{0x61, 0x10}, nil },
		"check digits": func([]byte, servertest.Next) ([]byte, error) { return append(make([]byte, 18), 0x90, 0), nil },
	} {
		t.Run(name, func(t *testing.T) {
			readers := servertest.NewReaders()
			readers.Insert("odd", servertest.Card(servertest.Image(1)), answer)
			readers.Insert("good", servertest.Card(servertest.Image(2)), nil)
			inv, seen := start(t, readers)
			assert.Equal(t, servertest.EID(2), <-seen)
			assert.Empty(t, inv.Readers(servertest.EID(1)))
		})
	}
}

// Who has a card open has it alone: the inventory's own reading too waits.
func TestOpenIsExclusive(t *testing.T) {
	readers := servertest.NewReaders()
	readers.Insert("r", servertest.Card(servertest.Image(1)), nil)
	inv, seen := start(t, readers)
	<-seen
	conn, err := inv.Open(t.Context(), "r")
	require.NoError(t, err)
	assert.NotEmpty(t, conn.ATR())
	assert.True(t, apdu.BasicChannel(conn).Extended())
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = inv.Open(short, "r")
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, conn.Close())
	conn, err = inv.Open(t.Context(), "r")
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestMuteCard(t *testing.T) {
	source := muteSource{servertest.NewReaders()}
	inv, seen := start(t, source)
	require.Eventually(t, func() bool { return len(inv.List()) == 1 }, 5*time.Second, time.Millisecond)
	assert.Empty(t, seen)
	assert.True(t, inv.List()[0].Card)
}

// muteSource has one reader with a mute card in it.
type muteSource struct{ *servertest.Readers }

func (muteSource) Watch(ctx context.Context, fn func(reader.Event)) error {
	fn(reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: "mute", Card: true, Mute: true}})
	<-ctx.Done()
	return ctx.Err()
}

// A card that refuses for long is asked at longer intervals, not given up; the
// log warns once of each.
func TestCardThatRefusesForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		readers := servertest.NewReaders()
		var fails atomic.Int32
		readers.Insert("odd", servertest.Card(servertest.Image(1)), func(capdu []byte, next servertest.Next) ([]byte, error) {
			if fails.Add(1) <= 20 {
				return []byte{0x6F, 0x00}, nil
			}
			return next(capdu)
		})
		var log strings.Builder
		inv := inventory.New(readers, slog.New(slog.NewTextHandler(&log, nil)))
		seen := make(chan id.EID, 1)
		inv.Notify(func(eid id.EID, _ uint32) { seen <- eid })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- inv.Run(ctx) }()
		began := time.Now()
		assert.Equal(t, servertest.EID(1), <-seen)
		assert.Greater(t, time.Since(began), time.Minute, "on the clock of the test")
		cancel()
		<-ended
		assert.Equal(t, 1, strings.Count(log.String(), "card not identified yet"), "%s", log.String())
		assert.Contains(t, log.String(), "level=WARN")
	})
}

// tapped hands out what it is watched with.
type tapped struct {
	*servertest.Readers
	fn chan func(reader.Event)
}

func (s tapped) Watch(ctx context.Context, fn func(reader.Event)) error {
	s.fn <- fn
	<-ctx.Done()
	return ctx.Err()
}

// The EID of a card that left while it was read is not that of what comes.
func TestCardThatLeavesWhileItIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tapped{servertest.NewReaders(), make(chan func(reader.Event), 1)}
		read, left := make(chan struct{}), make(chan struct{})
		source.Insert("r", servertest.Card(servertest.Image(1)), func(capdu []byte, next servertest.Next) ([]byte, error) {
			b, err := next(capdu)
			if capdu[1] == 0xCA && capdu[3] == 0xE1 { // the last thing that is read
				close(read)
				<-left
			}
			return b, err
		})
		inv := inventory.New(source, slog.New(slog.DiscardHandler))
		var seen atomic.Int32
		inv.Notify(func(id.EID, uint32) { seen.Add(1) })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- inv.Run(ctx) }()
		tell := <-source.fn
		tell(reader.Event{Kind: reader.CardInserted, Reader: reader.Reader{Name: "r", Card: true}})
		<-read
		tell(reader.Event{Kind: reader.CardRemoved, Reader: reader.Reader{Name: "r"}})
		close(left)
		synctest.Wait()
		assert.Empty(t, inv.Readers(servertest.EID(1)))
		assert.Zero(t, seen.Load())
		cancel()
		<-ended
	})
}
