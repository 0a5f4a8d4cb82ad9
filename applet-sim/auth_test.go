package appletsim

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// getStatusWorks says whether the terminal's session is alive.
func getStatusWorks(m *terminal) bool {
	m.t.Helper()
	_, sw := m.wire(insGetStatus, 0, 0, m.sm.Wrap(insGetStatus, 0, 0, nil))
	return sw == apdu.SWSuccess
}

// challenged says, by answering it, whether the terminal's challenge is alive.
func challenged(m *terminal) bool {
	m.t.Helper()
	return m.external(m.m2([32]byte{})) == apdu.SWSuccess
}

// TestWhatEndsTheState runs commands against a state on channel 1, once while
// it is a challenge and once while it is a session.
func TestWhatEndsTheState(t *testing.T) {
	tests := []struct {
		name  string
		steps []step
		lives bool
	}{
		{"nothing", nil, true},
		{"SELECT", []step{{"01A404000BF06361726462726964676500", "…9000"}}, false},
		{"SELECT that fails", []step{{"01A40400023F0000", "6A82"}}, false},
		{"GET DATA", []step{{"81CA005A00", "…9000"}}, false},
		{"GET DATA with a wrong Le", []step{{"81CA005A01", "6C12"}}, false},
		{"plain command that fails", []step{{"81F2000000", "6982"}}, false},
		{"unknown INS", []step{{"81E2000000", "6D00"}}, false},
		{"wrong class", []step{{"01CA005A00", "6E00"}}, false},
		{"no parse", []step{{"81CA005A000000FF00", "6700"}}, false},
		{"chaining bit", []step{{"91CA005A00", "6884"}}, false},
		{"MANAGE CHANNEL", []step{{"0170000001", "029000"}}, false},
		{"closing", []step{{"01708001", "9000"}, {"00700001", "9000"}, {"01A404000BF063617264627269646765", "611C"}}, false},
		{"closing from another channel", []step{{"00708001", "9000"}, {"00700001", "9000"}, {"01A404000BF063617264627269646765", "611C"}}, false},
		{"another command within a chain", []step{{"1188010101FF", "9000"}, {"81CA005A00", "6883"}}, false},
		{"GET RESPONSE within a chain", []step{{"1188010101FF", "9000"}, {"01C0000000", "6883"}}, false},
		{"INTERNAL AUTHENTICATE that fails", []step{{"0188010101FF", "6700"}}, false},
		{"EXTERNAL AUTHENTICATE of another suite", []step{{"0182030101FF", "6985"}}, false},
		{"EXTERNAL AUTHENTICATE of an unknown suite", []step{{"0182050101FF", "6985"}}, false},
		{"EXTERNAL AUTHENTICATE of another kid", []step{{"01820102FF", "6985"}}, false},
		{"secure messaging with no objects", []step{{"8DF2000000", "…"}}, false},
		{"secure messaging on a command that has none", []step{{"8DCA005A00", "6882"}}, false},
		{"a kind of secure messaging that there is not", []step{{"85F2000000", "6882"}}, false},

		{"GET RESPONSE with nothing pending", []step{{"01C0000000", "6985"}}, true},
		{"GET RESPONSE that fails", []step{{"01C0010000", "6985"}, {"01C00000021122", "6700"}}, true},
		{"other channel: SELECT", []step{{selectApplet, "…9000"}}, true},
		{"other channel: GET DATA", []step{{getEID, "…9000"}}, true},
		{"other channel: unknown INS", []step{{"80E2000000", "6D00"}}, true},
		{"other channel: no parse", []step{{"00", "6700"}}, true},
		{"other channel: chain broken", []step{{"1088010101FF", "9000"}, {getEID, "6883"}}, true},
		{"other channel: INTERNAL AUTHENTICATE that fails", []step{{"0088010101FF", "6700"}}, true},
		{"other channel: EXTERNAL AUTHENTICATE", []step{{"0082010101FF", "6985"}}, true},
		{"other channel: EXTERNAL AUTHENTICATE, chained", []step{{"1082010101FF", "9000"}, {"0082010101FF", "6985"}}, true},
		{"other channel: secure messaging", []step{{"8CF2000000", "6982"}, {"8CCA005A00", "6882"}}, true},
		{"other channel: opening and closing", []step{{"0070000001", "029000"}, {"00708002", "9000"}}, true},
		{"closed channel", []step{{"83CA005A00", "6881"}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, inSession := range []bool{false, true} {
				c := newCard(t, testImage(t))
				m := newTerminal(t, c).on(1)
				m.internal(1)
				alive := challenged
				if inSession {
					require.Equal(t, apdu.SWSuccess, m.external(m.m2([32]byte{})))
					alive = getStatusWorks
				}
				run(t, c, tt.steps...)
				assert.Equal(t, tt.lives, alive(m), "in session: %v", inSession)
			}
		})
	}
	for name, act := range map[string]func(*Card){
		"reset":    (*Card).Reset,
		"power":    func(c *Card) { c.Power(false); c.Power(true) },
		"removing": func(c *Card) { c.Remove(); c.Insert() },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCard(t, testImage(t))
			m := newTerminal(t, c)
			m.internal(1)
			act(c)
			m.selectApplet()
			assert.Equal(t, apdu.SWConditionsNotSatisfied, m.external(m.m2([32]byte{})))
		})
	}
}

// TestInternalAuthenticateReplaces: one that succeeds replaces the state,
// whichever channel it belongs to.
func TestInternalAuthenticateReplaces(t *testing.T) {
	c := newCard(t, testImage(t))
	m := newTerminal(t, c)
	x := m.on(1)

	m.authenticate(1, 0, nil)
	x.internal(3)
	assert.False(t, getStatusWorks(m))
	assert.True(t, challenged(x))
	assert.True(t, getStatusWorks(x))

	m.internal(1)
	assert.False(t, getStatusWorks(x))
	x.internal(1)
	assert.False(t, challenged(m), "another channel's challenge now")
	assert.True(t, challenged(x), "which it leaves alone")
}

// TestExternalAuthenticateServesOnce: RC serves one, whatever comes out.
func TestExternalAuthenticateServesOnce(t *testing.T) {
	first := []struct {
		name string
		p1   byte
		p2   byte
		data func(m2 []byte) []byte
		want apdu.StatusWord
	}{
		{"success", 1, 1, func(b []byte) []byte { return b }, 0x9000},
		{"wrong", 1, 1, func(b []byte) []byte { b[0] ^= 1; return b }, 0x6300},
		{"not below the modulus", 1, 1, func(b []byte) []byte { copy(b, bytes.Repeat([]byte{0xFF}, 256)); return b }, 0x6300},
		{"short", 1, 1, func(b []byte) []byte { return b[1:] }, 0x6700},
		{"long", 1, 1, func(b []byte) []byte { return append(b, make([]byte, 16)...) }, 0x6700},
		{"longer than any command", 1, 1, func([]byte) []byte { return make([]byte, 4000) }, 0x6700},
		{"none", 1, 1, func([]byte) []byte { return nil }, 0x6700},
		{"another suite", 3, 1, func(b []byte) []byte { return b }, 0x6985},
		{"another kid", 1, 15, func(b []byte) []byte { return b }, 0x6985},
		{"unknown suite and kid", 9, 9, func(b []byte) []byte { return b[1:] }, 0x6985},
	}
	for _, tt := range first {
		t.Run(tt.name, func(t *testing.T) {
			m := newTerminal(t, newCard(t, testImage(t)))
			m.internal(1)
			envelope := m.m2([32]byte{})
			_, sw := m.plain(apdu.Command{INS: insExternalAuthenticate, P1: tt.p1, P2: tt.p2, Data: tt.data(bytes.Clone(envelope))})
			assert.Equal(t, tt.want, sw)
			assert.Equal(t, apdu.SWConditionsNotSatisfied, m.external(envelope))
		})
	}
}

// TestExternalAuthenticateFromAnotherChannel is 6985, and the challenge stays.
func TestExternalAuthenticateFromAnotherChannel(t *testing.T) {
	m := newTerminal(t, newCard(t, testImage(t)))
	x := m.on(1)
	m.internal(3)
	envelope := m.m2([32]byte{})
	x.challenge, x.sm = m.challenge, m.sm
	assert.Equal(t, apdu.SWConditionsNotSatisfied, x.external(envelope))
	assert.Equal(t, apdu.SWSuccess, m.external(envelope))
	assert.True(t, getStatusWorks(m))
}

func TestFailures(t *testing.T) {
	c := newCard(t, testImage(t))
	m := newTerminal(t, c)
	x := m.on(1)
	fail := func() apdu.StatusWord {
		m.internal(1)
		b := m.m2([32]byte{})
		b[300] ^= 1
		return m.external(b)
	}
	for n := 1; n <= maxFailed; n++ {
		require.Equal(t, apdu.SWAuthenticationFailed, fail(), "failure %d", n)
		require.EqualValues(t, n, c.Image().failures(1))
		if n < maxFailed {
			m.internal(1)
			require.Equal(t, apdu.SWWrongLength, m.external([]byte{1}), "which is not counted")
		}
		if n == 7 {
			m.authenticate(1, 0, nil) // takes nothing away
		}
	}
	// 6983 comes before all else, on every channel and of chains too.
	m.internal(1)
	assert.Equal(t, apdu.SWAuthenticationBlocked, x.external([]byte{1}))
	run(t, c, step{"1182070901FF", "9000"}, step{"0182070901FF", "6983"})
	assert.Equal(t, apdu.SWAuthenticationBlocked, m.external(m.m2([32]byte{})))
	assert.Equal(t, apdu.SWAuthenticationBlocked, fail(), "no challenge left either")
	run(t, c, step{"80CA00E100", "E10E80040000010081060100" + "0F" + "0F0000" + "9000"})

	c.Reset()
	m.selectApplet()
	m.authenticate(1, 0, nil)
	assert.Equal(t, apdu.SWAuthenticationFailed, fail())
	assert.EqualValues(t, 16, c.Image().failures(1), "kept, and counted on")
	assert.EqualValues(t, 0, c.Image().failures(15))
}

func TestFailuresSaturate(t *testing.T) {
	im := testImage(t)
	im.Runtime = &Runtime{Failures: []Failures{{KID: 1, Count: math.MaxUint16}}}
	m := newTerminal(t, newCard(t, im))
	m.internal(1)
	assert.Equal(t, apdu.SWAuthenticationFailed, m.external(make([]byte, 352)))
	run(t, m.card, step{"80CA00E100", "…8106" + "01FFFF" + "0F0000" + "9000"})
}

// TestFailuresOfTheOtherServer: each key set has its count.
func TestFailuresOfTheOtherServer(t *testing.T) {
	m := newTerminal(t, newCard(t, testImage(t)))
	m.keys.KID, m.keys.Auth = 15, m.keys.Auth[:1]
	m.authenticate(1, 0, nil)
	m.internal(1)
	assert.Equal(t, apdu.SWAuthenticationFailed, m.external(make([]byte, 352)))
	run(t, m.card, step{"80CA00E100", "…8106" + "010000" + "0F0001" + "9000"})
}

// TestRandomness: a card whose source of random bytes fails does not challenge.
func TestRandomness(t *testing.T) {
	for _, n := range []int{0, 31, 32, 48, 79} {
		c := newCard(t, testImage(t), WithRand(bytes.NewReader(make([]byte, n))))
		run(t, c, step{selectApplet, "…9000"},
			step{"0088010110" + hexBytes(make([]byte, 16)), "6581"}, step{"0082010101FF", "6985"})
	}
}

func TestWithKeys(t *testing.T) {
	im := testImage(t)
	keys, err := im.Keys.Private()
	require.NoError(t, err)
	m := newTerminal(t, newCard(t, im, WithKeys(keys)))
	m.authenticate(3, 0, nil)

	swapped := keys
	swapped.Auth = []cryptogram.PrivateKey{keys.Auth[1], keys.Auth[0], keys.Auth[2]}
	for _, wrong := range []cryptogram.PrivateKeys{{}, {Auth: keys.Auth[:1], Enc: keys.Enc}, {Auth: keys.Auth, Enc: keys.Auth[0]}, swapped} {
		_, err := New(im, WithKeys(wrong))
		assert.ErrorIs(t, err, ErrImage)
	}
}

// TestCounterCoding: numbers are big-endian.
func TestCounterCoding(t *testing.T) {
	im := testImage(t)
	im.EventCounter = 0x01020304
	assert.Equal(t, im.EventCounter, binary.BigEndian.Uint32(newCard(t, im).info()[4:8]))
}
