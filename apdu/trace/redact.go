package trace

import (
	"bytes"

	"github.com/cardbridge/cardbridge/apdu"
)

// Redactor masks the secrets in what passes over one connection: PINs, keys on
// their way into or out of a card, the results of AUTHENTICATE, what a card
// deciphers. docs/trace.md has the table. It follows the entries in their order,
// logical channels apart; a zero one is ready. Where entries are missing, as in a
// script, a trace cut off or a log with holes, it rather masks too much: a command
// without an answer has succeeded, an answer without a command is a secret.
type Redactor struct {
	channels [20]channelState
	now      exchange
	owed     bool // a secret answer has not come yet, maybe another takes its place
}

// channelState is what a logical channel is at. 0 is not known.
type channelState struct {
	df, ef uint16 // the selected files; aid where an application is selected
	heard  bool   // there was a command: what GET RESPONSE fetches is known
	tail   bool   // the rest of the answer, which GET RESPONSE fetches, is secret
	dgi    int    // bytes of a secret data grouping that are still to come
}

// exchange is what the command says about its response.
type exchange struct {
	known   bool // there is a command that waits for its answer
	secret  bool
	channel int
	// What the channel is at if the command succeeds.
	df, ef uint16
}

const (
	mf       = 0x3F00
	aid      = 0x7FFF // an application's DF, ADF.USIM unless known to be another's
	otherADF = 0xFFFF
	gsmUSIM  = 0x5F3B // DF.GSM-ACCESS
	fiveG    = 0x5FC0 // DF.5GS
	labDF    = 0xA515 // DF.SYSTEM of cards for laboratories
)

// isim is how the AIDs of ISIMs begin, whose short identifiers are others'.
var isim = []byte{0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x04}

// secretFile is a file that holds keys, in the DF where it does, any where 0,
// and its short identifier where it has one.
type secretFile struct {
	df, ef uint16
	sfi    byte
}

// 3GPP TS 31.102 and TS 51.011; the files at the end are those in which cards
// for laboratories keep Ki, K and OPc, PINs and PUKs, keys of OTA and GBA.
var secretFiles = [...]secretFile{
	{aid, 0x6F08, 0x08},     // EF.Keys: CK, IK
	{aid, 0x6F09, 0x09},     // EF.KeysPS
	{aid, 0x6FE4, 0x18},     // EF.EPSNSC: K_ASME
	{aid, 0x6FD7, 0},        // EF.MSK
	{aid, 0x6FD8, 0},        // EF.MUK
	{0, 0x6F20, 0},          // EF.Kc
	{0, 0x6F52, 0},          // EF.KcGPRS
	{gsmUSIM, 0x4F20, 0x01}, // EF.Kc
	{gsmUSIM, 0x4F52, 0x02}, // EF.KcGPRS
	{fiveG, 0x4F03, 0x03},   // EF.5GS3GPPNSC: K_AMF
	{fiveG, 0x4F04, 0x04},   // EF.5GSN3GPPNSC
	{fiveG, 0x4F05, 0x05},   // EF.5GAUTHKEYS: K_AUSF, K_SEAF
	{0, 0xAF20, 0},
	{0, 0xAF21, 0},
	{0, 0xAF22, 0},
	{0, 0xAF31, 0},
	{0, 0xAF33, 0},
	{labDF, 0x6F01, 0},
	{labDF, 0x6F81, 0},
	{labDF, 0x6F0A, 0},
	{labDF, 0x6F0B, 0},
	{labDF, 0x6F0C, 0},
	{labDF, 0x6F0D, 0},
	{labDF, 0x6F22, 0},
	{0, 0x00FF, 0},
	{0, 0x00F7, 0},
	{0, 0xFF01, 0},
	{0, 0xFF02, 0},
}

// Redact is e with its secrets masked, in a copy of its bytes where there are
// any.
func (r *Redactor) Redact(e Entry) Entry {
	switch e.Kind {
	case Command:
		if len(e.Data) >= 4 {
			return mask(e, r.command(e.Data))
		}
	case Response:
		if len(e.Data) >= 2 {
			return mask(e, r.response(e.Data))
		}
	case Event:
		switch e.Name {
		case Connected, Reset, Removed, Closed:
			*r = Redactor{}
		case Error:
			r.assume()
			r.owed = false
		}
	}
	return e
}

func mask(e Entry, s Span) Entry {
	s.To = min(s.To, len(e.Data))
	if s.From >= s.To {
		return e
	}
	e.Data = append([]byte(nil), e.Data...)
	clear(e.Data[s.From:s.To])
	var all []Span
	for _, old := range e.Mask { // s takes in what it touches
		if old.To < s.From || old.From > s.To {
			all = append(all, old)
			continue
		}
		s = Span{min(s.From, old.From), max(s.To, old.To)}
	}
	at := len(all)
	for at > 0 && all[at-1].From > s.From {
		at--
	}
	all = append(all, Span{})
	copy(all[at+1:], all[at:])
	all[at] = s
	e.Mask = all
	return e
}

// assume takes it that a command without an answer did what it says.
func (r *Redactor) assume() {
	if x := r.now; x.known {
		r.channels[x.channel].df, r.channels[x.channel].ef = x.df, x.ef
		r.owed = r.owed || x.secret
	}
	r.now = exchange{}
}

// command is the secret part of a command.
func (r *Redactor) command(b []byte) Span {
	r.assume()
	n := logicalChannel(b[0])
	c := &r.channels[n]
	r.now = exchange{known: true, channel: n, df: c.df, ef: c.ef}
	if b[1] == 0xC0 { // GET RESPONSE
		r.now.secret = c.tail || !c.heard
		return Span{}
	}
	s := r.content(b)
	c.heard, c.tail = true, r.now.secret
	return s
}

// content is the secret part of a command other than GET RESPONSE.
func (r *Redactor) content(b []byte) Span {
	cla, ins, p1, p2 := b[0], b[1], b[2], b[3]
	c := &r.channels[r.now.channel]
	data := dataOf(b)
	value := b[data.From:data.To]
	if ins != 0xE2 {
		c.dgi = 0
	}
	switch ins {
	case 0x20, 0x21, 0x24, 0x25, 0x26, 0x28, 0x2C, 0x2D: // VERIFY, CHANGE, DISABLE, ENABLE, UNBLOCK
		if _, err := apdu.ParseCommand(b); err != nil && len(b) > 4 && b[4] >= '0' {
			data.From = 4 // a PIN's digit where its length should be
		}
		return data
	case 0xD8: // PUT KEY
		return data
	case 0x82:
		if cla == 0xFF { // LOAD KEYS of PC/SC part 3
			return data
		}
	case 0x88, 0x89: // AUTHENTICATE; INTERNAL AUTHENTICATE of docs/protocol.md §6 has no secret
		ours := ins == 0x88 && cla&0x80 == 0 && (p1 == 1 || p1 == 3) && 1 <= p2 && p2 <= 0x0F
		r.now.secret = !ours
	case 0x2A: // PERFORM SECURITY OPERATION: 80 is the plain value
		r.now.secret = p1 == 0x80
		if p2 == 0x80 {
			return data
		}
	case 0x70: // MANAGE CHANNEL
		if p1 == 0x80 && int(p2) < len(r.channels) {
			r.channels[p2] = channelState{}
		}
	case 0xA4:
		r.now.df, r.now.ef = selected(*c, p1, value)
	case 0xB0, 0xB1, 0xB2, 0xB3, 0xCB, 0xD6, 0xD7, 0xDC, 0xDD: // READ, UPDATE, RETRIEVE DATA
		r.now.secret = r.fileSecret(*c, ins, p1, p2)
		if r.now.secret {
			return data
		}
	case 0xDB: // SET DATA; PUT DATA of a private key where it says 3FFF
		if r.fileSecret(*c, ins, p1, p2) || p1 == 0x3F && p2 == 0xFF {
			return data
		}
	case 0xE2:
		if cla&0x80 == 0 { // APPEND RECORD
			if r.fileSecret(*c, ins, p1, p2) {
				return data
			}
			return Span{}
		}
		return storeData(c, p1, value, data)
	}
	return Span{}
}

// response is the secret part of a response.
func (r *Redactor) response(b []byte) Span {
	x := r.now
	r.now = exchange{}
	if !x.known { // nor is what came before it
		r.channels = [len(r.channels)]channelState{}
		x.secret = true
	}
	x.secret, r.owed = x.secret || r.owed, false
	c := &r.channels[x.channel]
	sw1 := b[len(b)-2]
	data := Span{0, len(b) - 2}
	c.tail = x.secret && (sw1 == 0x61 || sw1 == 0x9F || sw1 == 0x6C)
	if sw1&0xF0 == 0x90 || 0x61 <= sw1 && sw1 <= 0x63 {
		c.df, c.ef = x.df, x.ef
	}
	if !x.secret {
		return Span{}
	}
	if data.To > 1 && (b[0] == 0xDB || b[0] == 0xDC) {
		data.From = 1 // whether an AUTHENTICATE succeeded or fell out of step
	}
	return data
}

// logicalChannel is the logical channel of a class byte, ISO/IEC 7816-4 §5.4.1 and
// GlobalPlatform §11.1.4.
func logicalChannel(cla byte) int {
	switch {
	case cla&0x40 != 0:
		return int(cla&0x0F) + 4
	case cla&0xF0 == 0xA0: // TS 51.011
		return 0
	}
	return int(cla & 3)
}

// dataOf is where a command's data is; of bytes that are no command, all that
// follows the header and P3.
func dataOf(b []byte) Span {
	c, err := apdu.ParseCommand(b)
	switch {
	case err != nil:
		return Span{min(5, len(b)), len(b)}
	case len(c.Data) == 0:
		return Span{}
	}
	from := 5
	if apdu.IsExtended(b) {
		from = 7
	}
	return Span{from, from + len(c.Data)}
}

// selected is what a SELECT that succeeds leaves.
func selected(c channelState, p1 byte, value []byte) (df, ef uint16) {
	switch p1 {
	case 0x04:
		if bytes.HasPrefix(value, isim) {
			return otherADF, 0
		}
		return aid, 0
	case 0x03:
		return 0, 0
	case 0x08:
		c.df = mf
	}
	if len(value) < 2 {
		return mf, 0
	}
	for ; len(value) >= 2; value = value[2:] {
		switch f := uint16(value[0])<<8 | uint16(value[1]); {
		case value[0] == 0x3F, value[0] == 0x5F, value[0] == 0x7F, f == labDF:
			c.df, c.ef = f, 0
		default:
			c.ef = f
		}
	}
	return c.df, c.ef
}

// fileSecret reports whether a command works on a file that holds keys, and
// makes that file the current one.
func (r *Redactor) fileSecret(c channelState, ins, p1, p2 byte) bool {
	sfi := byte(0)
	switch {
	case ins&0xFE == 0xB0 || ins&0xFE == 0xD6: // BINARY
		switch {
		case ins&1 == 0 && p1&0x80 != 0:
			sfi = p1 & 0x1F
		case ins&1 != 0 && p1 == 0 && p2&0xE0 == 0:
			sfi = p2
		case ins&1 != 0:
			c.ef = uint16(p1)<<8 | uint16(p2)
		}
	case ins == 0xCB || ins == 0xDB:
	default: // RECORD
		sfi = p2 >> 3
	}
	if sfi != 0 {
		c.ef = 0
	}
	secret := false
	for _, f := range secretFiles {
		if f.df != 0 && c.df != 0 && f.df != c.df {
			continue
		}
		if sfi != 0 && f.sfi == sfi || sfi == 0 && c.ef != 0 && f.ef == c.ef {
			c.ef, secret = f.ef, true
			break
		}
	}
	r.now.ef = c.ef
	return secret
}

// storeData is the data of a STORE DATA from the first data grouping with keys
// or PINs on (identifiers 8000 to 8FFF), which may go on in the next command.
func storeData(c *channelState, p1 byte, value []byte, data Span) Span {
	if c.dgi > 0 {
		c.dgi -= len(value)
		return data
	}
	if p1&0x18 != 0x08 { // not in data groupings
		return Span{}
	}
	for i := 0; i+3 <= len(value); {
		size, head := int(value[i+2]), 3
		if size == 0xFF && i+5 <= len(value) {
			size, head = int(value[i+3])<<8|int(value[i+4]), 5
		}
		if value[i]&0xF0 == 0x80 {
			c.dgi = max(0, i+head+size-len(value))
			return Span{data.From + i + head, data.To}
		}
		i += head + size
	}
	return Span{}
}

// Redact is s with the secrets masked in what it is given.
func Redact(s Sink) Sink { return &redacting{Sink: s} }

type redacting struct {
	Sink
	redactor Redactor
}

func (s *redacting) Begin(h Header) error {
	s.redactor = Redactor{}
	h.Redacted = true
	return s.Sink.Begin(h)
}

func (s *redacting) Write(e Entry) error { return s.Sink.Write(s.redactor.Redact(e)) }
