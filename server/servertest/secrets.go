package servertest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Wire keeps what goes between a reader and its card.
type Wire struct {
	mu        sync.Mutex
	exchanges []exchange
}

type exchange struct{ capdu, rapdu []byte }

// Carry is an Intercept that changes nothing.
func (w *Wire) Carry(capdu []byte, next Next) ([]byte, error) {
	rapdu, err := next(capdu)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.exchanges = append(w.exchanges, exchange{bytes.Clone(capdu), bytes.Clone(rapdu)})
	return rapdu, err
}

// Secrets are what must be written nowhere, by what they are.
type Secrets map[string][]byte

// Secrets are RC, RK, Kenc and Kmac of each session with the card of an image,
// as one learns them who has both sides' private keys.
func (w *Wire) Secrets(t testing.TB, im *appletsim.Image) Secrets {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	server := Terminal().Keys
	own, err := im.Keys.Private()
	require.NoError(t, err)
	out := Secrets{}
	var c cryptogram.Challenge
	var rc [32]byte
	for i, e := range w.exchanges {
		cmd, err := apdu.ParseCommand(e.capdu)
		require.NoError(t, err)
		data, sw, err := apdu.ParseResponse(e.rapdu)
		if err != nil || sw != apdu.SWSuccess {
			continue
		}
		switch {
		case cmd.CLA == 0 && cmd.INS == INSInternalAuthenticate:
			c = cryptogram.Challenge{Suite: cryptogram.Suite(cmd.P1), KID: cmd.P2, RS: [16]byte(cmd.Data), SID: server.SID(), EID: im.EID}
			rc, err = c.OpenM1(t.Context(), server.PrivateKeys, own.Public(), data)
			require.NoError(t, err)
			out[fmt.Sprintf("RC of exchange %d", i)] = rc[:]
		case cmd.CLA == 0 && cmd.INS == INSExternalAuthenticate:
			s, err := c.OpenM2(t.Context(), own, server.Public(), rc, cmd.Data)
			require.NoError(t, err)
			keys := c.Keys(s)
			out[fmt.Sprintf("RK of exchange %d", i)] = s.RK[:]
			out[fmt.Sprintf("Kenc of exchange %d", i)] = keys.Enc[:]
			out[fmt.Sprintf("Kmac of exchange %d", i)] = keys.Mac[:]
		}
	}
	return out
}

// KeySetSecrets are the private keys of KeySetFile.
func KeySetSecrets() Secrets {
	out := Secrets{}
	set := keySet("server")
	for i, text := range append(set.Auth, set.Enc) {
		block, _ := pem.Decode([]byte(text))
		out[fmt.Sprintf("DER of key %d", i)] = block.Bytes
		out[fmt.Sprintf("PEM of key %d", i)] = []byte(strings.Split(text, "\n")[8])
	}
	return out
}

// space is what may stand between hexadecimal digits.
var space = strings.NewReplacer(" ", "", "\n", "", "\r", "", "\t", "")

// AbsentFrom checks that no secret is in what was written, as it is or in
// letters and digits.
func (s Secrets) AbsentFrom(t testing.TB, where string, written []byte) {
	t.Helper()
	dense := []byte(space.Replace(string(written)))
	for what, secret := range s {
		for form, b := range map[string]string{
			"as it is": string(secret), "hexadecimal": hex.EncodeToString(secret), "HEXADECIMAL": strings.ToUpper(hex.EncodeToString(secret)),
			"base64": base64.StdEncoding.EncodeToString(secret), "as Go prints bytes": strings.Trim(fmt.Sprint(secret), "[]"),
		} {
			found := bytes.Contains(written, []byte(b)) || bytes.Contains(dense, []byte(b))
			assert.False(t, found, "%s, %s, is in the %s", what, form, where)
		}
	}
	assert.NotContains(t, string(written), "PRIVATE KEY", where)
}
