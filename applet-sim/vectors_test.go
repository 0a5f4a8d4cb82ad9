package appletsim

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

// draws are the random bytes that a card uses for a session's M1.
func draws(s *vectors.Session) []byte { return slices.Concat(s.RC, s.M1.EnvelopeKey, s.M1.OAEPSeed) }

// good is a response of data and 9000.
func good(data []byte) []byte { return answer(data, apdu.SWSuccess) }

// TestVectorExchanges plays both sessions of each set on one card, in every
// form of the commands, and compares every byte of the answers.
func TestVectorExchanges(t *testing.T) {
	for _, set := range vectors.Load(t).Sets {
		for _, form := range []string{"extended", "short", "chained parts, short"} {
			t.Run(set.Name+"/"+form, func(t *testing.T) {
				random := &bytes.Buffer{}
				c := newCard(t, imageOf(t, &set), WithRand(random))
				for _, s := range set.Sessions {
					random.Write(draws(&s))
					play(t, c, form, &s)
					require.Zero(t, random.Len(), "random bytes left over")
				}
			})
		}
	}
}

func play(t *testing.T, c *Card, form string, s *vectors.Session) {
	t.Helper()
	run(t, c, step{selectApplet, "…9000"})
	extended := form == "extended"
	require.Equal(t, good(s.M1.Envelope), whole(t, c, pick(extended, s.InternalAuthenticate)))
	if extended {
		require.Equal(t, good(nil), c.Process(s.ExternalAuthenticate.Extended))
	} else {
		for _, part := range s.ExternalAuthenticate.Chained {
			require.Equal(t, good(nil), c.Process(part))
		}
	}
	for _, e := range s.Exchanges {
		capdu := pick(extended, e.APDU)
		if form == "chained parts, short" {
			capdu = split(t, c, e.APDU.Short)
		}
		require.Equal(t, []byte(e.ResponseAPDU), whole(t, c, capdu), e.Name)
	}
}

// split sends all but the last 5 data bytes of a short command as a first part
// and gives the second.
func split(t *testing.T, c *Card, b []byte) []byte {
	t.Helper()
	n := 5 + int(b[4]) - 5
	first := append([]byte{b[0] | chainingBit, b[1], b[2], b[3], byte(n - 5)}, b[5:n]...)
	require.Equal(t, good(nil), c.Process(first))
	return append([]byte{b[0], b[1], b[2], b[3], 5}, b[n:]...)
}

// whole sends a command and fetches the rest of the response.
func whole(t *testing.T, c *Card, capdu []byte) []byte {
	t.Helper()
	r := c.Process(capdu)
	for n := 0; r[len(r)-2] == 0x61; n++ {
		require.Less(t, n, 100)
		r = append(bytes.Clone(r[:len(r)-2]), c.Process([]byte{0x00, insGetResponse, 0x00, 0x00, r[len(r)-1]})...)
	}
	return r
}

func pick(extended bool, a vectors.APDUs) []byte {
	if extended {
		return a.Extended
	}
	return a.Short
}

// TestVectorCodings holds SELECT and GET DATA against the codings.
func TestVectorCodings(t *testing.T) {
	codings := vectors.Load(t).Codings
	im := testImage(t)
	im.EventCounter = 0x101
	im.Runtime = &Runtime{Failures: []Failures{{KID: 15, Count: 0}, {KID: 1, Count: 3}}}
	run(t, newCard(t, im),
		step{hexBytes(codings.SelectAPDU), hexBytes(codings.SelectAnswer) + "9000"},
		step{hexBytes(codings.CardInfoAPDU), hexBytes(codings.CardInfoAnswer) + "9000"},
		step{getEID, eidResponse + "9000"},
	)
}

// TestVectorNegative sends what a card must reject.
func TestVectorNegative(t *testing.T) {
	ran := 0
	v := vectors.Load(t)
	for _, n := range v.Negative {
		if n.Receiver != "card" {
			continue
		}
		ran++
		t.Run(n.Name, func(t *testing.T) {
			set, s := v.Find(n)
			require.NotNil(t, s, "no such session")
			c := newCard(t, imageOf(t, set), WithRand(bytes.NewReader(draws(s))))
			run(t, c, step{selectApplet, "…9000"})
			require.Equal(t, good(s.M1.Envelope), c.Process(s.InternalAuthenticate.Extended))
			external := hexBytes(s.ExternalAuthenticate.Extended)
			input := hexBytes([]byte{0, byte(len(n.Input) >> 8), byte(len(n.Input))}) + hexBytes(n.Input) // with an extended Lc
			switch n.InputIs {
			case "M2":
				assert.Equal(t, n.Must, send(c, external[:8]+input))
				assert.Equal(t, "6985", send(c, external), "RC serves once")
				wantFailures := uint16(1)
				if n.Must == "6700" {
					wantFailures = 0
				}
				assert.Equal(t, wantFailures, c.Image().failures(set.KID))
			case "command_field":
				require.Equal(t, "9000", send(c, external))
				assert.Equal(t, n.Must, send(c, "8CF20000"+input+"0000"))
				assert.Equal(t, "6982", send(c, hexBytes(s.Exchanges[0].APDU.Extended)), "the session is gone")
			default:
				require.Fail(t, "unknown kind of input", n.InputIs)
			}
		})
	}
	assert.Equal(t, 11, ran)
}

// TestVectorIdentity checks that a card has the server identities of the sets.
func TestVectorIdentity(t *testing.T) {
	for _, set := range vectors.Load(t).Sets {
		sid := newCard(t, imageOf(t, &set)).material.servers[0].sid
		assert.Equal(t, []byte(set.SID), sid[:])
	}
}
