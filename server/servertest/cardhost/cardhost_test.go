package cardhost_test

import (
	"bufio"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
)

// childVar has the test program be a client, of the host at that address, or
// ("start") a program that starts a host.
const childVar = "CARDHOST_TEST_CHILD"

func TestMain(m *testing.M) {
	cardhost.Enter()
	if what := os.Getenv(childVar); what != "" {
		if err := child(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(what string) error {
	ctx := context.Background()
	if what == "start" {
		host, err := cardhost.Start(ctx, cardhost.Config{Cards: 1})
		if err != nil {
			return err
		}
		fmt.Println(host.Addr())
		time.Sleep(time.Minute)
		return host.Stop()
	}
	// A client that deactivates and activates one card until it is killed.
	var addr string
	var n int
	if _, err := fmt.Sscan(what, &addr, &n); err != nil {
		return err
	}
	readers := cardhost.NewSource(addr, nil)
	for counter := uint32(5); ; counter++ {
		if _, err := operate(ctx, readers, n, counter); err != nil {
			return err
		}
		fmt.Println(counter + 1)
	}
}

var cardKeys = sync.OnceValues(func() (cryptogram.PublicKeys, error) {
	keys, err := servertest.Image(0).Keys.Private()
	return keys.Public(), err
})

var getEID = []byte{0x80, 0xCA, 0, 0x5A, 0} // the applet must be selected

// terminal is the server's side as a server has it: on a scheduler.
var terminal = sync.OnceValues(func() (*card.Terminal, error) {
	var set cryptogram.KeySetPEM
	if err := json.Unmarshal(servertest.KeySetFile(), &set); err != nil {
		return nil, err
	}
	scheduler := rsafast.NewScheduler(rsafast.Config{})
	keys, err := set.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return scheduler.Load(k) })
	keys.Ops = scheduler
	return &card.Terminal{Keys: keys}, err
})

// operate sends a DEACTIVATE of card n's first profile where that is enabled, as
// it is with an odd counter, else an ACTIVATE.
func operate(ctx context.Context, readers reader.Source, n int, counter uint32) (card.Report, error) {
	keys, err1 := cardKeys()
	server, err2 := terminal()
	if err := errors.Join(err1, err2); err != nil {
		return card.Report{}, err
	}
	conn, err := readers.Open(ctx, cardhost.Name(n), reader.Exclusive)
	if err != nil {
		return card.Report{}, err
	}
	iccid := servertest.ICCID(n, 0)
	cmd := card.Command{INS: operation(counter), RequestID: id.RequestID(uuid.New()), Operator: servertest.Owner, ICCID: &iccid, Counter: counter}
	target := card.Target{EID: servertest.EID(n), Keys: keys, Suite: cryptogram.Suite01}
	rep, err := server.Attempt(ctx, apdu.BasicChannel(conn), target, card.Attempt{Command: cmd, Recorded: counter})
	return rep, errors.Join(err, conn.Close())
}

func operation(counter uint32) byte {
	if counter%2 == 0 {
		return card.INSActivate
	}
	return card.INSDeactivate
}

// serve is a host in this process.
func serve(t testing.TB, c cardhost.Config) (addr string) {
	t.Helper()
	addr = filepath.Join(t.TempDir(), "s")
	t.Cleanup(serveAt(t, addr, c))
	return addr
}

func serveAt(t testing.TB, addr string, c cardhost.Config) (stop func()) {
	t.Helper()
	h, err := cardhost.New(c)
	require.NoError(t, err)
	return serveHost(t, addr, h)
}

func serveHost(t testing.TB, addr string, h *cardhost.Host) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", addr)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Serve(ctx, l) }()
	return sync.OnceFunc(func() {
		cancel()
		assert.ErrorIs(t, <-ended, context.Canceled)
		h.Close()
	})
}

func client(t testing.TB, addr string) (*cardhost.Source, *cardhost.Control) {
	readers, control := cardhost.NewSource(addr, nil), cardhost.NewControl(addr)
	t.Cleanup(readers.Close)
	t.Cleanup(control.Close)
	return readers, control
}

func open(t testing.TB, readers reader.Source, n int, mode reader.Mode) apdu.Conn {
	t.Helper()
	conn, err := readers.Open(t.Context(), cardhost.Name(n), mode)
	require.NoError(t, err)
	return conn
}

func state(t testing.TB, control *cardhost.Control, n int) cardhost.State {
	t.Helper()
	all, err := control.States(t.Context(), n, 1)
	require.NoError(t, err)
	require.Len(t, all, 1)
	return all[0]
}

// settled is the card's state once no client has it.
func settled(t testing.TB, control *cardhost.Control, n int) cardhost.State {
	t.Helper()
	var st cardhost.State
	require.Eventually(t, func() bool {
		st = state(t, control, n)
		return st.Connections == 0
	}, 20*time.Second, time.Millisecond)
	return st
}

func eid(t testing.TB, conn apdu.Conn) (id.EID, error) {
	t.Helper()
	return card.ReadEID(t.Context(), apdu.BasicChannel(conn))
}

func TestOpen(t *testing.T) {
	addr := serve(t, cardhost.Config{First: 7, Cards: 3})
	readers, control := client(t, addr)
	for n := 7; n < 10; n++ {
		conn := open(t, readers, n, reader.Exclusive)
		assert.Equal(t, servertest.Card(servertest.Image(n)).ATR(), conn.ATR())
		got, err := eid(t, conn)
		require.NoError(t, err)
		assert.Equal(t, servertest.EID(n), got)
		_, err = readers.Open(t.Context(), cardhost.Name(n), reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		assert.Equal(t, 1, state(t, control, n).Connections)
		require.NoError(t, conn.Close())
		require.NoError(t, conn.Close())
		settled(t, control, n)
		_, err = conn.Transmit(t.Context(), []byte{0, 0xA4, 0, 0})
		assert.ErrorIs(t, err, apdu.ErrTransport)
	}
	for _, name := range []string{"reader 6", "reader 10", "reader 07", "reader -7", "reader", "", "reader 99999999999999999999", "other"} {
		_, err := readers.Open(t.Context(), name, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoReader, name)
	}
	one, two := open(t, readers, 8, reader.Shared), open(t, readers, 8, reader.Shared)
	_, err := readers.Open(t.Context(), cardhost.Name(8), reader.Exclusive)
	assert.ErrorIs(t, err, apdu.ErrCardBusy)
	require.NoError(t, one.Reset(t.Context()))
	_, err = eid(t, one)
	assert.NoError(t, err)
	_, err = eid(t, two)
	assert.ErrorIs(t, err, apdu.ErrCardReset)
	require.NoError(t, one.Close())
	require.NoError(t, two.Close())
	require.NoError(t, open(t, readers, 8, reader.Exclusive).Close())

	part := cardhost.NewSource(addr, func(n int) bool { return n != 8 })
	defer part.Close()
	_, err = part.Open(t.Context(), cardhost.Name(8), reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrNoReader)

	_, err = cardhost.NewSource(addr+"x", nil).Open(t.Context(), cardhost.Name(8), reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrTransport)
	_, err = cardhost.New(cardhost.Config{Cards: -1})
	assert.Error(t, err)
	_, err = cardhost.Start(t.Context(), cardhost.Config{First: 99_999_999, Cards: 2})
	assert.Error(t, err)
}

// A card keeps what it was told while its connection goes from hand to hand.
func TestClosingLeavesTheCard(t *testing.T) {
	readers, _ := client(t, serve(t, cardhost.Config{Cards: 1}))
	conn := open(t, readers, 0, reader.Exclusive)
	_, err := card.Select(t.Context(), apdu.BasicChannel(conn))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	rapdu, err := open(t, readers, 0, reader.Exclusive).Transmit(t.Context(), getEID)
	require.NoError(t, err)
	_, sw, err := apdu.ParseResponse(rapdu)
	require.NoError(t, err)
	assert.Equal(t, apdu.SWSuccess, sw, "the applet is selected")
}

func TestTransmitIsCancelled(t *testing.T) {
	readers, control := client(t, serve(t, cardhost.Config{Cards: 1}))
	require.NoError(t, control.Arm(t.Context(), 0, cardhost.Fault{Kind: cardhost.LateAnswer, APDU: 1, For: 300 * time.Millisecond}))
	conn := open(t, readers, 0, reader.Exclusive)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := conn.Transmit(ctx, []byte{0, 0xA4, 4, 0, 0})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = conn.Transmit(t.Context(), []byte{0, 0xA4, 4, 0, 0})
	assert.ErrorIs(t, err, apdu.ErrTransport)
	assert.NoError(t, conn.Close())
	settled(t, control, 0)
	require.NoError(t, open(t, readers, 0, reader.Exclusive).Close())
}

// What comes through the socket is what the card says. The image is one with
// which the suite can run as on a physical card.
func TestConformance(t *testing.T) {
	image := func(n int) *appletsim.Image {
		im := servertest.Image(n)
		im.Profiles[0].State, im.Profiles[1].State = appletsim.Disabled, appletsim.Enabled
		im.Profiles[2].Owner, im.Profiles[2].Class = servertest.Owner, appletsim.Test
		kept := im.Profiles[0]
		kept.ICCID, kept.PPR1 = servertest.ICCID(n, 3), true
		im.Profiles = append(im.Profiles, kept)
		return im
	}
	h, err := cardhost.New(cardhost.Config{Cards: 1})
	require.NoError(t, err)
	h.SetImage(image)
	addr := filepath.Join(t.TempDir(), "s")
	defer serveHost(t, addr, h)()
	readers, control := client(t, addr)
	record, err := card.ParseRecord(servertest.Record(image(0)))
	require.NoError(t, err)
	server, err := terminal()
	require.NoError(t, err)
	sum := cardtest.Run(t, cardtest.Existing(cardtest.Card{
		Open: func(t *testing.T) apdu.Conn {
			var conn apdu.Conn
			require.Eventually(t, func() (ok bool) { // a card that was pulled comes back
				conn, err = readers.Open(t.Context(), cardhost.Name(0), reader.Shared)
				return err == nil
			}, 20*time.Second, time.Millisecond)
			require.NoError(t, conn.Reset(t.Context()))
			return conn
		},
		Record: record,
		Server: server.Keys,
		PowerCycle: func(t *testing.T, _ apdu.Conn) {
			require.NoError(t, control.Remove(t.Context(), 0, 0))
			require.NoError(t, control.Insert(t.Context(), 0))
		},
	}))
	assert.GreaterOrEqual(t, len(sum.Ran), 100, sum)
}

// events collects what a source says.
type events struct {
	mu   sync.Mutex
	seen []string
}

func watch(t *testing.T, readers reader.Source) *events {
	e := &events{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- readers.Watch(ctx, func(ev reader.Event) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.seen = append(e.seen, fmt.Sprintf("%s: %s, card %v, ID %s", ev.Reader.Name, ev.Kind, ev.Reader.Card, ev.Reader.ID))
		})
	}()
	t.Cleanup(func() { cancel(); assert.ErrorIs(t, <-ended, context.Canceled) })
	return e
}

func (e *events) next(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	require.Eventually(t, func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		got = e.seen
		return len(got) >= len(want)
	}, 20*time.Second, time.Millisecond)
	assert.Equal(t, want, got)
	e.mu.Lock()
	e.seen = nil
	e.mu.Unlock()
}

func TestWatch(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "s")
	all := watch(t, cardhost.NewSource(addr, nil)) // before there is a host
	stop := serveAt(t, addr, cardhost.Config{Cards: 2})
	defer func() { stop() }()
	_, control := client(t, addr)
	all.next(t,
		"reader 0: reader added, card false, ID name:reader 0", "reader 0: card inserted, card true, ID name:reader 0",
		"reader 1: reader added, card false, ID name:reader 1", "reader 1: card inserted, card true, ID name:reader 1")
	require.NoError(t, control.Remove(t.Context(), 1, 0))
	require.NoError(t, control.Remove(t.Context(), 1, 0))
	all.next(t, "reader 1: card removed, card false, ID name:reader 1")

	part := watch(t, cardhost.NewSource(addr, func(n int) bool { return n == 1 }))
	part.next(t, "reader 1: reader added, card false, ID name:reader 1")
	require.NoError(t, control.Insert(t.Context(), 1))
	require.NoError(t, control.Insert(t.Context(), 1))
	part.next(t, "reader 1: card inserted, card true, ID name:reader 1")
	all.next(t, "reader 1: card inserted, card true, ID name:reader 1")
	require.NoError(t, control.Remove(t.Context(), 1, time.Millisecond))
	part.next(t, "reader 1: card removed, card false, ID name:reader 1", "reader 1: card inserted, card true, ID name:reader 1")

	stop()
	part.next(t, "reader 1: reader removed, card false, ID name:reader 1")
	stop = serveAt(t, addr, cardhost.Config{First: 1, Cards: 1})
	part.next(t, "reader 1: reader added, card false, ID name:reader 1", "reader 1: card inserted, card true, ID name:reader 1")
	require.Eventually(t, func() bool {
		_, err := control.States(t.Context(), 1, 1)
		return err == nil
	}, 20*time.Second, time.Millisecond, "a connection from before does no harm")
	assert.ErrorIs(t, control.Insert(t.Context(), 0), apdu.ErrNoReader)
}

func TestRemoved(t *testing.T) {
	readers, control := client(t, serve(t, cardhost.Config{Cards: 1}))
	require.NoError(t, control.Remove(t.Context(), 0, 0)) // before it is made
	_, err := readers.Open(t.Context(), cardhost.Name(0), reader.Shared)
	assert.ErrorIs(t, err, apdu.ErrNoCard)
	assert.False(t, state(t, control, 0).Present)
	require.NoError(t, control.Warm(t.Context()))
	require.NoError(t, control.Insert(t.Context(), 0))
	conn := open(t, readers, 0, reader.Shared)
	_, err = eid(t, conn)
	require.NoError(t, err)
	require.NoError(t, control.Remove(t.Context(), 0, time.Minute))
	require.NoError(t, control.Insert(t.Context(), 0)) // overtakes the timer
	_, err = eid(t, conn)
	assert.ErrorIs(t, err, apdu.ErrCardRemoved)
	require.NoError(t, conn.Close())
	_, err = eid(t, open(t, readers, 0, reader.Shared))
	assert.NoError(t, err)
}

func TestFaults(t *testing.T) {
	readers, control := client(t, serve(t, cardhost.Config{Cards: 1}))
	counter := uint32(5) // the card's
	const atOperation = 0
	for _, c := range []struct {
		kind    cardhost.FaultKind
		apdu    int
		err     error
		outcome card.Outcome
		done    bool
	}{
		{cardhost.PullBefore, 1, apdu.ErrCardRemoved, card.OutcomeFailed, false},
		{cardhost.PullAfter, 2, apdu.ErrCardRemoved, card.OutcomeFailed, false},
		{cardhost.PullBefore, atOperation, apdu.ErrCardRemoved, card.OutcomeUnknown, false},
		{cardhost.PullAfter, atOperation, apdu.ErrCardRemoved, card.OutcomeUnknown, true},
		{cardhost.LoseAnswer, atOperation, apdu.ErrTransport, card.OutcomeUnknown, true},
	} {
		fault := cardhost.Fault{Kind: c.kind, APDU: c.apdu, For: 1}
		if c.apdu == atOperation {
			fault.APDU, fault.INS = 1, operation(counter)
		}
		require.NoError(t, control.Arm(t.Context(), 0, fault))
		met := state(t, control, 0).FaultsMet
		rep, err := operate(t.Context(), readers, 0, counter)
		assert.ErrorIs(t, err, c.err, fault)
		assert.Equal(t, c.outcome, rep.Outcome, fault)
		if c.done {
			counter++
		}
		st := settled(t, control, 0)
		assert.Equal(t, counter, st.EventCounter, fault)
		assert.Equal(t, counter-5, st.Changes)
		assert.Equal(t, met+1, st.FaultsMet)
		assert.Zero(t, st.FaultsLeft)
		require.Eventually(t, func() bool { return state(t, control, 0).Present }, 20*time.Second, time.Millisecond)
	}
	require.Equal(t, uint32(7), counter)

	require.NoError(t, control.Arm(t.Context(), 0, cardhost.Fault{Kind: cardhost.WriteFails, APDU: 1, INS: operation(counter)}))
	rep, err := operate(t.Context(), readers, 0, counter)
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeRefused, rep.Outcome)
	assert.Equal(t, counter, state(t, control, 0).EventCounter)

	require.NoError(t, control.Arm(t.Context(), 0, cardhost.Fault{Kind: cardhost.LateAnswer, APDU: 1, For: 50 * time.Millisecond}))
	began := time.Now()
	rep, err = operate(t.Context(), readers, 0, counter)
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeDone, rep.Outcome)
	assert.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
	st := state(t, control, 0)
	assert.Equal(t, counter+1, st.EventCounter)
	assert.Equal(t, appletsim.Disabled, st.Profile(servertest.ICCID(0, 0)))
	assert.Len(t, st.Done, 3)
	assert.Equal(t, servertest.EID(0), st.EID)

	for range 2 { // both at the next: the second is met at the one after it
		require.NoError(t, control.Arm(t.Context(), 0, cardhost.Fault{Kind: cardhost.LoseAnswer, APDU: 1}))
	}
	conn := open(t, readers, 0, reader.Shared)
	for _, lost := range []bool{true, true, false} {
		_, err := conn.Transmit(t.Context(), getEID)
		assert.Equal(t, lost, errors.Is(err, apdu.ErrTransport))
	}
	require.NoError(t, control.Arm(t.Context(), 0, cardhost.Fault{Kind: cardhost.LoseAnswer, APDU: 1}))
	require.NoError(t, control.Disarm(t.Context(), 0))
	_, err = conn.Transmit(t.Context(), getEID)
	assert.NoError(t, err)
	for _, f := range []cardhost.Fault{{}, {Kind: "explode", APDU: 1}, {Kind: cardhost.PullAfter}, {Kind: cardhost.PullAfter, APDU: 1, For: -1}} {
		assert.ErrorContains(t, control.Arm(t.Context(), 0, f), "no such fault")
	}
}

func TestDraw(t *testing.T) {
	draw := func(seed uint64) (all []cardhost.Fault) {
		r := rand.New(rand.NewPCG(seed, 0))
		for range 200 {
			all = append(all, cardhost.Draw(r, time.Second))
		}
		return all
	}
	assert.Equal(t, draw(1), draw(1))
	assert.NotEqual(t, draw(1), draw(2))
	kinds := map[cardhost.FaultKind]bool{}
	_, control := client(t, serve(t, cardhost.Config{Cards: 1}))
	for _, f := range draw(3) {
		kinds[f.Kind] = true
		require.NoError(t, control.Arm(t.Context(), 0, f))
		assert.Positive(t, f.For)
		assert.LessOrEqual(t, f.For, time.Second)
	}
	assert.Len(t, kinds, len(cardhost.Faults))
}

// A client that goes in the middle of a command leaves the card reset, and the
// command done.
func TestClientGoesInMidCommand(t *testing.T) {
	addr := serve(t, cardhost.Config{Cards: 1})
	readers, control := client(t, addr)
	other := open(t, readers, 0, reader.Shared)
	_, err := eid(t, other)
	require.NoError(t, err)
	raw, err := net.Dial("unix", addr)
	require.NoError(t, err)
	auth := append([]byte{0, 0x88, 1, servertest.KID, 0, 0, 16}, make([]byte, 18)...) // extended length
	_, err = io.WriteString(raw, "\x00\x00\x00\x05O\x00\x00\x00\x01\x00\x00\x00\x00\x00")
	require.NoError(t, err)
	_, err = io.ReadFull(raw, make([]byte, 9+len(other.ATR())))
	require.NoError(t, err)
	_, err = io.WriteString(raw, "\x00\x00\x00\x19A\x00\x00\x00\x01"+string(auth))
	require.NoError(t, err)
	require.NoError(t, raw.Close())
	require.Eventually(t, func() bool { return state(t, control, 0).Connections == 1 && state(t, control, 0).APDUs == 3 }, 20*time.Second, time.Millisecond)
	_, err = eid(t, other)
	assert.ErrorIs(t, err, apdu.ErrCardReset)
	require.NoError(t, other.Close())
	rep, err := operate(t.Context(), readers, 0, 5)
	require.NoError(t, err)
	assert.Equal(t, card.OutcomeDone, rep.Outcome)
}

func start(t testing.TB, c cardhost.Config) *cardhost.Process {
	t.Helper()
	host, err := cardhost.Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, host.Stop())
		assert.NoError(t, host.Stop())
		assert.NoDirExists(t, filepath.Dir(host.Addr()))
		assert.Positive(t, host.CPU())
	})
	return host
}

// 1,000 cards in another process; each says its EID, some are deactivated.
func TestManyCards(t *testing.T) {
	const cards, workers = 1000, 16
	host := start(t, cardhost.Config{Cards: cards})
	readers, control := client(t, host.Addr())
	require.NoError(t, control.Warm(t.Context()))
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for n := worker; n < cards; n += workers {
				conn, err := readers.Open(t.Context(), cardhost.Name(n), reader.Exclusive)
				if !assert.NoError(t, err) {
					return
				}
				got, err := eid(t, conn)
				assert.NoError(t, err)
				assert.Equal(t, servertest.EID(n), got)
				assert.NoError(t, conn.Close())
				if n%20 != 0 {
					continue
				}
				rep, err := operate(t.Context(), readers, n, 5)
				assert.NoError(t, err)
				assert.Equal(t, card.OutcomeDone, rep.Outcome)
			}
		})
	}
	wg.Wait()
	for n := cards - workers; n < cards; n++ { // those that were closed last
		settled(t, control, n)
	}
	states, err := control.States(t.Context(), 0, cards)
	require.NoError(t, err)
	require.Len(t, states, cards)
	for n, st := range states {
		want := cardhost.State{
			Card: n, EID: servertest.EID(n), Present: true, EventCounter: 5, APDUs: st.APDUs, Done: st.Done,
			Profiles: []cardhost.ProfileState{{ICCID: servertest.ICCID(n, 0), State: appletsim.Enabled}, {ICCID: servertest.ICCID(n, 1), State: appletsim.Disabled}, {ICCID: servertest.ICCID(n, 2), State: appletsim.Disabled}},
		}
		if n%20 == 0 {
			want.EventCounter, want.Changes, want.Profiles[0].State = 6, 1, appletsim.Disabled
			require.Len(t, st.Done, 1)
		}
		require.Equal(t, want, st)
		require.GreaterOrEqual(t, st.APDUs, 2)
	}
	_, err = control.States(t.Context(), cards-1, 2)
	assert.ErrorIs(t, err, apdu.ErrNoReader)
}

// childAs runs this program as what childVar says, and gives its output.
func childAs(t *testing.T, what string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childVar+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, bufio.NewReader(out)
}

// A client is killed at any moment of its work: the card has done what it said
// it had, at most one operation more, and is free for the next.
func TestClientIsKilled(t *testing.T) {
	const trials = 8
	host := start(t, cardhost.Config{Cards: trials})
	readers, control := client(t, host.Addr())
	for n := range trials {
		cmd, out := childAs(t, fmt.Sprint(host.Addr(), " ", n))
		var last uint32
		for range 1 + n {
			_, err := fmt.Fscanln(out, &last)
			require.NoError(t, err)
		}
		time.Sleep(rand.N(2 * time.Millisecond))
		require.NoError(t, cmd.Process.Kill())
		for said := uint32(0); ; last = said {
			if _, err := fmt.Fscanln(out, &said); err != nil {
				break
			}
		}
		assert.Error(t, cmd.Wait())
		after := settled(t, control, n)
		assert.GreaterOrEqual(t, after.EventCounter, last)
		assert.LessOrEqual(t, after.EventCounter, last+1)
		assert.Equal(t, after.EventCounter%2 == 1, after.Profile(servertest.ICCID(n, 0)) == appletsim.Enabled)
		rep, err := operate(t.Context(), readers, n, after.EventCounter)
		require.NoError(t, err)
		assert.Equal(t, card.OutcomeDone, rep.Outcome)
	}
}

func TestNothingLeftByAProgramThatIsKilled(t *testing.T) {
	cmd, out := childAs(t, "start")
	addr, err := out.ReadString('\n')
	require.NoError(t, err)
	addr = strings.TrimSpace(addr)
	_, control := client(t, addr)
	state(t, control, 0)
	require.NoError(t, cmd.Process.Kill())
	assert.Error(t, cmd.Wait())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Dir(addr))
		return errors.Is(err, os.ErrNotExist)
	}, 20*time.Second, time.Millisecond)
	_, err = control.States(t.Context(), 0, 1)
	assert.ErrorIs(t, err, apdu.ErrTransport)
}

func TestStartIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := cardhost.Start(ctx, cardhost.Config{Cards: 1})
	assert.ErrorIs(t, err, context.Canceled)
}

// What is no frame, or no order, ends the connection or is answered; the host
// serves on.
func FuzzServe(f *testing.F) {
	order, err := json.Marshal(map[string]any{"op": "arm", "card": 0, "fault": cardhost.Fault{Kind: cardhost.PullAfter, APDU: 1, For: 1}})
	require.NoError(f, err)
	frame := func(kind string, body string) string {
		n := len(body)
		return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + kind + "\x00\x00\x00\x01" + body
	}
	f.Add([]byte(frame("O", "\x00\x00\x00\x00\x01") + frame("A", "\x00\xA4\x04\x00\x00") + frame("R", "") + frame("C", "") + frame("A", "\x00")))
	f.Add([]byte(frame("J", string(order)) + frame("O", "\x00\x00\x00\x01\x00") + frame("A", "") + frame("A", "") + frame("X", "")))
	f.Add([]byte(frame("J", `{"op":"states","card":0,"count":2}`) + frame("W", "")))
	f.Add([]byte("\xFF\xFF\xFF\xFFA\x00\x00\x00\x01"))
	addr := serve(f, cardhost.Config{Cards: 2})
	_, control := client(f, addr)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := net.Dial("unix", addr)
		require.NoError(t, err)
		defer c.Close()
		go func() { _, _ = io.Copy(io.Discard, c) }()
		_, _ = c.Write(b)
		require.NoError(t, c.Close())
		for n := range 2 {
			settled(t, control, n)
			require.NoError(t, control.Disarm(t.Context(), n))
			require.NoError(t, control.Insert(t.Context(), n))
		}
	})
}
