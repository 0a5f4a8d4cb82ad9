package appletsim

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/applet-sim/milenage"
	"github.com/cardbridge/cardbridge/applet-sim/uicc"
)

const (
	usimAID    = "A0000000871002FFFFFFFF8907090000"
	selectUSIM = "00A4040C10" + usimAID
	everydayID = "9868300D1A2B3C4E0024" // EF.ICCID
	noICCID    = "FFFFFFFFFFFFFFFFFFFF"
	readICCID  = "00B0820000" // with the MF selected
)

// terminalSession is a terminal in T=0: commands without Le where they have
// data, and GET RESPONSE with their class.
type terminalSession struct {
	*testing.T
	conn apdu.Conn
}

func golden(t *testing.T, c *Card, file string) *terminalSession {
	return &terminalSession{t, trace.Golden(t, c.Connect(), filepath.Join("testdata", file))}
}

// send sends a command and fetches its response.
func (s *terminalSession) send(capdu string) string {
	s.Helper()
	got := ""
	for b := unhex(capdu); ; {
		r, err := s.conn.Transmit(s.Context(), b)
		require.NoError(s, err)
		data, sw, err := apdu.ParseResponse(r)
		require.NoError(s, err)
		got += hexBytes(data)
		if sw.SW1() != 0x61 {
			return got + hexBytes(sw.Append(nil))
		}
		b = []byte{b[0], insGetResponse, 0, 0, sw.SW2()}
	}
}

func (s *terminalSession) run(steps ...step) {
	s.Helper()
	for i, x := range steps {
		got := s.send(x.capdu)
		if x.want[0] == '.' {
			require.Equal(s, x.want[1:], last(got, 4), "step %d, %s: %s", i+1, x.capdu, got)
			continue
		}
		require.Equal(s, x.want, got, "step %d, %s", i+1, x.capdu)
	}
}

// TestPySim is what pySim-shell sends at its start, then a look at the USIM and
// a change of it.
func TestPySim(t *testing.T) {
	c := newCard(t, testImage(t))
	s := golden(t, c, "pysim-usim.apdu")
	s.run(
		step{"00A40004023F00", ".9000"},
		step{"A0A40000023F00", "6E00"}, // is it a SIM, too?
		step{"00A40004023F00", ".9000"}, step{"00A40004022F00", ".9000"},
		step{"00B2010426", ".9000"}, step{"00B2020426", ".9000"},
		step{"00A40004023F00", ".9000"}, step{"00A40004027F20", ".9000"},
		step{"00A40004023F00", ".9000"}, step{"00A40004027FE0", "6A82"}, step{"00A40004027F25", "6A82"},
		step{"00A4040408A000000003000000", "6A82"},
		step{"00A4040410A0000005591010FFFFFFFF8900000200", "6A82"}, // ECASD
		step{"00A4040407A0000000871004", "6A82"},                   // ISIM
		step{"00A4040410" + usimAID, ".9000"},
		step{"00A40004023F00", ".9000"}, step{"00A40004022FE2", ".9000"}, step{"00B000000A", everydayID + "9000"},
		step{"00A40004027FFF", ".9000"}, step{"00A40004026F07", ".9000"}, step{"00B0000009", "084906112132440024" + "9000"},
		step{"00A40004026FAD", ".9000"}, step{"00B0000004", "000000029000"},
		step{"00A40004026F38", ".9000"}, step{"00B0000010", ".9000"},
		step{"00A40004026F46", ".9000"}, step{"00B0000011", "00" + "4F70657261746F7220456C6576656E" + "FF" + "9000"},
		step{"00D6000011" + "00" + "4F74686572FFFFFFFFFFFFFFFFFFFFFF", "6982"},
		step{"0020000A", "63CA"}, step{"0020000A083838383838383838", "9000"},
		step{"00D6000011" + "00" + "4F74686572FFFFFFFFFFFFFFFFFFFFFF", "9000"},
		step{"00A40304", ".9000"}, step{"00A40004027F10", ".9000"}, step{"00A40004026F3C", ".9000"}, step{"00B20104B0", ".9000"},
		step{"80F2000000", ".9000"},
		step{"00A4040410A0000005591010FFFFFFFF8900000100", ".9000"}, // ISD-R, and back
		step{"80E2910006BF3E035C015A", ".9000"},
		step{"00A40004023F00", ".9000"},
	)
	assert.Equal(t, []USIM{{everyday, uicc.Data{
		PINs:  map[uicc.PINName]uicc.PIN{uicc.ADM1: {Value: "88888888"}},
		Files: map[string]Hex{"ADF.USIM/EF.SPN": unhex("004F74686572FFFFFFFFFFFFFFFFFFFFFF")},
	}}}, c.Image().Runtime.USIMs)
}

// A phone starts, registers, hears of a deactivation that an LPA brings about on
// another channel, and starts again without a USIM; then with another one.
func TestPhone(t *testing.T) {
	im := testImage(t)
	im.Runtime = &Runtime{USIMs: []USIM{{everyday, uicc.Data{PINs: map[uicc.PINName]uicc.PIN{uicc.PIN1: {Value: "1234"}}}}}}
	c := newCard(t, im)
	s := golden(t, c, "phone.apdu")
	lpa := func(request string) string {
		s.run(step{"0070000001", "019000"}, step{"01A4040010" + isdrAID, ".9000"})
		got := s.send(fmt.Sprintf("81E29100%02X%s", len(request)/2, request))
		return got
	}
	start := func() {
		s.run(
			step{"80AA000005A903830107", "9000"},
			step{"00A40004023F00", ".9000"}, step{"00A4080C022F05", "9000"}, step{"00B0000000", "656EFFFF9000"},
			step{"80100000" + "14" + "FFFFFFFF7F9D00DFFF00001FE20000000300" + "0000", "9000"},
			step{"00A40004023F00", ".9000"},
		)
	}
	start()
	s.run(
		step{"00A4080C022FE2", "9000"}, step{"00B000000A", everydayID + "9000"},
		step{"00A40004022F00", ".9000"}, step{"00B2010426", ".9000"},
		step{"00A4040410" + usimAID, ".9000"}, step{"80F2010C00", "9000"},
		step{"00B0870000", "6982"}, step{"00200001", "63C3"}, step{"0020000108" + "31323334FFFFFFFF", "9000"},
		step{"00B0870000", "084906112132440024" + "9000"}, step{"00B0830000", "000000029000"}, step{"00B0840000", ".9000"}, step{"00B0850000", "009000"},
		step{"00B08B0000", ".9000"}, step{"00B09E0000", ".9000"}, step{"00B2010C04", ".9000"},
		step{"00A4080C047FFF6F7B", "9000"}, step{"00B0000000", ".9000"},
		step{authenticateCommand([16]byte{7}, 33), ".9000"},
		step{"00D69E0012" + "0BF664F0110001010000000001" + "64F0110001" + "00", "9000"},
		step{"80F2000C00", "9000"},
	)
	require.Equal(t, "BF3203800100"+"910B", lpa("BF3211A00C5A0A"+everydayID+"8101FF"))
	s.run(
		step{"0070800100", "910B"}, step{"80F2000C00", "910B"}, step{"801200000B", "D009810301010482028182" + "9000"},
		step{"80F2000C00", "9000"}, step{"00B0870000", "6A82"}, // nothing is left of it
	)
	require.NoError(t, s.conn.Reset(t.Context()))
	start()
	s.run(
		step{"00A4040410" + usimAID, "6A82"}, step{"00A4080C022FE2", "9000"}, step{"00B000000A", noICCID + "9000"},
		step{"00A40004022F00", ".9000"}, step{"00B2010426", ".9000"}, step{"00A4000C027F10", "6A82"}, step{"00200001", "6A88"},
	)
	require.Equal(t, "BF3103800100"+"910B", lpa("BF3111A00C5A0A"+hexBytes(abroad[:])+"8101FF"))
	s.run(step{"801200000B", "D009810301010482028182" + "9000"}, step{"801400000C810301010482028281030100", "9000"})
	require.NoError(t, s.conn.Reset(t.Context()))
	start()
	s.run(step{selectUSIM, "9000"}, step{"00B0870000", "083901140000004043" + "9000"})
}

// authenticateCommand is AUTHENTICATE with the default keys.
func authenticateCommand(rand [16]byte, sqn byte) string {
	key := milenage.New(uicc.DefaultK, uicc.DefaultOPc)
	s := [6]byte{5: sqn}
	r := key.F2345(rand)
	mac, _ := key.F1(rand, s, [2]byte{})
	subtle.XORBytes(s[:], s[:], r.AK[:])
	return fmt.Sprintf("008800812210%X10%X0000%X", rand, s, mac)
}

// What the management applet does the USIM shows, in the same instant on all
// channels.
func TestUSIMFollowsTheProfile(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c, step{"0070000001", "019000"}, step{"01A4040C07A0000000871002", "9000"}, step{"01B0870001", "089000"})
	m := newTerminal(t, c)
	_, sw := m.do(1, insDeactivate, order{1, eleven, nil, 0x100}.data())
	require.Equal(t, apdu.SWSuccess, sw)
	run(t, c,
		step{"01B0000001", "6986"}, step{"01B0820000", noICCID + "9000"}, step{"01A4000C027FFF", "6A82"},
		step{"01A4040C07A0000000871002", "6A82"},
	)
	_, sw = m.do(1, insActivate, order{2, other, &abroad, 0x101}.data())
	require.Equal(t, apdu.SWSuccess, sw)
	run(t, c, step{"01B0820000", hexBytes(abroad[:]) + "9000"}, step{"01A4040C07A0000000871002", "9000"}, step{"01B0830000", "000000039000"})
}

// TestBesideTheApplet: where the applet is selected nothing is the file
// system's, and the other way round.
func TestBesideTheApplet(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c,
		step{"00B0820000", everydayID + "9000"}, // the MF is there by itself
		step{"80F2000000", "6985"},              // but STATUS is the applet's till something is selected (§6)
		step{"00A4000C023F00", "9000"}, step{"80F2000C", "9000"}, step{getEID, "6D00"},
		step{selectApplet, selectResponse + "9000"}, step{"00A4000C023F00", "6A86"}, step{"00B0820000", "6D00"}, step{"80F2000000", "6982"},
		step{selectUSIM, "9000"}, step{"00B0870001", "089000"},
		step{"00A404000AF063617264627269646700", "6A82"}, step{"00B0870001", "089000"},
		step{"00A4040C01A0", "9000"}, step{"00A4040E01A0", "9000"}, step{"00B0870001", "6D00"}, // the next is the ISD-R
	)
}

func TestFilesOnTheWire(t *testing.T) {
	c := newCard(t, testImage(t))
	run(t, c,
		step{"00A40004023F00", "612B"}, step{"00C000002B", "6229820278218302" + "3F00A5038001718A01058B032F0607C61290015083010183018195010083011183010A9000"},
		step{"00A40004023F0000", "6229820278218302" + "3F00A5038001718A01058B032F0607C61290015083010183018195010083011183010A9000"},
		step{"00A40004023F0010", "6229820278218302" + "3F00A5038001718A" + "611B"},
		step{"00B08200", "610A"}, step{"00C000000A", everydayID + "9000"},
		step{"00B08200000000", everydayID + "9000"}, // extended Le
		step{"10A4000C023F00", "6884"}, step{"0CB0820000", "6882"}, step{"80B0820000", "6E00"}, step{"A0B0820000", "6E00"}, step{"00E0000000", "6D00"},
		step{"0084000004", "…9000"},
		step{"0070000500", "9000"}, step{"41B0820000", everydayID + "9000"}, step{"41A4040C07A0000000871002", "9000"},
		step{"41B0870001", "089000"}, step{"4170000001", "019000"}, step{"01B0870001", "089000"}, // it begins where that one is
		step{"01A4000C026F38", "9000"}, step{"41B0000001", "089000"},
		step{"00708001", "9000"}, step{"0070000001", "019000"}, step{"01B0870001", "6A82"},
	)
}

// TestUSIMInTheImage: what is stored comes back with the image, and what an
// image must not say of a USIM.
func TestUSIMInTheImage(t *testing.T) {
	path := writeImage(t, testImage(t))
	c := open(t, path)
	run(t, c,
		step{"0020000A083838383838383837", "63C9"}, step{"0020008108" + "30303030FFFFFFFF", "9000"},
		step{selectUSIM, "9000"}, step{"00A4000C026F7B", "9000"}, step{"00D600000364F010", "9000"}, step{authenticateCommand([16]byte{1}, 64), "6135"},
	)
	done := c.Image()
	require.NoError(t, c.Close())
	c = open(t, path)
	assert.Equal(t, done, c.Image())
	run(t, c, step{"0020000A", "63C9"}, step{selectUSIM, "9000"}, step{"00B08D0003", "64F0109000"}, step{authenticateCommand([16]byte{1}, 64), "6110"})

	// A profile that is deleted takes its USIM with it.
	run(t, c, step{"00A4040010" + isdrAID, "…"}, step{"80E2910014BF3211A00C5A0A" + everydayID + "810100", "6106"}, step{"80E291000FBF330C5A0A" + everydayID, "6106"})
	assert.Empty(t, c.Image().Runtime.USIMs)

	for name, usims := range map[string]string{
		"unknown profile": `[{"iccid": "8988000000000000001"}]`,
		"twice":           `[{"iccid": "898603D0A1B2C3E40042"}, {"iccid": "898603D0A1B2C3E40042"}]`,
		"unknown member":  `[{"iccid": "898603D0A1B2C3E40042", "x": 1}]`,
		"bad data":        `[{"iccid": "898603D0A1B2C3E40042", "imsi": "1"}]`,
		"bad pin":         `[{"iccid": "898603D0A1B2C3E40042", "pins": {"pin1": {"value": "x"}}}]`,
	} {
		t.Run(name, func(t *testing.T) {
			v := tree(t)
			v["runtime"] = map[string]any{"by": runtimeMark, "usims": json.RawMessage(usims)}
			b, err := json.Marshal(v)
			require.NoError(t, err)
			_, err = ParseImage(b)
			assert.ErrorIs(t, err, ErrImage)
		})
	}
}

// TestUSIMOfThePage: what docs/uicc.md shows is a runtime, and makes the USIM that
// it says.
func TestUSIMOfThePage(t *testing.T) {
	page, err := os.ReadFile("../docs/uicc.md")
	require.NoError(t, err)
	_, shown, _ := strings.Cut(string(page), `    "runtime": `)
	shown, _, _ = strings.Cut(shown, "\n\n")
	v := tree(t)
	v["runtime"] = json.RawMessage(shown)
	b, err := json.Marshal(v)
	require.NoError(t, err)
	im, err := ParseImage(b)
	require.NoError(t, err)
	run(t, newCard(t, im),
		step{"0020000108" + "31323334FFFFFFFF", "9000"}, step{"0020000A083132333435363738", "9000"},
		step{selectUSIM, "9000"}, step{"00B0870000", "0809101010325476989000"}, step{"00A4000C026F3E", "9000"}, step{"00B0000000", "010203049000"},
	)
}

// TestUSIMAtCuts: a power cut at any write of a change leaves what was before or
// what comes after, and no try that was not there.
func TestUSIMAtCuts(t *testing.T) {
	for name, tt := range map[string]struct {
		capdu  string
		writes int
		holds  func(uicc.Data) string
	}{
		"update": {"00D68D000364F010", 1, func(d uicc.Data) string { return fmt.Sprintf("%X", []byte(d.Files["ADF.USIM/EF.FPLMN"])) }},
		"verify": {"0020008108" + "30303030FFFFFFFF", 2, func(d uicc.Data) string { return fmt.Sprint(d.PINs[uicc.PIN2].Failed) }},
		"wrong":  {"0020008108" + "31303030FFFFFFFF", 1, func(d uicc.Data) string { return fmt.Sprint(d.PINs[uicc.PIN2].Failed) }},
		"change": {"0024008110" + "30303030FFFFFFFF" + "31313131FFFFFFFF", 2, func(d uicc.Data) string { return d.PINs[uicc.PIN2].Value }},
		"aka":    {authenticateCommand([16]byte{1}, 64), 1, func(d uicc.Data) string { return fmt.Sprint(d.SEQ) }},
	} {
		for write := 1; write <= tt.writes; write++ {
			for kind, after := range map[FaultKind]bool{WriteFails: false, CutBefore: false, CutAfter: true} {
				t.Run(fmt.Sprintf("%s, %v of write %d", name, kind, write), func(t *testing.T) {
					c := open(t, writeImage(t, testImage(t)))
					states := []uicc.Data{{}}
					run(t, c, step{selectUSIM, "9000"})
					// What each write leaves, from a card that meets no fault.
					whole := newCard(t, testImage(t), WithStore(storeFunc(func(b []byte) error {
						im, err := ParseImage(b)
						require.NoError(t, err)
						states = append(states, im.Runtime.USIMs[0].Data)
						return nil
					})))
					run(t, whole, step{selectUSIM, "9000"}, step{tt.capdu, "…"})
					require.Len(t, states, tt.writes+1)

					_, err := c.Inject(Fault{Write: write, Kind: kind})
					require.NoError(t, err)
					got := send(c, tt.capdu)
					want := states[write-1]
					if after {
						want = states[write]
					}
					if kind == WriteFails {
						assert.Equal(t, "6581", got)
					} else {
						assert.Empty(t, got)
						c.Insert()
					}
					held := uicc.Data{}
					if r := c.Image().Runtime; r != nil && len(r.USIMs) > 0 {
						held = r.USIMs[0].Data
					}
					assert.Equal(t, tt.holds(want), tt.holds(held))
				})
			}
		}
	}
}

type storeFunc func([]byte) error

func (f storeFunc) Save(b []byte) error { return f(b) }
