package uicc

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
)

// card is a file system and the memory beside it.
type card struct {
	t      testing.TB
	u      *UICC
	saved  Data
	writes int
	fail   int // the write that fails, counted from 1
}

var errMemory = errors.New("memory failed")

func newCard(t testing.TB, d Data) *card {
	require.NoError(t, d.Check())
	c := &card{t: t, saved: d}
	c.u = New(c.save, bytes.NewReader(bytes.Repeat([]byte{0xC5}, 1024)))
	c.start()
	return c
}

func (c *card) save(d Data) error {
	if c.writes++; c.writes == c.fail {
		return errMemory
	}
	require.NoError(c.t, d.Check())
	c.saved = d
	return nil
}

// start is power on, with what was saved.
func (c *card) start() {
	iccid, err := id.ParseICCID("898603D0A1B2C3E40042")
	require.NoError(c.t, err)
	owner, err := id.ParseMCCMNC("46011")
	require.NoError(c.t, err)
	c.u.Switch(NewSubscription(iccid, owner, "Operator Eleven", c.saved))
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// send carries out a command on the channel of its class and gives data and
// status word.
func (c *card) send(capdu string) string {
	b := mustHex(capdu)
	cmd, err := apdu.ParseCommand(b)
	require.NoError(c.t, err, capdu)
	channel := int(cmd.CLA & 0x03)
	data, sw := []byte(nil), apdu.StatusWord(0)
	if cmd.INS == insSelect && cmd.P1 == 0x04 {
		data, sw = c.u.SelectUSIM(channel, cmd)
	} else {
		data, sw = c.u.Process(channel, cmd)
	}
	return strings.ToUpper(hex.EncodeToString(sw.Append(data[:len(data):len(data)])))
}

// run sends commands; what is wanted is "…" and the end, or all.
func (c *card) run(steps ...[2]string) {
	c.t.Helper()
	for i, s := range steps {
		got := c.send(s[0])
		want := strings.ReplaceAll(s[1], " ", "")
		if end, ok := strings.CutPrefix(want, "…"); ok {
			require.Truef(c.t, strings.HasSuffix(got, end), "step %d, %s: %s", i+1, s[0], got)
			continue
		}
		require.Equalf(c.t, want, got, "step %d, %s", i+1, s[0])
	}
}

const selectUSIM = "00A4040C07A0000000871002"

func newUSIM(t testing.TB, d Data) *card {
	c := newCard(t, d)
	c.run([2]string{selectUSIM, "9000"})
	return c
}

// withPIN has PIN1 1234 be asked for.
func withPIN() Data {
	return Data{PINs: map[PINName]PIN{PIN1: {Value: "1234", PUK: "12345678"}}}
}
