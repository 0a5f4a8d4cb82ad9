package uicc

import (
	"io"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// maxChannels is how many logical channels there are (TS 102 221 §11.1.17).
const maxChannels = 20

// UICC is a card's file system. It serves one goroutine.
type UICC struct {
	sub  *Subscription // of the enabled profile, nil for none
	save func(Data) error
	rand io.Reader

	channels [maxChannels]position
	verified [len(pins)]bool
}

// position is where a logical channel stands.
type position struct {
	dir    *file // nil: the MF
	ef     *file // nil: none is selected
	record int   // the current one, 0 for none
	usim   bool  // the USIM is the channel's application
}

// New is a file system without a subscription. save makes Data the enabled
// profile's, wholly or not at all, and once it returned an error nothing
// changed; rand is what GET CHALLENGE answers with.
func New(save func(Data) error, rand io.Reader) *UICC {
	return &UICC{save: save, rand: rand}
}

// AID is the USIM's; all have the same.
func AID() []byte { return usimAID }

// Subscribed reports whether there is a USIM.
func (u *UICC) Subscribed() bool { return u.sub != nil }

// Switch makes another profile the enabled one, nil none. Its files begin at the
// MF, and no PIN is verified.
func (u *UICC) Switch(s *Subscription) {
	u.sub = s
	u.Reset()
}

// Reset has the file system as after a reset.
func (u *UICC) Reset() {
	u.channels = [maxChannels]position{}
	u.verified = [len(pins)]bool{}
}

// Close forgets where a channel stood: it is at the MF.
func (u *UICC) Close(channel int) { u.channels[channel] = position{} }

// Open has a channel begin where another one stands.
func (u *UICC) Open(channel, from int) {
	u.channels[channel] = position{dir: u.channels[from].dir, usim: u.channels[from].usim}
}

// store makes d the subscription's data, in persistent memory first.
func (u *UICC) store(d Data) apdu.StatusWord {
	if u.save(d) != nil {
		return apdu.SWMemoryFailure
	}
	next := *u.sub
	next.Data = d
	u.sub = &next
	return apdu.SWSuccess
}

// Status words of TS 102 221 §10.2.1 that package apdu does not have.
const (
	swNotFound       apdu.StatusWord = 0x6282 // unsuccessful search
	swFileStructure  apdu.StatusWord = 0x6981
	swInvalidated    apdu.StatusWord = 0x6984
	swNoEF           apdu.StatusWord = 0x6986
	swNotSupported   apdu.StatusWord = 0x6A81
	swRecordNotFound apdu.StatusWord = 0x6A83
	swWrongOffset    apdu.StatusWord = 0x6B00
	swMaximum        apdu.StatusWord = 0x9850
	swAuthentication apdu.StatusWord = 0x9862 // incorrect MAC
)

// Instructions.
const (
	insVerify       = 0x20
	insChange       = 0x24
	insDisable      = 0x26
	insEnable       = 0x28
	insUnblock      = 0x2C
	insIncrease     = 0x32
	insGetChallenge = 0x84
	insAuthenticate = 0x88
	insSearchRecord = 0xA2
	insSelect       = 0xA4
	insReadBinary   = 0xB0
	insReadRecord   = 0xB2
	insUpdateBinary = 0xD6
	insUpdateRecord = 0xDC
	insStatus       = 0xF2
)

type command struct {
	proprietary bool
	run         func(u *UICC, p *position, cmd apdu.Command) ([]byte, apdu.StatusWord)
}

var commands = map[byte]command{
	insVerify:       {run: (*UICC).verify},
	insChange:       {run: (*UICC).change},
	insDisable:      {run: (*UICC).disable},
	insEnable:       {run: (*UICC).enable},
	insUnblock:      {run: (*UICC).unblock},
	insIncrease:     {proprietary: true, run: (*UICC).increase},
	insGetChallenge: {run: (*UICC).getChallenge},
	insAuthenticate: {run: (*UICC).authenticate},
	insSearchRecord: {run: (*UICC).searchRecord},
	insSelect:       {run: (*UICC).selectFile},
	insReadBinary:   {run: (*UICC).readBinary},
	insReadRecord:   {run: (*UICC).readRecord},
	insUpdateBinary: {run: (*UICC).updateBinary},
	insUpdateRecord: {run: (*UICC).updateRecord},
	insStatus:       {proprietary: true, run: (*UICC).status},
}

// Instructions are those of the file system, and whether their class is the
// proprietary one (80).
func Instructions() map[byte]bool {
	all := map[byte]bool{}
	for ins, c := range commands {
		all[ins] = c.proprietary
	}
	return all
}

// Process carries out a command with one of Instructions, its class being
// right. Data without a status word of success is never given.
func (u *UICC) Process(channel int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	c, known := commands[cmd.INS]
	if !known {
		return nil, apdu.SWInstructionNotSupported
	}
	return c.run(u, &u.channels[channel], cmd)
}

// exactly gives data, or 6Cxx where Le asks for another length and not for the
// most that there is.
func exactly(data []byte, ne int) ([]byte, apdu.StatusWord) {
	if ne > len(data) && ne != apdu.MaxShortNe && ne != apdu.MaxExtendedNe {
		return nil, wrongLe(len(data))
	}
	return enough(data, ne)
}

// enough gives data, or 6Cxx where Le asks for less.
func enough(data []byte, ne int) ([]byte, apdu.StatusWord) {
	if ne > 0 && ne < len(data) {
		return nil, wrongLe(len(data))
	}
	return data, apdu.SWSuccess
}

func wrongLe(n int) apdu.StatusWord { return 0x6C00 | apdu.StatusWord(byte(min(n, 256))) }

// directory is the current directory.
func (p *position) directory() *file {
	if p.dir == nil {
		return mf
	}
	return p.dir
}

// there reports whether a file exists: what belongs to a profile is there with
// it.
func (u *UICC) there(f *file) bool {
	return f != nil && (u.sub != nil || f == mf || f.parent == mf && !f.isDir())
}

// What SELECT and STATUS answer with (P2).
const (
	answerMask    = 0x0C
	answerDefault = 0x00
	answerFCP     = 0x04
	answerNone    = 0x0C
)

// selectFile is SELECT (TS 102 221 §11.1.1), but by AID.
func (u *UICC) selectFile(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if cmd.P2 != answerDefault && cmd.P2 != answerFCP && cmd.P2 != answerNone {
		return nil, apdu.SWIncorrectP1P2
	}
	f, sw := u.find(p, cmd.P1, cmd.Data)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	u.enter(p, f)
	if cmd.P2 == answerNone {
		return nil, apdu.SWSuccess
	}
	return u.fcp(f), apdu.SWSuccess
}

// find is the file that a SELECT names.
func (u *UICC) find(p *position, p1 byte, name []byte) (*file, apdu.StatusWord) {
	const (
		byID       = 0x00
		childDF    = 0x01
		parent     = 0x03
		pathMF     = 0x08
		pathFromDF = 0x09
	)
	var f *file
	switch p1 {
	case byID:
		if len(name) == 0 {
			return mf, apdu.SWSuccess
		}
		if len(name) != 2 {
			return nil, apdu.SWWrongLength
		}
		f = u.byID(p, identifier(name))
	case childDF:
		if len(name) != 2 {
			return nil, apdu.SWWrongLength
		}
		if f = p.directory().child(identifier(name)); f != nil && !f.isDir() {
			f = nil
		}
	case parent:
		if len(name) != 0 {
			return nil, apdu.SWWrongLength
		}
		f = p.directory().parent
	case pathMF, pathFromDF:
		if len(name) == 0 || len(name)%2 != 0 {
			return nil, apdu.SWWrongLength
		}
		f = p.directory()
		if p1 == pathMF {
			f = mf
		}
		f = follow(p, f, name)
	default:
		return nil, apdu.SWIncorrectP1P2
	}
	if !u.there(f) {
		return nil, apdu.SWFileNotFound
	}
	return f, apdu.SWSuccess
}

func identifier(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// follow goes down a path; its first step may be the current ADF.
func follow(p *position, f *file, path []byte) *file {
	if p.usim && identifier(path) == idCurrentADF {
		f, path = usim, path[2:]
	}
	for ; f != nil && len(path) > 0; path = path[2:] {
		f = f.child(identifier(path))
	}
	return f
}

// byID is the file that an identifier names at a place (TS 102 221 §8.4.1).
func (u *UICC) byID(p *position, id uint16) *file {
	here := p.directory()
	switch {
	case id == idMF:
		return mf
	case id == idCurrentADF:
		if p.usim {
			return usim
		}
		return nil
	case id == here.id:
		return here
	}
	if f := here.child(id); f != nil || here.parent == nil {
		return f
	}
	if id == here.parent.id {
		return here.parent
	}
	if f := here.parent.child(id); f != nil && f.isDir() {
		return f
	}
	return nil
}

// enter makes f current.
func (u *UICC) enter(p *position, f *file) {
	p.ef, p.record = nil, 0
	if f.isDir() {
		p.dir = f
	} else {
		p.dir, p.ef = f.parent, f
	}
}

// SelectUSIM is SELECT by an AID that is the USIM's, wholly or in its beginning.
func (u *UICC) SelectUSIM(channel int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	const (
		session     = 0xE0 // P2: bits 8 to 6
		termination = 0x40
	)
	p := &u.channels[channel]
	switch cmd.P2 & session {
	case 0:
	case termination:
		*p = position{}
		return nil, apdu.SWSuccess
	default:
		return nil, apdu.SWIncorrectP1P2
	}
	answer := cmd.P2 & answerMask
	if answer != answerDefault && answer != answerFCP && answer != answerNone || cmd.P2&0x10 != 0 {
		return nil, apdu.SWIncorrectP1P2
	}
	*p = position{dir: usim, usim: true}
	if answer == answerNone {
		return nil, apdu.SWSuccess
	}
	return u.fcp(usim), apdu.SWSuccess
}

// fcp is a file's FCP template.
func (u *UICC) fcp(f *file) []byte {
	if !f.isDir() {
		return f.fcp
	}
	var name []byte
	if f == usim {
		name = usimAID
	}
	return tlv.Append(nil, 0x62, f.parameters(name, u.pinStatus())...)
}

// status is STATUS (TS 102 221 §11.1.2).
func (u *UICC) status(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	const dfName = 0x01
	switch {
	case cmd.P1 > 0x02:
		return nil, apdu.SWIncorrectP1P2
	case len(cmd.Data) > 0:
		return nil, apdu.SWWrongLength
	}
	switch cmd.P2 {
	case 0x00:
		return enough(u.fcp(p.directory()), cmd.Ne)
	case dfName:
		if !p.usim {
			return nil, apdu.SWConditionsNotSatisfied
		}
		return enough(tlv.Append(nil, 0x84, usimAID...), cmd.Ne)
	case answerNone:
		return nil, apdu.SWSuccess
	}
	return nil, apdu.SWIncorrectP1P2
}

// getChallenge is GET CHALLENGE (ISO/IEC 7816-4 §11.5.3).
func (u *UICC) getChallenge(_ *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	switch {
	case cmd.P1 != 0 || cmd.P2 != 0:
		return nil, apdu.SWIncorrectP1P2
	case len(cmd.Data) > 0 || cmd.Ne == 0:
		return nil, apdu.SWWrongLength
	}
	b := make([]byte, min(cmd.Ne, apdu.MaxShortNe))
	if _, err := io.ReadFull(u.rand, b); err != nil {
		return nil, apdu.SWMemoryFailure
	}
	return b, apdu.SWSuccess
}
