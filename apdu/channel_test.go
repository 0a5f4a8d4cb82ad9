package apdu

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// script answers commands as they are written down, in order.
type script struct {
	t     *testing.T
	steps [][2]string // command and response in hexadecimal
	atr   string
	short bool
}

func (s *script) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	require.NotEmpty(s.t, s.steps, "command %X too many", capdu)
	step := s.steps[0]
	s.steps = s.steps[1:]
	require.Equal(s.t, unhex(s.t, step[0]), capdu)
	return unhex(s.t, step[1]), nil
}

func (s *script) ATR() []byte                 { return unhex(s.t, s.atr) }
func (s *script) Reset(context.Context) error { return nil }
func (s *script) Close() error                { return nil }
func (s *script) ShortOnly() bool             { return s.short }
func (s *script) done()                       { assert.Empty(s.t, s.steps, "commands that were not sent") }

const atrExtended = "3B85 80 01 80 73 0000D3"

func seq(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func hexs(b []byte) string { return string(appendHex(nil, b)) }

func appendHex(out, b []byte) []byte {
	for _, c := range b {
		out = append(out, "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
	}
	return out
}

func TestTransmit(t *testing.T) {
	long := seq(600)
	for _, c := range []struct {
		name  string
		atr   string
		short bool
		cmd   Command
		steps [][2]string
		data  []byte
		sw    StatusWord
	}{
		{name: "plain", cmd: Command{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: 256},
			steps: [][2]string{{"80CA005A00", "5A01019000"}}, data: []byte{0x5A, 1, 1}, sw: SWSuccess},
		{name: "refused", cmd: Command{INS: 0xA4, Data: []byte{1}},
			steps: [][2]string{{"00A400000101", "6A82"}}, sw: SWFileNotFound},
		{name: "61xx", cmd: Command{INS: 0x88, Ne: 256},
			steps: [][2]string{{"0088000000", "01026102"}, {"00C0000002", "03046101"}, {"00C0000001", "059000"}},
			data:  []byte{1, 2, 3, 4, 5}, sw: SWSuccess},
		{name: "61xx ends in an error", cmd: Command{INS: 0x88, Ne: 256},
			steps: [][2]string{{"0088000000", "6100"}, {"00C0000000", "6985"}}, sw: SWConditionsNotSatisfied},
		{name: "61xx, 6Cxx to GET RESPONSE", cmd: Command{INS: 0x88, Ne: 256},
			steps: [][2]string{{"0088000000", "6100"}, {"00C0000000", "6C02"}, {"00C0000002", "01029000"}},
			data:  []byte{1, 2}, sw: SWSuccess},
		{name: "6Cxx", cmd: Command{CLA: 0x80, INS: 0xCA, Ne: 256},
			steps: [][2]string{{"80CA000000", "6C02"}, {"80CA000002", "01029000"}}, data: []byte{1, 2}, sw: SWSuccess},
		{name: "6C00 is 256", cmd: Command{CLA: 0x80, INS: 0xCA, Ne: 1},
			steps: [][2]string{{"80CA000001", "6C00"}, {"80CA000000", "9000"}}, sw: SWSuccess},
		{name: "6Cxx twice", cmd: Command{CLA: 0x80, INS: 0xCA, Ne: 256},
			steps: [][2]string{{"80CA000000", "6C02"}, {"80CA000002", "6C03"}}, sw: 0x6C03},
		{name: "6Cxx, then 61xx", cmd: Command{CLA: 0x80, INS: 0xCA, Ne: 256},
			steps: [][2]string{{"80CA000000", "6C02"}, {"80CA000002", "016101"}, {"00C0000001", "029000"}}, data: []byte{1, 2}, sw: SWSuccess},
		{name: "6Cxx without Le", cmd: Command{INS: 0x82},
			steps: [][2]string{{"00820000", "6C02"}}, sw: 0x6C02},
		{name: "chain", cmd: Command{INS: 0x82, P1: 1, P2: 2, Data: long, Ne: 65536},
			steps: [][2]string{
				{"10820102FF" + hexs(long[:255]), "9000"},
				{"10820102FF" + hexs(long[255:510]), "9000"},
				{"008201025A" + hexs(long[510:]) + "00", "AA9000"},
			}, data: []byte{0xAA}, sw: SWSuccess},
		{name: "255 bytes are no chain", cmd: Command{INS: 0x82, Data: long[:255]},
			steps: [][2]string{{"00820000FF" + hexs(long[:255]), "9000"}}, sw: SWSuccess},
		{name: "256 bytes", cmd: Command{INS: 0x82, Data: long[:256]},
			steps: [][2]string{{"10820000FF" + hexs(long[:255]), "9000"}, {"0082000001FF", "9000"}}, sw: SWSuccess},
		{name: "chain refused", cmd: Command{INS: 0x82, Data: long},
			steps: [][2]string{{"10820000FF" + hexs(long[:255]), "6884"}}, sw: SWChainingNotSupported},
		{name: "extended", atr: atrExtended, cmd: Command{INS: 0x82, Data: long, Ne: 65536},
			steps: [][2]string{{"00820000000258" + hexs(long) + "0000", hexs(long) + "9000"}}, data: long, sw: SWSuccess},
		{name: "extended announced, the transport cannot", atr: atrExtended, short: true, cmd: Command{INS: 0x82, Data: long[:256]},
			steps: [][2]string{{"10820000FF" + hexs(long[:255]), "9000"}, {"0082000001FF", "9000"}}, sw: SWSuccess},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{t: t, steps: c.steps, atr: c.atr, short: c.short}
			data, sw, err := BasicChannel(s).Transmit(t.Context(), c.cmd)
			require.NoError(t, err)
			assert.Equal(t, hexs(c.data), hexs(data))
			assert.Equal(t, c.sw, sw)
			s.done()
		})
	}
}

func TestTransmitMalformed(t *testing.T) {
	for _, steps := range [][][2]string{
		{{"00880000", "90"}},
		{{"00880000", ""}},
		{{"00880000", "0000"}},
		{{"00880000", "6101"}, {"00C0000001", "00"}},
	} {
		s := &script{t: t, steps: steps}
		_, _, err := BasicChannel(s).Transmit(t.Context(), Command{INS: 0x88})
		assert.ErrorIs(t, err, ErrMalformed)
		s.done()
	}
	s := &script{t: t}
	_, _, err := BasicChannel(s).Transmit(t.Context(), Command{Ne: -1})
	assert.ErrorIs(t, err, ErrMalformed, "nothing is sent")
}

// each answers every command by a function.
type each func(capdu []byte) ([]byte, error)

func (f each) Transmit(_ context.Context, capdu []byte) ([]byte, error) { return f(capdu) }

func TestResponseWithoutEnd(t *testing.T) {
	for name, answer := range map[string][]byte{
		"full":  append(make([]byte, 256), 0x61, 0x00),
		"empty": {0x61, 0x00},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			_, _, err := BasicChannel(each(func([]byte) ([]byte, error) {
				n++
				return bytes.Clone(answer), nil
			})).Transmit(t.Context(), Command{INS: 0x88, Ne: 256})
			assert.ErrorIs(t, err, ErrMalformed)
			assert.LessOrEqual(t, n, 1+maxGetResponse)
		})
	}
}

func TestTransportErrorGoesUp(t *testing.T) {
	for _, fail := range []int{1, 2, 3} {
		n := 0
		_, _, err := BasicChannel(each(func([]byte) ([]byte, error) {
			if n++; n == fail {
				return nil, ErrCardRemoved
			}
			return []byte{0x6C, 0x01}, nil
		})).Transmit(t.Context(), Command{INS: 0x88, Ne: 256})
		if fail <= 2 {
			assert.ErrorIs(t, err, ErrCardRemoved)
		} else {
			assert.NoError(t, err, "6Cxx is repeated once")
		}
	}
}

func TestResponseIsTheCallers(t *testing.T) {
	calls := 0
	ch := BasicChannel(each(func([]byte) ([]byte, error) {
		calls++
		if calls == 1 {
			return []byte{1, 0x61, 1}, nil
		}
		return []byte{2, 0x90, 0}, nil
	}))
	data, _, err := ch.Transmit(t.Context(), Command{INS: 0x88, Ne: 256})
	require.NoError(t, err)
	assert.Equal(t, []byte{1, 2}, data)
}

func TestChannelCLA(t *testing.T) {
	for n := range 20 {
		plain, prop := ChannelCLA(0x00, n, false), ChannelCLA(0x80, n, false)
		secure := ChannelCLA(0x80, n, true)
		chained := ChannelCLA(0x10, n, false)
		if n < 4 {
			assert.Equal(t, byte(n), plain)
			assert.Equal(t, 0x80|byte(n), prop)
			assert.Equal(t, 0x8C|byte(n), secure)
			assert.Equal(t, 0x10|byte(n), chained)
			continue
		}
		assert.Equal(t, 0x40|byte(n-4), plain)
		assert.Equal(t, 0xC0|byte(n-4), prop)
		assert.Equal(t, 0xE0|byte(n-4), secure)
		assert.Equal(t, 0x50|byte(n-4), chained)
	}
}

func TestOpenAndClose(t *testing.T) {
	for _, c := range []struct {
		number                        string
		plain, secure, get, closeAPDU string
	}{
		{"01", "8104000000", "8D04000000", "01C0000001", "00708001"},
		{"03", "8304000000", "8F04000000", "03C0000001", "00708003"},
		{"04", "C004000000", "E004000000", "40C0000001", "00708004"},
		{"13", "CF04000000", "EF04000000", "4FC0000001", "00708013"},
	} {
		s := &script{t: t, atr: atrExtended, steps: [][2]string{
			{"0070000001", c.number + "9000"},
			{c.plain, "6101"}, {c.get, "AA9000"},
			{c.secure, "9000"},
			{c.closeAPDU, "9000"},
		}}
		basic := BasicChannel(s)
		ch, err := basic.Open(t.Context())
		require.NoError(t, err)
		assert.Equal(t, unhex(t, c.number)[0], byte(ch.Number()))
		assert.True(t, ch.Extended())
		assert.Equal(t, MaxExtendedNe, ch.MaxNe())
		data, sw, err := ch.Transmit(t.Context(), Command{CLA: 0x80, INS: 4, Ne: 256})
		require.NoError(t, err)
		assert.Equal(t, []byte{0xAA}, data)
		assert.Equal(t, SWSuccess, sw)
		_, _, err = ch.Transmit(t.Context(), Command{CLA: 0x8C, INS: 4, Ne: 256})
		require.NoError(t, err)
		require.NoError(t, ch.Close(t.Context()))
		require.NoError(t, basic.Close(t.Context()), "sends nothing")
		s.done()
	}
}

func TestOpenRefused(t *testing.T) {
	for answer, want := range map[string]error{
		"6881":     SWChannelNotSupported,
		"9000":     ErrMalformed,
		"009000":   ErrMalformed,
		"149000":   ErrMalformed,
		"01029000": ErrMalformed,
		"0000":     ErrMalformed,
		"":         ErrMalformed,
	} {
		s := &script{t: t, steps: [][2]string{{"0070000001", answer}}}
		_, err := BasicChannel(s).Open(t.Context())
		assert.ErrorIs(t, err, want, answer)
		s.done()
	}
	s := &script{t: t, steps: [][2]string{{"0070000001", "019000"}, {"00708001", "6881"}}}
	ch, err := BasicChannel(s).Open(t.Context())
	require.NoError(t, err)
	var e *Error
	require.True(t, errors.As(ch.Close(t.Context()), &e))
	assert.Equal(t, "MANAGE CHANNEL", e.Op)
}

func TestShortChannel(t *testing.T) {
	ch := BasicChannel(each(nil))
	assert.False(t, ch.Extended(), "no ATR is known")
	assert.Equal(t, MaxShortNe, ch.MaxNe())
	assert.Zero(t, ch.Number())
}

func TestSecuredChainOnChannel19(t *testing.T) {
	ch := &Channel{number: 19}
	_, _, err := ch.Transmit(t.Context(), Command{CLA: 0x8C, INS: 0x04, Data: make([]byte, MaxShortData+1)})
	assert.ErrorIs(t, err, ErrMalformed)
}

// A card that promises more and brings nothing would be asked for long.
func TestGetResponseBringsNothing(t *testing.T) {
	s := &script{t: t, steps: [][2]string{{"80CA005A00", "6105"}, {"00C0000005", "6105"}}}
	_, _, err := BasicChannel(s).Transmit(t.Context(), Command{CLA: 0x80, INS: 0xCA, P2: 0x5A, Ne: MaxShortNe})
	assert.ErrorIs(t, err, ErrMalformed)
}
