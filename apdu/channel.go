package apdu

import (
	"context"
	"fmt"
)

// Bounds of one exchange, against cards that never come to an end.
const (
	maxResponse    = 1 << 16 // bytes gathered by GET RESPONSE
	maxGetResponse = 1 << 9  // GET RESPONSE commands in one exchange
)

const (
	insGetResponse   = 0xC0
	insManageChannel = 0x70
	chainingBit      = 0x10
)

// ShortOnly is implemented by a Conn whose transport cannot carry extended
// length fields whatever the card announces (T=0 without ENVELOPE).
type ShortOnly interface{ ShortOnly() bool }

// Channel is a logical channel of a card (ISO/IEC 7816-4 §5.4.2). It sets the
// channel number in CLA and carries each command through in one exchange.
type Channel struct {
	t        Transmitter
	number   int
	extended bool
	buf      []byte // the command being sent, reused
}

// BasicChannel is channel 0 of t, always open. Extended length is used where
// t is a Conn whose ATR announces it and whose transport carries it.
func BasicChannel(t Transmitter) *Channel {
	ch := &Channel{t: t}
	if c, ok := t.(Conn); ok {
		ch.extended = ParseCapabilities(c.ATR()).ExtendedLength
	}
	if s, ok := t.(ShortOnly); ok && s.ShortOnly() {
		ch.extended = false
	}
	return ch
}

// Open opens a further logical channel by MANAGE CHANNEL and lets the card
// choose its number, 1 to 19. The error is an *Error where the card refuses.
func (ch *Channel) Open(ctx context.Context) (*Channel, error) {
	data, sw, err := ch.Transmit(ctx, Command{INS: insManageChannel, Ne: 1})
	if err != nil {
		return nil, err
	}
	if sw != SWSuccess {
		return nil, &Error{Op: "MANAGE CHANNEL", INS: insManageChannel, SW: sw}
	}
	if len(data) != 1 || data[0] < 1 || data[0] > 19 {
		return nil, fmt.Errorf("%w: MANAGE CHANNEL answers channel %X", ErrMalformed, data)
	}
	return &Channel{t: ch.t, number: int(data[0]), extended: ch.extended}, nil
}

// Close closes the logical channel; the basic channel stays open.
func (ch *Channel) Close(ctx context.Context) error {
	if ch.number == 0 {
		return nil
	}
	basic := &Channel{t: ch.t, extended: ch.extended}
	_, sw, err := basic.Transmit(ctx, Command{INS: insManageChannel, P1: 0x80, P2: byte(ch.number)})
	if err == nil && sw != SWSuccess {
		err = &Error{Op: "MANAGE CHANNEL", INS: insManageChannel, SW: sw}
	}
	return err
}

// Number is the channel's number, 0 to 19.
func (ch *Channel) Number() int { return ch.number }

// Extended reports whether commands go out with extended length fields where
// they need them.
func (ch *Channel) Extended() bool { return ch.extended }

// MaxNe is the Ne to ask for where the length of the response is not known.
func (ch *Channel) MaxNe() int {
	if ch.extended {
		return MaxExtendedNe
	}
	return MaxShortNe
}

// ChannelCLA puts a logical channel's number, 0 to 19, into an interindustry or
// proprietary class byte (ISO/IEC 7816-4 §5.4.1). With secure set it also marks
// secure messaging: bits 4 and 3 on channels 0 to 3, bit 6 on 4 to 19.
func ChannelCLA(cla byte, channel int, secure bool) byte {
	if channel < 4 {
		cla = cla&^0x0F | byte(channel)
		if secure {
			cla |= 0x0C
		}
		return cla
	}
	cla = cla&0x90 | 0x40 | byte(channel-4)
	if secure {
		cla |= 0x20
	}
	return cla
}

// Transmit carries cmd through to its last response byte: it sets the channel
// in cmd.CLA (keeping a secure messaging mark), sends it with extended length
// or as a chain where it is longer than 255 bytes, fetches the rest of a
// response (61xx) and repeats once where the card corrects Le (6Cxx). data is
// the caller's. The error says that the exchange did not come to an end; a
// status word other than 9000 is no error here.
func (ch *Channel) Transmit(ctx context.Context, cmd Command) (data []byte, sw StatusWord, err error) {
	cmd.CLA = ChannelCLA(cmd.CLA, ch.number, cmd.CLA&0x0C == 0x0C)
	if !ch.extended {
		cmd.Ne = min(cmd.Ne, MaxShortNe)
		for len(cmd.Data) > MaxShortData {
			part := Command{CLA: cmd.CLA | chainingBit, INS: cmd.INS, P1: cmd.P1, P2: cmd.P2, Data: cmd.Data[:MaxShortData]}
			if data, sw, err = ch.once(ctx, part); err != nil || sw != SWSuccess {
				return data, sw, err
			}
			cmd.Data = cmd.Data[MaxShortData:]
		}
	}
	data, sw, err = ch.once(ctx, cmd)
	if err == nil && sw.SW1() == 0x6C && cmd.Ne > 0 {
		cmd.Ne = shortNe(sw.SW2())
		data, sw, err = ch.once(ctx, cmd)
	}
	get := Command{CLA: ChannelCLA(0, ch.number, false), INS: insGetResponse}
	for n := 0; err == nil && sw.SW1() == 0x61; n++ {
		if n == maxGetResponse || len(data) > maxResponse {
			return nil, 0, fmt.Errorf("%w: response of %d bytes in %d parts has no end", ErrMalformed, len(data), n)
		}
		get.Ne = shortNe(sw.SW2())
		var more []byte
		more, sw, err = ch.once(ctx, get)
		if err == nil && sw.SW1() == 0x6C {
			get.Ne = shortNe(sw.SW2())
			more, sw, err = ch.once(ctx, get)
		}
		if err == nil && len(more) == 0 && sw.SW1() == 0x61 {
			return nil, 0, fmt.Errorf("%w: GET RESPONSE brings nothing and promises more", ErrMalformed)
		}
		data = append(data, more...)
	}
	if err != nil {
		return nil, 0, err
	}
	return data, sw, nil
}

// once sends one command APDU and parses its response.
func (ch *Channel) once(ctx context.Context, cmd Command) ([]byte, StatusWord, error) {
	if cmd.CLA == 0xFF {
		return nil, 0, fmt.Errorf("%w: a secured chain on channel 19 would have the class byte FF, which is invalid (ISO/IEC 7816-4 §5.4.1)", ErrMalformed)
	}
	var err error
	if ch.buf, err = cmd.AppendBinary(ch.buf[:0]); err != nil {
		return nil, 0, err
	}
	rapdu, err := ch.t.Transmit(ctx, ch.buf)
	if err != nil {
		return nil, 0, err
	}
	return ParseResponse(rapdu)
}
