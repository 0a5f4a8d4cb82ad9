package appletsim

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Response data of the test image's profiles, before the receipt.
const (
	everydayOff = "910A9868300D1A2B3C4E0024" + "920100"
	everydayOn  = "910A9868300D1A2B3C4E0024" + "920101"
	abroadOff   = "910A98101400000000004043" + "920100"
	abroadOn    = "910A98101400000000004043" + "920101"
	wasEveryday = "930A9868300D1A2B3C4E0024"
	wasAbroad   = "930A98101400000000004043"
	at100       = "940400000100"
	at101       = "940400000101"
	suite01     = "950101"
	suite03     = "950103"
)

func TestResults(t *testing.T) {
	none := func(im *Image) { im.Profiles[0].State = Disabled }
	abroadEnabled := func(im *Image) { im.Profiles[0].State, im.Profiles[1].State = Disabled, Enabled }
	fallback := func(i int) func(*Image) { return func(im *Image) { im.Profiles[i].Fallback = true } }
	tests := []struct {
		name   string
		image  []func(*Image)
		suite  cryptogram.Suite
		ins    byte
		order  order
		want   string
		sw     apdu.StatusWord
		states [2]State
	}{
		{"DEACTIVATE", nil, 1, insDeactivate, order{1, eleven, &everyday, 0x100},
			"900100" + everydayOff + at101 + suite01, 0x9000, [2]State{Disabled, Disabled}},
		{"DEACTIVATE, suite 03", nil, 3, insDeactivate, order{1, eleven, &everyday, 0x100},
			"900100" + everydayOff + at101 + suite03, 0x9000, [2]State{Disabled, Disabled}},
		{"DEACTIVATE the enabled one", nil, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900100" + everydayOff + at101 + suite01, 0x9000, [2]State{Disabled, Disabled}},
		{"DEACTIVATE, fallback", []func(*Image){fallback(1)}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900100" + everydayOff + wasAbroad + at101 + suite01, 0x9000, [2]State{Disabled, Enabled}},
		{"ACTIVATE", []func(*Image){none}, 1, insActivate, order{1, other, &abroad, 0x100},
			"900100" + abroadOn + at101 + suite01, 0x9000, [2]State{Disabled, Enabled}},
		{"ACTIVATE while the fallback is enabled", []func(*Image){fallback(0)}, 1, insActivate, order{1, other, &abroad, 0x100},
			"900100" + abroadOn + wasEveryday + at101 + suite01, 0x9000, [2]State{Disabled, Enabled}},
		{"ACTIVATE while the fallback is enabled, under PPR1", []func(*Image){fallback(0), func(im *Image) { im.Profiles[0].PPR1 = true }}, 1,
			insActivate, order{1, other, &abroad, 0x100},
			"900100" + abroadOn + wasEveryday + at101 + suite01, 0x9000, [2]State{Disabled, Enabled}},
		{"ACTIVATE the fallback", []func(*Image){none, fallback(0)}, 1, insActivate, order{1, eleven, &everyday, 0x100},
			"900100" + everydayOn + at101 + suite01, 0x9000, [2]State{Enabled, Disabled}},
		{"ACTIVATE while the fallback is disabled", []func(*Image){none, fallback(0)}, 1, insActivate, order{1, other, &abroad, 0x100},
			"900100" + abroadOn + at101 + suite01, 0x9000, [2]State{Disabled, Enabled}},
		{"PPR2 does not matter", []func(*Image){func(im *Image) { im.Profiles[0].PPR2 = true }}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900100" + everydayOff + at101 + suite01, 0x9000, [2]State{Disabled, Disabled}},
		{"triple, suite 03", []func(*Image){func(im *Image) { im.Policy.RequireTriple = true }}, 3, insDeactivate, order{1, eleven, nil, 0x100},
			"900100" + everydayOff + at101 + suite03, 0x9000, [2]State{Disabled, Disabled}},

		{"01, DEACTIVATE", nil, 1, insDeactivate, order{1, eleven, &unknown, 0x100},
			"900101" + at100 + suite01, 0x6A88, [2]State{Enabled, Disabled}},
		{"01, none enabled", []func(*Image){none}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900101" + at100 + suite01, 0x6A88, [2]State{Disabled, Disabled}},
		{"01, ACTIVATE", nil, 3, insActivate, order{1, eleven, &unknown, 0x100},
			"900101" + at100 + suite03, 0x6A88, [2]State{Enabled, Disabled}},
		{"02, DEACTIVATE", nil, 1, insDeactivate, order{1, other, &abroad, 0x100},
			"900102" + abroadOff + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"02, ACTIVATE what is", nil, 1, insActivate, order{1, eleven, &everyday, 0x100},
			"900102" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"02, ACTIVATE the fallback that is", []func(*Image){fallback(0)}, 1, insActivate, order{1, eleven, &everyday, 0x100},
			"900102" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"02, ACTIVATE beside another", nil, 1, insActivate, order{1, other, &abroad, 0x100},
			"900102" + abroadOff + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"02, ACTIVATE the fallback beside another", []func(*Image){fallback(1)}, 1, insActivate, order{1, other, &abroad, 0x100},
			"900102" + abroadOff + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"03", []func(*Image){func(im *Image) { im.Profiles[0].PPR1 = true }}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900103" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"10, DEACTIVATE", nil, 1, insDeactivate, order{1, other, nil, 0x100},
			"900110" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"10, ACTIVATE", []func(*Image){none}, 1, insActivate, order{1, eleven, &abroad, 0x100},
			"900110" + abroadOff + at100 + suite01, 0x6985, [2]State{Disabled, Disabled}},
		{"11, DEACTIVATE", []func(*Image){func(im *Image) { im.Policy.RequireTriple = true }}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900111" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"11, ACTIVATE", []func(*Image){none, func(im *Image) { im.Policy.RequireTriple = true }}, 1, insActivate, order{1, eleven, &everyday, 0x100},
			"900111" + everydayOff + at100 + suite01, 0x6985, [2]State{Disabled, Disabled}},
		{"12", []func(*Image){fallback(0)}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900112" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"14", nil, 1, insDeactivate, order{1, eleven, nil, 0xFF},
			"900114" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"14, no profile", []func(*Image){none}, 1, insDeactivate, order{1, eleven, nil, 0x101},
			"900114" + at100 + suite01, 0x6985, [2]State{Disabled, Disabled}},
		{"7F, the counter is at its end", []func(*Image){func(im *Image) { im.EventCounter = math.MaxUint32 }}, 1, insDeactivate, order{1, eleven, nil, math.MaxUint32},
			"90017F" + everydayOn + "9404FFFFFFFF" + suite01, 0x6581, [2]State{Enabled, Disabled}},

		// The order of the checks: each row would meet the next results too.
		{"14 before 01", nil, 1, insDeactivate, order{1, other, &unknown, 1},
			"900114" + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"02 before 10", nil, 1, insDeactivate, order{1, eleven, &abroad, 0x100},
			"900102" + abroadOff + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"10 before 11", []func(*Image){everyRule}, 1, insDeactivate, order{1, other, nil, 0x100},
			"900110" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"11 before 12", []func(*Image){everyRule}, 1, insDeactivate, order{1, eleven, nil, 0x100},
			"900111" + everydayOn + at100 + suite01, 0x6985, [2]State{Enabled, Disabled}},
		{"12 before 03", []func(*Image){everyRule}, 3, insDeactivate, order{1, eleven, nil, 0x100},
			"900112" + everydayOn + at100 + suite03, 0x6985, [2]State{Enabled, Disabled}},
		{"02 before 11 for ACTIVATE", []func(*Image){abroadEnabled, everyRule}, 1, insActivate, order{1, other, &everyday, 0x100},
			"900102" + everydayOff + at100 + suite01, 0x6985, [2]State{Disabled, Enabled}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			im := testImage(t)
			for _, change := range tt.image {
				change(im)
			}
			m := newTerminal(t, newCard(t, im))
			got, sw := m.do(tt.suite, tt.ins, tt.order.data())
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.sw, sw)
			after := m.card.Image()
			assert.Equal(t, tt.states, [2]State{after.Profiles[0].State, after.Profiles[1].State})
			if sw == apdu.SWSuccess {
				assert.Equal(t, im.EventCounter+1, after.EventCounter)
				assert.Len(t, after.Runtime.Answers, 1)
			} else {
				assert.Equal(t, im, after, "a refusal changes nothing")
			}
		})
	}
}

func everyRule(im *Image) {
	im.Policy.RequireTriple = true
	im.Profiles[0].Fallback, im.Profiles[0].PPR1 = true, true
}

// TestStoredAnswers: the same request gets the same bytes, in any session that
// carries it, and nothing else of its id does.
func TestStoredAnswers(t *testing.T) {
	c := newCard(t, testImage(t))
	m := newTerminal(t, c)
	data := order{1, eleven, &everyday, 0x100}.data()
	m.authenticate(1, insDeactivate, data)
	first, sw := m.secured(insDeactivate, data)
	require.Equal(t, apdu.SWSuccess, sw)
	done := c.Image()

	for _, suite := range []cryptogram.Suite{1, 3} {
		m.authenticate(suite, insDeactivate, data)
		again, sw := m.secured(insDeactivate, data)
		assert.Equal(t, apdu.SWSuccess, sw)
		assert.Equal(t, first, again, "suite and receipt are the first session's")
		assert.Equal(t, done, c.Image())
	}
	c.Power(false)
	c.Power(true)
	m.selectApplet()
	m.authenticate(3, insDeactivate, data)
	again, _ := m.secured(insDeactivate, data)
	assert.Equal(t, first, again)

	// 13, before all else: other data, also such as 14 and 01 would refuse; another INS.
	for _, o := range []order{{1, eleven, &everyday, 0x101}, {1, eleven, nil, 0x100}, {1, other, &abroad, 7}} {
		got, sw := m.do(1, insDeactivate, o.data())
		assert.Equal(t, "900113", got[:6])
		assert.Equal(t, apdu.SWIncorrectData, sw)
	}
	got, _ := m.do(1, insActivate, data)
	assert.Equal(t, "900113"+everydayOff+at101+suite01, got)
	got, _ = m.do(1, insActivate, order{1, eleven, &unknown, 0}.data())
	assert.Equal(t, "900113"+at101+suite01, got)

	// The id of a refused request may be used again.
	got, _ = m.do(1, insActivate, order{2, other, &everyday, 0x101}.data())
	assert.Equal(t, "900110", got[:6])
	got, _ = m.do(1, insActivate, order{2, eleven, &everyday, 0x101}.data())
	assert.Equal(t, "900100", got[:6])
}

// TestLastEightAnswers: the ninth operation makes the card forget the first.
func TestLastEightAnswers(t *testing.T) {
	c := newCard(t, testImage(t))
	m := newTerminal(t, c)
	ins := []byte{insDeactivate, insActivate}
	orders := func(n int) (byte, []byte) {
		return ins[n%2], order{byte(n + 1), eleven, &everyday, 0x100 + uint32(n)}.data()
	}
	for n := range 9 {
		got, _ := m.do(1, ins[n%2], order{byte(n + 1), eleven, &everyday, 0x100 + uint32(n)}.data())
		require.Equal(t, "900100", got[:6])
	}
	i, data := orders(0)
	got, _ := m.do(1, i, data)
	assert.Equal(t, "900114", got[:6], "forgotten")
	for n := 1; n < 9; n++ {
		i, data := orders(n)
		got, sw := m.do(1, i, data)
		assert.Equal(t, "900100", got[:6], "answer %d", n+1)
		assert.Equal(t, apdu.SWSuccess, sw)
	}
	assert.Len(t, c.Image().Runtime.Answers, maxAnswers)
}

// TestOnePerSession: the first whose mac verifies spends the session's one,
// whatever comes of it.
func TestOnePerSession(t *testing.T) {
	right := order{1, eleven, &everyday, 0x100}.data()
	tests := []struct {
		name  string
		first func(m *terminal) apdu.StatusWord
		want  apdu.StatusWord
	}{
		{"done", func(m *terminal) apdu.StatusWord { _, sw := m.secured(insDeactivate, right); return sw }, 0x9000},
		{"another INS", func(m *terminal) apdu.StatusWord { _, sw := m.secured(insActivate, right); return sw }, 0x6982},
		{"other data", func(m *terminal) apdu.StatusWord { _, sw := m.secured(insDeactivate, right[1:]); return sw }, 0x6982},
		{"no data", func(m *terminal) apdu.StatusWord { _, sw := m.secured(insDeactivate, nil); return sw }, 0x6982},
		{"P1 P2", func(m *terminal) apdu.StatusWord {
			field, _ := m.wire(insDeactivate, 1, 0, m.sm.Wrap(insDeactivate, 1, 0, right))
			_, sw, err := m.sm.Unwrap(field)
			require.NoError(t, err)
			return sw
		}, 0x6A86},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newTerminal(t, newCard(t, testImage(t)))
			m.authenticate(1, insDeactivate, right)
			require.True(t, getStatusAgrees(m))
			assert.Equal(t, tt.want, tt.first(m))
			before := m.card.Image()
			out, sw := m.secured(insDeactivate, right)
			assert.Equal(t, apdu.SWSecurityStatusNotSatisfied, sw)
			assert.Empty(t, out)
			assert.Equal(t, before, m.card.Image())
			assert.True(t, getStatusAgrees(m), "the session goes on")
		})
	}
}

func getStatusAgrees(m *terminal) bool {
	m.t.Helper()
	_, sw := m.secured(insGetStatus, nil)
	return sw == apdu.SWSuccess
}

// TestOrderForm: data of another form, authorised or not, is 6A80 and no more.
func TestOrderForm(t *testing.T) {
	const (
		request  = "821001000000000000000000000000000000"
		operator = "810364F011"
		iccid    = "800A9868300D1A2B3C4E0024"
		reason   = "830100"
		counter  = "840400000100"
	)
	for name, data := range map[string]string{
		"empty object alone": "8200",
		"nothing of it":      "00",
		"request missing":    operator + iccid + reason + counter,
		"operator missing":   request + iccid + reason + counter,
		"reason missing":     request + operator + iccid + counter,
		"counter missing":    request + operator + iccid + reason,
		"out of order":       operator + request + iccid + reason + counter,
		"ICCID in front":     iccid + request + operator + reason + counter,
		"ICCID last":         request + operator + reason + counter + iccid,
		"ICCID twice":        request + operator + iccid + iccid + reason + counter,
		"one more":           request + operator + iccid + reason + counter + "8500",
		"padding":            request + operator + iccid + reason + counter + "00",
		"request short":      "820F" + request[6:] + operator + iccid + reason + counter,
		"operator long":      request + "810464F01100" + iccid + reason + counter,
		"ICCID short":        request + operator + "8009" + iccid[6:] + reason + counter,
		"ICCID empty":        request + operator + "8000" + reason + counter,
		"reason of 2 bytes":  request + operator + iccid + "83020000" + counter,
		"counter of 2 bytes": request + operator + iccid + reason + "84020100",
		"length not minimal": request + operator + iccid + "83810100" + counter,
		"cut":                request + operator + iccid + reason + "8404000001",
	} {
		t.Run(name, func(t *testing.T) {
			m := newTerminal(t, newCard(t, testImage(t)))
			got, sw := m.do(1, insDeactivate, unhex(data))
			assert.Equal(t, apdu.SWIncorrectData, sw)
			assert.Empty(t, got)
			assert.Nil(t, m.card.Image().Runtime)
		})
	}
	t.Run("ACTIVATE without ICCID", func(t *testing.T) {
		m := newTerminal(t, newCard(t, testImage(t)))
		got, sw := m.do(1, insActivate, order{1, eleven, nil, 0x100}.data())
		assert.Equal(t, apdu.SWIncorrectData, sw)
		assert.Empty(t, got)
	})
}

// brokenStore fails as it is told.
type brokenStore struct{ err error }

func (s *brokenStore) Save([]byte) error { return s.err }

// TestWriteFails: what cannot be stored is not done, and the card says so.
func TestWriteFails(t *testing.T) {
	store := &brokenStore{err: errors.New("disk full")}
	for name, opt := range map[string]Option{
		"store": WithStore(store),
		"fault": func(c *Card) { c.Inject(Fault{Write: 1, Kind: WriteFails}) },
	} {
		t.Run(name, func(t *testing.T) {
			store.err = errors.New("disk full")
			im := testImage(t)
			c := newCard(t, im, opt)
			m := newTerminal(t, c)
			data := order{1, eleven, nil, 0x100}.data()
			got, sw := m.do(1, insDeactivate, data)
			assert.Equal(t, "90017F"+everydayOn+at100+suite01, got)
			assert.Equal(t, apdu.SWMemoryFailure, sw)
			assert.Equal(t, im, c.Image())
			assert.True(t, getStatusAgrees(m))

			store.err = nil
			got, sw = m.do(1, insDeactivate, data)
			assert.Equal(t, "900100"+everydayOff+at101+suite01, got, "the same request may be sent again")
			assert.Equal(t, apdu.SWSuccess, sw)
		})
	}
	t.Run("failure count", func(t *testing.T) {
		c := newCard(t, testImage(t), WithStore(&brokenStore{err: errors.New("disk full")}))
		m := newTerminal(t, c)
		m.internal(1)
		assert.Equal(t, apdu.SWMemoryFailure, m.external(make([]byte, 352)))
		assert.EqualValues(t, 0, c.Image().failures(1))
	})
	t.Run("in doubt", func(t *testing.T) {
		c := newCard(t, testImage(t), WithStore(&brokenStore{err: fmt.Errorf("directory: %w", ErrInDoubt)}))
		m := newTerminal(t, c)
		m.internal(1)
		capdu, err := apdu.Command{INS: insExternalAuthenticate, P1: 1, P2: 1, Data: make([]byte, 352)}.AppendBinary(nil)
		require.NoError(t, err)
		assert.Nil(t, c.Process(capdu), "no answer says what is not known")
		_, away := c.Away()
		assert.True(t, away)
	})
}

// TestPowerCut cuts each persistent write of a run of operations, before it and
// after it: the card is wholly as it was or wholly as it should be, and the same
// request brings the same end.
func TestPowerCut(t *testing.T) {
	const operations = 3
	for write := 1; write <= operations; write++ {
		for _, kind := range []FaultKind{CutBefore, CutAfter, WriteFails} {
			t.Run(fmt.Sprint(write, kind), func(t *testing.T) {
				im := testImage(t)
				im.Profiles[1].Fallback = true
				c := newCard(t, im)
				c.Inject(Fault{Write: write, Kind: kind})
				m := newTerminal(t, c)
				for n := range operations {
					ins, target, operator := byte(insDeactivate), everyday, eleven
					if n%2 == 1 {
						ins = insActivate
					}
					data := order{byte(n + 1), operator, &target, 0x100 + uint32(n)}.data()
					before := c.Image()
					m.authenticate(1, ins, data)
					if n+1 == write {
						meetFault(t, m, kind, ins, data, before)
						m.authenticate(3, ins, data)
					}
					out, sw := m.secured(ins, data)
					require.Equal(t, apdu.SWSuccess, sw)
					suite := cryptogram.Suite(out[len(out)-256-5])
					require.Equal(t, "900100", m.verified(suite, ins, data, out)[:6])
					after := c.Image()
					assert.Equal(t, before.EventCounter+1, after.EventCounter)
					assert.Len(t, after.Runtime.Answers, n+1)
					assert.NotEqual(t, after.Profiles[0].State, after.Profiles[1].State)
				}
			})
		}
	}
}

func meetFault(t *testing.T, m *terminal, kind FaultKind, ins byte, data []byte, before *Image) {
	t.Helper()
	if kind == WriteFails {
		_, sw := m.secured(ins, data)
		require.Equal(t, apdu.SWMemoryFailure, sw)
		require.Equal(t, before, m.card.Image())
		return
	}
	capdu, err := apdu.Command{CLA: 0x8C, INS: ins, Data: m.sm.Wrap(ins, 0, 0, data), Ne: 256}.AppendBinary(nil)
	require.NoError(t, err)
	require.Nil(t, m.card.Process(capdu))
	require.Nil(t, m.card.Process(unhex(getEID)), "away")
	if kind == CutBefore {
		require.Equal(t, before, m.card.Image())
	} else {
		require.Equal(t, before.EventCounter+1, m.card.Image().EventCounter)
		require.NotEqual(t, before.Profiles, m.card.Image().Profiles)
	}
	m.card.Insert()
	m.selectApplet()
}

// TestCutFailureCount: a failure that was counted is counted though its answer
// was lost.
func TestCutFailureCount(t *testing.T) {
	c := newCard(t, testImage(t))
	m := newTerminal(t, c)
	for n, kind := range []FaultKind{CutAfter, CutBefore} {
		c.Inject(Fault{Write: 1, Kind: kind, Away: time.Millisecond})
		m.internal(1)
		capdu, err := apdu.Command{INS: insExternalAuthenticate, P1: 1, P2: 1, Data: make([]byte, 352)}.AppendBinary(nil)
		require.NoError(t, err)
		require.Nil(t, c.Process(capdu), n)
		require.Eventually(t, func() bool { _, away := c.Away(); return !away }, time.Minute, time.Millisecond)
		m.selectApplet()
	}
	assert.EqualValues(t, 1, c.Image().failures(1))
}
