package ccid_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
)

// Every kind of reader, every protocol.
func TestExchange(t *testing.T) {
	cards := []struct {
		name     string
		atr      ccidsim.ATR
		protocol ccid.Protocol
		speed    string
	}{
		{"T=0", ccidsim.ATR{}, ccid.T0, "F=372 D=1"},
		{"T=0 fast", ccidsim.ATR{TA1: 0x96}, ccid.T0, "F=512 D=32"},
		{"T=1", ccidsim.ATR{Protocols: []byte{1}, IFSC: 254, Waiting: 0x45}, ccid.T1, "F=372 D=1"},
		{"T=1 of 32 bytes", ccidsim.ATR{Protocols: []byte{1}}, ccid.T1, "F=372 D=1"},
		{"T=1 CRC", ccidsim.ATR{Protocols: []byte{1}, IFSC: 100, CRC: true}, ccid.T1, "F=372 D=1"},
		{"T=0 and T=1", ccidsim.ATR{Protocols: []byte{0, 1}, TA1: 0x18, IFSC: 254}, ccid.T1, "F=372 D=12"},
		{"specific T=1", ccidsim.ATR{Protocols: []byte{1}, Specific: true, TA1: 0x13, IFSC: 64}, ccid.T1, "F=372 D=4"},
		{"specific T=0", ccidsim.ATR{Protocols: []byte{0, 1}, Specific: true, TA1: 0x13}, ccid.T0, "F=372 D=4"},
	}
	for _, level := range []ccidsim.Level{ccidsim.Character, ccidsim.TPDU, ccidsim.ShortAPDU, ccidsim.ExtendedAPDU} {
		for _, automatic := range []ccidsim.Automatic{0, ccidsim.AutoVoltage | ccidsim.AutoConfig | ccidsim.AutoClock | ccidsim.AutoBaud,
			ccidsim.AutoConfig | ccidsim.AutoPPS | ccidsim.AutoIFSD, ccidsim.AutoConfig | ccidsim.AutoParameters} {
			for _, c := range cards {
				t.Run(fmt.Sprintf("%v/%03X/%s", level, uint32(automatic), c.name), func(t *testing.T) {
					card, _ := withATR(c.atr)
					_, conn := connect(t, ccidsim.Config{Level: level, Automatic: automatic}, card, ccid.Options{})
					if level <= ccidsim.TPDU && automatic&ccidsim.AutoParameters == 0 {
						assert.Equal(t, c.protocol, conn.Protocol())
						assert.Equal(t, c.speed, conn.Speed().String())
					}
					assert.Equal(t, conn.Protocol() == ccid.T0 || level == ccidsim.ShortAPDU, conn.ShortOnly())
					works(t, conn)
					require.NoError(t, conn.Reset(soon(t)))
					works(t, conn)
					require.NoError(t, conn.ColdReset(soon(t)))
					works(t, conn)
					require.NoError(t, conn.Close())
				})
			}
		}
	}
}

func TestT0SingleBytes(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{})
	_, conn := connect(t, ccidsim.Config{Level: ccidsim.Character, SingleBytes: true}, card, ccid.Options{})
	works(t, conn)
}

// Extended APDUs both ways, in one message and in several.
func TestExtendedLength(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{Protocols: []byte{1}, IFSC: 254, Historical: []byte{0x80, 0x73, 0, 0, 0xC0}})
	for _, cfg := range []ccidsim.Config{
		{Level: ccidsim.TPDU},
		{Level: ccidsim.ExtendedAPDU},
		{Level: ccidsim.ExtendedAPDU, MaxMessage: 512},
		{Level: ccidsim.ExtendedAPDU, MaxMessage: 1034, FullSpeed: true},
	} {
		t.Run(fmt.Sprintf("%v/%d", cfg.Level, cfg.MaxMessage), func(t *testing.T) {
			_, conn := connect(t, cfg, card, ccid.Options{})
			require.False(t, conn.ShortOnly())
			for _, n := range []int{256, 503, 1004, 1014, 1024, 4096, 65535} {
				data, sw, err := apdu.BasicChannel(conn).Transmit(soon(t), apdu.Command{INS: 0xA4, Data: counting(n), Ne: 65536})
				require.NoError(t, err)
				assert.Equal(t, apdu.SWSuccess, sw)
				assert.Equal(t, counting(n), data)
			}
		})
	}
}

// What cannot be carried is refused before the card sees anything.
func TestRefused(t *testing.T) {
	one, _ := withATR(ccidsim.ATR{Protocols: []byte{1}})
	zero, _ := withATR(ccidsim.ATR{})
	extended := command(t, apdu.Command{INS: 0xA4, Data: counting(300), Ne: 1})
	for _, c := range []struct {
		name  string
		level ccidsim.Level
		card  ccidsim.Card
		capdu []byte
		want  error
	}{
		{"extended at the short-APDU level", ccidsim.ShortAPDU, one, extended, ccid.ErrExtended},
		{"extended in T=0", ccidsim.TPDU, zero, extended, ccid.ErrExtended},
		{"extended in T=0, character level", ccidsim.Character, zero, extended, ccid.ErrExtended},
		{"Lc that lies in T=0", ccidsim.TPDU, zero, unhex(t, "00A4000003 0102"), apdu.ErrMalformed},
		{"INS 6X in T=0", ccidsim.TPDU, zero, unhex(t, "00600000"), apdu.ErrMalformed},
		{"three bytes", ccidsim.ExtendedAPDU, one, unhex(t, "00A400"), apdu.ErrMalformed},
		{"too long", ccidsim.ExtendedAPDU, one, make([]byte, 65545), apdu.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, conn := connect(t, ccidsim.Config{Level: c.level}, c.card, ccid.Options{})
			_, err := conn.Transmit(soon(t), c.capdu)
			assert.ErrorIs(t, err, c.want)
			assert.NotErrorIs(t, err, apdu.ErrTransport)
			var e *ccid.Error
			assert.ErrorAs(t, err, &e)
			works(t, conn)
		})
	}
}

// A T=0 command that the reader's messages do not hold is not sent.
func TestTooLongInT0(t *testing.T) {
	for _, level := range []ccidsim.Level{ccidsim.TPDU, ccidsim.Character} {
		card, e := withATR(ccidsim.ATR{})
		_, conn := connect(t, ccidsim.Config{Level: level, MaxMessage: 64}, card, ccid.Options{})
		e.history()
		_, err := conn.Transmit(soon(t), command(t, apdu.Command{INS: 0xA4, Data: counting(50)}))
		assert.ErrorIs(t, err, ccid.ErrTooLong)
		assert.Empty(t, e.history())
		_, err = conn.Transmit(soon(t), selectFile)
		assert.NoError(t, err)
	}
}

// In T=0 the caller sees 61xx and 6Cxx, whatever the reader's level.
func TestT0StatusReachesTheCaller(t *testing.T) {
	for _, level := range []ccidsim.Level{ccidsim.Character, ccidsim.TPDU, ccidsim.ShortAPDU, ccidsim.ExtendedAPDU} {
		t.Run(level.String(), func(t *testing.T) {
			card, _ := withATR(ccidsim.ATR{})
			_, conn := connect(t, ccidsim.Config{Level: level}, card, ccid.Options{})
			rapdu, err := conn.Transmit(soon(t), unhex(t, "00A40000 02 3F00 00"))
			require.NoError(t, err)
			assert.Equal(t, []byte{0x61, 0x02}, rapdu)
			rapdu, err = conn.Transmit(soon(t), unhex(t, "00C0000002"))
			require.NoError(t, err)
			assert.Equal(t, unhex(t, "3F009000"), rapdu)
			if level <= ccidsim.TPDU { // the readers of APDU level see to it themselves
				rapdu, err = conn.Transmit(soon(t), unhex(t, "00B0000500"))
				require.NoError(t, err)
				assert.Equal(t, []byte{0x6C, 0x05}, rapdu)
			}
		})
	}
}

func TestProtocolWanted(t *testing.T) {
	both, _ := withATR(ccidsim.ATR{Protocols: []byte{0, 1}, IFSC: 254})
	for _, level := range []ccidsim.Level{ccidsim.Character, ccidsim.TPDU, ccidsim.ShortAPDU} {
		_, conn := connect(t, ccidsim.Config{Level: level}, both, ccid.Options{Protocol: ccid.T0})
		assert.Equal(t, ccid.T0, conn.Protocol())
		works(t, conn)
	}
	zero, _ := withATR(ccidsim.ATR{})
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU})
	sim.Insert(0, zero)
	d := attach(t, sim)
	_, err := d.Connect(soon(t), 0, ccid.Options{Protocol: ccid.T1})
	assert.ErrorIs(t, err, ccid.ErrProtocol)
	assert.ErrorIs(t, err, apdu.ErrTransport)
	conn, err := d.Connect(soon(t), 0, ccid.Options{})
	require.NoError(t, err, "the slot is free again")
	works(t, conn)
}
