package tooltest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// TestES10Sessions sends what lpac and others send, byte for byte, as lpac connects:
// exclusively, by T=0, and without power for the card at each end. The answers are
// those of the card in process.
func TestES10Sessions(t *testing.T) {
	for name, files := range map[string][]string{
		"lpac":         {"lpac-chip-info", "lpac-profile", "lpac-notification"},
		"onomondo-ipa": {"onomondo-ipa"},
		"euicc-go":     {"euicc-go"},
		"pySim-shell":  {"pysim-shell-isdr"},
	} {
		t.Run(name, func(t *testing.T) {
			insert(t, func(im *appletsim.Image) {
				iccid, err := id.ParseICCID("8949000000000000024")
				require.NoError(t, err)
				im.Profiles = append(im.Profiles, appletsim.Profile{
					ICCID: iccid, Owner: im.Profiles[1].Owner, State: appletsim.Disabled, Class: appletsim.Test, Provider: "Lab", Name: "Travel",
				})
			})
			for _, file := range files {
				f, err := os.Open("../../applet-sim/testdata/" + file + ".apdu")
				require.NoError(t, err)
				defer f.Close()
				session, err := trace.Parse(f)
				require.NoError(t, err)
				resend(t, session)
			}
		})
	}
}

// resend has a trace's commands meet the card in the first reader.
func resend(t *testing.T, session *trace.Trace) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	source := pcsc.New()
	var conn apdu.Conn
	var answer []byte
	for _, e := range session.Entries {
		var err error
		switch {
		case e.Kind == trace.Event && e.Name == trace.Connected:
			var r reader.Reader
			r, err = source.WaitCard(ctx, "A 00 00")
			require.NoError(t, err)
			conn, err = source.Connect(ctx, r.Name, pcsc.Options{Mode: reader.Exclusive, Protocol: pcsc.T0, OnClose: pcsc.UnpowerCard})
			require.NoError(t, err)
			assert.Equal(t, e.Data, conn.ATR())
		case e.Kind == trace.Event && e.Name == trace.Closed:
			require.NoError(t, conn.Close())
		case e.Kind == trace.Command:
			answer, err = conn.Transmit(ctx, e.Data)
			require.NoError(t, err)
		case e.Kind == trace.Response:
			require.Equal(t, e.Data, answer, "line %d", e.Line)
		}
	}
}
