package uicc

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// FuzzProcess sends command APDUs, each behind a byte that is its length, to a
// USIM. A length of 0 is a reset, and every write may fail. Counters and SQN
// never go back, no file changes its size, and nothing is written but what Check
// takes.
func FuzzProcess(f *testing.F) {
	message := func(capdus ...string) (b []byte) {
		for _, s := range capdus {
			c := mustHex(s)
			b = append(append(b, byte(len(c))), c...)
		}
		return b
	}
	f.Add(message("00A4000400", selectUSIM, "00A4040407A0000000871002", "00B0870000", "80F2000000"), uint16(0))
	f.Add(message(selectUSIM, "0020000A083838383838383838", "00A4000C026F06", "00DC040424"+"800101A002900000000000000000000000000000000000000000000000000000000000000000"[:72], "00B0870000"), uint16(2))
	f.Add(message("0020000108303030300FFFFFFF", "002C00011030303030303030303131313131FFFFFF", "00200001083131313131FFFFFF", "00240001103131313131FFFFFF3232323232FFFFFF"), uint16(1))
	f.Add(message("00A4080C047F106F3C", "00A2010402FFFF00", "00A20106040C0001FF00", "00B2000200", "00B2000300", "00DC000302FFFF"), uint16(0))
	f.Add(message(selectUSIM, "0020008108303030300FFFFFFF", "00A4000C026F39", "803200000300000100", "00DC000303FFFFFF"), uint16(0))
	f.Add(message("01A4040C07A0000000871002", "018800812210000000000000000000000000000000001000000000000000000000000000000000"), uint16(0))
	f.Fuzz(func(t *testing.T, in []byte, fail uint16) {
		c := newCard(t, withPIN())
		c.fail = int(fail)
		for n := 0; len(in) > 0 && n < 60; n++ {
			size := min(int(in[0])+1, len(in))
			capdu := in[1:size]
			in = in[size:]
			if len(capdu) == 0 {
				c.start()
				continue
			}
			cmd, err := apdu.ParseCommand(capdu)
			if err != nil {
				continue
			}
			before := c.saved.Clone()
			channel := int(cmd.CLA & 0x03)
			var data []byte
			var sw apdu.StatusWord
			if cmd.INS == insSelect && cmd.P1 == 0x04 {
				data, sw = c.u.SelectUSIM(channel, cmd)
			} else {
				data, sw = c.u.Process(channel, cmd)
			}
			require.True(t, sw == apdu.SWSuccess || len(data) == 0)
			require.NotZero(t, sw)
			for i, seq := range before.SEQ {
				require.GreaterOrEqual(t, c.saved.SEQ[i], seq)
			}
			if sw != apdu.SWSuccess {
				for _, p := range pins {
					require.GreaterOrEqual(t, c.saved.pin(p.name).Failed, before.pin(p.name).Failed)
					require.GreaterOrEqual(t, c.saved.pin(p.name).PUKFailed, before.pin(p.name).PUKFailed)
				}
			}
		}
	})
}

// FuzzData reads what an image may say of a USIM.
func FuzzData(f *testing.F) {
	for _, s := range []string{
		`{"imsi":"001010123456789","k":"000102030405060708090A0B0C0D0E0F","seq":[1,2],"pins":{"pin1":{"value":"1234","failed":3}},"files":{"EF.PL":"656EFFFF"}}`,
		`{"files":{"ADF.USIM/EF.ACM":"000000000000000001"}}`, `{}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Data
		if json.Unmarshal(b, &d) != nil {
			return
		}
		if err := d.Check(); err != nil {
			require.ErrorIs(t, err, ErrData)
			return
		}
		c := newCard(t, d)
		for _, capdu := range []string{selectUSIM, "80F2000000", "00B0870000", "00B08B0000", "00200001"} {
			c.send(capdu)
		}
	})
}
