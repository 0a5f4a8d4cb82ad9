package fault

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDescription: Go and JSON have the same faults, member by member.
func TestDescription(t *testing.T) {
	for text, want := range map[string]Fault{
		`{"kind":"cut-torn","write":3,"ins":"0444","bytes":120,"away":"2s"}`: {
			Kind: CutTorn, Write: 3, INS: []byte{0x04, 0x44}, Bytes: 120, Away: 2 * time.Second},
		`{"kind":"flip","apdu":7,"probability":0.25,"seed":9007199254740993,"times":-1,"bits":3}`: {
			Kind: Flip, APDU: 7, Probability: 0.25, Seed: 9007199254740993, Times: Always, Bits: 3},
		`{"kind":"mute","until":"reset"}`:                             {Kind: Mute, Until: UntilReset},
		`{"kind":"wrong-sw","times":2,"sw":"6F00"}`:                   {Kind: WrongSW, Times: 2, SW: 0x6F00},
		`{"kind":"late","delay":"1.5s"}`:                              {Kind: Late, Delay: 1500 * time.Millisecond},
		`{"kind":"atr","reset":2,"atr":"3B00"}`:                       {Kind: ATR, Reset: 2, ATR: []byte{0x3B, 0x00}},
		`{"kind":"slow","timing":{"profile":"uicc","byte":"100µs"}}`:  {Kind: Slow, Timing: &Timing{Profile: "uicc", Byte: 100 * time.Microsecond}},
		`{"kind":"slow","timing":{"work":{"88":"30ms","8801":"1s"}}}`: {Kind: Slow, Timing: &Timing{Work: map[string]time.Duration{"\x88": 30 * time.Millisecond, "\x88\x01": time.Second}}},
		`{"kind":"worn-out","write":1000}`:                            {Kind: WornOut, Write: 1000},
		`{"kind":"lost","write":1}`:                                   {Kind: Lost, Write: 1},
		`{"kind":"remove-after","apdu":6,"away":"500ms"}`:             {Kind: RemoveAfter, APDU: 6, Away: 500 * time.Millisecond},
	} {
		got, err := Parse([]byte(text))
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
		assert.Equal(t, text, got.String())
	}
}

func TestNoFaults(t *testing.T) {
	for text, why := range map[string]string{
		``:                                   "",
		`[]`:                                 "",
		`{}`:                                 "kind",
		`{"kind":"explodes"}`:                "kind",
		`{"kind":"mute","colour":"red"}`:     "colour",
		`{"kind":"mute","kind":"lost"}`:      "duplicate",
		`{"kind":"mute","apdu":1,"write":1}`: "one",
		`{"kind":"mute","write":1}`:          "before the command",
		`{"kind":"mute","apdu":-1}`:          "counted from 1",
		`{"kind":"mute","times":-2}`:         "always",
		`{"kind":"mute","until":"noon"}`:     "until",
		`{"kind":"mute","until":"reset","times":2}`:               "one",
		`{"kind":"lost","until":"reset"}`:                         "until",
		`{"kind":"lost","probability":1.5}`:                       "probability",
		`{"kind":"cut-after","apdu":1}`:                           "at a write",
		`{"kind":"atr","atr":"3B00","apdu":1}`:                    "at a reset",
		`{"kind":"lost","reset":1}`:                               "reset",
		`{"kind":"atr"}`:                                          "atr",
		`{"kind":"refuse"}`:                                       "sw",
		`{"kind":"refuse","sw":"6F"}`:                             "2 wanted",
		`{"kind":"mute","sw":"6F00"}`:                             "sw",
		`{"kind":"flip","bits":-1}`:                               "bits",
		`{"kind":"mute","bytes":1}`:                               "bytes",
		`{"kind":"late"}`:                                         "delay",
		`{"kind":"late","delay":"-1s"}`:                           "delay",
		`{"kind":"late","delay":"forever"}`:                       "",
		`{"kind":"mute","away":"1s"}`:                             "away",
		`{"kind":"slow"}`:                                         "timing",
		`{"kind":"slow","timing":{"profile":"x"}}`:                "profile",
		`{"kind":"slow","timing":{"work":{"":"1s"}}}`:             "work",
		`{"kind":"slow","timing":{"work":{"XY":"1s"}}}`:           "work",
		`{"kind":"slow","timing":{"work":{"ab":"1s","AB":"1s"}}}`: "twice",
		`{"kind":"slow","timing":{"work":{"88010000":"1s"}}}`:     "work",
		`{"kind":"slow","timing":{"byte":"2h"}}`:                  "hour",
	} {
		_, err := Parse([]byte(text))
		require.ErrorIs(t, err, ErrInvalid, text)
		assert.ErrorContains(t, err, why, text)
	}
	require.ErrorIs(t, Fault{Kind: Lost, Probability: math.NaN()}.Check(), ErrInvalid)
}

// TestTiming: what a card takes, by its table.
func TestTiming(t *testing.T) {
	own := &Timing{
		Command: time.Second, Byte: time.Millisecond, Write: time.Minute,
		Work: map[string]time.Duration{"\x88": 2 * time.Hour, "\x88\x01": 3 * time.Hour, "\x88\x01\x02": 4 * time.Hour},
	}
	base := time.Second + 7*time.Millisecond
	for capdu, want := range map[string]time.Duration{
		"\x00\xA4\x00\x00\x00": base,
		"\x00\x88\x02\x00\x00": base + 2*time.Hour,
		"\x00\x88\x01\x00\x00": base + 3*time.Hour,
		"\x00\x88\x01\x02\x00": base + 4*time.Hour,
	} {
		assert.Equal(t, want, own.of([]byte(capdu), make([]byte, 2), 0), "%X", capdu)
	}
	assert.Equal(t, base+2*time.Minute, own.of(make([]byte, 5), make([]byte, 2), 2))
	assert.Zero(t, (&Timing{}).of(nil, nil, 0))

	uicc := &Timing{Profile: "uicc", Work: map[string]time.Duration{"\x88": time.Second}}
	require.NoError(t, uicc.check())
	got := uicc.of([]byte{0x00, 0x88, 0x01, 0x01, 0x10}, make([]byte, 2), 0)
	assert.Equal(t, time.Millisecond+7*48*time.Microsecond+315*time.Millisecond+time.Second, got, "the profile's and its own")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"cut-torn","write":3,"ins":"0444","bytes":120,"away":"2s"}`,
		`{"kind":"flip","apdu":7,"probability":0.25,"seed":12,"times":-1,"bits":3}`,
		`{"kind":"slow","timing":{"profile":"uicc","command":"1ms","byte":"48µs","write":"5ms","work":{"8801":"300ms"}}}`,
		`{"kind":"atr","reset":2,"atr":"3B00"}`, `{"kind":"mute","until":"reset"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Parse(b)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		again, err := Parse([]byte(got.String()))
		require.NoError(t, err, got.String())
		assert.Equal(t, got, again)
		out, err := json.Marshal(again)
		require.NoError(t, err)
		assert.Equal(t, got.String(), string(out))
	})
}
