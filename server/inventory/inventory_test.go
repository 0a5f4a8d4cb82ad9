package inventory_test

import (
	"context"
	"fmt"
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
	inv.Notify(func(eid id.EID, _ *uint32) { seen <- eid })
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
	assert.Equal(t, []inventory.Place{{Name: "a", ID: "id of a"}, {Name: "b", ID: "id of b"}}, inv.Readers(servertest.EID(1)), "two claim it")
	readers.Remove("b")
	assert.Equal(t, []inventory.Place{{Name: "a", ID: "id of a"}}, inv.Readers(servertest.EID(1)))
	eid := servertest.EID(1)
	assert.Equal(t, []inventory.Entry{{Reader: "a", Card: true, EID: &eid}}, inv.List())
	_, err := inv.Open(t.Context(), inventory.Place{Name: "b", ID: "id of b"})
	assert.ErrorIs(t, err, apdu.ErrNoReader)
}

// A name that comes to mean another reader means that one's card.
func TestNamesThatMove(t *testing.T) {
	readers := servertest.NewReaders()
	readers.Insert("0", servertest.Card(servertest.Image(1)), nil)
	readers.Insert("1", servertest.Card(servertest.Image(2)), nil)
	inv, seen := start(t, readers)
	assert.ElementsMatch(t, []id.EID{servertest.EID(1), servertest.EID(2)}, []id.EID{<-seen, <-seen})
	readers.Swap("0", "1")
	assert.ElementsMatch(t, []id.EID{servertest.EID(1), servertest.EID(2)}, []id.EID{<-seen, <-seen})
	assert.Equal(t, []inventory.Place{{Name: "1", ID: "id of 0"}}, inv.Readers(servertest.EID(1)))
	assert.Equal(t, []inventory.Place{{Name: "0", ID: "id of 1"}}, inv.Readers(servertest.EID(2)))
	_, err := inv.Open(t.Context(), inventory.Place{Name: "0", ID: "id of 0"})
	assert.ErrorIs(t, err, apdu.ErrNoReader, "it is elsewhere now")
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
	at := inv.Readers(servertest.EID(1))[0]
	conn, err := inv.Open(t.Context(), at)
	require.NoError(t, err)
	assert.NotEmpty(t, conn.ATR())
	assert.True(t, apdu.BasicChannel(conn).Extended())
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = inv.Open(short, at)
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, conn.Close())
	conn, err = inv.Open(t.Context(), at)
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
		inv.Notify(func(eid id.EID, _ *uint32) { seen <- eid })
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
		inv.Notify(func(id.EID, *uint32) { seen.Add(1) })
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

// A reading that is given up leaves no logical channel open: a card has few, and
// keeps them until its next reset.
func TestReadingThatIsGivenUpLeavesNoChannelOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		readers := servertest.NewReaders()
		c := servertest.Card(servertest.Image(1))
		slow := true
		readers.Insert("r", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
			b, err := next(capdu)
			if slow && capdu[1] == 0xCA {
				slow = false
				time.Sleep(time.Minute) // longer than the inventory waits
			}
			return b, err
		})
		inv := inventory.New(readers, slog.New(slog.DiscardHandler))
		seen := make(chan id.EID, 1)
		inv.Notify(func(eid id.EID, _ *uint32) { seen <- eid })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- inv.Run(ctx) }()
		assert.Equal(t, servertest.EID(1), <-seen)
		cancel()
		<-ended
		assert.False(t, slow)
		conn := c.Connect()
		rapdu, err := conn.Transmit(t.Context(), []byte{0x00, 0x70, 0x00, 0x00, 0x01})
		require.NoError(t, err)
		assert.Equal(t, []byte{0x01, 0x90, 0x00}, rapdu, "the first channel is free")
	})
}

// busy is readers that another program may keep: commands wait, and one that
// nobody waits for any more reaches the card all the same.
type busy struct {
	*servertest.Readers
	calls chan string
}

func (s busy) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	conn, err := s.Readers.Open(ctx, name, mode)
	return busyConn{conn, s.calls}, err
}

type busyConn struct {
	apdu.Conn
	calls chan string
}

func (c busyConn) Begin(context.Context) error { c.calls <- "begin"; return nil }

func (c busyConn) End(ctx context.Context) error { c.calls <- "end"; return ctx.Err() }

func (c busyConn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	if capdu[1] == 0x70 {
		c.calls <- fmt.Sprintf("manage channel %X", capdu[2])
	}
	return c.Conn.Transmit(ctx, capdu)
}

// Nothing is sent before other programs' transactions are over.
func TestReadingIsATransaction(t *testing.T) {
	source := busy{servertest.NewReaders(), make(chan string, 8)}
	source.Insert("r", servertest.Card(servertest.Image(1)), nil)
	_, seen := start(t, source)
	<-seen
	for _, want := range []string{"begin", "manage channel 0", "manage channel 80", "end"} {
		assert.Equal(t, want, <-source.calls)
	}
}
