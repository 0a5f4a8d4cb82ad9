package usbtest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// Vendor and product of a reader that libccid's list knows.
const (
	vendor  = 0x08E6
	product = 0x4433
)

// kinds are the readers and cards that both ways must cope with.
var kinds = []struct {
	serial    string
	level     ccidsim.Level
	automatic ccidsim.Automatic
	atr       ccidsim.ATR
	suite     cryptogram.Suite
}{
	{"TPDU-T0", ccidsim.TPDU, ccidsim.AutoVoltage, t0, cryptogram.Suite01},
	{"TPDU-T1", ccidsim.TPDU, ccidsim.AutoVoltage, t1, cryptogram.Suite03},
	{"TPDU-T1-CRC", ccidsim.TPDU, ccidsim.AutoVoltage | ccidsim.AutoPPS, t1CRC, cryptogram.Suite01},
	{"short-T0", ccidsim.ShortAPDU, automatic, t0, cryptogram.Suite01},
	{"short-T1", ccidsim.ShortAPDU, automatic, t1, cryptogram.Suite01},
	{"extended-T0", ccidsim.ExtendedAPDU, automatic, t0, cryptogram.Suite01},
	{"extended-T1", ccidsim.ExtendedAPDU, automatic, t1, cryptogram.Suite03},
}

// automatic is a reader that does all by itself.
const automatic = ccidsim.AutoConfig | ccidsim.AutoVoltage | ccidsim.AutoClock | ccidsim.AutoBaud | ccidsim.AutoParameters | ccidsim.AutoIFSD

// Answers to reset: with PPS to do (TA1) and without.
var (
	t0    = ccidsim.ATR{Protocols: []byte{0}, TA1: 0x95, WI: 10}
	t1    = ccidsim.ATR{Protocols: []byte{1}, TA1: 0x95, IFSC: 254, Waiting: 0x45}
	t1CRC = ccidsim.ATR{Protocols: []byte{1}, IFSC: 254, Waiting: 0x45, CRC: true}
)

func TestKinds(t *testing.T) {
	devices := map[string]*ccidsim.Device{}
	for port, k := range kinds {
		d := ccidsim.New(ccidsim.Config{Level: k.level, Automatic: k.automatic, Vendor: vendor, Product: product, Serial: k.serial})
		plug(t, port, d)
		devices[k.serial] = d
	}
	all := func(t *testing.T, w way) {
		for i, k := range kinds {
			t.Run(k.serial, func(t *testing.T) {
				var opts []appletsim.Option
				if k.level == ccidsim.ShortAPDU && w.name == service.name {
					// PC/SC does not tell that a reader cannot carry extended length.
					opts = append(opts, appletsim.WithoutExtendedLength())
				}
				sim := servertest.Card(servertest.Image(i), opts...)
				devices[k.serial].Insert(0, ccidsim.WithATR(sim, k.atr))
				isT1 := k.atr.Protocols[0] == 1
				deactivates(t, sim, k.suite, func(ctx context.Context) (apdu.Conn, error) {
					c, err := w.open(ctx, identity(vendor, product, k.serial), isT1)
					if err != nil {
						return nil, err
					}
					short := !isT1 || k.level == ccidsim.ShortAPDU && w.name == direct.name
					assert.Equal(t, short, c.ShortOnly())
					return c, nil
				})
			})
		}
	}
	t.Run(direct.name, func(t *testing.T) { all(t, direct) })
	t.Run(service.name, func(t *testing.T) {
		startService(t)
		all(t, service)
	})
}
