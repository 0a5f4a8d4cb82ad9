package appletsim

import (
	"github.com/cardbridge/cardbridge/apdu"
)

// maxCommandData is the longest command data in bytes, a chain's taken
// together; SELECT announces it.
const maxCommandData = 2048

// channel is a logical channel.
type channel struct {
	open     bool
	selected bool   // an application is
	app      int    // which one of the card's applications
	aid      []byte // by which of its AIDs
	pending  []byte // what GET RESPONSE gets
}

// chain is a command of which the last part has not come. The card has one: any
// other command within it, on whatever channel, breaks it (§6).
type chain struct {
	header [4]byte // without the chaining bit
	data   []byte
}

// exchange is one command APDU and its response APDU: what ISO/IEC 7816-4 has
// below the commands. Everything that fails before a command is known to be the
// next of a session ends the state of its channel.
func (c *Card) exchange(capdu []byte) []byte {
	var header [4]byte
	copy(header[:], capdu)
	cl := parseClass(header[0])
	ch := &c.channels[cl.channel]
	if cl.chained {
		header[0] &^= chainingBit
	}
	begun := c.chain
	c.chain = nil
	if begun != nil && begun.header != header {
		ch.pending = nil
		c.endState(cl.channel)
		return status(apdu.SWLastOfChainExpected)
	}
	if !ch.open {
		return status(apdu.SWChannelNotSupported)
	}
	cmd, err := c.parse(capdu)
	if header[1] == insGetResponse && header[0] != invalidClass {
		return c.getResponse(ch, cl, cmd, err)
	}
	ch.pending = nil
	if err != nil {
		c.endState(cl.channel)
		return status(apdu.SWWrongLength)
	}
	if begun != nil {
		cmd.Data = append(begun.data, cmd.Data...)
	}
	in, sw := c.admit(cl, cmd.INS)
	var data []byte
	switch {
	case sw != apdu.SWSuccess:
		c.endState(cl.channel)
	case cl.chained && len(cmd.Data) <= maxCommandData:
		c.chain = &chain{header: header, data: append([]byte(nil), cmd.Data...)}
		return status(apdu.SWSuccess)
	case cl.kind == secured:
		data, sw = c.secured(cl.channel, cmd)
	default:
		data, sw = in.plain(c, cl.channel, c.takeState(cl.channel), cmd)
	}
	return respond(ch, data, c.announced(ch, sw), cmd.Ne)
}

// parse parses a command APDU; one with extended length on a card without it
// does not parse.
func (c *Card) parse(capdu []byte) (apdu.Command, error) {
	if !c.extended && apdu.IsExtended(capdu) {
		return apdu.Command{}, apdu.ErrMalformed
	}
	return apdu.ParseCommand(capdu)
}

// admit finds a command's instruction and says by the header alone whether the
// command, or a part of one, can be carried out, and 9000 if so.
func (c *Card) admit(cl class, ins byte) (instruction, apdu.StatusWord) {
	in, known, unselected := c.instruction(&c.channels[cl.channel], ins)
	sw := apdu.SWSuccess
	switch {
	case !known && (cl.kind != secured || cl.form == neither):
		sw = apdu.SWInstructionNotSupported
	case known && cl.form != in.form:
		sw = apdu.SWClassNotSupported
	case cl.kind == otherwise, cl.kind == secured && known && in.secured == nil:
		sw = apdu.SWSecureMessagingUnsupported
	case cl.kind == plain && cl.chained && !in.chained:
		sw = apdu.SWChainingNotSupported
	case known && unselected:
		sw = apdu.SWConditionsNotSatisfied
	}
	return in, sw
}

// respond gives the first ne bytes of data, and keeps the rest for GET RESPONSE.
func respond(ch *channel, data []byte, sw apdu.StatusWord, ne int) []byte {
	if len(data) <= ne {
		return answer(data, sw)
	}
	ch.pending = data[ne:]
	return answer(data[:ne], moreData(len(ch.pending)))
}

// moreData is 61xx for n bytes that wait; 00 where they are 256 or more.
func moreData(n int) apdu.StatusWord { return 0x6100 | apdu.StatusWord(byte(min(n, 256))) }

// wrongLe is 6Cxx where Le asks for fewer than n bytes, else 9000.
func wrongLe(ne, n int) apdu.StatusWord {
	if ne > 0 && ne < n {
		return 0x6C00 | apdu.StatusWord(byte(min(n, 256)))
	}
	return apdu.SWSuccess
}

// getResponse is GET RESPONSE. It is transport: it never touches the state, and
// where it fails what waits goes on waiting.
func (c *Card) getResponse(ch *channel, cl class, cmd apdu.Command, err error) []byte {
	switch {
	case err != nil || len(cmd.Data) > 0:
		return status(apdu.SWWrongLength)
	case cl.chained:
		return status(apdu.SWChainingNotSupported)
	case len(ch.pending) == 0:
		return status(apdu.SWConditionsNotSatisfied)
	case cmd.P1 != 0 || cmd.P2 != 0:
		return status(apdu.SWIncorrectP1P2)
	}
	data := ch.pending
	ch.pending = nil
	return respond(ch, data, c.announced(ch, apdu.SWSuccess), cmd.Ne)
}

// manageChannel is MANAGE CHANNEL (ISO/IEC 7816-4 §11.1.2): open, with the
// number chosen by either side, and close.
func (c *Card) manageChannel(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if len(cmd.Data) > 0 {
		return nil, apdu.SWWrongLength
	}
	number := int(cmd.P2)
	switch cmd.P1 {
	case 0x00:
		return c.openChannel(number, n)
	case 0x80:
		if number == 0 {
			number = n
		}
		if number == 0 || number >= maxChannels || !c.channels[number].open {
			return nil, apdu.SWChannelNotSupported
		}
		c.setChannel(number, channel{})
		c.endState(number)
		return nil, apdu.SWSuccess
	}
	return nil, apdu.SWIncorrectP1P2
}

// openChannel opens a channel, the first free one where number is 0. The files
// are where they are on the channel that it is opened from, if that is not the
// basic one (ETSI TS 102 221 §8.7).
func (c *Card) openChannel(number, from int) ([]byte, apdu.StatusWord) {
	var data []byte
	if number == 0 {
		for number = 1; number < maxChannels && c.channels[number].open; number++ {
		}
		data = []byte{byte(number)}
	}
	if number >= maxChannels || c.channels[number].open {
		return nil, apdu.SWChannelNotSupported
	}
	next := channel{open: true}
	if was := &c.channels[from]; from != 0 && was.selected && c.application(was) == files {
		next.selected, next.app, next.aid = true, was.app, was.aid
	}
	c.setChannel(number, next)
	if next.selected {
		c.files.Open(number, from)
	}
	return data, apdu.SWSuccess
}

// setChannel makes a channel anew; applications forget what they kept for it.
func (c *Card) setChannel(n int, ch channel) {
	for _, app := range c.applications {
		if app.closed != nil {
			app.closed(c, n)
		}
	}
	c.channels[n] = ch
}
