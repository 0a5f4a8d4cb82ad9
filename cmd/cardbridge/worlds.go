package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// The worlds in which a reader can be seen: by the PC/SC service, and on the USB
// itself.
const (
	worldPCSC = "pcsc"
	worldUSB  = "usb"
)

// slotView is one slot as both worlds have it; they are one by identity.
type slotView struct {
	reader.Reader
	Worlds  []string      // where it is seen
	USBName string        // its name there, where it is seen on USB
	Problem string        // what is wrong with it; "" for nothing
	Do      string        // and what to do about it
	Holders []ccid.Holder // programs that may hold it, as far as that can be told
	device  *ccid.Info    // nil where it is not seen on USB
	slot    int           // its number on device
}

// view is all the readers, and what keeps a world from being seen.
type view struct {
	Slots           []*slotView
	pcscErr, usbErr error
	usbDevices      []ccid.Info
}

// look lists the readers of both worlds. claim has it ask the readers that nobody
// holds what is in them, which keeps others from them for that moment: PC/SC goes
// first, so that a service that starts by being asked has its readers by then.
func look(ctx context.Context, claim bool) *view {
	v := &view{}
	var listed []reader.Reader
	listed, v.pcscErr = pcsc.New().Readers(ctx)
	if usb := ccid.New(); claim {
		v.usbDevices, v.usbErr = usb.Devices(ctx)
	} else {
		v.usbDevices, v.usbErr = usb.List(ctx)
	}
	v.merge(listed)
	return v
}

// merge makes one list of both.
func (v *view) merge(listed []reader.Reader) {
	for _, r := range listed {
		v.Slots = append(v.Slots, &slotView{Reader: r, Worlds: []string{worldPCSC}})
	}
	for i := range v.usbDevices {
		d := &v.usbDevices[i]
		for n, r := range d.Slots {
			at := slices.IndexFunc(v.Slots, func(s *slotView) bool { return s.ID == r.ID && s.device == nil })
			if at < 0 {
				at = len(v.Slots)
				v.Slots = append(v.Slots, &slotView{Reader: r})
			}
			s := v.Slots[at]
			s.Worlds = append(s.Worlds, worldUSB)
			s.USBName, s.device, s.slot = r.Name, d, n
		}
	}
	for _, s := range v.Slots {
		s.diagnose(v.pcscErr)
	}
}

func (s *slotView) in(world string) bool { return slices.Contains(s.Worlds, world) }

// diagnose says what is wrong with a slot and what to do about it.
func (s *slotView) diagnose(pcscErr error) {
	switch byPCSC := s.in(worldPCSC); {
	case byPCSC && s.Mute:
		s.Problem = "the card does not answer to reset"
		s.Do = "take it out, look at its contacts and which way it lies, put it back; cardbridge reader reset --cold tries again"
	case byPCSC && s.Exclusive:
		s.Holders = pcscClients(procRoot)
		s.Problem = "another program holds the card exclusively" + candidates(s.Holders)
		s.Do = "end that program"
	case byPCSC: // by PC/SC it works, and so the service holds it on USB
	case s.device.Err == nil && pcscErr == nil:
		s.Problem = "the PC/SC service does not list this reader"
		s.Do = "install its driver (Debian: libccid) and see pcscd's log; or drive it directly: --driver usb"
	case s.device.Err == nil:
		s.Do = "it can be driven directly: --driver usb"
	default:
		s.Problem, s.Do = s.device.Err.Error(), whatToDo(s.device.Err)
		var busy *ccid.BusyError
		if errors.As(s.device.Err, &busy) {
			s.Holders = busy.Holders
		}
	}
}

// whatToDo is advice on an error of USB, where its own text has none.
func whatToDo(err error) string {
	var busy *ccid.BusyError
	switch {
	case errors.As(err, &busy) && busy.Driver != "":
		return "do that as root, and again each time the reader is plugged in; or keep the driver from being loaded"
	case errors.Is(err, ccid.ErrNoPermission):
		return "add the udev rule, then: udevadm control --reload && udevadm trigger; and plug the reader in again"
	case errors.Is(err, apdu.ErrCardBusy):
		return "end what holds it; where that is pcscd, use the reader by PC/SC"
	case errors.Is(err, ccid.ErrDescriptor):
		return "the reader's firmware says what cannot be: look for a newer one from its maker"
	case errors.Is(err, ccid.ErrUnplugged):
		return "plug it in again"
	}
	return ""
}

func candidates(holders []ccid.Holder) string {
	if len(holders) == 0 {
		return ""
	}
	names := make([]string, len(holders))
	for i, h := range holders {
		names[i] = h.String()
	}
	return ": perhaps " + strings.Join(names, ", ")
}

// problem is a world that cannot be seen.
type problem struct {
	World   string `json:"world"`
	Problem string `json:"problem"`
}

// problems are the worlds that cannot be seen though there may be readers in
// them. A system without USB, or a program without libusb, is one only where
// PC/SC shows nothing either.
func (v *view) problems() []problem {
	var found []problem
	if v.pcscErr != nil {
		found = append(found, problem{worldPCSC, v.pcscErr.Error()})
	}
	quiet := errors.Is(v.usbErr, ccid.ErrNoUSB) || errors.Is(v.usbErr, ccid.ErrNotBuilt)
	if v.usbErr != nil && (!quiet || len(v.Slots) == 0) {
		found = append(found, problem{worldUSB, v.usbErr.Error()})
	}
	return found
}
