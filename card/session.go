package card

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// AuthError says that a card did not prove to be the one that is meant. It
// reads the same whatever failed; Reason is for the audit log alone (§4).
type AuthError struct {
	EID    id.EID
	Reason string
}

func (e *AuthError) Error() string { return "the card does not prove to be " + e.EID.String() }

// ErrUnverified says that an answer under secure messaging does not verify: the
// session is over, and what the card did is not known.
var ErrUnverified = errors.New("the card's answer does not verify")

// ErrKeys says that the server's own keys could not be used, such as those of an
// HSM that is away. The card was asked for a challenge and told nothing: it is not
// to blame, nor is its reader.
var ErrKeys = errors.New("the server's own keys cannot be used")

// Terminal is the server's side of the protocol: its keys and its randomness.
// It is safe for concurrent use where Rand is.
type Terminal struct {
	Keys cryptogram.ServerKeys
	Rand io.Reader // nil: crypto/rand
}

func (t *Terminal) rand() io.Reader {
	if t.Rand != nil {
		return t.Rand
	}
	return rand.Reader
}

// Target is the card that is meant: what its record says, never what the
// card's side says in the clear (§2).
type Target struct {
	EID   id.EID
	Keys  cryptogram.PublicKeys
	Suite cryptogram.Suite
}

// Applet is what SELECT answers (§6). It is in the clear, a hint at best.
type Applet struct {
	Suites         []byte
	MaxCommandData int // bytes
}

// Select selects the management applet. The error is an *apdu.Error where the
// card has none.
func Select(ctx context.Context, ch *apdu.Channel) (*Applet, error) {
	data, err := exchange(ctx, ch, "SELECT", apdu.Command{INS: insSelect, P1: 0x04, Data: []byte(AID), Ne: apdu.MaxShortNe})
	if err != nil {
		return nil, err
	}
	r := reader{rest: data}
	fci := r.nested(0x6F)
	aid := fci.value(0x84)
	prop := fci.nested(0xA5)
	version := prop.byte(0x80)
	a := &Applet{Suites: prop.value(0x81)}
	limit := prop.fixed(0x82, 2)
	a.MaxCommandData = int(limit[0])<<8 | int(limit[1])
	fci.keep(prop.end())
	r.keep(fci.end())
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("SELECT: %w", err)
	}
	if string(aid) != AID || version != 1 {
		return nil, fmt.Errorf("SELECT: %w: AID %X, protocol version %d", ErrMalformed, aid, version)
	}
	return a, nil
}

const insSelect = 0xA4

// NoApplet reports whether an error says that the card knows no management applet:
// it answered SELECT with 6A82.
func NoApplet(err error) bool {
	var refused *apdu.Error
	return errors.As(err, &refused) && refused.INS == insSelect && refused.SW == apdu.SWFileNotFound
}

// ReadEID selects the applet and reads the card's EID, in the clear: a hint.
func ReadEID(ctx context.Context, ch *apdu.Channel) (id.EID, error) {
	if _, err := Select(ctx, ch); err != nil {
		return id.EID{}, err
	}
	data, err := exchange(ctx, ch, "GET DATA", apdu.Command{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: apdu.MaxShortNe})
	if err != nil {
		return id.EID{}, err
	}
	v, rest, err := tlv.Expect(data, 0x5A)
	if err == nil && len(rest) != 0 {
		err = fmt.Errorf("%d bytes too many", len(rest))
	}
	if err != nil {
		return id.EID{}, fmt.Errorf("GET DATA: %w: %w", ErrMalformed, err)
	}
	eid, err := id.EIDFromBytes(v)
	if err != nil {
		return id.EID{}, fmt.Errorf("GET DATA: %w: %w", ErrMalformed, err)
	}
	return eid, nil
}

// Info is the card info of GET DATA (§6), in the clear: a lie in the counter
// costs at most a refusal.
type Info struct {
	EventCounter uint32
	Failures     []Failures
}

// Failures is a card's persistent, saturating count of failed authentications
// of one server key set.
type Failures struct {
	KID   byte
	Count uint16
}

// ReadInfo reads the card info; the applet must be selected.
func ReadInfo(ctx context.Context, ch *apdu.Channel) (*Info, error) {
	data, err := exchange(ctx, ch, "GET DATA", apdu.Command{CLA: 0x80, INS: 0xCA, P2: 0xE1, Ne: apdu.MaxShortNe})
	if err != nil {
		return nil, err
	}
	r := reader{rest: data}
	in := r.nested(0xE1)
	info := &Info{EventCounter: in.uint32(0x80)}
	const entry, most = 3, 15 // kid(1) failures(2); kid is 01 to 0F
	counts := in.value(0x81)
	if len(counts)%entry != 0 || len(counts) > most*entry {
		in.keep(fmt.Errorf("%w: 81 of %d bytes", ErrMalformed, len(counts)))
	}
	for ; len(counts) >= entry; counts = counts[entry:] {
		info.Failures = append(info.Failures, Failures{KID: counts[0], Count: binary.BigEndian.Uint16(counts[1:])})
	}
	r.keep(in.end())
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("GET DATA: %w", err)
	}
	return info, nil
}

// exchange carries a command in the clear; any status but 9000 is an
// *apdu.Error.
func exchange(ctx context.Context, ch *apdu.Channel, op string, cmd apdu.Command) ([]byte, error) {
	data, sw, err := ch.Transmit(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if sw != apdu.SWSuccess {
		return nil, &apdu.Error{Op: op, INS: cmd.INS, SW: sw}
	}
	return data, nil
}

// Session is an authenticated session with one card (§4, §5). It serves one
// goroutine and is over after any error.
type Session struct {
	ch     *apdu.Channel
	target Target
	sm     *securemsg.Session
}

// Authenticate proves server and card to each other on an applet that is
// selected, and starts a session. hc is cryptogram.HashCommand of the one
// command that the session may carry, or zeroes. The error is an *AuthError
// where the card does not prove itself and an *apdu.Error where it refuses; it
// matches ErrKeys where the server cannot prove itself.
func (t *Terminal) Authenticate(ctx context.Context, ch *apdu.Channel, target Target, hc [32]byte) (*Session, error) {
	c := cryptogram.Challenge{Suite: target.Suite, KID: t.Keys.KID, SID: t.Keys.SID(), EID: target.EID}
	if _, err := io.ReadFull(t.rand(), c.RS[:]); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	m1, err := exchange(ctx, ch, "INTERNAL AUTHENTICATE", apdu.Command{
		INS: 0x88, P1: byte(c.Suite), P2: c.KID, Data: c.RS[:], Ne: ch.MaxNe(),
	})
	if err != nil {
		return nil, err
	}
	s := cryptogram.Session{HC: hc}
	if s.RC, err = c.OpenM1(ctx, t.Keys.PrivateKeys, target.Keys, m1); err != nil {
		var open *cryptogram.OpenError
		if errors.As(err, &open) {
			return nil, &AuthError{EID: target.EID, Reason: open.Reason}
		}
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if _, err := io.ReadFull(t.rand(), s.RK[:]); err != nil {
		return nil, fmt.Errorf("random bytes: %w", err)
	}
	m2, err := c.SealM2(ctx, t.rand(), t.Keys.PrivateKeys, target.Keys, &s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if _, err := exchange(ctx, ch, "EXTERNAL AUTHENTICATE", apdu.Command{
		INS: 0x82, P1: byte(c.Suite), P2: c.KID, Data: m2,
	}); err != nil {
		return nil, err
	}
	keys := c.Keys(&s)
	return &Session{ch: ch, target: target, sm: securemsg.New(keys.Enc, keys.Mac)}, nil
}

// secured carries one command under secure messaging. The status word is the
// inner one where verified is true, else the outer one, if any; then the
// session is over and whether the card did the command is not known.
func (s *Session) secured(ctx context.Context, op string, ins byte, data []byte) (out []byte, sw apdu.StatusWord, verified bool, err error) {
	field := s.sm.Wrap(ins, 0, 0, data)
	resp, sw, err := s.ch.Transmit(ctx, apdu.Command{CLA: 0x8C, INS: ins, Data: field, Ne: s.ch.MaxNe()})
	if err != nil {
		return nil, 0, false, fmt.Errorf("%s: %w", op, err)
	}
	if sw != apdu.SWSuccess {
		return nil, sw, false, &apdu.Error{Op: op, INS: ins, SW: sw}
	}
	out, inner, err := s.sm.Unwrap(resp)
	if err != nil {
		return nil, sw, false, fmt.Errorf("%s: %w: %w", op, ErrUnverified, err)
	}
	return out, inner, true, nil
}

// Status reads the profiles and the event counter (GET STATUS, §7).
func (s *Session) Status(ctx context.Context) (*Status, error) {
	data, sw, _, err := s.secured(ctx, "GET STATUS", insGetStatus, nil)
	if err != nil {
		return nil, err
	}
	if sw != apdu.SWSuccess {
		return nil, &apdu.Error{Op: "GET STATUS", INS: insGetStatus, SW: sw}
	}
	status, err := parseStatus(data)
	if err != nil {
		return nil, fmt.Errorf("GET STATUS: %w", err)
	}
	return status, nil
}
