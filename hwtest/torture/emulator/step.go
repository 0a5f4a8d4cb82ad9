package main

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/card"
)

// sequence is what is played on a card: as JSON it can be played again.
type sequence struct {
	Personality string `json:"personality"`
	RSA         bool   `json:"rsa"`
	Steps       []step `json:"steps"`
}

// step is one thing that is done to a card; it has one of these members.
type step struct {
	APDU    string       `json:"apdu,omitempty"` // a command as it is, in hexadecimal
	Fault   *fault.Fault `json:"fault,omitempty"`
	Restart string       `json:"restart,omitempty"` // reset, power, insert
	Operate *operate     `json:"operate,omitempty"`
	Replay  bool         `json:"replay,omitempty"` // the last command of the last operate again, as it was
}

// operate is a whole session with DEACTIVATE or ACTIVATE.
type operate struct {
	INS      byte `json:"ins"`
	Suite    byte `json:"suite"`
	Channel  int  `json:"channel"`
	Profile  int  `json:"profile"`  // -1: none is named
	Other    bool `json:"other"`    // the operator is another one than the profile's owner
	Behind   int  `json:"behind"`   // how far the event counter is off
	Request  byte `json:"request"`  // request id
	Reads    bool `json:"reads"`    // the session is authorised for no command, and reads
	Short    bool `json:"short"`    // as short APDUs: chaining and GET RESPONSE
	Impostor bool `json:"impostor"` // M2 is spoilt
}

// generate makes the n-th sequence of a seed.
func generate(seed, n uint64) sequence {
	r := rand.New(rand.NewPCG(seed, n))
	q := sequence{Personality: names[r.IntN(len(names))], RSA: n%64 == 0}
	for range 4 + r.IntN(28) {
		q.Steps = append(q.Steps, next(r))
	}
	return q
}

func next(r *rand.Rand) step {
	switch p := r.IntN(100); {
	case p < 12:
		f := randomFault(r)
		return step{Fault: &f}
	case p < 19:
		return step{Restart: pick(r, "reset", "power", "insert")}
	case p < 33:
		return step{Operate: randomOperate(r)}
	case p < 36:
		return step{Replay: true}
	}
	return step{APDU: randomAPDU(r)}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomFault(r *rand.Rand) fault.Fault {
	f := fault.Fault{Kind: pick(r, fault.Kinds()...), Seed: r.Uint64N(1<<50) + 1}
	event := r.IntN(5)
	switch f.Kind {
	case fault.Late, fault.Slow: // they change nothing but the time
		f.Kind = fault.CutAfter
		f.Write = event
	case fault.WriteFails, fault.WornOut, fault.CutBefore, fault.CutTorn, fault.CutAfter:
		f.Write = event
	case fault.ATR:
		f.ATR = []byte{0x3B, 0x00}
	default:
		f.APDU = event
	}
	switch f.Kind {
	case fault.CutTorn:
		f.Bytes = pick(r, 0, 1, r.IntN(40000), 1<<20)
	case fault.Partial:
		f.Bytes = r.IntN(20)
	case fault.Refuse, fault.WrongSW:
		f.SW = pick[apdu.StatusWord](r, 0x6F00, 0x9000, 0x6581, 0x6110)
	case fault.Flip, fault.FlipCommand:
		f.Bits = 1 + r.IntN(4)
	}
	if f.Kind != fault.ATR && r.IntN(4) == 0 {
		f.INS = []byte{pick[byte](r, 0x04, 0x44, 0x20, 0x82, 0xE2, 0xD6)}
	}
	if r.IntN(5) == 0 {
		f.Probability, f.Times = 0.3, 3
	}
	return f
}

func randomOperate(r *rand.Rand) *operate {
	return &operate{
		INS: pick[byte](r, card.INSDeactivate, card.INSDeactivate, card.INSActivate), Suite: pick[byte](r, 1, 1, 3),
		Channel: pick(r, 0, 0, 0, 1), Profile: r.IntN(profiles+1) - 1, Other: r.IntN(8) == 0, Behind: pick(r, 0, 0, 0, 0, 0, 1, -1),
		Request: byte(r.IntN(3)), Reads: r.IntN(10) == 0, Short: r.IntN(4) == 0, Impostor: r.IntN(16) == 0,
	}
}

// templates are commands that the card knows, and parts of them.
var templates = []string{
	"00A404000BF06361726462726964676500", "00A4040410A0000005591010FFFFFFFF8900000100", "00A4040410A0000005591010FFFFFFFF8900000100",
	"01A4040410A0000005591010FFFFFFFF8900000100", "00A4040407A0000000871002", "00A40004023F00", "00A40004027FFF", "00A40004026F07",
	"00A40804047FFF6F46", "00A4000C023F00", "0070000001", "00700001", "00708001", "80CA005A00", "80CA00E100", "80F2000000",
	"0020000100", "00200001083132333", "002000010831323334FFFFFFFF", "002000010839393939FFFFFFFF", "0020008108" + "30303030FFFFFFFF",
	"002000810831313131FFFFFFFF", "0020000A083838383838383838", "0020000A083131313131313131",
	"00240001103132333" + "4FFFFFFFF31323334FFFFFFFF", "002400011039393939FFFFFFFF31323334FFFFFFFF",
	"002600010831323334FFFFFFFF", "002800010831323334FFFFFFFF", "002C000100", "002C000110313131313131313131323334FFFFFFFF",
	"002C000110999999999999999931323334FFFFFFFF", "00B0000000", "00B0000009", "00D6000003414243", "00B2010400", "00DC010404FFFFFFFF", "00A2010404FFFFFFFF",
	"0088010110" + "00112233445566778899AABBCCDDEEFF" + "00", "008801011000112233445566778899AABBCCDDEEFF", "0088008122" + "1000112233445566778899AABBCCDDEEFF1000112233445566778899AABBCCDDEEFF",
	"00820101FF", "8010000014FFFFFFFF7F9F00DFFF00001FE28A0D02030900", "801200000B", "80140000" + "0C810301010082028281830100", "80AA000005A903830107",
	"80C2000003D100", "00C0000000", "80E2910003BF2D00", "80E2910003BF2000", "80E2910006BF3E035C015A", "80E2910005BF34028200", "80E2910007BF3404820205E0",
	"8C04000000", "8CF2000000", "8C440000", "00FF000000", "",
}

// randomAPDU is a template on some channel, often with something changed, or an
// ES10c call that changes profiles.
func randomAPDU(r *rand.Rand) string {
	if r.IntN(5) == 0 {
		return randomES10(r)
	}
	b, _ := hex.DecodeString(pick(r, templates...)) // those with an odd end are cut there
	if r.IntN(4) == 0 && len(b) > 0 {
		b[0] = b[0]&0xFC | byte(r.IntN(4))
	}
	for r.IntN(6) == 0 && len(b) > 0 {
		b[r.IntN(len(b))] = byte(r.Uint32())
	}
	if r.IntN(12) == 0 {
		b = b[:r.IntN(len(b)+1)]
	}
	return fmt.Sprintf("%X", b)
}

// randomES10 is a STORE DATA of EnableProfile, DisableProfile, DeleteProfile or
// eUICCMemoryReset, now and then with its function cut in two.
func randomES10(r *rand.Rand) string {
	name := tlv.Append(nil, 0x5A, iccids()[r.IntN(profiles)]...)
	var request []byte
	switch r.IntN(8) {
	case 0:
		request = tlv.Append(nil, 0xBF33, name...)
	case 1:
		request = tlv.Append(nil, 0xBF34, tlv.Append(nil, 0x82, 5, pick[byte](r, 0x80, 0x40, 0xE0, 0x20))...)
	case 2:
		request = tlv.Append(nil, 0xBF29, append(name, 0x90, 1, 'N')...)
	default:
		body := tlv.Append(tlv.Append(nil, 0xA0, name...), 0x81, pick[byte](r, 0, 0xFF))
		request = tlv.Append(nil, pick[tlv.Tag](r, 0xBF31, 0xBF32), body...)
	}
	return fmt.Sprintf("%X", append([]byte{0x80 | byte(r.IntN(2)), 0xE2, 0x91, 0x00, byte(len(request))}, request...))
}

// iccids are those of the card's profiles.
var iccids = sync.OnceValue(func() (all [][]byte) {
	for _, p := range image("plain").Profiles {
		all = append(all, p.ICCID[:])
	}
	return all
})
