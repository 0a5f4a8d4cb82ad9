// Package isdr is the card's side of SGP.22's ES10a, ES10b and ES10c: the issuer
// security domain root of an eUICC, without the download of profiles. It takes
// the data of STORE DATA and gives the data of the answer; what lies below
// (channels, GET RESPONSE, status words of the transport) is its caller's, and
// what the card stores is behind Memory.
package isdr

import (
	"errors"
	"io"
	"slices"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// Memory is the eUICC's persistent memory.
type Memory interface {
	// State is a copy to change of what the memory holds.
	State() State
	// SetState makes s what the memory holds, wholly or not at all. changed says
	// that profiles changed their state or are gone, which the card counts.
	SetState(s State, changed bool) error
}

// Options are how an eUICC differs from others.
type Options struct {
	// RefuseBy69E1 has the card refuse what a policy rule forbids by the status
	// word 69E1 and no data, as M2M eUICCs do for POL1 (SGP.02), in place of
	// result 3.
	RefuseBy69E1 bool
	// SettleByReset has the card answer 6985 to everything from a change of the
	// enabled profile on until its next reset.
	SettleByReset bool
}

// Status words that package apdu has no name for.
const (
	swPolicy    apdu.StatusWord = 0x69E1
	swNotEnough apdu.StatusWord = 0x6A84 // memory, for the blocks of a function
)

// STORE DATA (§5.7.2).
const (
	moreBlocks = 0x11 // P1
	lastBlock  = 0x91
	maxRequest = 4096 // bytes of one function's request, all blocks together
)

// Results of the functions.
const (
	resultOK         byte = 0
	resultNone       byte = 1 // not found, nothing to delete, none available
	resultState      byte = 2
	resultPolicy     byte = 3
	resultReenabling byte = 4
	resultBusy       byte = 5
	resultUndefined  byte = 127
)

// ISDR carries out functions. It serves one goroutine.
type ISDR struct {
	Memory  Memory
	Options Options
	Rand    io.Reader // of the challenge

	settling bool
}

// Reset forgets what a card keeps in RAM.
func (d *ISDR) Reset() { d.settling = false }

// Blocks is the STORE DATA commands of one function that have come on a logical
// channel (§5.7.2). The zero value is that of a channel where none has.
type Blocks struct {
	next byte // number of the block that belongs next
	data []byte
}

// Add takes one STORE DATA command. With the last of them request is the whole
// function, else it is nil. A block 0 begins anew whatever came before; after an
// error the function is gone.
func (b *Blocks) Add(p1, p2 byte, data []byte) (request []byte, sw apdu.StatusWord) {
	begun := *b
	*b = Blocks{}
	if p2 == 0 && begun.next != 0 {
		begun = Blocks{}
	}
	switch {
	case p1 != moreBlocks && p1 != lastBlock, p2 != begun.next:
		return nil, apdu.SWIncorrectP1P2
	case len(data) == 0:
		return nil, apdu.SWWrongLength
	case len(begun.data)+len(data) > maxRequest:
		return nil, swNotEnough
	case p1 == lastBlock:
		return append(begun.data, data...), apdu.SWSuccess
	}
	*b = Blocks{next: p2 + 1, data: append(begun.data, data...)}
	return nil, apdu.SWSuccess
}

// call is one function under way.
type call struct {
	*ISDR
	State
	busy    bool // a proactive session is under way
	write   bool // State is to be stored
	changed bool // profiles changed their state or are gone
	refresh bool // the terminal is to be told
}

// function carries out one function with the value of its request and gives the
// value of its response.
type function func(c *call, body []byte) ([]byte, error)

// functions are the functions by the tag of request and response.
var functions map[tlv.Tag]function

func init() {
	functions = map[tlv.Tag]function{
		0xBF20: (*call).info1,
		0xBF22: (*call).info2,
		0xBF28: (*call).listNotifications,
		0xBF29: (*call).setNickname,
		0xBF2B: (*call).retrieveNotifications,
		0xBF2D: (*call).profilesInfo,
		0xBF2E: (*call).challenge,
		0xBF30: (*call).removeNotification,
		0xBF31: (*call).enable,
		0xBF32: (*call).disable,
		0xBF33: (*call).delete,
		0xBF34: (*call).memoryReset,
		0xBF3C: (*call).addresses,
		0xBF3E: (*call).eid,
		0xBF3F: (*call).setDefaultDP,
		0xBF43: (*call).rules,
	}
}

// errPolicy is the answer that Options.RefuseBy69E1 asks for.
var errPolicy = errors.New("isdr: a policy rule forbids it")

// Process carries out the function whose request this is. busy says that a
// proactive session is under way. refresh says that the terminal is to be sent a
// REFRESH, for the enabled profile changed and it asked for that.
func (d *ISDR) Process(request []byte, busy bool) (answer []byte, sw apdu.StatusWord, refresh bool) {
	if d.settling {
		return nil, apdu.SWConditionsNotSatisfied, false
	}
	o, rest, err := tlv.Read(request)
	if err != nil || len(rest) > 0 {
		return nil, apdu.SWIncorrectData, false
	}
	run, known := functions[o.Tag]
	if !known {
		return nil, apdu.SWReferenceNotFound, false
	}
	c := &call{ISDR: d, State: d.Memory.State(), busy: busy}
	before := c.enabledICCID()
	body, err := run(c, o.Value)
	switch {
	case errors.Is(err, errPolicy):
		return nil, swPolicy, false
	case errors.Is(err, tlv.ErrMalformed):
		return nil, apdu.SWIncorrectData, false
	case err != nil:
		return nil, apdu.SWMemoryFailure, false
	case c.write:
		if d.Memory.SetState(c.State, c.changed) != nil {
			return tlv.Append(nil, o.Tag, result(resultUndefined)...), apdu.SWSuccess, false
		}
		d.settling = d.Options.SettleByReset && before != c.enabledICCID()
	}
	return tlv.Append(nil, o.Tag, body...), apdu.SWSuccess, c.refresh
}

// result is an INTEGER result, the whole of most answers.
func result(code byte) []byte { return []byte{0x80, 0x01, code} }

// list is a SEQUENCE OF within a CHOICE, or the error of code instead where it
// does not fit an answer.
func list(in []byte) []byte {
	if len(in) > maxAnswer {
		return []byte{0x81, 0x01, resultUndefined}
	}
	return tlv.Append(nil, 0xA0, in...)
}

const maxAnswer = 65000 // bytes; with two headers it is a data object yet

// SelectAnswer is the FCI of an ISD-R with that AID (§5.7.1): the version of
// SGP.22 is in E0.
func SelectAnswer(aid []byte) []byte {
	fci := tlv.Append(nil, 0x84, aid...)
	fci = tlv.Append(fci, 0xA5, tlv.Append(nil, 0x9F65, 0xFF)...)
	fci = tlv.Append(fci, 0xE0, tlv.Append(nil, 0x82, svn[:]...)...)
	return tlv.Append(nil, 0x6F, fci...)
}

// objects reads the members of a request into the fields that fit their tags.
// Members that later versions add are left out; one twice is an error.
func objects(b []byte, fields map[tlv.Tag]*[]byte) error {
	var seen []tlv.Tag
	for len(b) > 0 {
		o, rest, err := tlv.Read(b)
		if err != nil {
			return err
		}
		if slices.Contains(seen, o.Tag) || len(seen) == maxMembers {
			return tlv.ErrMalformed
		}
		seen = append(seen, o.Tag)
		if f := fields[o.Tag]; f != nil {
			*f = o.Value
		}
		b = rest
	}
	return nil
}

const maxMembers = 16
