package usbtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/hwtest/usbip"
	"github.com/cardbridge/cardbridge/hwtest/vm"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
)

func TestMain(m *testing.M) {
	vm.Main(m, vm.Config{
		Files: []string{"../../go.mod", "../../card/cryptogram/testdata"}, // the keys of the test vectors
		Host:  thirdParty,
	})
}

// patience is for a slow machine with much else to do.
const patience = 30 * time.Second

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// conn is what both ways give.
type conn interface {
	apdu.Conn
	ShortOnly() bool
}

// way is a way to a card in a reader, by the reader's identity.
type way struct {
	name string
	open func(ctx context.Context, id string, t1 bool) (conn, error)
}

// direct is the way without pcscd, which must not run.
var direct = way{"direct", func(ctx context.Context, id string, t1 bool) (conn, error) {
	o := ccid.Options{Protocol: ccid.T0}
	if t1 {
		o.Protocol = ccid.T1
	}
	return waitFor(ctx, func() (conn, error) { return ccid.New().Connect(ctx, id, o) })
}}

// service is the way through pcscd, which must run.
var service = way{"pcscd", func(ctx context.Context, id string, t1 bool) (conn, error) {
	o := pcsc.Options{Protocol: pcsc.T0, OnClose: pcsc.UnpowerCard}
	if t1 {
		o.Protocol = pcsc.T1
	}
	return waitFor(ctx, func() (conn, error) {
		src := pcsc.New()
		readers, err := src.Readers(ctx)
		if err != nil {
			return nil, err
		}
		r, err := pcsc.Find(readers, id)
		if err != nil {
			return nil, err
		}
		return src.Connect(ctx, r.Name, o)
	})
}}

// waitFor tries until reader and card are there.
func waitFor[C conn](ctx context.Context, open func() (C, error)) (conn, error) {
	for {
		c, err := open()
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, apdu.ErrNoReader) && !errors.Is(err, apdu.ErrNoCard) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// plug plugs a device into a port until the test ends.
func plug(t *testing.T, port int, d *ccidsim.Device) *usbip.Port {
	t.Helper()
	p, err := usbip.Plug(port, d)
	require.NoError(t, err)
	t.Cleanup(func() { unplug(t, p) })
	return p
}

// unplug takes a device out, and waits until nobody can find it there: a kernel
// that learns at once that a device left and another came may not see the
// difference.
func unplug(t *testing.T, p *usbip.Port) {
	t.Helper()
	assert.NoError(t, p.Close())
	device := fmt.Sprintf("/sys/bus/usb/devices/1-%d", p.Number()+1) // the controller's first hub is bus 1
	assert.Eventually(t, func() bool {
		_, err := os.Stat(device)
		return errors.Is(err, os.ErrNotExist)
	}, patience, 5*time.Millisecond)
}

// startService runs pcscd until the test ends.
func startService(t *testing.T) *rig.PCSCD { return rig.Start(t, rig.Options{}) }

// record is a card as it is registered, made from what its memory holds.
func record(t *testing.T, im *appletsim.Image) *card.Record {
	rec, err := card.ParseRecord(servertest.Record(im))
	require.NoError(t, err)
	return rec
}

// target is a card to the server, in one suite.
func target(rec *card.Record, suite cryptogram.Suite) card.Target {
	t := rec.Target()
	t.Suite = suite
	return t
}

// operate carries an operation out, as the server would, and gives what the card
// says afterwards in a session of its own.
func operate(t *testing.T, to card.Target, ins byte, profile id.ICCID, open func(context.Context) (apdu.Conn, error)) *card.Status {
	ctx := deadline(t)
	terminal := servertest.Terminal()
	op := card.Operation{INS: ins, RequestID: id.RequestID(bytes.Repeat([]byte{ins}, 16)), ICCID: &profile, Attempts: 1, Wait: patience, Open: open}
	_, rep, err := terminal.Run(ctx, to, op)
	require.NoError(t, err)
	require.Equal(t, card.OutcomeDone, rep.Outcome)
	c, err := open(ctx)
	require.NoError(t, err)
	status, _, err := terminal.ReadStatus(ctx, apdu.BasicChannel(c), to)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return status
}

// deactivates has a card's enabled profile deactivated, and checks that the
// card's memory is what it says, and what it should be.
func deactivates(t *testing.T, sim *appletsim.Card, suite cryptogram.Suite, open func(context.Context) (apdu.Conn, error)) {
	before := record(t, sim.Image())
	status := operate(t, target(before, suite), card.INSDeactivate, before.Profiles[0].ICCID, open)
	after := record(t, sim.Image())
	assert.Equal(t, after.Profiles, status.Profiles)
	assert.Equal(t, after.EventCounter, status.EventCounter)
	before.Profiles[0].State = card.Disabled
	before.EventCounter++
	assert.Equal(t, before, after)
}

// identity is the identity of a reader's first slot.
func identity(vendor, product uint16, serial string) string {
	return reader.USB{Vendor: vendor, Product: product, Serial: serial}.ID(0, false)
}
