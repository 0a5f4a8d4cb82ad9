package cardtest

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
)

// Instructions of docs/protocol.md §6.
const (
	insDeactivate    = card.INSDeactivate
	insActivate      = card.INSActivate
	insManageChannel = 0x70
	insExternal      = 0x82
	insInternal      = 0x88
	insSelect        = 0xA4
	insGetResponse   = 0xC0
	insGetData       = 0xCA
	insGetStatus     = 0xF2
	insUnknown       = 0x10
	cla, proprietary = 0x00, 0x80
	secured          = 0x8C
	chaining         = 0x10
	tagEID           = 0x5A
	tagInfo          = 0xE1
	modulus2048      = 256 // bytes
)

// bench is a card on the bench: one test, one card, one connection. The applet
// is selected on the basic channel.
type bench struct {
	*testing.T
	card    *Card
	rec     card.Record // what the card is, kept up to date
	conn    apdu.Conn
	basic   *apdu.Channel
	omit    func(reason string)
	initial []card.Profile
}

func newBench(t *testing.T, c *Card, omit func(string)) *bench {
	t.Helper()
	b := &bench{T: t, card: c, rec: *c.Record, omit: omit}
	b.rec.Profiles = slices.Clone(b.rec.Profiles)
	b.initial = slices.Clone(b.rec.Profiles)
	b.open()
	return b
}

// open connects anew and selects the applet.
func (b *bench) open() {
	b.Helper()
	b.conn = b.card.Open(b.T)
	require.NotNil(b, b.conn)
	b.basic = apdu.BasicChannel(b.conn)
	b.choose(b.basic)
}

func (b *bench) close() {
	if b.conn != nil {
		assert.NoError(b, b.conn.Close())
		b.conn = nil
	}
}

func (b *bench) reopen() {
	b.Helper()
	b.close()
	b.open()
}

// reset resets the card and selects the applet.
func (b *bench) reset() {
	b.Helper()
	require.NoError(b, b.conn.Reset(b.Context()))
	b.basic = apdu.BasicChannel(b.conn)
	b.choose(b.basic)
}

func (b *bench) powerCycle() {
	b.Helper()
	b.card.PowerCycle(b.T, b.conn)
	b.reopen()
}

// end puts the card back as it was found, where that is asked for, and
// disconnects.
func (b *bench) end() {
	if b.card.Restore && b.conn != nil {
		b.restore()
	}
	b.close()
}

func (b *bench) restore() {
	b.Helper()
	b.reopen()
	status := b.readStatus()
	b.rec.Profiles, b.rec.EventCounter = status.Profiles, status.EventCounter
	want := slices.IndexFunc(b.initial, func(p card.Profile) bool { return p.State == card.Enabled })
	now, any := status.Enabled()
	if any && !now.Fallback && (want < 0 || now.ICCID != b.initial[want].ICCID) {
		b.link().operate(b.deactivate(now))
		b.rec.EventCounter++
	}
	if want >= 0 && !b.initial[want].Fallback && (!any || now.ICCID != b.initial[want].ICCID) {
		b.link().operate(b.activate(b.initial[want]))
	}
	assert.Equal(b, b.initial, b.readStatus().Profiles, "the card is back in the state in which it was found")
}

func (b *bench) shortOnly() bool {
	s, ok := b.conn.(apdu.ShortOnly)
	return ok && s.ShortOnly()
}

// once sends one APDU on a channel, byte for byte: no chaining, no GET RESPONSE.
func (b *bench) once(ch *apdu.Channel, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	b.Helper()
	cmd.CLA = on(ch, cmd.CLA)
	capdu, err := cmd.AppendBinary(nil)
	require.NoError(b, err)
	return b.raw(capdu)
}

// on is cla on a channel, with its marks.
func on(ch *apdu.Channel, cla byte) byte {
	return apdu.ChannelCLA(cla, ch.Number(), cla&0x0C == 0x0C)
}

func (b *bench) raw(capdu []byte) ([]byte, apdu.StatusWord) {
	b.Helper()
	rapdu, err := b.conn.Transmit(b.Context(), capdu)
	require.NoError(b, err)
	data, sw, err := apdu.ParseResponse(rapdu)
	require.NoError(b, err)
	return data, sw
}

// exchange carries a command through to its last byte.
func (b *bench) exchange(ch *apdu.Channel, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	b.Helper()
	data, sw, err := ch.Transmit(b.Context(), cmd)
	require.NoError(b, err)
	return data, sw
}

// expect carries a command through and checks its status word; with any but
// 9000 there must be no data.
func (b *bench) expect(want apdu.StatusWord, ch *apdu.Channel, cmd apdu.Command, what ...any) []byte {
	b.Helper()
	data, sw := b.exchange(ch, cmd)
	assert.Equal(b, want.Hex(), sw.Hex(), what...)
	if want != apdu.SWSuccess {
		assert.Empty(b, data, what...)
	}
	return data
}

// expectOnce is expect for one APDU as it is.
func (b *bench) expectOnce(want apdu.StatusWord, ch *apdu.Channel, cmd apdu.Command, what ...any) []byte {
	b.Helper()
	data, sw := b.once(ch, cmd)
	assert.Equal(b, want.Hex(), sw.Hex(), what...)
	return data
}

func selectApplet() apdu.Command {
	return apdu.Command{INS: insSelect, P1: 0x04, Data: []byte(card.AID), Ne: apdu.MaxShortNe}
}

// choose selects the applet.
func (b *bench) choose(ch *apdu.Channel) {
	b.Helper()
	_, sw := b.exchange(ch, selectApplet())
	require.Equal(b, apdu.SWSuccess.Hex(), sw.Hex(), "SELECT")
}

// channel opens a supplementary channel and selects the applet there.
func (b *bench) channel() *apdu.Channel {
	b.Helper()
	ch := b.empty()
	b.choose(ch)
	return ch
}

// empty opens a supplementary channel.
func (b *bench) empty() *apdu.Channel {
	b.Helper()
	ch, err := b.basic.Open(b.Context())
	require.NoError(b, err)
	return ch
}

func getData(tag byte) apdu.Command {
	return apdu.Command{CLA: proprietary, INS: insGetData, P2: tag, Ne: apdu.MaxShortNe}
}

// info reads the card info: the event counter, the kids in the order in which
// they stand, and the count of failed authentications of each.
func (b *bench) info() (counter uint32, kids []byte, failures map[byte]uint16) {
	b.Helper()
	data := b.expect(apdu.SWSuccess, b.basic, getData(tagInfo), "GET DATA card info")
	in, rest, err := tlv.Expect(data, tagInfo)
	require.NoError(b, err)
	require.Empty(b, rest)
	v, in, err := tlv.Expect(in, 0x80)
	require.NoError(b, err)
	require.Len(b, v, 4, "event counter")
	counts, in, err := tlv.Expect(in, 0x81)
	require.NoError(b, err)
	require.Empty(b, in)
	require.Zero(b, len(counts)%3, "kid and two bytes each")
	failures = map[byte]uint16{}
	for ; len(counts) > 0; counts = counts[3:] {
		kids = append(kids, counts[0])
		failures[counts[0]] = binary.BigEndian.Uint16(counts[1:])
	}
	return binary.BigEndian.Uint32(v), kids, failures
}

// enabled is the enabled profile.
func (b *bench) enabled() card.Profile {
	b.Helper()
	return b.find("enabled", func(p card.Profile) bool { return p.State == card.Enabled })
}

// spare is a disabled profile that can be enabled and disabled again.
func (b *bench) spare() card.Profile {
	b.Helper()
	return b.find("disabled", func(p card.Profile) bool { return p.State == card.Disabled && !p.PPR1 && !p.Fallback })
}

func (b *bench) fallback() card.Profile {
	b.Helper()
	return b.find("the fallback", func(p card.Profile) bool { return p.Fallback })
}

func (b *bench) find(what string, f func(card.Profile) bool) card.Profile {
	b.Helper()
	i := slices.IndexFunc(b.rec.Profiles, f)
	require.GreaterOrEqual(b, i, 0, "a profile that is %s", what)
	return b.rec.Profiles[i]
}

// strange is an ICCID that no profile has.
func (b *bench) strange() id.ICCID {
	b.Helper()
	for n := 0; ; n++ {
		c := id.ICCID{0x98, 0x99, 9: byte(n/10%10 | n%10<<4)}
		if _, ok := b.rec.Profile(c); !ok {
			return c
		}
	}
}

// stranger is an operator that owns nothing.
func (b *bench) stranger() id.MCCMNC {
	b.Helper()
	for n := 0; ; n++ {
		m := id.MCCMNC{0x99, 0xF9, byte(n/10%10 | n%10<<4)}
		if !slices.ContainsFunc(b.rec.Profiles, func(p card.Profile) bool { return p.Owner == m }) {
			return m
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
