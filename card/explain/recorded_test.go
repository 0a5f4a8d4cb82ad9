package explain

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
)

// TestARecordedSession records what the server's side and the emulator say to
// each other, on two logical channels, with extended length and without, and
// explains it: everything verifies.
func TestARecordedSession(t *testing.T) {
	set := &vectors.Load(t).Sets[1]
	server, image, _ := vectorFiles(t, set)
	keySet, err := cryptogram.ParseKeySet(server)
	require.NoError(t, err)
	keys, err := keySet.Private()
	require.NoError(t, err)
	for name, options := range map[string][]appletsim.Option{"extended": nil, "short": {appletsim.WithoutExtendedLength()}} {
		t.Run(name, func(t *testing.T) {
			var im appletsim.Image
			require.NoError(t, json.Unmarshal(image, &im))
			iccid, err := id.ParseICCID("898603D0A1B2C3E40042")
			require.NoError(t, err)
			operator, err := id.ParseMCCMNC("46011")
			require.NoError(t, err)
			im.Profiles = []appletsim.Profile{{ICCID: iccid, Owner: operator, State: appletsim.Enabled, Class: appletsim.Operational}}
			own, err := im.Keys.Private()
			require.NoError(t, err)
			target := card.Target{EID: im.EID, Keys: own.Public(), Suite: cryptogram.Suite03}
			emulator, err := appletsim.New(&im, options...)
			require.NoError(t, err)

			var recording bytes.Buffer
			recorder := trace.NewRecorder(&recording, trace.Header{Origin: trace.Emulator})
			conn := recorder.Wrap(emulator.Connect())
			terminal := card.Terminal{Keys: keys}
			ch := apdu.BasicChannel(conn)
			for range 2 {
				status, _, err := terminal.ReadStatus(t.Context(), ch, target)
				require.NoError(t, err)
				cmd := card.Command{INS: card.INSDeactivate, RequestID: id.RequestID{byte(ch.Number())}, Operator: operator, ICCID: &iccid, Counter: status.EventCounter}
				_, _ = terminal.Attempt(t.Context(), ch, target, card.Attempt{Command: cmd, Recorded: status.EventCounter}) // the second is refused
				if ch.Number() == 0 {
					ch, err = ch.Open(t.Context())
					require.NoError(t, err)
				}
			}
			require.NoError(t, conn.Close())
			require.NoError(t, recorder.Err())

			got := map[string]map[Level]int{}
			count := counting{func(e Explained) {
				for _, f := range e.Fields {
					if f.Level != Plain {
						if got[f.Name] == nil {
							got[f.Name] = map[Level]int{}
						}
						got[f.Name][f.Level]++
					}
				}
			}}
			require.NoError(t, Show(trace.NewReader(&recording), keysOf(t, image, server), nil, count))
			// Each way: a GET STATUS and a DEACTIVATE twice, and a GET STATUS after the refusal.
			assert.Equal(t, map[string]map[Level]int{
				"M1": {Good: 4}, "M2": {Good: 4}, "MAC": {Good: 10}, "authorised": {Good: 2}, "receipt": {Good: 2},
			}, got)
		})
	}
}

// counting hands every entry on.
type counting struct{ entry func(Explained) }

func (counting) Session(trace.Header) error { return nil }
func (counting) Close() error               { return nil }
func (c counting) Entry(e Explained) error {
	c.entry(e)
	return nil
}
