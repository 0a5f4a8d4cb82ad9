package uicc

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func padded(values ...string) string {
	var s string
	for _, v := range values {
		s += fmt.Sprintf("%X", presented(v))
	}
	return s
}

func TestVerify(t *testing.T) {
	c := newUSIM(t, withPIN())
	right, wrong := "0020000108"+padded("1234"), "0020000108"+padded("4321")
	c.run(
		[2]string{"00200001", "63C3"}, [2]string{"0020000100", "63C3"},
		[2]string{wrong, "63C2"}, [2]string{"00200001", "63C2"},
		[2]string{right, "9000"}, [2]string{"00200001", "63C3"},
		[2]string{wrong, "63C2"}, [2]string{"00B0870001", "6982"}, // no more verified
		[2]string{"002000010431323334", "6700"}, [2]string{"0020010108" + padded("1234"), "6A86"}, [2]string{"0020000208" + padded("1234"), "6A88"}, [2]string{"0020000008" + padded("1234"), "6A88"},
		[2]string{wrong, "63C1"}, [2]string{wrong, "63C0"}, [2]string{right, "6983"}, [2]string{"00200001", "63C0"},
	)
	c.start()
	c.run([2]string{right, "6983"})
}

func TestChangePIN(t *testing.T) {
	c := newUSIM(t, withPIN())
	c.run(
		[2]string{"0024000110" + padded("4321", "5678"), "63C2"}, [2]string{"0024000110" + padded("1234", "567"), "6A80"}, [2]string{"0024000110" + padded("1234", "56A8"), "6A80"},
		[2]string{"00240001", "6700"}, [2]string{"0024000108" + padded("1234"), "6700"}, [2]string{"0024010110" + padded("1234", "5678"), "6A86"},
		[2]string{"00200001", "63C2"},
		[2]string{"0024000110" + padded("1234", "56789"), "9000"}, [2]string{"00B0870001", "089000"}, // verified by it
		[2]string{"00200001", "63C3"},
	)
	c.start()
	c.run([2]string{"0020000108" + padded("1234"), "63C2"}, [2]string{"0020000108" + padded("56789"), "9000"})

	c = newUSIM(t, Data{})
	c.run([2]string{"0024000110" + padded("0000", "5678"), "6984"}) // disabled
	c.run([2]string{"0024008110" + padded("0000", "5678"), "9000"}, [2]string{"0024000A10" + padded("88888888", "12345678"), "9000"})
	assert.Equal(t, "12345678", c.saved.PINs[ADM1].Value)
}

func TestDisableAndEnable(t *testing.T) {
	c := newUSIM(t, withPIN())
	c.run(
		[2]string{"0028000108" + padded("1234"), "6984"}, [2]string{"0026000108" + padded("4321"), "63C2"}, [2]string{"00B0870001", "6982"},
		[2]string{"0026010108" + padded("1234"), "6A86"}, [2]string{"0026008108" + padded("0000"), "6985"}, [2]string{"0026000A08" + padded("88888888"), "6985"}, [2]string{"00260001", "6700"},
		[2]string{"0026000108" + padded("1234"), "9000"}, [2]string{"0026000108" + padded("1234"), "6984"}, [2]string{"0020000108" + padded("1234"), "6984"},
	)
	c.start()
	c.run([2]string{selectUSIM, "9000"},
		[2]string{"00B0870001", "089000"}, [2]string{"00200001", "63C3"},
		[2]string{"0028000108" + padded("4321"), "63C2"}, [2]string{"0028010108" + padded("1234"), "6A86"}, [2]string{"0028000108" + padded("1234"), "9000"},
	)
	c.start()
	c.run([2]string{selectUSIM, "9000"}, [2]string{"00B0870001", "6982"})
}

func TestUniversalPIN(t *testing.T) {
	d := withPIN()
	d.PINs[UPIN] = PIN{Value: "9999"}
	c := newUSIM(t, d)
	c.run(
		[2]string{"80F2000000", "…C612 9001F0 830101 830181 950108 830111 83010A 9000"},
		[2]string{"0026910108" + padded("1234"), "9000"}, // UPIN in the place of PIN1
		[2]string{"80F2000000", "…C612 900170 830101 830181 950108 830111 83010A 9000"},
		[2]string{"00B0870001", "6982"}, [2]string{"0020001108" + padded("9999"), "9000"}, [2]string{"00B0870001", "089000"},
		[2]string{"0026911108" + padded("9999"), "6A86"},
		[2]string{"0028000108" + padded("1234"), "9000"},
	)
	c.start()
	c.run([2]string{selectUSIM, "9000"}, [2]string{"0020001108" + padded("9999"), "9000"}, [2]string{"00B0870001", "6982"})
}

func TestUnblock(t *testing.T) {
	c := newUSIM(t, withPIN())
	for _, want := range []string{"63C2", "63C1", "63C0", "6983"} {
		c.run([2]string{"0020000108" + padded("4321"), want})
	}
	c.run(
		[2]string{"002C0001", "63CA"}, [2]string{"002C000110" + padded("00000000", "5678"), "63C9"}, [2]string{"002C000110" + padded("12345678", "567"), "6A80"},
		[2]string{"002C000A", "6A88"}, [2]string{"002C000A10" + padded("12345678", "5678"), "6A88"}, [2]string{"002C010110" + padded("12345678", "5678"), "6A86"}, [2]string{"002C000108" + padded("12345678"), "6700"},
		[2]string{"00200001", "63C0"},
		[2]string{"002C000110" + padded("12345678", "5678"), "9000"}, [2]string{"00B0870001", "089000"},
		[2]string{"002C0001", "63CA"}, [2]string{"00200001", "63C3"},
	)
	c.start()
	c.run([2]string{"0020000108" + padded("5678"), "9000"})
	for n := range pukTries {
		c.run([2]string{"002C000110" + padded("00000000", "1111"), fmt.Sprintf("63C%X", pukTries-1-n)})
	}
	c.run([2]string{"002C000110" + padded("12345678", "1111"), "6983"}, [2]string{"0020000108" + padded("5678"), "9000"})

	c = newUSIM(t, Data{}) // a disabled PIN is enabled by it
	c.run([2]string{"002C000110" + padded("00000000", "1111"), "9000"}, [2]string{"00200001", "63C3"}, [2]string{"0028000108" + padded("1111"), "6984"})
}

// TestPINCounters: wherever the power is cut, and whatever write fails, no try
// comes back that was not earned by the right value, and a value is the old one
// or the new one.
func TestPINCounters(t *testing.T) {
	for name, tt := range map[string]struct {
		capdu string
		left  []int // of PIN1 and of its PUK, after the cut at each write
		puk   []int
	}{
		"wrong value":        {"0020000108" + padded("4321"), []int{2}, []int{8}},
		"right value":        {"0020000108" + padded("1234"), []int{2, 1}, []int{8, 8}},
		"change":             {"0024000110" + padded("1234", "5678"), []int{2, 1}, []int{8, 8}},
		"disable":            {"0026000108" + padded("1234"), []int{2, 1}, []int{8, 8}},
		"unblock":            {"002C000110" + padded("12345678", "5678"), []int{2, 2}, []int{8, 7}},
		"unblock, wrong PUK": {"002C000110" + padded("87654321", "5678"), []int{2}, []int{8}},
	} {
		for at := range tt.left {
			t.Run(fmt.Sprintf("%s, write %d", name, at+1), func(t *testing.T) {
				d := withPIN()
				pin := d.PINs[PIN1]
				pin.Failed, pin.PUKFailed = 1, 2
				d.PINs[PIN1] = pin
				c := newUSIM(t, d)
				c.fail = at + 1
				c.run([2]string{tt.capdu, "6581"}, [2]string{"00B0870001", "6982"})
				c.start()
				c.run(
					[2]string{"00200001", fmt.Sprintf("63C%X", tt.left[at])},
					[2]string{"002C0001", fmt.Sprintf("63C%X", tt.puk[at])},
				)
				assert.Equal(t, "1234", c.saved.PINs[PIN1].Value)
				assert.False(t, c.saved.PINs[PIN1].Disabled)
			})
		}
	}
}

func TestDataErrors(t *testing.T) {
	for name, d := range map[string]Data{
		"imsi short":        {IMSI: "00101"},
		"imsi long":         {IMSI: "0010112345678901"},
		"imsi letters":      {IMSI: "00101A2345"},
		"k":                 {K: make(Hex, 15)},
		"opc":               {OPc: Hex{}},
		"seq: too many":     {SEQ: make([]uint64, 33)},
		"seq: large":        {SEQ: []uint64{1 << 43}},
		"pin unknown":       {PINs: map[PINName]PIN{"pin3": {Value: "1234"}}},
		"pin short":         {PINs: map[PINName]PIN{PIN1: {Value: "123"}}},
		"pin long":          {PINs: map[PINName]PIN{PIN1: {Value: "123456789"}}},
		"pin letters":       {PINs: map[PINName]PIN{PIN1: {Value: "abcd"}}},
		"puk":               {PINs: map[PINName]PIN{PIN1: {Value: "1234", PUK: "1"}}},
		"puk of adm1":       {PINs: map[PINName]PIN{ADM1: {Value: "1234", PUK: "12345678"}}},
		"failed":            {PINs: map[PINName]PIN{PIN1: {Value: "1234", Failed: 4}}},
		"failed, negative":  {PINs: map[PINName]PIN{PIN1: {Value: "1234", Failed: -1}}},
		"puk_failed":        {PINs: map[PINName]PIN{PIN1: {Value: "1234", PUKFailed: 11}}},
		"pin2 disabled":     {PINs: map[PINName]PIN{PIN2: {Value: "1234", Disabled: true}}},
		"replaced, enabled": {PINs: map[PINName]PIN{PIN1: {Value: "1234", Replaced: true}}},
		"upin replaced":     {PINs: map[PINName]PIN{UPIN: {Value: "1234", Disabled: true, Replaced: true}}},
		"file unknown":      {Files: map[string]Hex{"EF.X": {1}}},
		"file linked":       {Files: map[string]Hex{"DF.TELECOM/EF.SMS": make(Hex, 1760)}},
		"directory":         {Files: map[string]Hex{"ADF.USIM": {}}},
		"file short":        {Files: map[string]Hex{"EF.PL": {1}}},
	} {
		t.Run(name, func(t *testing.T) {
			err := d.Check()
			require.ErrorIs(t, err, ErrData)
			assert.Less(t, len(err.Error()), 200)
		})
	}
}

func TestDataPrintsNoSecret(t *testing.T) {
	d := Data{K: Hex{0x4B}, PINs: map[PINName]PIN{PIN1: {Value: "1234"}}}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v %s", d, d, d, d), fmt.Sprintf("%v %+v %#v", d.PINs, d.PINs, d.PINs[PIN1])} {
		assert.NotContains(t, s, "1234")
		assert.NotContains(t, s, "4B")
		assert.NotContains(t, s, "75")
	}
}
