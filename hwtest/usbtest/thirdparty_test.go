package usbtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vscard"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// The card in QEMU's reader, by its number, and the reader.
const (
	thirdPartyCard   = 99
	thirdPartySerial = "QEMU"
)

// thirdParty is the host's part: it serves the card in QEMU's reader, and checks
// in the end that its memory is as TestThirdParty leaves it, if that ran.
func thirdParty(ctx context.Context, dir string) (args []string, finish func() error, err error) {
	sim := servertest.Card(servertest.Image(thirdPartyCard))
	socket := filepath.Join(dir, "card")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	served := make(chan error, 1)
	go func() { served <- vscard.Serve(ctx, listener, sim) }()
	finish = func() error {
		if err := <-served; !errors.Is(err, context.Canceled) {
			return err
		}
		return asLeft(sim.Image())
	}
	return []string{
		"-device", "qemu-xhci", "-device", "usb-ccid,serial=" + thirdPartySerial, "-chardev", "socket,id=card,path=" + socket,
		"-device", "ccid-card-passthru,chardev=card",
	}, finish, nil
}

// asLeft says what is wrong with the card's memory after it all.
func asLeft(im *appletsim.Image) error {
	want := servertest.Image(thirdPartyCard)
	switch im.EventCounter {
	case want.EventCounter: // TestThirdParty did not run
	case want.EventCounter + 2:
	default:
		return fmt.Errorf("the card in QEMU's reader has counted %d events, not %d", im.EventCounter, want.EventCounter+2)
	}
	for i, p := range im.Profiles {
		if p != want.Profiles[i] {
			return fmt.Errorf("the card in QEMU's reader has profile %d %s", i, p.State)
		}
	}
	return nil
}

// TestThirdParty uses a reader that nobody here wrote: QEMU's, at the TPDU
// level with T=0.
func TestThirdParty(t *testing.T) {
	rec := record(t, servertest.Image(thirdPartyCard))
	to, iccid := target(rec, cryptogram.Suite01), rec.Profiles[0].ICCID
	through := func(w way) func(context.Context) (apdu.Conn, error) {
		return func(ctx context.Context) (apdu.Conn, error) {
			return w.open(ctx, identity(vendor, product, thirdPartySerial), false)
		}
	}
	check := func(t *testing.T, status *card.Status) {
		rec.EventCounter++
		assert.Equal(t, rec.EventCounter, status.EventCounter)
		assert.Equal(t, rec.Profiles, status.Profiles)
	}
	t.Run(direct.name, func(t *testing.T) {
		status := operate(t, to, card.INSDeactivate, iccid, through(direct))
		rec.Profiles[0].State = card.Disabled
		check(t, status)
	})
	t.Run(service.name, func(t *testing.T) {
		startService(t)
		status := operate(t, to, card.INSActivate, iccid, through(service))
		rec.Profiles[0].State = card.Enabled
		check(t, status)
	})
}
