package appletsim

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// TestVectorExchanges plays both sessions of each set on one card, in every
// form of the commands, and compares every byte of the answers.
func TestVectorExchanges(t *testing.T) {
	v := loadVectors()
	for i := range v.Sets {
		set := &v.Sets[i]
		for _, form := range []string{"extended", "short", "chained parts, short"} {
			t.Run(set.Name+"/"+form, func(t *testing.T) {
				random := &bytes.Buffer{}
				c := newCard(t, v.image(t, set), WithRand(random))
				for _, s := range set.Sessions {
					random.Write(unhex(s.RC + s.M1.EnvelopeKey + s.M1.Seed))
					play(t, c, form, s)
					require.Zero(t, random.Len(), "random bytes left over")
				}
			})
		}
	}
}

func play(t *testing.T, c *Card, form string, s vectorSession) {
	t.Helper()
	require.Equal(t, "9000", last(send(c, selectApplet), 4))
	extended := form == "extended"
	require.Equal(t, hexUpper(s.M1.Envelope)+"9000", whole(t, c, pick(extended, s.Internal)))
	if extended {
		require.Equal(t, "9000", send(c, s.External.Extended))
	} else {
		for _, part := range s.External.Chained {
			require.Equal(t, "9000", send(c, part))
		}
	}
	for _, e := range s.Exchanges {
		if form == "chained parts, short" {
			require.Equal(t, hexUpper(e.Response), whole(t, c, split(t, c, e.APDU.Short)), e.Name)
			continue
		}
		require.Equal(t, hexUpper(e.Response), whole(t, c, pick(extended, e.APDU)), e.Name)
	}
}

// split sends all but the last 5 data bytes of a short command as a first part
// and gives the second.
func split(t *testing.T, c *Card, capdu string) string {
	t.Helper()
	b := unhex(capdu)
	n := 5 + int(b[4]) - 5
	first := append([]byte{b[0] | chainingBit, b[1], b[2], b[3], byte(n - 5)}, b[5:n]...)
	require.Equal(t, []byte{0x90, 0}, c.Process(first))
	return hexBytes(append([]byte{b[0], b[1], b[2], b[3], 5}, b[n:]...))
}

// whole sends a command and fetches the rest of the response.
func whole(t *testing.T, c *Card, capdu string) string {
	t.Helper()
	r := send(c, capdu)
	for n := 0; strings.HasPrefix(last(r, 4), "61"); n++ {
		require.Less(t, n, 100)
		r = r[:len(r)-4] + send(c, "00C00000"+last(r, 2))
	}
	return r
}

func pick(extended bool, a vectorAPDU) string {
	if extended {
		return a.Extended
	}
	return a.Short
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

func hexUpper(s string) string { return strings.ToUpper(s) }

func hexBytes(b []byte) string { h, _ := Hex(b).MarshalText(); return string(h) }

// TestVectorCodings holds SELECT and GET DATA against the codings.
func TestVectorCodings(t *testing.T) {
	v := loadVectors()
	im := testImage(t)
	im.EventCounter = 0x101
	im.Runtime = &Runtime{Failures: []Failures{{KID: 15, Count: 0}, {KID: 1, Count: 3}}}
	run(t, newCard(t, im),
		step{v.Codings.SelectAPDU, hexUpper(v.Codings.SelectAnswer) + "9000"},
		step{v.Codings.InfoAPDU, hexUpper(v.Codings.InfoAnswer) + "9000"},
		step{getEID, eidResponse + "9000"},
	)
}

// TestVectorNegative sends what a card must reject.
func TestVectorNegative(t *testing.T) {
	v := loadVectors()
	ran := 0
	for _, n := range v.Negative {
		if n.Receiver != "card" {
			continue
		}
		ran++
		t.Run(n.Name, func(t *testing.T) {
			set := v.set(t, n.Set)
			s := set.Sessions[n.Session]
			random := bytes.NewReader(unhex(s.RC + s.M1.EnvelopeKey + s.M1.Seed))
			c := newCard(t, v.image(t, set), WithRand(random))
			send(c, selectApplet)
			require.Equal(t, hexUpper(s.M1.Envelope)+"9000", send(c, s.Internal.Extended))
			head := s.External.Extended[:8]
			switch n.InputIs {
			case "M2":
				assert.Equal(t, n.Must, send(c, head+extendedLc(n.Input)+n.Input))
				assert.Equal(t, "6985", send(c, s.External.Extended), "RC serves once")
				wantFailures := uint16(1)
				if n.Must == "6700" {
					wantFailures = 0
				}
				assert.Equal(t, wantFailures, c.Image().failures(set.KID))
			case "command_field":
				require.Equal(t, "9000", send(c, s.External.Extended))
				assert.Equal(t, n.Must, send(c, "8CF20000"+extendedLc(n.Input)+n.Input+"0000"))
				assert.Equal(t, "6982", send(c, s.Exchanges[0].APDU.Extended), "the session is gone")
			default:
				require.Fail(t, "unknown kind of input", n.InputIs)
			}
		})
	}
	assert.Equal(t, 11, ran)
}

func (v *vectors) set(t *testing.T, name string) *vectorSet {
	for i := range v.Sets {
		if v.Sets[i].Name == name {
			return &v.Sets[i]
		}
	}
	require.Fail(t, "no such set", name)
	return nil
}

func extendedLc(input string) string {
	n := len(input) / 2
	return hexBytes([]byte{0, byte(n >> 8), byte(n)})
}

// TestVectorIdentity checks that a card has the server identities of the sets.
func TestVectorIdentity(t *testing.T) {
	v := loadVectors()
	for i := range v.Sets {
		c := newCard(t, v.image(t, &v.Sets[i]))
		sid := c.material.servers[0].sid
		assert.Equal(t, unhex(v.Sets[i].SID), sid[:])
		assert.Equal(t, cryptogram.Suite(v.Sets[i].Suite), v.Sets[i].Suite)
	}
}
