package appletsim

import (
	"fmt"
	"slices"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/uicc"
	"github.com/cardbridge/cardbridge/card/id"
)

// files is the file system with the USIM of the enabled profile. It is what a
// channel begins with.
var files = &application{
	aids: func(c *Card) [][]byte {
		if !c.files.Subscribed() {
			return nil
		}
		return usimAIDs
	},
	selected: func(c *Card, n int, _ []byte, cmd apdu.Command) ([]byte, apdu.StatusWord) {
		return c.files.SelectUSIM(n, cmd)
	},
	closed: func(c *Card, n int) { c.files.Close(n) },
	changed: func(c *Card) {
		c.files.Switch(c.image.subscription())
	},
	instructions: fileInstructions(),
	proactive:    true,
}

var usimAIDs = [][]byte{uicc.AID()}

func fileInstructions() map[byte]instruction {
	table := map[byte]instruction{}
	for ins, special := range uicc.Instructions() {
		form := byte(interindustry)
		if special {
			form = proprietary
		}
		table[ins] = instruction{form: form, plain: (*Card).fileCommand}
	}
	return table
}

func (c *Card) fileCommand(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	return c.files.Process(n, cmd)
}

// saveUSIM makes d what the enabled profile's USIM has stored.
func (c *Card) saveUSIM(d uicc.Data) error {
	next := c.image.clone()
	next.setUSIM(next.enabledICCID(), d)
	return c.persist(next)
}

// USIM is what a profile's USIM was personalised with and has stored.
type USIM struct {
	ICCID id.ICCID `json:"iccid"` // of the profile
	uicc.Data
}

// usim is the index of a profile's USIM among those that stored something, or
// -1.
func (r *Runtime) usim(iccid id.ICCID) int {
	return slices.IndexFunc(r.USIMs, func(u USIM) bool { return u.ICCID == iccid })
}

func (im *Image) setUSIM(iccid id.ICCID, d uicc.Data) {
	r := im.runtime()
	if i := r.usim(iccid); i >= 0 {
		r.USIMs[i].Data = d
		return
	}
	r.USIMs = append(r.USIMs, USIM{iccid, d})
}

// dropUSIMs forgets those of profiles that are gone.
func (im *Image) dropUSIMs() {
	r := im.runtime()
	r.USIMs = slices.DeleteFunc(r.USIMs, func(u USIM) bool { return im.find(u.ICCID) < 0 })
}

// subscription is the enabled profile as its USIM shows it, nil for none. The
// image was checked.
func (im *Image) subscription() *uicc.Subscription {
	i := im.enabled()
	if i < 0 {
		return nil
	}
	p := &im.Profiles[i]
	var d uicc.Data
	if im.Runtime != nil {
		if i := im.Runtime.usim(p.ICCID); i >= 0 {
			d = im.Runtime.USIMs[i].Data
		}
	}
	return uicc.NewSubscription(p.ICCID, p.Owner, p.Provider, d)
}

func (im *Image) checkUSIMs() error {
	for i, u := range im.Runtime.USIMs {
		switch {
		case im.find(u.ICCID) < 0:
			return fmt.Errorf("%w: USIM of profile %s, which the card does not have", ErrImage, u.ICCID)
		case im.Runtime.usim(u.ICCID) != i:
			return fmt.Errorf("%w: two USIMs of profile %s", ErrImage, u.ICCID)
		}
		if err := u.Check(); err != nil {
			return fmt.Errorf("%w: USIM of profile %s: %w", ErrImage, u.ICCID, err)
		}
	}
	return nil
}
