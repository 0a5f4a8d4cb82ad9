//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// serverKeys is a key set in the token, of keys of the vectors.
func (h *hsm) serverKeys(p *Provider, kid byte, auth []string, enc string) cryptogram.ServerKeys {
	in := map[string]*Key{}
	put := func(name string) *Key {
		if in[name] == nil {
			h.put(name, "a"+string("0123456789"[len(in)]))
			in[name] = h.key(p, "pkcs11:token=bench;object="+name)
		}
		return in[name]
	}
	keys := cryptogram.ServerKeys{KID: kid}
	for _, name := range auth {
		keys.Auth = append(keys.Auth, put(name))
	}
	keys.Enc = put(enc)
	require.NoError(h, keys.Public().Validate())
	return keys
}

// The server's side of the protocol's vectors, its keys in SoftHSM.
func TestVectorsInSoftHSM(t *testing.T) {
	for _, s := range vectors.Load(t).Sets {
		t.Run(s.Name, func(t *testing.T) {
			h := newHSM(t)
			server := h.serverKeys(h.provider(), s.KID, s.Keys.ServerAuth, s.Keys.ServerEnc)
			sid := server.SID()
			assert.Equal(t, []byte(s.SID), sid[:])
			var cardKeys cryptogram.PublicKeys
			for _, name := range s.Keys.CardAuth {
				_, k := vectorKey(t, name)
				cardKeys.Auth = append(cardKeys.Auth, &k.PublicKey)
			}
			_, k := vectorKey(t, s.Keys.CardEnc)
			cardKeys.Enc = &k.PublicKey
			for _, q := range s.Sessions {
				c := cryptogram.Challenge{Suite: cryptogram.Suite(s.Suite), KID: s.KID, SID: [32]byte(s.SID), RS: [16]byte(q.RS)}
				for i := range c.EID {
					c.EID[i] = (s.EID[2*i]-'0')<<4 | (s.EID[2*i+1] - '0')
				}
				rc, err := c.OpenM1(t.Context(), server.PrivateKeys, cardKeys, q.M1.Envelope)
				require.NoError(t, err)
				assert.Equal(t, []byte(q.RC), rc[:])
				m2, err := c.SealM2(t.Context(), bytes.NewReader(slices.Concat([]byte(q.M2.EnvelopeKey), []byte(q.M2.OAEPSeed))), server.PrivateKeys, cardKeys,
					&cryptogram.Session{RC: rc, RK: [16]byte(q.RK), HC: [32]byte(q.HC)})
				require.NoError(t, err)
				assert.Equal(t, []byte(q.M2.Envelope), m2)
			}
		})
	}
}

// A whole deactivation in both suites, the server's keys in SoftHSM, and the token
// reset in the middle.
func TestDeactivationBySoftHSM(t *testing.T) {
	h := newHSM(t)
	p := h.provider()
	f := h.through(p, &faulty{})
	keys := h.serverKeys(p, servertest.KID, []string{"server-auth-1", "server-auth-2", "server-auth-3"}, "server-enc")
	scheduler := rsafast.NewScheduler(rsafast.Config{})
	defer scheduler.Close()
	keys.Ops = scheduler
	terminal := &card.Terminal{Keys: keys}
	for i, suite := range []cryptogram.Suite{cryptogram.Suite01, cryptogram.Suite03} {
		im := servertest.Image(i + 1)
		emulated := servertest.Card(im)
		record, err := card.ParseRecord(servertest.Record(im))
		require.NoError(t, err)
		target := record.Target()
		target.Suite = suite
		_, rep, err := terminal.Run(t.Context(), target, card.Operation{
			INS: card.INSDeactivate, Attempts: 1, Wait: time.Second,
			Open: func(context.Context) (apdu.Conn, error) { return emulated.Connect(), nil },
			Step: func(string, ...any) { h.kill(p, f) },
		})
		require.NoError(t, err)
		assert.Equal(t, card.OutcomeDone, rep.Outcome)
		assert.Equal(t, appletsim.Disabled, emulated.Image().Profiles[0].State)
	}
}
