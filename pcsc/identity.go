package pcsc

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// How identities begin: see reader.USB.ID.
const (
	usbID  = "usb:"
	nameID = "name:"
)

// How readers are asked where they are plugged in.
const (
	askTimeout  = 500 * time.Millisecond // another program's transaction may keep the reader
	askInterval = 3 * time.Second        // how long it is left alone then
	birthTime   = time.Second            // pcscd lists a new reader that long before it can be used
)

// channelUSB is the upper half of the channel attribute of a USB reader; bus and
// address are the bytes below.
const channelUSB = 0x0020

// nameParts takes a reader's name apart as pcscd and libccid put it together:
// what it is, its interface in brackets and its serial number in parentheses
// where it has them, its number among readers of the kind, its slot's number.
var nameParts = regexp.MustCompile(`^(.*?)(?: \[([^\]]*)\])?(?: \(([^()]*)\))? ([0-9A-F]{2}) ([0-9A-F]{2})$`)

// readerName is a reader's name taken apart.
type readerName struct {
	kind, iface, serial string
	number, slot        int
}

// parseName takes a name apart; one of another form is all kind.
func parseName(name string) readerName {
	m := nameParts.FindStringSubmatch(name)
	if m == nil {
		return readerName{kind: name}
	}
	number, _ := strconv.ParseUint(m[4], 16, 8) // two hex digits
	slot, _ := strconv.ParseUint(m[5], 16, 8)
	return readerName{m[1], m[2], m[3], int(number), int(slot)}
}

// id is the identity that the name itself gives: where it holds a serial number,
// the number that says which of its kind it is does not count.
func (n readerName) id(name string) string {
	if n.serial == "" {
		return nameID + name
	}
	kind, slot := name[:len(name)-len(" 00 00")], name[len(name)-len(" 00"):]
	return nameID + kind + slot
}

// identifier gives slots their identities. It remembers what readers have
// answered for as long as they stay; it serves one goroutine.
type identifier struct {
	source  *Source
	answers map[string]channel // by the reader's name
	told    map[string]slot    // what had a USB device when it was last looked at, by name
}

// channel is what a reader said of where it is plugged in.
type channel struct {
	known        bool
	bus, address int
	state        uint32    // the slot's then
	again        time.Time // when to ask again, where something was in the way; else zero
}

// identify gives each slot its identity: the USB device is the only one with the
// serial number in the reader's name, else the one that the reader names when it
// is asked, which takes a connection to the reader (not to its card). Readers are
// asked only while there are USB devices that may be readers and have no name of
// their own.
//
// A reader keeps its identity as long as it is listed and nothing else is known of
// it: the kernel knows before the service that it has been unplugged.
func (i *identifier) identify(ctx context.Context, slots []slot) {
	if i.answers == nil {
		i.answers, i.told = map[string]channel{}, map[string]slot{}
	}
	devices, err := reader.USBDevices(i.source.usbRoot())
	if err != nil {
		devices = nil // what the kernel does not show is told from the name
	}
	devices = slices.DeleteFunc(devices, func(d reader.USBDevice) bool { return len(d.Readers()) == 0 })
	names := make([]readerName, len(slots))
	at := make([]int, len(slots)) // each slot's device, -1 for none
	unnamed := slices.Repeat([]bool{true}, len(devices))
	for k, sl := range slots {
		names[k] = parseName(sl.Name)
		if at[k] = bySerial(devices, names[k].serial); at[k] >= 0 {
			unnamed[at[k]] = false
		}
	}
	i.forget(slots)
	if slices.Contains(unnamed, true) {
		for k, sl := range slots {
			if at[k] >= 0 {
				continue
			}
			if c := i.ask(ctx, sl, devices); c.known {
				at[k] = byChannel(devices, c)
			}
		}
	}
	for k := range slots {
		slots[k].ID, slots[k].usb = names[k].id(slots[k].Name), nil
		if at[k] < 0 {
			if was, ok := i.told[slots[k].Name]; ok && !slots[k].anew(was.state) {
				slots[k].ID, slots[k].usb = was.ID, was.usb
			}
			continue
		}
		d := devices[at[k]]
		usb := d.USB
		usb.Interface = interfaceOf(d, names, at, k)
		slots[k].ID, slots[k].usb = usb.ID(names[k].slot, sharesSerial(devices, d)), &usb
		i.told[slots[k].Name] = slots[k]
	}
	distinguish(slots)
}

// forget drops what is known of readers that have gone.
func (i *identifier) forget(slots []slot) {
	gone := func(name string) bool {
		return !slices.ContainsFunc(slots, func(sl slot) bool { return sl.Name == name })
	}
	maps.DeleteFunc(i.answers, func(name string, _ channel) bool { return gone(name) })
	maps.DeleteFunc(i.told, func(name string, _ slot) bool { return gone(name) })
}

// anew reports whether the slot has begun to count again since it was in that
// state: it is that of a reader that came since.
func (s slot) anew(since uint32) bool {
	const half = 1 << 15 // of the 16 bits that count
	if s.state&(stateUnknown|stateUnavailable) != 0 {
		return false // then it does not count
	}
	return uint16(s.eventCount())-uint16(since>>eventCountShift) >= half
}

// ask gives the reader's channel. What it answered before counts as long as that
// device is there and the slot has not begun anew; one that did not answer is
// asked again once its state changes, or after a while where something was in the
// way.
func (i *identifier) ask(ctx context.Context, sl slot, devices []reader.USBDevice) channel {
	if c, asked := i.answers[sl.Name]; asked {
		waits := c.state == sl.state && (c.again.IsZero() || time.Now().Before(c.again))
		if c.known && !sl.anew(c.state) && byChannel(devices, c) >= 0 || !c.known && waits {
			return c
		}
	}
	var c channel
	if !sl.Exclusive { // who holds it keeps everybody out
		var err error
		if c, err = i.source.askChannel(ctx, sl.Name); err != nil {
			c.again = time.Now().Add(askInterval)
		}
	}
	c.state = sl.state
	i.answers[sl.Name] = c
	return c
}

// askChannel asks a reader for its USB bus and address. It fails where the reader
// could not be asked.
func (s *Source) askChannel(ctx context.Context, name string) (channel, error) {
	for start := time.Now(); ; {
		c, err := s.askChannelOnce(ctx, name)
		if !errors.Is(err, CodeReaderUnavailable) || time.Since(start) > birthTime || ctx.Err() != nil {
			return c, err
		}
		time.Sleep(birthTime / 20)
	}
}

// askChannelOnce asks by a connection of its own.
func (s *Source) askChannelOnce(ctx context.Context, name string) (channel, error) {
	key := "identity of " + name // a reader that is busy is no reader that is stuck
	if s.stuck(name) || s.stuck(key) {
		return channel{}, ErrStuck
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ses, err := s.newSession(ctx, "identify", key)
	if err != nil {
		return channel{}, err
	}
	defer ses.close(LeaveCard)
	var c channel
	err = ses.do(ctx, "identify", func(svc service) error {
		if err := svc.direct(name); err != nil {
			return err
		}
		c = channelOf(svc)
		return nil
	})
	if err != nil {
		return channel{}, err
	}
	return c, nil
}

// channelOf asks a reader that is connected for its USB bus and address.
func channelOf(svc service) channel {
	v, err := svc.attribute(AttrChannelID)
	if err != nil || len(v) != 4 {
		return channel{}
	}
	id := binary.NativeEndian.Uint32(v) // a DWORD of the driver's machine
	if id>>16 != channelUSB {
		return channel{}
	}
	return channel{known: true, bus: int(id >> 8 & 0xFF), address: int(id & 0xFF)}
}

func byChannel(devices []reader.USBDevice, c channel) int {
	return slices.IndexFunc(devices, func(d reader.USBDevice) bool { return d.Bus == c.bus && d.Address == c.address })
}

// bySerial is the only device with that serial number.
func bySerial(devices []reader.USBDevice, serial string) int {
	found := -1
	for k, d := range devices {
		if serial == "" || d.Serial != serial {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = k
	}
	return found
}

func sharesSerial(devices []reader.USBDevice, d reader.USBDevice) bool {
	n := 0
	for _, other := range devices {
		if other.Vendor == d.Vendor && other.Product == d.Product && other.Serial == d.Serial {
			n++
		}
	}
	return n > 1
}

// interfaceOf is the number of the interface that slot k of device d is: the
// only one, or the one of that name, or the one whose turn it is, by the readers'
// numbers.
func interfaceOf(d reader.USBDevice, names []readerName, at []int, k int) int {
	candidates := d.Readers()
	if len(candidates) == 1 {
		return candidates[0].Number
	}
	for _, c := range candidates {
		if c.Name != "" && c.Name == names[k].iface {
			return c.Number
		}
	}
	var numbers []int
	for j, n := range names {
		if at[j] == at[k] {
			numbers = append(numbers, n.number)
		}
	}
	slices.Sort(numbers)
	turn := slices.Index(slices.Compact(numbers), names[k].number)
	return candidates[min(turn, len(candidates)-1)].Number
}

// distinguish gives slots whose identity another has too one by their names.
func distinguish(slots []slot) {
	count := map[string]int{}
	for _, sl := range slots {
		count[sl.ID]++
	}
	for k := range slots {
		if count[slots[k].ID] > 1 {
			slots[k].ID = nameID + slots[k].Name
		}
	}
}

// locate finds the reader that a name or an identity means. A name is taken as
// it is.
func (s *Source) locate(ctx context.Context, op, name string) (slot, error) {
	if !strings.HasPrefix(name, usbID) && !strings.HasPrefix(name, nameID) {
		return slot{Reader: reader.Reader{Name: name}}, nil
	}
	slots, err := s.slots(ctx, op)
	if err != nil {
		return slot{}, err
	}
	r, err := Find(readersOf(slots), name)
	at := slices.IndexFunc(slots, func(sl slot) bool { return err == nil && sl.Name == r.Name })
	if at >= 0 {
		return slots[at], nil
	}
	return slot{}, &Error{Op: op, Reader: name, Code: CodeUnknownReader}
}
