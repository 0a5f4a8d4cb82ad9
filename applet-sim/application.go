package appletsim

import (
	"bytes"
	"slices"

	"github.com/cardbridge/cardbridge/apdu"
)

// application is one of the card's applications. All cards share it: what it
// keeps is in Card. Its functions are called with the card locked.
type application struct {
	// aids are the whole AIDs by which SELECT finds it now, none where it is not
	// there.
	aids func(*Card) [][]byte
	// exact has SELECT find it by its whole AID alone, its P2 being the
	// application's to judge.
	exact bool
	// selected carries out a SELECT by AID that found it. With 9000 it becomes
	// the channel's application.
	selected func(c *Card, channel int, aid []byte, cmd apdu.Command) ([]byte, apdu.StatusWord)
	// closed ends what it keeps for a channel: the channel was opened or closed,
	// or another application was selected there; nil where it keeps nothing.
	closed func(c *Card, channel int)
	// changed is called when another profile, or none, became the enabled one, and
	// when the RAM is lost; nil where it does not matter.
	changed func(*Card)
	// instructions are its own. SELECT by AID, MANAGE CHANNEL and GET RESPONSE
	// are the card's.
	instructions map[byte]instruction
	// proactive has the toolkit work beside it: terminalInstructions, and 91xx in
	// place of 9000 while a proactive command waits (ETSI TS 102 221 §7.4.2).
	proactive bool
}

// instruction is how the card answers to one INS.
type instruction struct {
	form    byte // of its CLA
	chained bool // may be sent in parts in the clear

	// plain carries it out in the clear on a channel; was is the state that it
	// found there, and ended.
	plain func(c *Card, channel int, was authState, cmd apdu.Command) ([]byte, apdu.StatusWord)
	// secured carries it out under secure messaging, once its mac verified; nil
	// where it has none. ok is false where data did not decrypt.
	secured func(c *Card, s *session, cmd apdu.Command, ok bool) ([]byte, apdu.StatusWord)
}

// applications are those of every card, in the order in which SELECT finds
// them.
var applications = []*application{managementApplet, files, issuerDomain}

// cardInstructions are what the card itself carries out, whatever application
// is selected.
var cardInstructions = map[byte]instruction{
	insSelect:        {form: interindustry, plain: (*Card).selectFile},
	insManageChannel: {form: interindustry, plain: (*Card).manageChannel},
	insGetResponse:   {form: interindustry}, // exchange has it
}

// application is the one of a channel.
func (c *Card) application(ch *channel) *application {
	if !ch.selected {
		return files
	}
	return c.applications[ch.app]
}

// instruction finds an instruction on a channel. unselected says that it is one
// of the management applet's, and nothing was selected there (§6).
func (c *Card) instruction(ch *channel, ins byte) (in instruction, known, unselected bool) {
	if in, known = cardInstructions[ins]; known {
		return in, true, false
	}
	if !ch.selected && slices.Contains(c.applications, managementApplet) {
		if in, known = managementApplet.instructions[ins]; known {
			return in, true, true
		}
	}
	app := c.application(ch)
	if in, known = app.instructions[ins]; !known && app.proactive {
		in, known = terminalInstructions[ins]
	}
	return in, known, false
}

// selectFile is SELECT: by AID (P1 04) the card finds the application, any other
// is the channel's application's, or the file system's. One that fails leaves
// what is selected.
func (c *Card) selectFile(n int, was authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if cmd.P1 == selectByAID {
		return c.selectApplication(n, cmd)
	}
	in, own := c.application(&c.channels[n]).instructions[insSelect]
	if !own {
		in = files.instructions[insSelect]
	}
	data, sw := in.plain(c, n, was, cmd)
	if ch := &c.channels[n]; sw == apdu.SWSuccess && !(ch.selected && c.application(ch) == files) {
		c.enter(n, files, nil) // no other takes one
	}
	return data, sw
}

// enter makes an application the channel's, by an AID of its own.
func (c *Card) enter(n int, app *application, aid []byte) {
	ch := &c.channels[n]
	if now := c.application(ch); now != app && now.closed != nil {
		now.closed(c, n)
	}
	ch.selected, ch.app, ch.aid = true, slices.Index(c.applications, app), aid
}

const (
	selectByAID = 0x04 // P1

	occurrence     = 0x03 // P2: bits of
	firstOrOnly    = 0x00
	lastOccurrence = 0x01
	nextOccurrence = 0x02
)

// candidate is an AID that SELECT may find.
type candidate struct {
	app int
	aid []byte
}

// selectApplication is SELECT by AID, whole or its beginning (ISO/IEC 7816-4
// §11.2.2, ETSI TS 102 221 §11.1.1). The occurrences of a beginning are in the
// order of the card's applications.
func (c *Card) selectApplication(n int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	found := c.candidates(cmd.Data)
	if len(found) == 0 {
		if cmd.P2 != 0 && c.application(&c.channels[n]).exact {
			return nil, apdu.SWIncorrectP1P2
		}
		return nil, apdu.SWFileNotFound
	}
	i := 0
	if !c.applications[found[0].app].exact {
		if i = c.pick(n, found, cmd.P2&occurrence); i < 0 || i >= len(found) {
			return nil, apdu.SWFileNotFound
		}
	}
	next := c.applications[found[i].app]
	data, sw := next.selected(c, n, found[i].aid, cmd)
	if sw != apdu.SWSuccess {
		return nil, sw
	}
	c.enter(n, next, found[i].aid)
	return data, sw
}

// candidates are the AIDs that name names.
func (c *Card) candidates(name []byte) []candidate {
	if len(name) == 0 {
		return nil
	}
	var found []candidate
	for i, app := range c.applications {
		for _, aid := range app.aids(c) {
			if bytes.Equal(aid, name) || !app.exact && bytes.HasPrefix(aid, name) {
				found = append(found, candidate{i, aid})
			}
		}
	}
	return found
}

// pick is the index of the occurrence that P2 asks for, seen from what is
// selected on the channel; outside found where there is none.
func (c *Card) pick(n int, found []candidate, which byte) int {
	if which == firstOrOnly {
		return 0
	}
	if which == lastOccurrence {
		return len(found) - 1
	}
	now := -1
	ch := &c.channels[n]
	for i, f := range found {
		if ch.selected && f.app == ch.app && bytes.Equal(f.aid, ch.aid) {
			now = i
		}
	}
	switch {
	case which == nextOccurrence:
		return now + 1
	case now < 0:
		return len(found) - 1 // the previous of none is the last
	}
	return now - 1
}
