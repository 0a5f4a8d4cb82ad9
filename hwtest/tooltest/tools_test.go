package tooltest

import (
	"context"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/rig"
)

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

// insert puts a card into the one reader of a pcscd, and waits until a tool has
// seen it there.
func insert(t *testing.T, change ...func(*appletsim.Image)) *appletsim.Card {
	pcscd := rig.Start(t, rig.Options{Slots: 1})
	b, err := os.ReadFile("../../applet-sim/testdata/card.json")
	require.NoError(t, err)
	image, err := appletsim.ParseImage(b)
	require.NoError(t, err)
	for _, f := range change {
		f(image)
	}
	card, err := appletsim.New(image)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = vpcd.Serve(ctx, pcscd.Slots()[0].Addr, card) }) // ends with ctx
	t.Cleanup(func() { cancel(); serving.Wait() })
	return card
}

// tool runs a program until it comes to a good end, for pcscd takes a moment to
// see a card, and gives what it printed.
func tool(t *testing.T, stdin string, line ...string) string {
	t.Helper()
	_, err := exec.LookPath(line[0])
	require.NoError(t, err)
	var out []byte
	require.Eventually(t, func() bool {
		cmd := exec.CommandContext(t.Context(), line[0], line[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
		return err == nil
	}, 30*time.Second, 200*time.Millisecond, "%s: %s", line, &out)
	return string(out)
}

// TestScriptor is a session in T=0: the card's ATR, GET RESPONSE by hand, and a
// deactivation that the USIM does not outlive.
func TestScriptor(t *testing.T) {
	card := insert(t)
	out := tool(t, strings.Join([]string{
		"reset",
		"00 A4 00 04 02 3F 00", "00 C0 00 00 2B",
		"00 A4 00 0C 02 2F E2", "00 B0 00 00 0A",
		"00 A4 04 0C 07 A0 00 00 00 87 10 02", "00 B0 87 00 09",
		"00 70 00 00 01",
		"01 A4 04 0C 10 A0 00 00 05 59 10 10 FF FF FF FF 89 00 00 01 00",
		"81 E2 91 00 14 BF 32 11 A0 0C 5A 0A 98 68 30 0D 1A 2B 3C 4E 00 24 81 01 00", "81 C0 00 00 06",
		"00 B0 87 00 09", "00 A4 04 0C 07 A0 00 00 00 87 10 02",
		"00 A4 00 0C 02 2F E2", "00 B0 00 00 0A",
	}, "\n")+"\n", "scriptor", "-p", "T=0")
	var answers []string
	for _, one := range strings.Split(out, "\n< ")[1:] {
		digits, _, _ := strings.Cut(one, "\n>")  // the next command
		digits, _, _ = strings.Cut(digits, " :") // the status word in words
		answers = append(answers, strings.Join(strings.Fields(digits), ""))
	}
	assert.Equal(t, []string{
		"OK:" + strings.ToUpper(hex.EncodeToString(card.ATR())),
		"612B", "62298202782183023F00A5038001718A01058B032F0607C61290015083010183018195010083011183010A9000",
		"9000", "9868300D1A2B3C4E00249000",
		"9000", "0849061121324400249000",
		"019000", "9000", "6106", "BF32038001009000",
		"6A82", "6A82",
		"9000", "FFFFFFFFFFFFFFFFFFFF9000",
	}, answers, out)
}

// TestOpenSC: opensc-tool takes the MF for a directory and sends what it is told.
func TestOpenSC(t *testing.T) {
	card := insert(t)
	out := tool(t, "", "opensc-tool", "-s", "00A40004023F00", "-s", "00A40004022FE2", "-s", "00B000000A", "-s", "00A4040407A0000000871002", "-s", "00B0870000")
	assert.Contains(t, out, "Sending: 00 B0 00 00 0A \nReceived (SW1=0x90, SW2=0x00):\n98 68 30 0D 1A 2B 3C 4E 00 24 .h0..+<N.$\n")
	assert.Contains(t, out, "Sending: 00 B0 87 00 00 \nReceived (SW1=0x90, SW2=0x00):\n08 49 06 11 21 32 44 00 24 .I..!2D.$\n")
	assert.Equal(t, 5, strings.Count(out, "(SW1=0x90, SW2=0x00)"), out)

	out = tool(t, "", "opensc-tool", "-a")
	assert.Contains(t, strings.ReplaceAll(strings.ToUpper(out), ":", ""), strings.ToUpper(hex.EncodeToString(card.ATR())))

	// It cannot list the files of any UICC, but reads the MF's FCP first.
	listing, err := exec.CommandContext(t.Context(), "opensc-tool", "-f").CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(listing), "3f00 type: DF, size: 0")
}
