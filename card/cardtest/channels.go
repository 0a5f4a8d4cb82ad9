package cardtest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// onChannel is a command with a logical channel's number in its class, whether
// the channel is open or not.
func (b *bench) onChannel(n int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	b.Helper()
	cmd.CLA = apdu.ChannelCLA(cmd.CLA, n, cmd.CLA&0x0C == 0x0C)
	capdu, err := cmd.AppendBinary(nil)
	require.NoError(b, err)
	return b.raw(capdu)
}

// §6, logical channels.
var channels = []test{
	{section: "§6", name: "MANAGE CHANNEL opens and closes", on: standard, run: func(b *bench) {
		data := b.expect(apdu.SWSuccess, b.basic, apdu.Command{INS: insManageChannel, Ne: 1})
		require.Len(b, data, 1)
		n := int(data[0])
		require.True(b, n >= 1 && n <= 19, "channel %d", n)
		_, sw := b.onChannel(n, selectApplet())
		assert.Contains(b, []byte{0x90, 0x61}, sw.SW1(), "the channel is open: %s", sw.Hex())
		b.expect(apdu.SWSuccess, b.basic, apdu.Command{INS: insManageChannel, P1: 0x80, P2: byte(n)})
		_, sw = b.onChannel(n, selectApplet())
		assert.Equal(b, apdu.SWChannelNotSupported.Hex(), sw.Hex(), "closed")
	}},
	{section: "§6", name: "a channel that is not open: 6881", on: standard, run: func(b *bench) {
		l := b.link()
		for _, n := range []int{1, 2, 3, 4, 19} {
			for _, cmd := range []apdu.Command{
				selectApplet(), getData(tagEID), l.internal(random(16)), l.external(random(16)), get(256),
				{CLA: proprietary, INS: insGetStatus, Ne: 256}, {CLA: secured, INS: insGetStatus, Data: random(14), Ne: 256},
			} {
				_, sw := b.onChannel(n, cmd)
				assert.Equal(b, apdu.SWChannelNotSupported.Hex(), sw.Hex(), "channel %d INS %02X", n, cmd.INS)
			}
		}
	}},
	{section: "§6", name: "the applet is selected on each channel by itself", on: standard, run: func(b *bench) {
		one, two := b.empty(), b.empty()
		assert.NotEqual(b, one.Number(), two.Number())
		b.choose(one)
		b.expect(apdu.SWSuccess, one, getData(tagEID))
		b.expect(apdu.SWConditionsNotSatisfied, two, getData(tagEID))
		require.NoError(b, one.Close(b.Context()))
		again := b.empty()
		b.expect(apdu.SWConditionsNotSatisfied, again, getData(tagEID), "opened again")
		b.expect(apdu.SWSuccess, b.basic, getData(tagEID), "the basic channel")
	}},
	{section: "§6", name: "a reset closes channels", on: standard, run: func(b *bench) {
		ch := b.channel()
		b.reset()
		_, sw := b.onChannel(ch.Number(), getData(tagEID))
		assert.Equal(b, apdu.SWChannelNotSupported.Hex(), sw.Hex())
	}},
}
