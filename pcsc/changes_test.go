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
