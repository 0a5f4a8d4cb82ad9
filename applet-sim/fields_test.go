package appletsim

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim/uicc"
)

// fullImage has a value in every member of an image.
func fullImage(t testing.TB) *Image {
	im := testImage(t)
	dp := "other.example.com"
	about := &EUICC{ISDR: []Hex{unhex("A0000005591010FFFFFFFF8900000100")}, DefaultDP: "a.example.com", RootDS: "b.example.com", Notify: "c.example.com", M2MRefusals: true, SettleByReset: true, Plain: true}
	im.Runtime = &Runtime{
		Answers:  []StoredAnswer{{RequestID: [16]byte{1}, Hash: make(Hex, 32), Response: unhex("9001009E0101")}},
		Failures: []Failures{{1, 2}},
		About:    about,
		Faults:   []Fault{{Kind: WriteFails, Write: 9}},
		EUICC: &EUICCRuntime{
			Profiles: []EUICCProfile{{ICCID: abroad, AID: unhex("A000000559"), Nickname: "N"}}, DefaultDP: &dp, Sequence: 3,
			Notifications: []EUICCNotification{{3, "disable", "d.example.com", abroad}}, BeforeTest: &abroad,
		},
		USIMs: []USIM{{everyday, uicc.Data{
			IMSI: "460110000000001", K: unhex(strings.Repeat("C1", 16)), OPc: unhex(strings.Repeat("C2", 16)), SEQ: []uint64{7},
			PINs:  map[uicc.PINName]uicc.PIN{uicc.PIN1: {Value: "90817263", PUK: "54637281", Disabled: true, Replaced: true, Failed: 1, PUKFailed: 1}},
			Files: map[string]Hex{"ADF.USIM/EF.Keys": unhex(strings.Repeat("C3", 33)), "ADF.USIM/EF.SPN": unhex(strings.Repeat("41", 17))},
		}}},
	}
	return im
}

// TestFields: everything is there, and no secret is shown. A member that is new
// in an image is secret until shown has it, and fails this test.
func TestFields(t *testing.T) {
	im := fullImage(t)
	fields, err := im.Fields()
	require.NoError(t, err)
	var secret, open []string
	for _, f := range fields {
		if f.Secret {
			assert.Empty(t, f.Value, f.Path)
			secret = append(secret, f.Path)
			continue
		}
		open = append(open, f.Path+"="+f.Value)
	}
	usim := "runtime.usims[" + everyday.String() + "]."
	assert.Equal(t, []string{
		"keys.auth[1]", "keys.auth[2]", "keys.auth[3]", "keys.enc",
		usim + "k", usim + "opc", usim + "pins.pin1.value", usim + "pins.pin1.puk", usim + "files.ADF.USIM/EF.Keys",
	}, secret)
	all := strings.Join(open, "\n")
	for _, want := range []string{
		"eid=" + im.EID.String(), "suites[2]=3", "profiles[" + abroad.String() + "].state=disabled", "server_keysets[15].enc=RSA-2048 public key, SHA-256 ",
		usim + "pins.pin1.failed=1", usim + "files.ADF.USIM/EF.SPN=4141", "runtime.faults[1].kind=write-fails", "runtime.failures[1].count=2",
		"runtime.euicc.notifications[3].event=disable", "runtime.answers[01000000000000000000000000000000].response=9001009E0101",
	} {
		assert.Contains(t, all, want)
	}
	for _, never := range []string{"PRIVATE", "C1C1", "C2C2", "C3C3", "90817263", "54637281"} {
		assert.NotContains(t, all, never)
	}
}

func TestDiff(t *testing.T) {
	a, b := fullImage(t), fullImage(t)
	none, err := Diff(a, b)
	require.NoError(t, err)
	assert.Empty(t, none)

	b.Profiles[0].State = Disabled
	b.Profiles[0], b.Profiles[1] = b.Profiles[1], b.Profiles[0]
	b.EventCounter++
	b.Runtime.USIMs[0].K = unhex(strings.Repeat("D1", 16))
	b.Runtime.Failures = nil
	b.Runtime.Faults = append(b.Runtime.Faults, Fault{Kind: CutAfter})
	changes, err := Diff(a, b)
	require.NoError(t, err)
	text := func(s *string) string {
		if s == nil {
			return "–"
		}
		return *s
	}
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprintf("%s: %s → %s %t", c.Path, text(c.Before), text(c.After), c.Secret))
	}
	assert.ElementsMatch(t, []string{
		"profiles[" + b.Profiles[1].ICCID.String() + "].state: enabled → disabled false",
		"event_counter: 256 → 257 false",
		"runtime.failures[1].id: 1 → – false",
		"runtime.failures[1].count: 2 → – false",
		"runtime.usims[" + everyday.String() + "].k:  →  true",
		"runtime.faults[2].kind: – → cut-after false",
	}, got)
}
