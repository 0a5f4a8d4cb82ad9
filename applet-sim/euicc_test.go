package appletsim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/card/id"
)

const isdrAID = "A0000005591010FFFFFFFF8900000100"

// client is a program that talks ES10 to the card, in the way of one of those
// that people have. Its sessions are golden traces.
type client struct {
	*testing.T
	card        *Card
	conn        apdu.Conn
	file        string
	capability  string // TERMINAL CAPABILITY
	open        string // MANAGE CHANNEL; "": the basic channel
	selectISDR  string
	close       string
	segment     int  // bytes of a STORE DATA at most
	getResponse byte // class of GET RESPONSE
	channel     byte
}

// start connects, as after power on, and selects the ISD-R.
func (p *client) start() {
	p.Helper()
	p.card.Power(true)
	p.conn = trace.Golden(p, p.card.Connect(), "testdata/"+p.file)
	if p.open != "" {
		p.send(p.capability)
		got := p.send(p.open)
		require.Equal(p, "9000", last(got, 4))
		p.channel = 1
		require.Contains(p, []string{"", fmt.Sprintf("%02X", p.channel)}, got[:len(got)-4])
	}
	require.Equal(p, "61", p.send(p.selectISDR)[:2])
}

// stop closes the channel and takes the card's power.
func (p *client) stop() {
	p.Helper()
	if p.open != "" {
		require.Equal(p, "9000", p.send(p.close))
	}
	require.NoError(p, p.conn.Close())
	p.card.Power(false)
}

func (p *client) send(capdu string) string {
	p.Helper()
	rapdu, err := p.conn.Transmit(p.Context(), unhex(capdu))
	require.NoError(p, err)
	return hexBytes(rapdu)
}

// call carries out one function and gives its answer and the last status word.
func (p *client) call(request string) (answer, sw string) {
	p.Helper()
	rest := unhex(request)
	var got string
	for n := 0; len(rest) > 0; n++ {
		part := rest[:min(len(rest), p.segment)]
		rest = rest[len(part):]
		p1 := 0x11
		if len(rest) == 0 {
			p1 = 0x91
		}
		got = p.send(fmt.Sprintf("%02XE2%02X%02X%02X%X", 0x80|p.channel, p1, n, len(part), part))
		if len(rest) > 0 {
			require.Equal(p, "9000", got)
		}
	}
	for {
		sw = last(got, 4)
		answer += got[:len(got)-4]
		if sw[:2] != "61" {
			return answer, sw
		}
		got = p.send(fmt.Sprintf("%02XC00000%s", p.getResponse|p.channel, sw[2:]))
	}
}

// want is call, of which the answer is known.
func (p *client) want(request, answer string) {
	p.Helper()
	got, sw := p.call(request)
	require.Equal(p, "9000", sw)
	require.Equal(p, answer, got, request)
}

// lpac, as facts of it are known: by default 120 bytes a segment.
func lpac(t *testing.T, c *Card, file string) *client {
	return &client{
		T: t, card: c, file: file, capability: "80AA00000AA9088100820101830107", open: "0070000001",
		selectISDR: "01A4040010" + isdrAID, close: "0070800100", segment: 120, getResponse: 0x80,
	}
}

// onomondoIPA names its channel, selects with P2 04 and has GET RESPONSE with an
// interindustry class.
func onomondoIPA(t *testing.T, c *Card, file string) *client {
	return &client{
		T: t, card: c, file: file, capability: "80AA000005A903830107", open: "0070000100",
		selectISDR: "01A4040410" + isdrAID, close: "0070800100", segment: 255, getResponse: 0x00,
	}
}

func euiccGo(t *testing.T, c *Card, file string) *client {
	p := lpac(t, c, file)
	p.segment = 254
	return p
}

// pySimShell stays on the basic channel and has one STORE DATA for each function.
func pySimShell(t *testing.T, c *Card, file string) *client {
	return &client{T: t, card: c, file: file, selectISDR: "00A4040410" + isdrAID, segment: 255, getResponse: 0x80}
}

// object is a data object in hexadecimal, of parts in hexadecimal.
func object(tag tlv.Tag, parts ...string) string {
	return hexBytes(tlv.Append(nil, tag, unhex(strings.Join(parts, ""))...))
}

func iccidObject(c id.ICCID) string { return object(0x5A, hexBytes(c[:])) }

func switchProfile(tag tlv.Tag, c id.ICCID, refresh string) string {
	return object(tag, object(0xA0, iccidObject(c)), object(0x81, refresh))
}

// euiccImage is testImage with a third profile, a test one.
func euiccImage(t testing.TB) *Image {
	im := testImage(t)
	im.Profiles = append(im.Profiles, Profile{ICCID: travel, Owner: other, State: Disabled, Class: Test, Provider: "Lab", Name: "Travel"})
	return im
}

var travel = mustICCID("8949000000000000024")

const (
	enableProfile  tlv.Tag = 0xBF31
	disableProfile tlv.Tag = 0xBF32
)

func TestLpac(t *testing.T) {
	c := newCard(t, euiccImage(t))
	chip := lpac(t, c, "lpac-chip-info.apdu")
	chip.start()
	chip.want("BF3E035C015A", "BF3E12"+eidResponse)
	chip.want("BF3C00", object(0xBF3C, object(0x81, hex.EncodeToString([]byte("ds.example.com")))))
	for _, request := range []string{"BF4300", "BF2200"} {
		answer, sw := chip.call(request)
		require.Equal(t, "9000", sw)
		require.Equal(t, request[:4], answer[:4])
	}
	chip.stop()

	// Each command of lpac is a program that ends with the card's power.
	p := lpac(t, c, "lpac-profile.apdu")
	list := func() string {
		answer, sw := p.call("BF2D00")
		require.Equal(t, "9000", sw)
		return answer
	}
	p.start()
	before := list()
	p.stop()
	p.start()
	p.want(switchProfile(disableProfile, everyday, "FF"), "BF3203800100")
	p.stop()
	p.start()
	assert.Equal(t, strings.ReplaceAll(before, "9F700101", "9F700100"), list(), "it survived the card's power")
	p.want(switchProfile(disableProfile, everyday, "FF"), "BF3203800102")
	p.want(switchProfile(enableProfile, everyday, "FF"), "BF3103800100")
	assert.Equal(t, before, list())
	p.want(object(0xBF29, iccidObject(abroad), object(0x90, strings.Repeat("6E", 64))), "BF2903800100")
	p.segment = 6 // the least that lpac can be told
	p.want(object(0xBF29, iccidObject(abroad), object(0x90, strings.Repeat("6E", 64))), "BF2903800100")
	p.want(object(0xBF33, iccidObject(abroad)), "BF3303800100")
	p.stop()

	n := lpac(t, c, "lpac-notification.apdu")
	n.start()
	notes, sw := n.call("BF2800")
	require.Equal(t, "9000", sw)
	assert.Equal(t, 3, strings.Count(notes, "BF2F"))
	for _, number := range []string{"01", "02", "03"} {
		_, sw := n.call(object(0xBF2B, object(0xA0, object(0x80, number))))
		require.Equal(t, "9000", sw)
		n.want(object(0xBF30, object(0x80, number)), "BF3003800100")
	}
	n.want("BF2800", "BF2802A000")
	n.want(object(0xBF34, "820205E0"), "BF3403800100")
	n.want("BF2D00", "BF2D02A000")
	n.stop()
}

func TestOnomondoIPA(t *testing.T) {
	p := onomondoIPA(t, newCard(t, euiccImage(t)), "onomondo-ipa.apdu")
	p.start()
	p.want("BF3E035C015A", "BF3E12"+eidResponse)
	_, sw := p.call("BF2D00")
	require.Equal(t, "9000", sw)
	p.want(switchProfile(enableProfile, travel, "FF"), "BF3103800100")
	p.want(switchProfile(disableProfile, travel, "00"), "BF3203800100")
	p.stop()
}

func TestEuiccGo(t *testing.T) {
	p := euiccGo(t, newCard(t, euiccImage(t)), "euicc-go.apdu")
	p.start()
	p.want("BF3E035C015A", "BF3E12"+eidResponse)
	_, sw := p.call(object(0xBF2D, "5C0D5A4F9F7090919293949599B6B7"))
	require.Equal(t, "9000", sw)
	p.want(switchProfile(disableProfile, everyday, "FF"), "BF3203800100")
	notes, sw := p.call("BF280481020400")
	require.Equal(t, "9000", sw)
	assert.Equal(t, 1, strings.Count(notes, "BF2F"))
	p.stop()
}

func TestPySimShell(t *testing.T) {
	p := pySimShell(t, newCard(t, euiccImage(t)), "pysim-shell-isdr.apdu")
	p.start()
	for _, request := range []string{"BF2D00", "BF2000", "BF2200", "BF3C00", "BF2800"} {
		answer, sw := p.call(request)
		require.Equal(t, "9000", sw)
		require.Equal(t, request[:4], answer[:4])
	}
	p.want("BF3E035C015A", "BF3E12"+eidResponse)
	p.want(switchProfile(disableProfile, everyday, "01"), "BF3203800100")
	p.want(object(enableProfile, object(0xA0, object(0x4F, "A0000005591010FFFFFFFF8900001200")), object(0x81, "00")), "BF3103800100")
	p.want(object(0xBF29, iccidObject(travel), "9000"), "BF2903800100")
	p.stop()
}

// TestISDRRefresh: a terminal that knows REFRESH is sent one, and is CAT busy until
// it has fetched and answered it.
func TestISDRRefresh(t *testing.T) {
	c := newCard(t, euiccImage(t))
	run(t, c,
		step{"80100000080000800000000000", "9000"}, // TERMINAL PROFILE
		step{"0070000001", "019000"}, step{"01A4040010" + isdrAID, "6121"},
		step{"81E2910014" + switchProfile(disableProfile, everyday, "FF"), "6106"}, step{"81C0000006", "BF3203800100" + "910B"},
		step{"81E2910014" + switchProfile(enableProfile, everyday, "FF"), "6106"}, step{"81C0000006", "BF3103800105" + "910B"},
		step{"801200000B", "D009810301010482028182" + "9000"},
		step{"81E2910014" + switchProfile(enableProfile, everyday, "FF"), "6106"}, step{"81C0000006", "BF3103800105" + "9000"},
		step{"801400000C" + "810301010482028281830100", "9000"},
		step{"81E2910014" + switchProfile(enableProfile, everyday, "FF"), "6106"}, step{"81C0000006", "BF3103800100" + "910B"},
	)
}

// TestOneStore: the management applet and the ISD-R have one event counter and
// the same profiles, and an answer that the applet stored is its answer still.
func TestOneStore(t *testing.T) {
	c := newCard(t, euiccImage(t))
	m := newTerminal(t, c)
	data := order{1, eleven, &everyday, 0x100}.data()
	first, sw := m.do(1, insDeactivate, data)
	require.Equal(t, apdu.SWSuccess, sw)
	run(t, c,
		step{"0070000001", "019000"}, step{"01A4040010" + isdrAID, "6121"},
		step{"81E2910014" + switchProfile(disableProfile, everyday, "00") + "00", "BF3203800102" + "9000"},
		step{"81E2910014" + switchProfile(enableProfile, everyday, "00") + "00", "BF3103800100" + "9000"},
		step{"81E2910014" + switchProfile(enableProfile, abroad, "00") + "00", "BF3103800100" + "9000"},
		step{"81E291000F" + object(0xBF33, iccidObject(everyday)) + "00", "BF3303800100" + "9000"},
	)
	assert.EqualValues(t, 0x104, c.Image().EventCounter, "a switch is one event")
	again, sw := m.do(1, insDeactivate, data)
	assert.Equal(t, apdu.SWSuccess, sw)
	assert.Equal(t, first, again)
	assert.EqualValues(t, 0x104, c.Image().EventCounter)
	got, sw := m.do(1, insDeactivate, order{2, other, &abroad, 0x104}.data())
	assert.Equal(t, apdu.SWSuccess, sw)
	assert.Equal(t, "900100", got[:6])
}

// TestMoreAIDs: an image may give the ISD-R any AIDs; P2 0C asks for no FCI.
func TestMoreAIDs(t *testing.T) {
	im := euiccImage(t)
	im.runtime().About = &EUICC{ISDR: []Hex{unhex("A0000005591010FFFFFFFF8900050500"), unhex("A06573746B6D65FFFFFFFF4953442D52")}}
	run(t, newCard(t, im),
		step{"00A4040010" + isdrAID, "6A82"},
		step{"00A4040010A0000005591010FFFFFFFF8900050500", "6121"},
		step{"00A4040C10A06573746B6D65FFFFFFFF4953442D52", "9000"},
		step{"80E2910006BF3E035C015A00", "BF3E12" + eidResponse + "9000"},
	)
	im.runtime().About = &EUICC{Plain: true}
	run(t, newCard(t, im),
		step{selectApplet, "6A82"}, step{getEID, "6D00"},
		step{"00A4040C10" + isdrAID, "9000"}, step{"00A4040404A0000001", "6A82"}, step{"80E2910006BF3E035C015A00", "BF3E12" + eidResponse + "9000"},
	)
	im.Runtime.About.ISDR, im.Runtime.About.Plain = []Hex{}, false
	run(t, newCard(t, im), step{"00A4040010" + isdrAID, "6A82"})
}

// TestBlocksByChannel: what came on one channel is not another's, and a SELECT or
// a reset ends it.
func TestBlocksByChannel(t *testing.T) {
	c := newCard(t, euiccImage(t))
	run(t, c,
		step{"0070000001", "019000"}, step{"0070000001", "029000"},
		step{"01A4040C10" + isdrAID, "9000"}, step{"02A4040C10" + isdrAID, "9000"},
		step{"81E2110003BF3E03", "9000"}, step{"82E29101035C015A", "6A86"},
		step{"81E29101035C015A00", "BF3E12" + eidResponse + "9000"},
		step{"81E2110003BF3E03", "9000"}, step{"0070800100", "9000"}, step{"0070000001", "019000"},
		step{"01A4040C10" + isdrAID, "9000"}, step{"81E29101035C015A00", "6A86"},
		step{"81E2110003BF3E03", "9000"},
	)
	c.Reset()
	run(t, c, step{"00A4040C10" + isdrAID, "9000"}, step{"80E29101035C015A00", "6A86"})
}

// TestEUICCMemory: what the ISD-R stores survives in the image file's form, and
// names the same things afterwards.
func TestEUICCMemory(t *testing.T) {
	im := euiccImage(t)
	im.runtime().About = &EUICC{DefaultDP: "first.example.com"}
	c := newCard(t, im)
	functions := func(c *Card, requests ...string) (out string) {
		require.Equal(t, "9000", send(c, "00A4040C10"+isdrAID))
		for _, r := range requests {
			out += send(c, fmt.Sprintf("80E29100%02X%s00", len(r)/2, r))
		}
		return out
	}
	functions(c,
		switchProfile(enableProfile, travel, "00"), object(0xBF33, iccidObject(everyday)),
		object(0xBF29, iccidObject(abroad), object(0x90, "C3A9")), object(0xBF3F, object(0x80, "6162")),
	)
	b, err := c.Image().Marshal()
	require.NoError(t, err)
	again, err := ParseImage(b)
	require.NoError(t, err)
	assert.Equal(t, c.Image(), again)
	d := newCard(t, again)
	reading := []string{"BF2D00", "BF2800", "BF3C00", object(0xBF2D, object(0xA0, "4F10A0000005591010FFFFFFFF8900001100"))}
	all := functions(c, reading...)
	assert.Equal(t, all, functions(d, reading...))
	assert.Contains(t, all, "A0000005591010FFFFFFFF8900001100", "AIDs stay when a profile goes")
	assert.Contains(t, all, "9002C3A9")
	functions(d, "BF340482020520")
	assert.Contains(t, functions(d, "BF3C00"), hexBytes([]byte("first.example.com")))
}

// TestEUICCFaults: a write that fails is result 127 and changes nothing; one that
// the power is cut at is wholly before or after; a counter at its end stays.
func TestEUICCFaults(t *testing.T) {
	request := "80E2910014" + switchProfile(disableProfile, everyday, "00") + "00"
	for _, kind := range []FaultKind{WriteFails, CutBefore, CutAfter} {
		im := euiccImage(t)
		c := newCard(t, im)
		run(t, c, step{"00A4040C10" + isdrAID, "9000"})
		c.Inject(Fault{Write: 1, Kind: kind})
		rapdu := c.Process(unhex(request))
		switch kind {
		case WriteFails:
			assert.Equal(t, "BF320380017F9000", hexBytes(rapdu))
			assert.Equal(t, im, c.Image())
		case CutBefore:
			assert.Nil(t, rapdu)
			assert.Equal(t, im, c.Image())
		case CutAfter:
			assert.Nil(t, rapdu)
			assert.Equal(t, im.EventCounter+1, c.Image().EventCounter)
			assert.Negative(t, c.Image().enabled())
			assert.Len(t, c.Image().Runtime.EUICC.Notifications, 1)
		}
	}
	im := euiccImage(t)
	im.EventCounter = math.MaxUint32
	c := newCard(t, im, WithStore(&brokenStore{}))
	run(t, c, step{"00A4040C10" + isdrAID, "9000"}, step{request, "BF320380017F9000"})
	assert.Equal(t, im, c.Image())
	c = newCard(t, euiccImage(t), WithStore(&brokenStore{err: errors.New("disk full")}))
	run(t, c, step{"00A4040C10" + isdrAID, "9000"}, step{request, "BF320380017F9000"})
}

func TestEUICCImageErrors(t *testing.T) {
	for name, bend := range map[string]func(im *Image, r *EUICCRuntime){
		"short AID":               func(im *Image, _ *EUICCRuntime) { im.Runtime.About.ISDR = []Hex{{1, 2, 3, 4}} },
		"the applet's AID":        func(im *Image, _ *EUICCRuntime) { im.Runtime.About.ISDR = []Hex{appletID} },
		"too many AIDs":           func(im *Image, _ *EUICCRuntime) { im.Runtime.About.ISDR = make([]Hex, maxISDR+1) },
		"long address":            func(im *Image, _ *EUICCRuntime) { im.Runtime.About.RootDS = strings.Repeat("x", 129) },
		"profile that is not":     func(_ *Image, r *EUICCRuntime) { r.Profiles[0].ICCID = unknown },
		"profile twice":           func(_ *Image, r *EUICCRuntime) { r.Profiles = append(r.Profiles, r.Profiles[0]) },
		"AID of another's place":  func(_ *Image, r *EUICCRuntime) { r.Profiles[0].AID = unhex("A0000005591010FFFFFFFF8900001000") },
		"long AID":                func(_ *Image, r *EUICCRuntime) { r.Profiles[0].AID = make(Hex, 17) },
		"long nickname":           func(_ *Image, r *EUICCRuntime) { r.Profiles[0].Nickname = strings.Repeat("x", 65) },
		"nickname not UTF-8":      func(_ *Image, r *EUICCRuntime) { r.Profiles[0].Nickname = "\xFF" },
		"number beyond the last":  func(_ *Image, r *EUICCRuntime) { r.Sequence = 1 },
		"numbers not ascending":   func(_ *Image, r *EUICCRuntime) { r.Notifications[1].Sequence = 1 },
		"unknown event":           func(_ *Image, r *EUICCRuntime) { r.Notifications[0].Event = "lost" },
		"long notify address":     func(_ *Image, r *EUICCRuntime) { r.Notifications[0].Address = strings.Repeat("x", 129) },
		"too many notifications":  func(_ *Image, r *EUICCRuntime) { r.Notifications = make([]EUICCNotification, 33) },
		"long default DP address": func(_ *Image, r *EUICCRuntime) { s := strings.Repeat("x", 256); r.DefaultDP = &s },
	} {
		t.Run(name, func(t *testing.T) {
			im := euiccImage(t)
			r := &EUICCRuntime{
				Profiles: []EUICCProfile{{ICCID: abroad, Nickname: "x"}}, Sequence: 2,
				Notifications: []EUICCNotification{{1, "enable", "a", abroad}, {2, "disable", "a", abroad}},
			}
			im.Runtime = &Runtime{About: &EUICC{}, EUICC: r}
			_, err := New(im)
			require.NoError(t, err)
			bend(im, r)
			_, err = New(im)
			assert.ErrorIs(t, err, ErrImage)
		})
	}
}
