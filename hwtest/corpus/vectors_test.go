package corpus_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// The sessions of the protocol's test vectors, whose card is given the nonce,
// the envelope's key and the OAEP seed of the vectors, replay to the byte, each
// in the forms that its commands have.
func TestVectorsReplay(t *testing.T) {
	f := vectors.Load(t)
	for i := range f.Sets {
		set := &f.Sets[i]
		for form, apdus := range map[string]func(vectors.APDUs) []vectors.Hex{
			"extended": func(a vectors.APDUs) []vectors.Hex { return []vectors.Hex{a.Extended} },
			"short": func(a vectors.APDUs) []vectors.Hex {
				if a.Chained != nil {
					return a.Chained
				}
				return []vectors.Hex{a.Short}
			},
		} {
			t.Run(set.Name+"/"+form, func(t *testing.T) {
				var draws bytes.Buffer
				tr := &trace.Trace{Header: trace.Header{Card: set.EID, Origin: trace.Emulator}}
				exchange := func(capdu, rapdu []byte) {
					tr.Entries = append(tr.Entries, trace.Entry{Kind: trace.Command, Data: capdu}, trace.Entry{Kind: trace.Response, Data: rapdu})
				}
				// whole has an answer in the parts that a short command gets.
				whole := func(commands []vectors.Hex, rapdu []byte) {
					for _, part := range commands[:len(commands)-1] {
						exchange(part, []byte{0x90, 0x00})
					}
					last := commands[len(commands)-1]
					for form == "short" && len(rapdu) > apdu.MaxShortNe+2 {
						more := len(rapdu) - 2 - apdu.MaxShortNe
						exchange(last, append(bytes.Clone(rapdu[:apdu.MaxShortNe]), 0x61, byte(min(more, 256))))
						last, rapdu = []byte{0x00, 0xC0, 0x00, 0x00, byte(min(more, 256))}, rapdu[apdu.MaxShortNe:]
					}
					exchange(last, rapdu)
				}
				selected := servertest.Card(vectorImage(t, f, set)).Process(f.Codings.SelectAPDU) // names the suites of this card
				for _, s := range set.Sessions {
					draws.Write(s.RC)
					draws.Write(s.M1.EnvelopeKey)
					draws.Write(s.M1.OAEPSeed)
					exchange(f.Codings.SelectAPDU, selected)
					whole(apdus(s.InternalAuthenticate), append(bytes.Clone(s.M1.Envelope), 0x90, 0x00))
					whole(apdus(s.ExternalAuthenticate), []byte{0x90, 0x00})
					for _, e := range s.Exchanges {
						whole(apdus(e.APDU), e.ResponseAPDU)
					}
				}
				c := servertest.Card(vectorImage(t, f, set), appletsim.WithRand(&draws))
				replay(t, tr, func() apdu.Conn { return c.Connect() })
				require.Zero(t, draws.Len(), "random bytes left over")
			})
		}
	}
}

// vectorImage is the card of a set, as it is before the set's first session.
func vectorImage(t *testing.T, f *vectors.File, set *vectors.Set) *appletsim.Image {
	server, err := cryptogram.KeysPEM{Auth: f.PEM(set.Keys.ServerAuth...), Enc: f.Keys[set.Keys.ServerEnc]}.Private()
	require.NoError(t, err)
	public, err := cryptogram.EncodePublic(server.Public())
	require.NoError(t, err)
	eid, err := id.ParseEID(set.EID)
	require.NoError(t, err)
	profile := func(iccid, owner, provider, name string, state appletsim.State, class appletsim.Class) appletsim.Profile {
		i, err := id.ParseICCID(iccid)
		require.NoError(t, err)
		m, err := id.ParseMCCMNC(owner)
		require.NoError(t, err)
		return appletsim.Profile{ICCID: i, Owner: m, State: state, Class: class, Provider: provider, Name: name}
	}
	im := &appletsim.Image{
		EID:           eid,
		Keys:          cryptogram.KeysPEM{Auth: f.PEM(set.Keys.CardAuth...), Enc: f.Keys[set.Keys.CardEnc]},
		ServerKeySets: []cryptogram.KeySetPEM{{ID: set.KID, KeysPEM: public}},
		Suites:        []int{1},
		Profiles: []appletsim.Profile{
			profile("898603D0A1B2C3E40042", "46011", "Operator Eleven", "Everyday", appletsim.Enabled, appletsim.Operational),
			profile("89014100000000000434", "310410", "Opérateur 310-410", "Abroad", appletsim.Disabled, appletsim.Provisioning),
		},
		EventCounter: 0x100,
	}
	im.Profiles[0].PPR2, im.Profiles[1].PPR1 = true, true
	if len(set.Keys.CardAuth) == 3 {
		im.Suites = []int{1, 3}
	}
	return im
}
