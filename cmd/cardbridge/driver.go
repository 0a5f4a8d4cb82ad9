package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Ways to reach a reader: they are named as the worlds are.
const (
	driverPCSC = worldPCSC
	driverUSB  = worldUSB
)

func addDriverFlag(f *pflag.FlagSet, driver *string) {
	f.StringVar(driver, "driver", "", "how to reach readers, `DRIVER`: pcsc, by the PC/SC service, or usb, USB CCID readers without it (default pcsc)")
}

// sourceOf gives the readers that a driver reaches.
func sourceOf(driver string) (reader.Source, error) {
	switch driver {
	case driverPCSC, "":
		return pcsc.New(), nil
	case driverUSB:
		return ccid.New(), nil
	}
	return nil, fmt.Errorf("driver %q is neither %s nor %s", driver, driverPCSC, driverUSB)
}

// connectUSB waits for a card in a USB reader and connects to it, as connect
// does by PC/SC. A USB reader is its holder's alone.
func connectUSB(ctx context.Context, name string, o ccid.Options) (apdu.Conn, error) {
	source := ccid.New()
	var inTheWay error
	for {
		conn, err := source.Connect(ctx, name, o)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil && inTheWay != nil:
			return nil, inTheWay // what was waited for tells more than that the time is over
		case !waitable(err):
			return nil, err
		}
		inTheWay = err
		select {
		case <-time.After(busyRetry):
		case <-ctx.Done():
			return nil, inTheWay
		}
	}
}

// waitable reports whether waiting may mend err: card or reader are away, or
// another program has them.
func waitable(err error) bool {
	for _, e := range []error{apdu.ErrNoReader, apdu.ErrNoCard, apdu.ErrCardRemoved, apdu.ErrCardBusy, ccid.ErrUnplugged} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
