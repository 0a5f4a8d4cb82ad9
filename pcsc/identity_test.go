package pcsc_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// sysfs is a place like /sys/bus/usb/devices.
type sysfs struct{ root string }

func newSysfs(t *testing.T) sysfs { return sysfs{t.TempDir()} }

// plug puts a CCID reader, 08e6:4433, at path "1-2".
func (s sysfs) plug(t *testing.T, path string, bus, address int, serial string, interfaces ...string) {
	files := map[string]string{
		"busnum": fmt.Sprint(bus), "devnum": fmt.Sprint(address), "idVendor": "08e6", "idProduct": "4433",
	}
	if serial != "" {
		files["serial"] = serial
	}
	write(t, filepath.Join(s.root, path), files)
	if len(interfaces) == 0 {
		interfaces = []string{""}
	}
	for i, name := range interfaces {
		files := map[string]string{"bInterfaceNumber": fmt.Sprintf("%02x", i), "bInterfaceClass": "0b"}
		if name != "" {
			files["interface"] = name
		}
		write(t, filepath.Join(s.root, fmt.Sprintf("%s:1.%d", path, i)), files)
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644))
	}
}

func (s sysfs) unplug(t *testing.T, path string) {
	found, err := filepath.Glob(filepath.Join(s.root, path+"*"))
	require.NoError(t, err)
	for _, f := range found {
		require.NoError(t, os.RemoveAll(f))
	}
}

func ids(t *testing.T, src *pcsc.Source) map[string]string {
	t.Helper()
	readers, err := src.Readers(deadline(t))
	require.NoError(t, err)
	found := map[string]string{}
	for _, r := range readers {
		found[r.Name] = r.ID
	}
	return found
}

// What a reader is called and what it answers, against what the kernel shows.
func TestIdentity(t *testing.T) {
	const named, plain, double = "Reader (0042) 00 00", "Plain 00 00", "Dual [CL] 00 00"
	p := rig.Start(t, rig.Options{Slots: 1, USB: []rig.USBReader{
		{Name: "Reader (0042)", Slots: 1, Bus: 1, Address: 4},
		{Name: "Plain", Slots: 2, Bus: 1, Address: 5},
		{Name: "Dual [CL]", Slots: 1, Bus: 2, Address: 4},
	}})
	virtual := p.Slots()[0].Reader
	for name, c := range map[string]struct {
		plug func(sysfs)
		want map[string]string
	}{
		"the kernel shows nothing": {func(sysfs) {}, map[string]string{
			named: "name:Reader (0042) 00", plain: "name:" + plain, double: "name:" + double,
		}},
		"serial number, path, interface by its name": {func(s sysfs) {
			s.plug(t, "1-2", 1, 4, "0042")
			s.plug(t, "1-3.1", 1, 5, "")
			s.plug(t, "2-1", 2, 4, "", "CT", "CL")
		}, map[string]string{
			named: "usb:08e6:4433:serial=0042:0.0", plain: "usb:08e6:4433:path=1-3.1:0.0",
			"Plain 00 01": "usb:08e6:4433:path=1-3.1:0.1", double: "usb:08e6:4433:path=2-1:1.0",
		}},
		"a serial number twice does not count": {func(s sysfs) {
			s.plug(t, "1-2", 1, 4, "0042")
			s.plug(t, "1-3", 1, 5, "0042")
		}, map[string]string{
			named: "usb:08e6:4433:path=1-2:0.0", plain: "usb:08e6:4433:path=1-3:0.0", double: "name:" + double,
		}},
		"a serial number that the name does not hold": {func(s sysfs) { s.plug(t, "1-3", 1, 5, "A 1") }, map[string]string{
			named: "name:Reader (0042) 00", plain: "usb:08e6:4433:serial=A1:0.0",
		}},
	} {
		s := newSysfs(t)
		c.plug(s)
		found := ids(t, pcsc.NewAt(s.root))
		for reader, id := range c.want {
			assert.Equal(t, id, found[reader], "%s: %s", name, reader)
		}
		assert.Equal(t, "name:"+virtual, found[virtual], name)
	}

	s := newSysfs(t)
	s.plug(t, "1-3", 1, 5, "")
	src := pcsc.NewAt(s.root)
	const id = "usb:08e6:4433:path=1-3:0.1"
	insert(t, p.Slots()[4], atrT1)
	r, err := src.WaitCard(deadline(t), id)
	require.NoError(t, err)
	assert.Equal(t, "Plain 00 01", r.Name)

	t.Run("open by identity", func(t *testing.T) {
		c, err := src.Open(deadline(t), id, reader.Exclusive)
		require.NoError(t, err)
		answers(t, c.(*pcsc.Conn))
		assert.Equal(t, "name:Plain 00 01", ids(t, src)["Plain 00 01"], "who holds a reader is not disturbed")
		require.NoError(t, c.Close())
		_, err = src.Open(deadline(t), "usb:08e6:4433:path=9-9:0.0", reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoReader)
		_, err = src.Open(deadline(t), "name:"+virtual, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoCard)
	})
	t.Run("in a transaction", func(t *testing.T) {
		c := connect(t, p.Slots()[4], pcsc.Options{})
		require.NoError(t, c.Begin(deadline(t)))
		found, err := src.Readers(deadline(t))
		require.NoError(t, err)
		assert.Len(t, found, 6)
		require.NoError(t, c.End(deadline(t)))
		answers(t, c)
		noneLeft(t)
		assert.Equal(t, id, ids(t, src)["Plain 00 01"])
	})
	t.Run("moved while it is opened", func(t *testing.T) {
		c, err := src.Connect(deadline(t), id, pcsc.Options{})
		require.NoError(t, err)
		require.NoError(t, p.Plug(1, 1, 9)) // says another address, and nobody was told
		t.Cleanup(func() { assert.NoError(t, p.Plug(1, 1, 5)) })
		assert.NoError(t, c.Close())
		_, err = src.Open(deadline(t), id, reader.Shared)
		assert.ErrorIs(t, err, apdu.ErrNoReader)
	})
}

// Readers that leave, come back elsewhere and take each other's names.
func TestWatchIdentity(t *testing.T) {
	p := rig.Start(t, rig.Options{USB: []rig.USBReader{
		{Name: "Reader A", Slots: 1, Bus: 1, Address: 4},
		{Name: "Reader B", Slots: 1, Bus: 1, Address: 5},
	}})
	s := newSysfs(t)
	s.plug(t, "1-1", 1, 4, "")
	s.plug(t, "1-2", 1, 5, "")
	a, b := p.Slots()[0].Reader, p.Slots()[1].Reader
	const one, two, three = "usb:08e6:4433:path=1-1:0.0", "usb:08e6:4433:path=1-2:0.0", "usb:08e6:4433:path=1-3:0.0"
	seen := eventsOf(t, pcsc.NewAt(s.root))
	is := func(k reader.EventKind, name, id string) {
		t.Helper()
		e := next(t, seen)
		assert.Equal(t, reader.Event{Kind: k, Reader: reader.Reader{Name: name, ID: id, Card: e.Reader.Card, ATR: e.Reader.ATR}}, e)
	}
	is(reader.ReaderAdded, a, one)
	is(reader.ReaderAdded, b, two)

	// One moves to another port before the service hears that it has left.
	s.unplug(t, "1-2")
	s.plug(t, "1-3", 1, 6, "")
	require.NoError(t, p.Plug(1, 1, 6))
	is(reader.ReaderRemoved, b, two)
	is(reader.ReaderAdded, b, three)
	insert(t, p.Slots()[1], atrT1)
	is(reader.CardInserted, b, three)

	// They come back under each other's name.
	require.NoError(t, p.Kill())
	is(reader.ReaderRemoved, a, one)
	is(reader.CardRemoved, b, three)
	is(reader.ReaderRemoved, b, three)
	require.NoError(t, p.Plug(0, 1, 6))
	require.NoError(t, p.Plug(1, 1, 4))
	require.NoError(t, p.Restart(deadline(t)))
	is(reader.ReaderAdded, a, three)
	is(reader.ReaderAdded, b, one)
	is(reader.CardInserted, b, one)

	// One does not come back: what the kernel no longer shows is not forgotten
	// before it has left, and the other is what it was.
	s.unplug(t, "1-1")
	require.NoError(t, p.Unplug(1))
	assert.Equal(t, "card removed", next(t, seen).Kind.String())
	require.NoError(t, p.Kill())
	is(reader.ReaderRemoved, a, three)
	is(reader.ReaderRemoved, b, one)
	require.NoError(t, p.Restart(deadline(t)))
	is(reader.ReaderAdded, a, three)
}

// A reader that is held exclusively tells who it is once it is free.
func TestWatchIdentityLater(t *testing.T) {
	p := rig.Start(t, rig.Options{USB: []rig.USBReader{{Name: "Reader", Slots: 1, Bus: 1, Address: 4}}})
	slot := p.Slots()[0]
	s := newSysfs(t)
	s.plug(t, "1-1", 1, 4, "")
	insert(t, slot, atrT1)
	inReader(t, slot)
	c, err := pcsc.New().Connect(deadline(t), slot.Reader, pcsc.Options{Mode: reader.Exclusive})
	require.NoError(t, err)
	seen := eventsOf(t, pcsc.NewAt(s.root))
	e := next(t, seen)
	assert.Equal(t, "name:"+slot.Reader, e.Reader.ID)
	assert.Equal(t, reader.CardInserted, next(t, seen).Kind)
	require.NoError(t, c.Close())
	for _, want := range []struct {
		kind reader.EventKind
		id   string
	}{
		{reader.CardRemoved, "name:" + slot.Reader}, {reader.ReaderRemoved, "name:" + slot.Reader},
		{reader.ReaderAdded, "usb:08e6:4433:path=1-1:0.0"}, {reader.CardInserted, "usb:08e6:4433:path=1-1:0.0"},
	} {
		e := next(t, seen)
		assert.Equal(t, want.kind, e.Kind)
		assert.Equal(t, want.id, e.Reader.ID)
	}
}

func TestInfo(t *testing.T) {
	p := rig.Start(t, rig.Options{Slots: 1, USB: []rig.USBReader{{Name: "Reader (0042)", Slots: 1, Bus: 1, Address: 4}}})
	virtual, usb := p.Slots()[0], p.Slots()[2]
	s := newSysfs(t)
	s.plug(t, "1-1", 1, 4, "0042")
	src := pcsc.NewAt(s.root)
	ppdu, max, vendor, product := uint8(0), uint32(261), uint16(0x08E6), uint16(0x4433)
	want := pcsc.Info{
		Reader: reader.Reader{Name: usb.Reader, ID: "usb:08e6:4433:serial=0042:0.0"},
		USB:    &reader.USB{Vendor: 0x08E6, Product: 0x4433, Serial: "0042", Bus: 1, Address: 4, Path: "1-1"},
		Vendor: "Virtual", Type: "USB", Version: "1.2.3", Serial: "0042", ChannelID: 0x00200104, MaxInput: 261,
		Features: []pcsc.Feature{
			{Tag: pcsc.FeatureGetTLVProperties, Code: pcsc.ControlCode(0x0A12)}, {Tag: pcsc.FeatureCCIDEscCommand, Code: pcsc.EscapeCode()},
		},
		Properties: &pcsc.Properties{PPDUSupport: &ppdu, MaxAPDUData: &max, Vendor: &vendor, Product: &product},
	}
	t.Run("a reader that says much", func(t *testing.T) {
		info, err := src.Info(deadline(t), "Reader")
		require.NoError(t, err)
		assert.Equal(t, want, info)
		text, err := json.Marshal(info)
		require.NoError(t, err)
		assert.JSONEq(t, `{"name": "Reader (0042) 00 00", "id": "usb:08e6:4433:serial=0042:0.0", "card": false,
			"usb": {"vendor": 2278, "product": 17459, "serial": "0042", "bus": 1, "address": 4, "path": "1-1", "interface": 0},
			"vendor": "Virtual", "ifd_type": "USB", "ifd_version": "1.2.3", "ifd_serial": "0042", "channel_id": 2097412, "max_input": 261,
			"features": [{"feature": "GET_TLV_PROPERTIES", "code": 1107298834}, {"feature": "CCID_ESC_COMMAND", "code": 1107296257}],
			"properties": {"ppdu_support": 0, "max_apdu_data_size": 261, "vendor": 2278, "product": 17459}}`, string(text))
	})
	insert(t, usb, atrT1)
	inReader(t, usb)
	t.Run("negotiated protocol", func(t *testing.T) {
		c := connect(t, usb, pcsc.Options{})
		info, err := src.Info(deadline(t), want.ID)
		require.NoError(t, err)
		assert.Equal(t, pcsc.T1, info.Protocol)
		assert.Equal(t, atrT1, info.ATR)
		assert.True(t, info.InUse)
		vendor, err := c.Attribute(deadline(t), pcsc.AttrVendorName)
		require.NoError(t, err)
		assert.Equal(t, "Virtual\x00", string(vendor))
		_, err = c.Attribute(deadline(t), pcsc.AttrMaxIFSD)
		assert.ErrorIs(t, err, apdu.ErrTransport)
		answers(t, c)
	})
	t.Run("a reader that says little", func(t *testing.T) {
		info, err := src.Info(deadline(t), virtual.Reader)
		require.NoError(t, err)
		assert.Equal(t, reader.Reader{Name: virtual.Reader, ID: "name:" + virtual.Reader}, info.Reader)
		assert.Nil(t, info.USB)
		assert.Empty(t, info.Features)
		assert.Nil(t, info.Properties)
	})
	t.Run("held exclusively", func(t *testing.T) {
		c := connect(t, usb, pcsc.Options{Mode: reader.Exclusive})
		info, err := src.Info(deadline(t), usb.Reader)
		assert.ErrorIs(t, err, apdu.ErrCardBusy)
		assert.Equal(t, want.ID, info.ID)
		assert.True(t, info.Exclusive)
		answers(t, c)
	})
	t.Run("no such reader", func(t *testing.T) {
		_, err := src.Info(deadline(t), "x")
		assert.ErrorIs(t, err, apdu.ErrNoReader)
		_, err = src.Info(deadline(t), "")
		var which *pcsc.FindError
		assert.ErrorAs(t, err, &which)
	})
	t.Run("escape", func(t *testing.T) {
		c := connect(t, usb, pcsc.Options{})
		found, err := c.Features(deadline(t))
		require.NoError(t, err)
		assert.Equal(t, want.Features, found)
		answer, err := c.Control(deadline(t), found[0].Code, nil)
		require.NoError(t, err)
		_, err = pcsc.ParseProperties(answer)
		assert.NoError(t, err)
		for _, code := range []uint32{pcsc.EscapeCode(), pcsc.ControlCode(2048), 0} {
			_, err = c.Control(deadline(t), code, []byte{1, 2, 3})
			assert.ErrorIs(t, err, pcsc.ErrEscapeNotAllowed)
		}
		allowed := connect(t, usb, pcsc.Options{AllowEscape: true})
		answer, err = allowed.Control(deadline(t), pcsc.EscapeCode(), []byte{1, 2, 3})
		require.NoError(t, err)
		assert.Equal(t, []byte{1, 2, 3}, answer)
		_, err = allowed.Control(deadline(t), pcsc.ControlCode(2048), nil)
		assert.ErrorIs(t, err, apdu.ErrTransport)
		answers(t, allowed)
		answers(t, c)
	})
}
