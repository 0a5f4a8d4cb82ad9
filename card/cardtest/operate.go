package cardtest

import (
	"encoding/binary"
	"slices"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// statusOf is the inner status word that goes with a result (§8).
var statusOf = map[card.Result]apdu.StatusWord{
	0x00: 0x9000, 0x01: 0x6A88, 0x02: 0x6985, 0x03: 0x6985, 0x10: 0x6985, 0x11: 0x6985,
	0x12: 0x6985, 0x13: 0x6A80, 0x14: 0x6985, 0x7F: 0x6581,
}

// deactivate is a DEACTIVATE of p that nothing speaks against but p itself.
func (b *bench) deactivate(p card.Profile) card.Command { return b.command(insDeactivate, p) }

// activate is an ACTIVATE of p that nothing speaks against but p itself.
func (b *bench) activate(p card.Profile) card.Command { return b.command(insActivate, p) }

func (b *bench) command(ins byte, p card.Profile) card.Command {
	return card.Command{
		INS: ins, RequestID: id.RequestID(random(16)), Operator: p.Owner, ICCID: &p.ICCID, Counter: b.rec.EventCounter,
	}
}

func hashOf(cmd card.Command) [32]byte { return cryptogram.HashCommand(cmd.INS, cmd.Data()) }

// answer is the answer to a DEACTIVATE or ACTIVATE, its receipt verified.
type answer struct {
	raw      []byte
	sw       apdu.StatusWord
	result   card.Result
	iccid    *id.ICCID // 91
	state    card.State
	fallback *id.ICCID // 93
	counter  uint32
	suite    cryptogram.Suite
}

// operate carries out a command in a session of its own and checks its answer's
// form, its status word and its receipt.
func (l link) operate(cmd card.Command) answer {
	l.Helper()
	return l.session(hashOf(cmd)).operate(cmd)
}

func (s *session) operate(cmd card.Command) answer {
	s.Helper()
	raw, sw := s.do(cmd.INS, 0, 0, cmd.Data())
	require.NotEmpty(s, raw, "an answer, inner status %s", sw.Hex())
	return s.parse(cmd, raw, sw)
}

// parse reads an answer to the byte: these objects, in this order, of these
// lengths.
func (b *bench) parse(cmd card.Command, raw []byte, sw apdu.StatusWord) answer {
	b.Helper()
	a := answer{raw: raw, sw: sw}
	rest := raw
	next := func(tag tlv.Tag, n int) []byte {
		b.Helper()
		v, r, err := tlv.Expect(rest, tag)
		require.NoError(b, err, "answer %X", raw)
		if n > 0 {
			require.Len(b, v, n, "tag %X", tag)
		}
		rest = r
		return v
	}
	a.result = card.Result(next(0x90, 1)[0])
	if rest[0] == 0x91 {
		iccid := id.ICCID(next(0x91, 10))
		a.iccid = &iccid
		a.state = card.State(next(0x92, 1)[0])
		require.LessOrEqual(b, a.state, card.Enabled)
	}
	if rest[0] == 0x93 {
		iccid := id.ICCID(next(0x93, 10))
		a.fallback = &iccid
	}
	a.counter = binary.BigEndian.Uint32(next(0x94, 4))
	a.suite = cryptogram.Suite(next(0x95, 1)[0])
	body := raw[:len(raw)-len(rest)]
	receipt := next(0x9E, b.rec.Keys.Auth[0].Size())
	require.Empty(b, rest, "the receipt is the last object")
	want, known := statusOf[a.result]
	require.True(b, known, "result %s", a.result.Hex())
	assert.Equal(b, want.Hex(), sw.Hex(), "inner status of result %s", a.result.Hex())
	r := cryptogram.Receipt{Suite: a.suite, EID: b.rec.EID, Command: hashOf(cmd), Response: body}
	assert.NoError(b, r.Verify(b.rec.Keys, receipt), "the receipt verifies")
	return a
}

// done carries out a command that must be done, and expects that it changes
// what it says and nothing else: in the answer and in what GET STATUS says then.
func (l link) done(cmd card.Command, what ...any) answer {
	l.Helper()
	s := l.session(hashOf(cmd))
	a := s.operate(cmd)
	require.Equal(l, card.Done.Hex(), a.result.Hex(), what...)
	l.change(cmd, a, l.suite)
	s.unchanged("GET STATUS says what the answer says")
	return a
}

// change takes a command that was done over into the record, and expects that
// its answer says so.
func (b *bench) change(cmd card.Command, a answer, suite cryptogram.Suite) {
	b.Helper()
	target := slices.IndexFunc(b.rec.Profiles, func(p card.Profile) bool {
		return cmd.ICCID != nil && p.ICCID == *cmd.ICCID || cmd.ICCID == nil && p.State == card.Enabled
	})
	require.GreaterOrEqual(b, target, 0)
	p := &b.rec.Profiles[target]
	p.State = card.Disabled
	if cmd.INS == insActivate {
		p.State = card.Enabled
	}
	b.rec.EventCounter++
	var fallback *id.ICCID
	for i := range b.rec.Profiles {
		q := &b.rec.Profiles[i]
		if to := card.Enabled - p.State; i != target && q.Fallback && q.State != to {
			q.State = to
			fallback = &q.ICCID
		}
	}
	assert.Equal(b, &p.ICCID, a.iccid, "91")
	assert.Equal(b, p.State, a.state, "92")
	assert.Equal(b, fallback, a.fallback, "93")
	assert.Equal(b, b.rec.EventCounter, a.counter, "94")
	assert.Equal(b, suite, a.suite, "95")
}

// refused carries out a command that must be refused, and expects that nothing
// changes.
func (l link) refused(want card.Result, cmd card.Command, what ...any) answer {
	l.Helper()
	s := l.session(hashOf(cmd))
	a := s.operate(cmd)
	assert.Equal(l, want.Hex(), a.result.Hex(), what...)
	assert.Nil(l, a.fallback, "93")
	assert.Equal(l, l.rec.EventCounter, a.counter, "94")
	assert.Equal(l, l.suite, a.suite, "95")
	p, exists := card.Profile{}, false
	if cmd.ICCID != nil {
		p, exists = l.rec.Profile(*cmd.ICCID)
	} else if i := slices.IndexFunc(l.rec.Profiles, func(p card.Profile) bool { return p.State == card.Enabled }); i >= 0 {
		p, exists = l.rec.Profiles[i], true
	}
	if !exists {
		assert.Nil(l, a.iccid, message("91 of a profile that does not exist", what))
	} else if assert.Equal(l, &p.ICCID, a.iccid, message("91", what)) {
		assert.Equal(l, p.State, a.state, message("92", what))
	}
	s.unchanged("a refusal changes nothing")
	return a
}

// repeated carries out a command that was done before and expects the same
// answer and no change.
func (l link) repeated(cmd card.Command, before answer, what ...any) {
	l.Helper()
	s := l.session(hashOf(cmd))
	raw, sw := s.do(cmd.INS, 0, 0, cmd.Data())
	assert.Equal(l, before.raw, raw, what...)
	assert.Equal(l, before.sw.Hex(), sw.Hex(), what...)
	s.unchanged(message("a repetition changes nothing", what))
}

// unchanged expects that GET STATUS says what the record says, to the byte.
func (s *session) unchanged(what ...any) {
	s.Helper()
	data, sw := s.do(insGetStatus, 0, 0, nil)
	require.Equal(s, apdu.SWSuccess.Hex(), sw.Hex(), "GET STATUS")
	assert.Equal(s, encodeStatus(s.rec.Profiles, s.rec.EventCounter), data, what...)
}

// encodeStatus is what GET STATUS answers (§7).
func encodeStatus(profiles []card.Profile, counter uint32) []byte {
	var out []byte
	for _, p := range profiles {
		e := tlv.Append(nil, 0x5A, p.ICCID[:]...)
		e = tlv.Append(e, 0x9F70, byte(p.State))
		e = tlv.Append(e, 0x91, []byte(p.Provider)...)
		e = tlv.Append(e, 0x92, []byte(p.Name)...)
		e = tlv.Append(e, 0x95, byte(p.Class))
		e = tlv.Append(e, 0xB7, tlv.Append(nil, 0x80, p.Owner[:]...)...)
		e = tlv.Append(e, 0x99, policyRules(p)...)
		fallback := byte(0)
		if p.Fallback {
			fallback = 1
		}
		out = tlv.Append(out, 0xE3, tlv.Append(e, 0xDF01, fallback)...)
	}
	return tlv.Append(out, 0x94, binary.BigEndian.AppendUint32(nil, counter)...)
}

func policyRules(p card.Profile) []byte {
	switch {
	case p.PPR1 && p.PPR2:
		return []byte{0x05, 0x60}
	case p.PPR1:
		return []byte{0x06, 0x40}
	case p.PPR2:
		return []byte{0x05, 0x20}
	}
	return []byte{0x00}
}

// readStatus reads the profiles through package card.
func (b *bench) readStatus() *card.Status {
	b.Helper()
	terminal := card.Terminal{Keys: b.card.Server}
	status, _, err := terminal.ReadStatus(b.Context(), b.basic, b.rec.Target())
	require.NoError(b, err)
	return status
}
