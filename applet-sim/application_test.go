package appletsim

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// twoAIDs is an application with two AIDs. It answers to INS 01 by the AID that
// is selected.
func twoAIDs(closed *[]int) *application {
	return &application{
		aids: func(*Card) [][]byte { return [][]byte{unhex("A0000000010101"), unhex("A0000000010202")} },
		selected: func(_ *Card, _ int, aid []byte, cmd apdu.Command) ([]byte, apdu.StatusWord) {
			if cmd.P2&0x80 != 0 {
				return nil, apdu.SWIncorrectP1P2
			}
			return aid[6:], apdu.SWSuccess
		},
		closed: func(_ *Card, n int) { *closed = append(*closed, n) },
		instructions: map[byte]instruction{
			0x01: {form: interindustry, plain: func(c *Card, n int, _ authState, _ apdu.Command) ([]byte, apdu.StatusWord) {
				return c.channels[n].aid, apdu.SWSuccess
			}},
		},
		proactive: true,
	}
}

func twoApplications(t *testing.T) (c *Card, closed *[]int) {
	c = newCard(t, testImage(t))
	closed = new([]int)
	c.applications = []*application{managementApplet, files, twoAIDs(closed)}
	return c, closed
}

func TestSelectByAID(t *testing.T) {
	c, _ := twoApplications(t)
	run(t, c,
		step{"0001000000", "6D00"},
		step{"00A4040007A000000001010100", "019000"},
		step{"0001000000", "A00000000101019000"},
		step{"00A4040007A000000001020200", "029000"},
		step{"0001000000", "A00000000102029000"},
		step{"00A4040005A00000000100", "019000"}, // the first
		step{"00A4040205A00000000100", "029000"}, // the next
		step{"00A4040205A00000000100", "6A82"},   // none; the second goes on
		step{"0001000000", "A00000000102029000"},
		step{"00A4040305A00000000100", "019000"}, // the previous
		step{"00A4040305A00000000100", "6A82"},
		step{"00A4040105A00000000100", "029000"}, // the last
		step{"00A4040405A0000000", "6700"},
		step{"00A4048005A00000000100", "6A86"}, // the application refuses; it goes on
		step{"0001000000", "A00000000102029000"},
		step{selectApplet, selectResponse + "9000"},
		step{"0001000000", "6D00"},
		step{"00A4040305A00000000100", "029000"},
		step{getEID, "6D00"}, // the applet's
		step{"8CF2000000", "6982"},
	)
}

func TestClosed(t *testing.T) {
	c, closed := twoApplications(t)
	run(t, c, step{"00A4040005A00000000100", "019000"}, step{"00A4040205A00000000100", "029000"})
	assert.Empty(t, *closed)
	run(t, c, step{selectApplet, "…9000"})
	assert.Equal(t, []int{0}, *closed)
	run(t, c, step{"0070000300", "9000"}, step{"00708003", "9000"})
	assert.Equal(t, []int{0, 3, 3}, *closed)
	*closed = nil
	c.Reset()
	assert.Len(t, *closed, maxChannels)
}

// An operation of the management applet on one channel is announced on another;
// the applet's own answers are as docs/protocol.md has them.
func TestRefresh(t *testing.T) {
	const (
		knows   = "80100000030000" + "80"
		fetched = "D009810301010482028182"
		other   = "01A4040007A0000000010101"
	)
	for name, tt := range map[string]struct {
		profile string
		steps   []step
	}{
		"no toolkit":      {"", []step{{other + "00", "019000"}, {"00A4040005A00000000100", "019000"}, {"8012000000", "6985"}}},
		"without REFRESH": {"8010000003FFFF7F", []step{{other + "00", "019000"}, {"00A4040005A00000000100", "019000"}, {"8012000000", "6985"}}},
		"fetched": {knows, []step{
			{getEID, eidResponse + "9000"},
			{other + "00", "01910B"}, {other, "6101"}, {"01C0000001", "01910B"},
			{"8012000000", "6D00"}, // the applet is selected there
			{"00A4040005A00000000100", "01910B"},
			{"801200000A", "6C0B"}, {"8112000000", "6881"}, {"8012000100", "6A86"},
			{"80120000", "610B"}, {"00C000000B", fetched + "9000"}, {other + "00", "019000"},
			{"801400000C810301010402028281030120", "910B"}, // later
			{"801200000B", fetched + "9000"},
			{"801400000C810301020402028281030100", "6A80"},
			{"801400000C810301010482028281830100", "9000"},
			{"801400000C810301010482028281830100", "6985"}, {"8012000000", "6985"}, {other + "00", "019000"}}},
		"reset": {knows, []step{{"reset", ""}, {"8012000000", "6985"}, {"8010000003000080", "9000"}, {"8012000000", "6985"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := twoApplications(t)
			if tt.profile != "" {
				run(t, c, step{tt.profile, "9000"})
			}
			run(t, c, step{"0070000001", "019000"})
			got, sw := newTerminal(t, c).do(1, insDeactivate, order{1, eleven, nil, 0x100}.data())
			require.Equal(t, apdu.SWSuccess, sw)
			require.NotEmpty(t, got)
			for _, s := range tt.steps {
				if s.capdu == "reset" {
					c.Reset()
					continue
				}
				run(t, c, s)
			}
		})
	}
}

func TestTerminalCommands(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c,
		step{"80AA00000AA9088100820101830107", "9000"}, // lpac
		step{"80AA000005A903830107", "9000"},           // onomondo-ipa
		step{"80AA000000", "6A80"}, step{"80AA000003A90283", "6A80"}, step{"80AA000004A9038301", "6A80"}, step{"80AA000002A800", "6A80"}, step{"80AA010002A900", "6A86"},
		step{"00AA000002A900", "6E00"},
		step{"8010000000", "6700"}, step{"8010010001FF", "6A86"}, step{"8010000001FF", "9000"},
		step{"80C2000004D603190100", "6A80"}, step{"80C2000004D602190100", "9000"}, step{"80C2000004D6021901", "9000"}, step{"80C2000002A900", "6A80"},
		step{"8014000000", "6985"},
		step{selectApplet, "…9000"},
		step{"8010000001FF", "6D00"}, step{"80AA000005A903830107", "6D00"},
	)
}
