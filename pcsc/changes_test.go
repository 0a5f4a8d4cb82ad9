package pcsc

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// A look may come too late for what happened between.
func TestChanges(t *testing.T) {
	with := func(count uint32, flags uint32) slot {
		return newSlot(readerState{name: "R", event: count<<eventCountShift | flags, atr: []byte{0x3B, 0x00}})
	}
	none := with(0, 0)
	card := with(1, statePresent)
	gone := reader.Event{Kind: reader.CardRemoved, Reader: reader.Reader{Name: "R"}}
	there := func(s slot) reader.Event { return reader.Event{Kind: reader.CardInserted, Reader: s.Reader} }
	again, used, mute := with(3, statePresent), with(1, statePresent|stateInUse), with(1, statePresent|stateMute)
	for name, c := range map[string]struct {
		before, now slot
		want        []reader.Event
	}{
		"inserted":              {none, card, []reader.Event{there(card)}},
		"removed":               {card, with(2, 0), []reader.Event{gone}},
		"removed and inserted":  {card, again, []reader.Event{gone, there(again)}},
		"inserted and removed":  {none, with(2, 0), nil},
		"in use":                {card, used, nil},
		"mute answers at last":  {mute, card, []reader.Event{gone, there(card)}},
		"the count starts anew": {with(0xFFFF, 0), card, []reader.Event{there(card)}},
	} {
		assert.Equal(t, c.want, changes([]slot{c.before}, []slot{c.now}), name)
	}
	assert.Nil(t, mute.ATR)
}

// Names move between readers; identities do not.
func TestChangesOfIdentity(t *testing.T) {
	at := func(name, id string, flags uint32) slot {
		s := newSlot(readerState{name: name, event: 1<<eventCountShift | flags})
		s.ID = id
		return s
	}
	event := func(k reader.EventKind, s slot) reader.Event { return reader.Event{Kind: k, Reader: s.Reader} }
	gone := func(k reader.EventKind, s slot) reader.Event {
		return reader.Event{Kind: k, Reader: reader.Reader{Name: s.Name, ID: s.ID}}
	}
	a0, b1 := at("R 00 00", "a", statePresent), at("R 01 00", "b", 0)
	a1, b0 := at("R 01 00", "a", statePresent), at("R 00 00", "b", 0)
	known := at("R 00 00", "name:R 00 00", statePresent)
	for name, c := range map[string]struct {
		before, now []slot
		want        []reader.Event
	}{
		"nothing":       {[]slot{a0, b1}, []slot{a0, b1}, nil},
		"another order": {[]slot{a0, b1}, []slot{b1, a0}, nil},
		"one comes":     {[]slot{b1}, []slot{a0, b1}, []reader.Event{event(reader.ReaderAdded, a0), event(reader.CardInserted, a0)}},
		"one leaves":    {[]slot{a0, b1}, []slot{b1}, []reader.Event{gone(reader.CardRemoved, a0), gone(reader.ReaderRemoved, a0)}},
		"another name": {[]slot{a0}, []slot{a1}, []reader.Event{
			gone(reader.CardRemoved, a0), gone(reader.ReaderRemoved, a0), event(reader.ReaderAdded, a1), event(reader.CardInserted, a1),
		}},
		"each other's names": {[]slot{a0, b1}, []slot{b0, a1}, []reader.Event{
			gone(reader.CardRemoved, a0), gone(reader.ReaderRemoved, a0), gone(reader.ReaderRemoved, b1),
			event(reader.ReaderAdded, b0), event(reader.ReaderAdded, a1), event(reader.CardInserted, a1),
		}},
		"another reader under the name": {[]slot{a0}, []slot{b0}, []reader.Event{
			gone(reader.CardRemoved, a0), gone(reader.ReaderRemoved, a0), event(reader.ReaderAdded, b0),
		}},
		"it is known who it is at last": {[]slot{known}, []slot{a0}, []reader.Event{
			gone(reader.CardRemoved, known), gone(reader.ReaderRemoved, known), event(reader.ReaderAdded, a0), event(reader.CardInserted, a0),
		}},
		"the service ends": {[]slot{a0, b1}, nil, []reader.Event{
			gone(reader.CardRemoved, a0), gone(reader.ReaderRemoved, a0), gone(reader.ReaderRemoved, b1),
		}},
	} {
		assert.Equal(t, c.want, changes(c.before, c.now), name)
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]struct {
		parts readerName
		id    string
	}{
		"Virtual PCD A 00 01":                  {readerName{kind: "Virtual PCD A", slot: 1}, "name:Virtual PCD A 00 01"},
		"SCR 3310 (2112) 01 00":                {readerName{kind: "SCR 3310", serial: "2112", number: 1}, "name:SCR 3310 (2112) 00"},
		"OMNIKEY 5422 [CL Reader] (K1) 0A 0F":  {readerName{"OMNIKEY 5422", "CL Reader", "K1", 10, 15}, "name:OMNIKEY 5422 [CL Reader] (K1) 0F"},
		"OMNIKEY 5422 [CL Reader] 00 00":       {readerName{kind: "OMNIKEY 5422", iface: "CL Reader"}, "name:OMNIKEY 5422 [CL Reader] 00 00"},
		"OMNIKEY (076B:3021) 3021 (USB) 00 00": {readerName{kind: "OMNIKEY (076B:3021) 3021", serial: "USB"}, "name:OMNIKEY (076B:3021) 3021 (USB) 00"},
		"Windows Hello 1":                      {readerName{kind: "Windows Hello 1"}, "name:Windows Hello 1"},
		"":                                     {readerName{}, "name:"},
	} {
		parts := parseName(name)
		assert.Equal(t, want.parts, parts, name)
		assert.Equal(t, want.id, parts.id(name), name)
	}
	twins := []slot{{Reader: reader.Reader{Name: "R (1) 00 00", ID: "name:R (1) 00"}}, {Reader: reader.Reader{Name: "R (1) 01 00", ID: "name:R (1) 00"}}}
	distinguish(twins)
	assert.Equal(t, "name:R (1) 00 00", twins[0].ID)
	assert.Equal(t, "name:R (1) 01 00", twins[1].ID)
}

func FuzzParseName(f *testing.F) {
	f.Add("OMNIKEY 5422 [CL Reader] (K1) 0A 0F")
	f.Add(" () 00 00")
	f.Fuzz(func(t *testing.T, name string) {
		parts := parseName(name)
		assert.Contains(t, parts.id(name), nameID)
		assert.Contains(t, name, parts.serial)
	})
}

// A device of several interfaces has a reader for each.
func TestInterfaceOf(t *testing.T) {
	d := reader.USBDevice{Interfaces: []reader.USBInterface{
		{Number: 1, Class: 0x0B, Name: "CT"}, {Number: 2, Class: 0x0B, Name: "CL"}, {Number: 5, Class: 0x0B},
	}}
	names := []readerName{{iface: "CL", number: 3}, {number: 0}, {number: 7}, {number: 7, slot: 1}, {number: 9}}
	at := []int{0, 0, 0, 0, 0}
	for k, want := range []int{2, 1, 5, 5, 5} {
		assert.Equal(t, want, interfaceOf(d, names, at, k), "%d", k)
	}
}

func TestSlotBeginsAnew(t *testing.T) {
	at := func(count uint32, flags uint32) slot { return slot{state: count<<eventCountShift | flags} }
	assert.False(t, at(5, 0).anew(at(5, 0).state))
	assert.False(t, at(6, 0).anew(at(5, 0).state))
	assert.True(t, at(1, 0).anew(at(5, 0).state))
	assert.False(t, at(1, 0).anew(at(0xFFFF, 0).state), "the count is short")
	assert.False(t, at(0, stateUnknown).anew(at(5, 0).state))
}
