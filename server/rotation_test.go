package server_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// newKID is the id of the key set that takes over from servertest's.
const newKID = 2

// newSet is that key set.
func newSet() cryptogram.KeySetPEM {
	set := testkeys.Server()
	set.ID = newKID
	return set
}

func newTerminal(t testing.TB) *card.Terminal {
	keys, err := newSet().Private()
	require.NoError(t, err)
	return &card.Terminal{Keys: keys}
}

// knows gives an image the key sets of these kids.
func knows(t testing.TB, im *appletsim.Image, kids ...byte) *appletsim.Image {
	old := im.ServerKeySets[0]
	im.ServerKeySets = []cryptogram.KeySetPEM{}
	for _, kid := range kids {
		set := old
		if kid == newKID {
			public, err := newSet().PublicHalf()
			require.NoError(t, err)
			set = cryptogram.KeySetPEM{ID: newKID, KeysPEM: public}
		}
		im.ServerKeySets = append(im.ServerKeySets, set)
	}
	return im
}

// rotating is a rig whose server has these sets, the preferred first.
func rotating(t testing.TB, kids ...byte) *rig {
	dir := t.TempDir()
	r := unstarted(t, filepath.Join(dir, "record.db"))
	r.dir = dir
	r.serves(kids...)
	r.start()
	r.addOperators()
	return r
}

func (r *rig) serves(kids ...byte) {
	var all []*card.Terminal
	for _, kid := range kids {
		all = append(all, map[byte]*card.Terminal{servertest.KID: servertest.Terminal(), newKID: newTerminal(r)}[kid])
	}
	r.terminal, r.older = all[0], all[1:]
}

// kidsOf are the kids that a request's steps of a kind name.
func (r *rig) kidsOf(req store.Request, kind string) (kids []any) {
	events, err := r.store.RequestEvents(context.Background(), req.ID, 0, true, 1000)
	require.NoError(r, err)
	for _, e := range events {
		if e.Kind == kind {
			kids = append(kids, e.Detail["kid"])
		}
	}
	return kids
}

// asked are the kids that the card in a reader was asked to prove itself under.
func (r *rig) asked(reader string) (kids []byte) {
	for _, c := range r.readers.Sent(reader) {
		if len(c) > 4 && c[1] == servertest.INSInternalAuthenticate {
			kids = append(kids, c[3])
		}
	}
	return kids
}

// For each card the server uses the first of its sets that the card has.
func TestEachCardByTheNewestSetItHas(t *testing.T) {
	r := rotating(t, newKID, servertest.KID)
	for i, c := range []struct {
		card []byte
		used byte
		text string
	}{
		{[]byte{servertest.KID}, servertest.KID, "01"},
		{[]byte{servertest.KID, newKID}, newKID, "02"},
		{[]byte{newKID}, newKID, "02"},
	} {
		im := knows(t, servertest.Image(i+1), c.card...)
		im.Policy.RequireTriple = i == 1
		emulated := r.insert(im, nil)
		req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
		require.Equal(t, store.Done, req.State, "%v: %s", c.card, req.Detail)
		r.proven(req, im)
		r.sameAs(emulated.Image())
		assert.Equal(t, []any{c.text}, r.kidsOf(req, "sending"))
		assert.Equal(t, []any{c.text}, r.kidsOf(req, "done"))
		asked := r.asked("reader")
		assert.NotEmpty(t, asked)
		assert.NotContains(t, asked, servertest.KID+newKID-c.used)
		assert.Contains(t, r.log.String(), "kid="+c.text)
		r.readers.Remove("reader")
	}
}

// A request whose outcome is not known when the server's keys change is recovered
// under whatever set the card and the server have now.
func TestRotationDuringUnknownOutcome(t *testing.T) {
	for name, c := range map[string]struct {
		card, later []byte
		kids        []any // of each sending
	}{
		"the card has both, the old set is gone": {[]byte{servertest.KID, newKID}, []byte{newKID}, []any{"01", "02"}},
		"the card has both, so has the server":   {[]byte{servertest.KID, newKID}, []byte{newKID, servertest.KID}, []any{"01", "02"}},
		"the card has the old one":               {[]byte{servertest.KID}, []byte{newKID, servertest.KID}, []any{"01", "01"}},
	} {
		for _, fault := range []appletsim.FaultKind{appletsim.CutAfter, appletsim.CutBefore} {
			t.Run(name+", "+string(fault), func(t *testing.T) {
				r := rotating(t, servertest.KID)
				im := knows(t, servertest.Image(1), c.card...)
				emulated := r.insert(im, nil)
				emulated.Inject(appletsim.Fault{Write: 1, Kind: fault})
				req := r.ask(server.Deactivation{EID: im.EID})
				r.until(req, store.Unknown)
				require.NoError(t, r.stop())

				r.serves(c.later...)
				r.start()
				emulated.Insert()
				req = r.finished(req)
				require.Equal(t, store.Done, req.State, req.Detail)
				r.proven(req, im)
				r.sameAs(emulated.Image())
				assert.EqualValues(t, im.EventCounter+1, emulated.Image().EventCounter, "done once")
				kids := r.kidsOf(req, "sending")
				assert.Equal(t, c.kids, []any{kids[0], kids[len(kids)-1]})
				assert.Equal(t, c.kids[1:], r.kidsOf(req, "done"))
			})
		}
	}
}

// A server without the set that a card knows says so and waits; with it, it goes
// on where it was.
func TestCardWithoutAnyOfTheServersSets(t *testing.T) {
	const says = "the card holds key set 01, the server has 02 for suite 01"
	t.Run("before anything is sent", func(t *testing.T) {
		r := rotating(t, newKID)
		im := servertest.Image(1)
		r.register(im)
		emulated := servertest.Card(im)
		r.readers.Insert("reader", emulated, nil)
		r.seen(im.EID)
		req := r.ask(server.Deactivation{EID: im.EID})
		r.told(req, "waiting", says)
		assert.Empty(t, r.asked("reader"), "nothing to ask the card for")
		require.NoError(t, r.stop())
		r.serves(newKID, servertest.KID)
		r.start()
		req = r.finished(req)
		assert.Equal(t, store.Done, req.State, req.Detail)
		r.sameAs(emulated.Image())
	})
	t.Run("while the outcome is unknown", func(t *testing.T) {
		r := rotating(t, servertest.KID)
		im := servertest.Image(1)
		emulated := r.insert(im, nil)
		emulated.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
		req := r.ask(server.Deactivation{EID: im.EID})
		r.until(req, store.Unknown)
		require.NoError(t, r.stop())
		r.serves(newKID)
		r.start()
		emulated.Insert()
		r.told(req, "unknown", says)
		now, err := r.store.Request(t.Context(), req.ID)
		require.NoError(t, err)
		assert.Equal(t, store.Unknown, now.State)
		require.NoError(t, r.stop())
		r.serves(newKID, servertest.KID)
		r.start()
		req = r.finished(req)
		assert.Equal(t, store.Done, req.State, req.Detail)
		r.proven(req, im)
		r.sameAs(emulated.Image())
	})
}

// told waits for a step with that text.
func (r *rig) told(req store.Request, kind, text string) {
	r.Helper()
	require.Eventually(r, func() bool {
		events, err := r.store.RequestEvents(context.Background(), req.ID, 0, false, 1000)
		require.NoError(r, err)
		return slices.ContainsFunc(events, func(e store.Event) bool {
			said, _ := e.Detail["text"].(string)
			return e.Kind == kind && strings.Contains(said, text)
		})
	}, 10*time.Second, 5*time.Millisecond, text)
}

// Who carries the APDUs and lies about the card's sets has an older one used that
// the server still has, or has nothing done: never more.
func TestLiesAboutKeySets(t *testing.T) {
	lie := func(list ...byte) servertest.Intercept {
		return func(capdu []byte, next servertest.Next) ([]byte, error) {
			if capdu[1] != 0xCA || capdu[3] != 0xE1 {
				return next(capdu)
			}
			answer := []byte{0xE1, byte(8 + len(list)), 0x80, 4, 0, 0, 0, 5, 0x81, byte(len(list))}
			return append(append(answer, list...), 0x90, 0x00), nil
		}
	}
	for name, c := range map[string]struct {
		server []byte
		list   []byte
		kid    any // nil: not sent
		says   string
	}{
		"the new one is kept back":  {[]byte{newKID, servertest.KID}, []byte{servertest.KID, 0, 0}, "01", ""},
		"no list":                   {[]byte{newKID, servertest.KID}, nil, "02", ""},
		"the old one, which is out": {[]byte{newKID}, []byte{servertest.KID, 0, 0}, nil, "the card holds key set 01"},
		"one that nobody has":       {[]byte{newKID, servertest.KID}, []byte{9, 0, 0}, nil, "the card holds key set 09"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rotating(t, c.server...)
			im := knows(t, servertest.Image(1), servertest.KID, newKID)
			r.register(im)
			emulated := servertest.Card(im)
			r.readers.Insert("reader", emulated, lie(c.list...))
			r.seen(im.EID)
			req := r.ask(server.Deactivation{EID: im.EID})
			if c.kid == nil {
				r.told(req, "waiting", c.says)
				assert.Equal(t, im.EventCounter, emulated.Image().EventCounter)
				return
			}
			req = r.finished(req)
			assert.Equal(t, store.Done, req.State, req.Detail)
			assert.Equal(t, []any{c.kid}, r.kidsOf(req, "sending"))
			r.sameAs(emulated.Image())
		})
	}
}

func TestTwoSetsUnderOneKID(t *testing.T) {
	r := unstarted(t, servertest.NewRecord(t, migrate))
	s, err := store.Open(t.Context(), r.where)
	require.NoError(t, err)
	defer s.Close()
	_, err = server.New(server.Config{
		Store: s, Inventory: inventory.New(r.readers, slog.New(slog.DiscardHandler)), Terminal: servertest.Terminal(), Older: []*card.Terminal{newTerminal(t), servertest.Terminal()}, Log: slog.New(slog.DiscardHandler),
	})
	assert.ErrorContains(t, err, "two key sets have the id (kid) 01")
}

// A set of one auth key does not do for a card that wants three: the older one is
// used.
func TestSetWithoutTheSuitesKeys(t *testing.T) {
	single := newTerminal(t)
	single.Keys.Auth = single.Keys.Auth[:1]
	ts := card.Terminals{single, servertest.Terminal()}
	info := &card.Info{Failures: []card.Failures{{KID: servertest.KID}, {KID: newKID}}}
	for suite, kid := range map[cryptogram.Suite]byte{cryptogram.Suite01: newKID, cryptogram.Suite03: servertest.KID} {
		got, err := ts.For(info, suite)
		require.NoError(t, err)
		assert.Equal(t, kid, got.Keys.KID)
	}
	_, err := ts[:1].For(info, cryptogram.Suite03)
	var none *card.KeySetError
	require.ErrorAs(t, err, &none)
	assert.Equal(t, "the card holds key set 01, 02, the server has none for suite 03", none.Error())
	assert.NotErrorIs(t, err, apdu.SWReferenceNotFound)
}
