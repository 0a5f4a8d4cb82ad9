package hwtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/report"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

const notUSB = "the virtual bench's readers are no USB devices"

func lacksUSB(*station) string {
	if onVirtual() {
		return notUSB
	}
	return ""
}

// devices lists the USB readers; reason says why there is no USB to look at.
func (f *floor) devices(t *testing.T) (devices []ccid.Info, reason string) {
	t.Helper()
	devices, err := f.usb.Devices(t.Context())
	if errors.Is(err, ccid.ErrNoUSB) || errors.Is(err, ccid.ErrNotBuilt) {
		return nil, err.Error()
	}
	require.NoError(t, err)
	return devices, ""
}

// checkUSB holds the readers that USB has against those that PC/SC has.
func (f *floor) checkUSB(t *testing.T) {
	if onVirtual() {
		report.Omit(t, notUSB)
		return
	}
	devices, reason := f.devices(t)
	if reason != "" {
		report.Omit(t, "%s", reason)
		return
	}
	readers, err := f.source.Readers(t.Context())
	require.NoError(t, err)
	for _, d := range devices {
		report.Fact(t, d.Name, "%04x:%04x, %d slots, at %s", d.USB.Vendor, d.USB.Product, len(d.Slots), where(d.USB))
	}
	for _, difference := range differences(readers, devices) {
		t.Error(difference)
	}
}

func where(u reader.USB) string {
	if u.Path != "" {
		return u.Path
	}
	return fmt.Sprintf("bus %d address %d", u.Bus, u.Address)
}

// differences says which slots only one of the two worlds has. Readers that are
// on no USB (a serial line, a network) are PC/SC's alone.
func differences(readers []reader.Reader, devices []ccid.Info) []string {
	var out []string
	for _, d := range devices {
		for _, s := range d.Slots {
			if !slices.ContainsFunc(readers, func(r reader.Reader) bool { return r.ID == s.ID }) {
				out = append(out, fmt.Sprintf("USB has %q (%s), PC/SC does not: does pcscd run with a driver for %04x:%04x?",
					s.Name, s.ID, d.USB.Vendor, d.USB.Product))
			}
		}
	}
	for _, r := range readers {
		if strings.HasPrefix(r.ID, "usb:") && deviceOf(devices, r.ID) == nil {
			out = append(out, fmt.Sprintf("PC/SC has %q (%s), USB does not", r.Name, r.ID))
		}
	}
	return out
}

// deviceOf is the USB reader that has the slot of that ID; nil if none has.
func deviceOf(devices []ccid.Info, id string) *ccid.Info {
	for i := range devices {
		if slices.ContainsFunc(devices[i].Slots, func(r reader.Reader) bool { return r.ID == id }) {
			return &devices[i]
		}
	}
	return nil
}

// checkDevice looks at the reader's USB device and its CCID descriptor.
func checkDevice(t *testing.T, s *station) {
	devices, reason := s.devices(t)
	if reason != "" {
		report.Omit(t, "%s", reason)
		return
	}
	d := deviceOf(devices, s.reader.ID)
	if d == nil {
		if !strings.HasPrefix(s.reader.ID, "usb:") {
			report.Omit(t, "PC/SC does not say which USB device it is, if any")
			return
		}
		t.Fatalf("no USB device is %s", s.reader.ID)
	}
	report.Fact(t, "device", "%04x:%04x %s %s, at %s", d.USB.Vendor, d.USB.Product, d.Manufacturer, d.Product, where(d.USB))
	factIf(t, "USB serial number", d.USB.Serial)
	report.Fact(t, "slots", "%d", len(d.Slots))
	report.Fact(t, "level", "%s", d.Descriptor.Features.Level())
	switch {
	case errors.Is(d.Err, ccid.ErrDescriptor):
		t.Error(d.Err)
		return
	case errors.Is(d.Err, apdu.ErrCardBusy), errors.Is(d.Err, ccid.ErrNoPermission): // pcscd's it is to be
		report.Fact(t, "by USB alone", "%v", d.Err)
	case d.Err != nil:
		t.Error(d.Err)
	}
	for _, l := range d.Descriptor.Lines() {
		t.Log(l)
	}
	for _, p := range d.Descriptor.Problems() {
		t.Errorf("CCID descriptor: %s", p)
	}
	assert.Equal(t, d.Descriptor.Slots(), len(d.Slots), "slots of the descriptor")
	info, err := s.source.Info(t.Context(), s.reader.Name)
	require.NoError(t, err)
	for _, m := range mismatches(info, d) {
		t.Error(m)
	}
}

// mismatches says where PC/SC tells something else of a reader than USB.
func mismatches(info pcsc.Info, d *ccid.Info) []string {
	var out []string
	differ := func(what string, byPCSC, byUSB any) {
		if byPCSC != byUSB {
			out = append(out, fmt.Sprintf("%s: PC/SC says %v, USB %v", what, byPCSC, byUSB))
		}
	}
	if p := info.Properties; p != nil {
		if p.Vendor != nil {
			differ("idVendor", *p.Vendor, d.USB.Vendor)
		}
		if p.Product != nil {
			differ("idProduct", *p.Product, d.USB.Product)
		}
	}
	if u := info.USB; u != nil {
		differ("bus", u.Bus, d.USB.Bus)
		differ("address", u.Address, d.USB.Address)
		differ("interface", u.Interface, d.USB.Interface)
	}
	if info.MaxIFSD != 0 {
		differ("dwMaxIFSD", info.MaxIFSD, d.Descriptor.MaxIFSD)
	}
	return out
}

// oneReader is a bus with one reader, which pcscd has.
type oneReader ccid.Plugged

func (b *oneReader) List(context.Context) ([]ccid.Plugged, error) {
	return []ccid.Plugged{ccid.Plugged(*b)}, nil
}

func (b *oneReader) Open(context.Context, ccid.Plugged) (ccid.Endpoints, error) {
	return nil, &ccid.BusyError{Holders: []ccid.Holder{{PID: 7, Name: "pcscd"}}}
}

// The check of a device that is as it is to be, by a virtual reader that PC/SC
// believes to be on USB.
func TestCheckDevice(t *testing.T) {
	startVirtual(t)
	b := &oneReader{
		USB: reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: "1", Bus: 1, Address: 7, Path: "1-2"}, Manufacturer: "Acme", Product: "Reader",
		Descriptor: ccid.Descriptor{
			BCD: 0x0110, Voltages: 7, ProtocolSet: 3, DefaultClock: 4000, MaximumClock: 4000, DataRate: 10752, MaxDataRate: 344105,
			MaxIFSD: 254, Features: 0x000404BE, MaxMessageLength: 65554, MaxBusySlots: 1,
		},
	}
	f := &floor{Bench: &Bench{Limits: DefaultLimits}, source: pcsc.New(), usb: ccid.NewSource(b)}
	s := &station{floor: f, config: Reader{Limits: DefaultLimits}, reader: reader.Reader{Name: managed, ID: b.USB.ID(0, false)}}
	devices, reason := f.devices(t)
	require.Empty(t, reason)
	require.Len(t, devices, 1)
	require.NotNil(t, deviceOf(devices, s.reader.ID))
	checkDevice(t, s)

	p := newProbe(t, s)
	promised, by := promisedData(t, s, p)
	assert.Equal(t, 65554-10-9, promised)
	assert.Contains(t, by, "dwMaxCCIDMessageLength")
}

func TestDifferences(t *testing.T) {
	u := reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: "1", Path: "1-2"}
	one := ccid.Info{Slots: []reader.Reader{{Name: "one slot 0", ID: u.ID(0, false)}, {Name: "one slot 1", ID: u.ID(1, false)}}}
	one.USB = u
	slot0, slot1 := reader.Reader{Name: "One 00 00", ID: u.ID(0, false)}, reader.Reader{Name: "One 00 01", ID: u.ID(1, false)}
	serial := reader.Reader{Name: "GemPC 00 00", ID: "name:GemPC 00 00"}

	assert.Empty(t, differences([]reader.Reader{slot0, slot1, serial}, []ccid.Info{one}))
	assert.Empty(t, differences(nil, nil))
	assert.Equal(t, []string{`USB has "one slot 1" (usb:08e6:4433:serial=1:0.1), PC/SC does not: does pcscd run with a driver for 08e6:4433?`},
		differences([]reader.Reader{slot0}, []ccid.Info{one}))
	assert.Equal(t, []string{`PC/SC has "One 00 00" (usb:08e6:4433:serial=1:0.0), USB does not`},
		differences([]reader.Reader{slot0, serial}, nil))
	assert.Equal(t, &one, deviceOf([]ccid.Info{{}, one}, slot1.ID))
}

func TestMismatches(t *testing.T) {
	u := reader.USB{Vendor: 0x08E6, Product: 0x4433, Bus: 1, Address: 7}
	d := &ccid.Info{}
	d.USB, d.Descriptor.MaxIFSD = u, 254
	vendor, other := u.Vendor, uint16(0x1234)
	assert.Empty(t, mismatches(pcsc.Info{}, d))
	assert.Empty(t, mismatches(pcsc.Info{USB: &u, Properties: &pcsc.Properties{Vendor: &vendor}, MaxIFSD: 254}, d))
	assert.Equal(t, []string{
		"idVendor: PC/SC says 4660, USB 2278", "idProduct: PC/SC says 4660, USB 17459", "address: PC/SC says 8, USB 7", "dwMaxIFSD: PC/SC says 32, USB 254",
	}, mismatches(pcsc.Info{
		USB: &reader.USB{Bus: 1, Address: 8}, Properties: &pcsc.Properties{Vendor: &other, Product: &other}, MaxIFSD: 32,
	}, d))
}
