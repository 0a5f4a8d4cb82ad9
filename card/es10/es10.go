// Package es10 drives SGP.22 ES10 on a plain eUICC: the functions of its ISD-R
// (the issuer security domain root) that a local profile assistant calls. An
// EUICC carries out one function at a time; Attempt and Run carry a change
// through, whatever happens to card and reader meanwhile, and report what was
// read from the card afterwards.
//
// ES10 has no mutual authentication and no receipt: whoever holds the reader can
// call it, and answer for the card.
package es10

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

const (
	insSelect             = 0xA4
	insTerminalCapability = 0xAA
	insStoreData          = 0xE2

	claGlobalPlatform = 0x80
	moreBlocks        = 0x11 // P1 of STORE DATA (SGP.22 §5.7.2)
	lastBlock         = 0x91
)

// ISDRs are the AIDs that Open tries: the standard's (SGP.02 §2.2.3), and those
// of removable eUICCs that have another.
var ISDRs = []string{
	"A0000005591010FFFFFFFF8900000100",
	"A0000005591010FFFFFFFF8900050500", // 5ber
	"A0000005591010000000008900000300", // eSIM.me
	"A0000005591010FFFFFFFF8900000177", // Xesim
	"A06573746B6D65FFFFFFFF4953442D52", // eSTK.me
}

// terminalCapability (ETSI TS 102 221 §11.1.19) says that there is a local
// profile assistant (tag 83); some eUICCs hide their ISD-R else.
var terminalCapability = []byte{0xA9, 0x08, 0x81, 0x00, 0x82, 0x01, 0x01, 0x83, 0x01, 0x07}

// EUICC is an eUICC whose ISD-R is selected on a logical channel. It serves one
// goroutine.
type EUICC struct {
	channel *apdu.Channel
	aid     string
	segment int
}

// Options are how an eUICC is talked to. The zero value does for most.
type Options struct {
	AIDs    []string // of the ISD-R, hexadecimal, in the order to try; none: ISDRs
	Segment int      // bytes of one STORE DATA at most, 1 to 255; 0: 255
}

// Open selects the ISD-R by the first of the AIDs that the card knows, on a
// logical channel of its own, or on the basic one where the card opens no other.
// The error matches ErrNoISDR where it knows none.
func Open(ctx context.Context, t apdu.Transmitter, o Options) (*EUICC, error) {
	if len(o.AIDs) == 0 {
		o.AIDs = ISDRs
	}
	if o.Segment == 0 {
		o.Segment = apdu.MaxShortData
	}
	if o.Segment < 1 || o.Segment > apdu.MaxShortData {
		return nil, fmt.Errorf("es10: segments of %d bytes, 1 to %d wanted", o.Segment, apdu.MaxShortData)
	}
	basic := apdu.BasicChannel(t)
	if err := capable(ctx, basic); err != nil {
		return nil, err
	}
	ch, err := basic.Open(ctx)
	var refused *apdu.Error
	switch {
	case errors.As(err, &refused):
		ch = basic
	case err != nil:
		return nil, err
	}
	e := &EUICC{channel: ch, segment: o.Segment}
	if err := e.selectFirst(ctx, o.AIDs); err != nil {
		return nil, errors.Join(err, closeUnless(ctx, err, ch))
	}
	return e, nil
}

// capable sends TERMINAL CAPABILITY. Its answer does not matter: cards that need it
// take it.
func capable(ctx context.Context, basic *apdu.Channel) error {
	if _, _, err := basic.Transmit(ctx, apdu.Command{CLA: claGlobalPlatform, INS: insTerminalCapability, Data: terminalCapability}); err != nil {
		return fmt.Errorf("TERMINAL CAPABILITY: %w", err)
	}
	return nil
}

// Identify reads the EID of a card that may be an eUICC, or any other card, on a
// channel that the caller opened and closes. It changes nothing: a card without
// an ISD-R gets SELECTs, and TERMINAL CAPABILITY on the basic channel only where
// it is a UICC, which may hide one until then. The error matches ErrNoISDR where
// it is none.
func Identify(ctx context.Context, t apdu.Transmitter, ch *apdu.Channel) (id.EID, error) {
	e := &EUICC{channel: ch, segment: apdu.MaxShortData}
	err := e.selectFirst(ctx, ISDRs)
	if errors.Is(err, ErrNoISDR) {
		uicc, merr := isUICC(ctx, ch)
		switch {
		case merr != nil:
			err = merr
		case uicc:
			if err = capable(ctx, apdu.BasicChannel(t)); err == nil {
				err = e.selectFirst(ctx, ISDRs)
			}
		}
	}
	if err != nil {
		return id.EID{}, err
	}
	return e.EID(ctx)
}

// isUICC reports whether the card answers SELECT of the MF with an FCP template
// (ETSI TS 102 221 §11.1.1.3).
func isUICC(ctx context.Context, ch *apdu.Channel) (bool, error) {
	fcp, sw, err := ch.Transmit(ctx, apdu.Command{INS: insSelect, P2: 0x04, Data: []byte{0x3F, 0x00}, Ne: apdu.MaxShortNe})
	if err != nil {
		return false, fmt.Errorf("SELECT MF: %w", err)
	}
	return done(sw) && len(fcp) > 0 && fcp[0] == 0x62, nil
}

// closeUnless closes a channel that is not needed, unless it was the transport
// that failed.
func closeUnless(ctx context.Context, err error, ch *apdu.Channel) error {
	if !errors.Is(err, ErrNoISDR) {
		return nil
	}
	return ch.Close(ctx)
}

func (e *EUICC) selectFirst(ctx context.Context, aids []string) error {
	var last error
	for _, aid := range aids {
		name, err := hex.DecodeString(aid)
		if err != nil || len(name) < 5 || len(name) > 16 {
			return fmt.Errorf("es10: AID %.40q is not 5 to 16 bytes in hexadecimal", aid)
		}
		_, sw, err := e.channel.Transmit(ctx, apdu.Command{INS: insSelect, P1: 0x04, Data: name})
		if err != nil {
			return fmt.Errorf("SELECT ISD-R: %w", err)
		}
		if done(sw) {
			e.aid = aid
			return nil
		}
		last = &apdu.Error{Op: "SELECT ISD-R", INS: insSelect, SW: sw}
	}
	return fmt.Errorf("%w: %w", ErrNoISDR, last)
}

// done reports whether a command succeeded, be it with a proactive command
// pending (91xx, ETSI TS 102 221 §10.2.1.1).
func done(sw apdu.StatusWord) bool { return sw == apdu.SWSuccess || sw.SW1() == 0x91 }

// AID is the ISD-R's, in hexadecimal.
func (e *EUICC) AID() string { return e.aid }

// Close closes the logical channel.
func (e *EUICC) Close(ctx context.Context) error { return e.channel.Close(ctx) }

// EID reads the EID (GetEID).
func (e *EUICC) EID(ctx context.Context) (id.EID, error) {
	answer, err := e.call(ctx, getEID, tlv.Append(nil, 0x5C, byte(tagEID)))
	if err != nil {
		return id.EID{}, err
	}
	eid, err := parseEID(answer)
	return eid, malformed(getEID, err)
}

// Profiles lists the profiles (GetProfilesInfo), without their icons.
func (e *EUICC) Profiles(ctx context.Context) ([]Profile, error) {
	answer, err := e.call(ctx, getProfilesInfo, tlv.Append(nil, 0x5C, profileTags...))
	if err != nil {
		return nil, err
	}
	profiles, err := parseProfiles(answer)
	return profiles, malformed(getProfilesInfo, err)
}

// call carries out one function by STORE DATA, in blocks of a segment, and
// gives its whole answer. The error is an *apdu.Error where the card refuses
// a block.
func (e *EUICC) call(ctx context.Context, f function, arguments []byte) ([]byte, error) {
	request := tlv.Append(nil, f.tag, arguments...)
	for block := 0; ; block++ {
		part := request[:min(len(request), e.segment)]
		request = request[len(part):]
		cmd := apdu.Command{CLA: claGlobalPlatform, INS: insStoreData, P1: moreBlocks, P2: byte(block), Data: part}
		if len(request) == 0 {
			cmd.P1, cmd.Ne = lastBlock, apdu.MaxShortNe
		}
		answer, sw, err := e.channel.Transmit(ctx, cmd)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", f.name, err)
		case !done(sw):
			return nil, &apdu.Error{Op: f.name, INS: insStoreData, SW: sw}
		case len(request) == 0:
			return answer, nil
		}
	}
}
