package card

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// world is the two sides of a set of the vectors.
type world struct {
	terminal Terminal
	target   Target
	card     cryptogram.PrivateKeys
	pem      struct{ server, card cryptogram.KeysPEM }
}

var worlds = map[int]*world{}

// newWorld has the keys of one set: 0 is suite 01 with one key each, 1 suite 03.
func newWorld(t testing.TB, set int) *world {
	t.Helper()
	if w, ok := worlds[set]; ok {
		return w
	}
	f := vectors.Load(t)
	s := f.Sets[set]
	w := &world{}
	w.pem.server = cryptogram.KeysPEM{Auth: f.PEM(s.Keys.ServerAuth...), Enc: f.Keys[s.Keys.ServerEnc]}
	w.pem.card = cryptogram.KeysPEM{Auth: f.PEM(s.Keys.CardAuth...), Enc: f.Keys[s.Keys.CardEnc]}
	server, err := w.pem.server.Private()
	require.NoError(t, err)
	w.card, err = w.pem.card.Private()
	require.NoError(t, err)
	eid, err := id.ParseEID(s.EID)
	require.NoError(t, err)
	w.terminal = Terminal{Keys: cryptogram.ServerKeys{KID: s.KID, PrivateKeys: server}}
	w.target = Target{EID: eid, Keys: w.card.Public(), Suite: cryptogram.Suite(s.Suite)}
	worlds[set] = w
	return w
}

var (
	everyday = iccid("898603D0A1B2C3E40042") // enabled
	abroad   = iccid("89014100000000000434") // disabled, PPR1
	reserve  = iccid("898603000000000000017")
	mobile   = mccmnc("46011")
	foreign  = mccmnc("310410")
)

func iccid(s string) id.ICCID {
	c, err := id.ParseICCID(s[:min(len(s), 20)])
	if err != nil {
		panic(err)
	}
	return c
}

func mccmnc(s string) id.MCCMNC {
	m, err := id.ParseMCCMNC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// emulate is an emulated card of the world with two profiles, and what change
// makes of it.
func (w *world) emulate(t testing.TB, change func(*appletsim.Image)) *appletsim.Card {
	t.Helper()
	public, err := cryptogram.EncodePublic(w.terminal.Keys.Public())
	require.NoError(t, err)
	im := &appletsim.Image{
		EID:           w.target.EID,
		Keys:          w.pem.card,
		ServerKeySets: []cryptogram.KeySetPEM{{ID: w.terminal.Keys.KID, KeysPEM: public}},
		Suites:        []int{1},
		Profiles: []appletsim.Profile{
			{ICCID: everyday, Owner: mobile, State: appletsim.Enabled, Class: appletsim.Operational, Provider: "Operator Eleven", Name: "Everyday"},
			{ICCID: abroad, Owner: foreign, State: appletsim.Disabled, Class: appletsim.Operational, Provider: "Opérateur", Name: "Abroad"},
		},
		EventCounter: 7,
	}
	if len(w.pem.card.Auth) == 3 {
		im.Suites = []int{1, 3}
	}
	if change != nil {
		change(im)
	}
	c, err := appletsim.New(im, appletsim.WithKeys(w.card))
	require.NoError(t, err)
	return c
}

// deactivate is the request that a card of emulate carries out.
func deactivate() Command {
	return Command{INS: INSDeactivate, RequestID: id.RequestID{0xD0, 1}, Operator: mobile, ICCID: &everyday, Counter: 7}
}

// rogue is a card that authenticates as it should and then answers what a test
// wants. It announces extended length, so nothing is chained.
type rogue struct {
	t testing.TB
	w *world
	// answer is the response data and inner status word under secure messaging.
	answer func(ins byte, data []byte) ([]byte, apdu.StatusWord)
	// wire is what whoever carries the APDUs makes of an answer; nil: nothing.
	wire func(ins byte, rapdu []byte) ([]byte, error)

	c    cryptogram.Challenge
	rc   [32]byte
	sm   *securemsg.Session
	sent []byte // INS of the commands under secure messaging
}

func (r *rogue) ATR() []byte                 { return []byte{0x3B, 0x85, 0x80, 0x01, 0x80, 0x73, 0, 0, 0xD3} }
func (r *rogue) Reset(context.Context) error { r.sm = nil; return nil }
func (r *rogue) Close() error                { return nil }

func (r *rogue) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	cmd, err := apdu.ParseCommand(capdu)
	require.NoError(r.t, err)
	rapdu := r.process(ctx, cmd)
	if r.wire != nil {
		return r.wire(cmd.INS, rapdu)
	}
	return rapdu, nil
}

func (r *rogue) process(ctx context.Context, cmd apdu.Command) []byte {
	server := r.w.terminal.Keys
	switch {
	case cmd.INS == 0xA4:
		return apdu.SWSuccess.Append(append([]byte{}, vectors.Load(r.t).Codings.SelectAnswer...))
	case cmd.INS == 0x88:
		r.c = cryptogram.Challenge{Suite: cryptogram.Suite(cmd.P1), KID: cmd.P2, RS: [16]byte(cmd.Data), SID: server.SID(), EID: r.w.target.EID}
		m1, err := r.c.SealM1(ctx, rand.Reader, r.w.card, server.Public(), r.rc)
		require.NoError(r.t, err)
		return apdu.SWSuccess.Append(m1)
	case cmd.INS == 0x82:
		s, err := r.c.OpenM2(ctx, r.w.card, server.Public(), r.rc, cmd.Data)
		require.NoError(r.t, err)
		k := r.c.Keys(s)
		r.sm = securemsg.New(k.Enc, k.Mac)
		return apdu.SWSuccess.Append(nil)
	}
	require.Equal(r.t, byte(0x8C), cmd.CLA)
	data, err := r.sm.UnwrapCommand(cmd.INS, cmd.P1, cmd.P2, cmd.Data)
	require.NoError(r.t, err)
	r.sent = append(r.sent, cmd.INS)
	out, sw := r.answer(cmd.INS, data)
	return apdu.SWSuccess.Append(r.sm.WrapResponse(out, sw))
}

// body is response data before the receipt.
type body struct {
	result   Result
	iccid    *id.ICCID
	state    State
	fallback *id.ICCID
	counter  uint32
	suite    cryptogram.Suite
}

func (b body) bytes() []byte {
	out := tlv.Append(nil, 0x90, byte(b.result))
	if b.iccid != nil {
		out = tlv.Append(out, 0x91, b.iccid[:]...)
		out = tlv.Append(out, 0x92, byte(b.state))
	}
	if b.fallback != nil {
		out = tlv.Append(out, 0x93, b.fallback[:]...)
	}
	out = tlv.Append(out, 0x94, binary.BigEndian.AppendUint32(nil, b.counter)...)
	return tlv.Append(out, 0x95, byte(b.suite))
}

// sign is the body with the receipt of the card for a command.
func (w *world) sign(t testing.TB, ins byte, data []byte, b []byte, suite cryptogram.Suite) []byte {
	t.Helper()
	r := cryptogram.Receipt{Suite: suite, EID: w.target.EID, Command: cryptogram.HashCommand(ins, data), Response: b}
	value, err := r.Sign(t.Context(), w.card)
	require.NoError(t, err)
	return tlv.Append(b[:len(b):len(b)], 0x9E, value...)
}

// done is the body of a DEACTIVATE of everyday that is done.
func done() body {
	return body{result: Done, iccid: &everyday, state: Disabled, counter: 8, suite: cryptogram.Suite01}
}

// statusData is GET STATUS with everyday alone.
func statusData(state State, counter uint32) []byte {
	p := tlv.Append(nil, 0x5A, everyday[:]...)
	p = tlv.Append(p, 0x9F70, byte(state))
	p = tlv.Append(p, 0x91, []byte("Operator Eleven")...)
	p = tlv.Append(p, 0x92, []byte("Everyday")...)
	p = tlv.Append(p, 0x95, 2)
	p = tlv.Append(p, 0xB7, tlv.Append(nil, 0x80, mobile[:]...)...)
	p = tlv.Append(p, 0x99, 0)
	p = tlv.Append(p, 0xDF01, 0)
	return tlv.Append(tlv.Append(nil, 0xE3, p...), 0x94, binary.BigEndian.AppendUint32(nil, counter)...)
}
