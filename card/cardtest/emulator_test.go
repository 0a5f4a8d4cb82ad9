package cardtest_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/hwtest/rig"
)

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

// away is how long a card is out of its reader after a power cut.
const away = 600 * time.Millisecond

// set is a key set out of the vectors' keys, by name.
func set(t *testing.T, kid byte, auth []string, enc string) cryptogram.KeySetPEM {
	t.Helper()
	f := vectors.Load(t)
	return cryptogram.KeySetPEM{ID: kid, KeysPEM: cryptogram.KeysPEM{Auth: f.PEM(auth...), Enc: f.Keys[enc]}}
}

// emulate makes an emulated card of that personality, and what the suite is to
// know of it; how it is reached is left open.
func emulate(t *testing.T, p cardtest.Personality) (*appletsim.Card, *cardtest.Card) {
	t.Helper()
	first := set(t, 0x01, []string{"server-auth-1", "server-auth-2", "server-auth-3"}, "server-enc")
	second := set(t, 0x0F, []string{"server-auth-2"}, "server-enc-3072")
	own := []string{"card-auth-1"}
	if slices.Contains(p.Suites, cryptogram.Suite03) {
		own = append(own, "card-auth-2", "card-auth-3")
	}
	enc := "card-enc"
	if p.EncBits == 3072 {
		enc = "server-enc-3072"
	}
	keys := set(t, 0, own, enc).KeysPEM

	server, err := first.Private()
	require.NoError(t, err)
	other, err := second.Private()
	require.NoError(t, err)
	ownKeys, err := keys.Private()
	require.NoError(t, err)
	rec := &card.Record{Keys: ownKeys.Public(), Suites: p.Suites, RequireTriple: p.RequireTriple, Profiles: p.Profiles, EventCounter: p.EventCounter}
	require.NoError(t, rec.EID.UnmarshalText([]byte(vectors.Load(t).Sets[0].EID)))

	im := &appletsim.Image{EID: rec.EID, Keys: keys, Policy: appletsim.Policy{RequireTriple: p.RequireTriple}, EventCounter: p.EventCounter}
	for _, k := range []cryptogram.ServerKeys{other, server} {
		pub, err := cryptogram.EncodePublic(k.Public())
		require.NoError(t, err)
		im.ServerKeySets = append(im.ServerKeySets, cryptogram.KeySetPEM{ID: k.KID, KeysPEM: pub})
	}
	for _, s := range p.Suites {
		im.Suites = append(im.Suites, int(s))
	}
	for _, q := range p.Profiles {
		im.Profiles = append(im.Profiles, appletsim.Profile{
			ICCID: q.ICCID, Owner: q.Owner, State: appletsim.State(q.State.String()), Class: appletsim.Class(q.Class.String()),
			Provider: q.Provider, Name: q.Name, PPR1: q.PPR1, PPR2: q.PPR2, Fallback: q.Fallback,
		})
	}
	if p.Failures != 0 {
		im.Runtime = &appletsim.Runtime{Failures: []appletsim.Failures{{KID: server.KID, Count: p.Failures}}}
	}
	opts := []appletsim.Option{appletsim.WithKeys(ownKeys)}
	if p.ShortOnly {
		opts = append(opts, appletsim.WithoutExtendedLength())
	}
	c, err := appletsim.New(im, opts...)
	require.NoError(t, err)
	return c, &cardtest.Card{
		Record: rec, Server: server, Other: &other,
		Inject: func(t *testing.T, f cardtest.Fault) {
			_, err := c.Inject(map[cardtest.Fault]appletsim.Fault{
				cardtest.WriteFails: {Kind: appletsim.WriteFails},
				cardtest.CutBefore:  {Kind: appletsim.CutBefore, Away: away},
				cardtest.CutAfter:   {Kind: appletsim.CutAfter, Away: away},
			}[f])
			require.NoError(t, err)
		},
	}
}

// inProcess reaches the emulated card by a call.
func inProcess(t *testing.T, p cardtest.Personality) (*cardtest.Card, error) {
	sim, c := emulate(t, p)
	c.Open = func(t *testing.T) apdu.Conn {
		sim.Insert()
		conn := sim.Connect()
		require.NoError(t, conn.Reset(t.Context()))
		return conn
	}
	c.PowerCycle = func(*testing.T, apdu.Conn) {
		sim.Power(false)
		sim.Power(true)
	}
	return c, nil
}
