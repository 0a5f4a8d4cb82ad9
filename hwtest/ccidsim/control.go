package ccidsim

import (
	"context"
	"encoding/binary"
)

// bmRequestType.
const (
	toHost    = 0x80
	typeMask  = 0x60
	typeClass = 0x20
	recipient = 0x1F
)

// Standard requests (USB 2.0 table 9-4).
const (
	reqGetStatus        = 0
	reqClearFeature     = 1
	reqSetFeature       = 3
	reqSetAddress       = 5
	reqGetDescriptor    = 6
	reqGetConfiguration = 8
	reqSetConfiguration = 9
	reqGetInterface     = 10
	reqSetInterface     = 11
)

// Class requests (CCID §5.3).
const (
	reqAbort            = 1
	reqGetClocks        = 2
	reqGetDataRates     = 3
	requestInterface    = 1
	endpointHaltFeature = 0
)

// Control is one control transfer: a standard request or one of the class's.
func (d *Device) Control(ctx context.Context, requestType, request uint8, value, index uint16, b []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unplugged() {
		return 0, ErrUnplugged
	}
	var answer []byte
	var ok bool
	switch requestType & typeMask {
	case 0:
		answer, ok = d.standard(requestType, request, value, index)
	case typeClass:
		answer, ok = d.class(requestType, request, value, index)
	}
	if !ok {
		return 0, ErrStall
	}
	if requestType&toHost == 0 {
		return len(b), nil
	}
	return copy(b, answer), nil
}

func (d *Device) standard(requestType, request uint8, value, index uint16) (answer []byte, ok bool) {
	in := requestType&toHost != 0
	switch {
	case request == reqGetDescriptor && in:
		answer = d.descriptor(byte(value>>8), byte(value))
		return answer, answer != nil
	case request == reqGetStatus && in:
		return []byte{0, 0}, true
	case request == reqGetConfiguration && in:
		return []byte{d.config}, true
	case request == reqSetConfiguration && !in && value <= configurationValue:
		d.config = byte(value)
		for _, s := range d.slots {
			s.changed = s.changed || s.present // tell the new host
		}
		d.notify()
		return nil, true
	case request == reqGetInterface && in && index == 0:
		return []byte{0}, true
	case request == reqSetInterface && !in && index == 0:
		return nil, value == 0
	case request == reqClearFeature && !in, request == reqSetAddress && !in:
		return nil, true
	case request == reqSetFeature && !in:
		return nil, requestType&recipient == 0
	}
	return nil, false
}

func (d *Device) descriptor(kind, index byte) []byte {
	switch kind {
	case descDevice:
		return d.DeviceDescriptor()
	case descConfiguration:
		return d.ConfigDescriptor()
	case descString:
		return d.text(index)
	case descQualifier:
		if !d.cfg.FullSpeed {
			return d.qualifier()
		}
	}
	return nil
}

// class is a request of the class to the interface.
func (d *Device) class(requestType, request uint8, value, index uint16) (answer []byte, ok bool) {
	if requestType&recipient != requestInterface || index != 0 {
		return nil, false
	}
	switch in := requestType&toHost != 0; {
	case request == reqAbort && !in && int(value&0xFF) < len(d.slots):
		d.slots[value&0xFF].controlAbort(byte(value >> 8))
		return nil, true
	case request == reqGetClocks && in:
		return binary.LittleEndian.AppendUint32(nil, clockKHz), true
	case request == reqGetDataRates && in:
		for _, r := range d.cfg.rates() {
			answer = binary.LittleEndian.AppendUint32(answer, uint32(r))
		}
		return answer, true
	}
	return nil, false
}
