package card

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Terminals is one server under each of its key sets, the preferred one first:
// two and more while cards go over from one set to the next.
type Terminals []*Terminal

// KeySetError says that a card holds none of the server's key sets that have the
// keys of the suite.
type KeySetError struct {
	Card   []byte // the kids that the card lists, in the clear
	Server []byte // those of the sets that would do
	Suite  cryptogram.Suite
}

func (e *KeySetError) Error() string {
	return fmt.Sprintf("the card holds key set %s, the server has %s for suite %s", kids(e.Card), kids(e.Server), e.Suite)
}

func kids(ids []byte) string {
	if len(ids) == 0 {
		return "none"
	}
	var out []string
	for _, k := range ids {
		out = append(out, fmt.Sprintf("%02X", k))
	}
	return strings.Join(out, ", ")
}

// Check says what is wrong with the sets together: none, or two under one kid,
// of which a card can hold one only.
func (ts Terminals) Check() error {
	if len(ts) == 0 {
		return errors.New("no key set")
	}
	for i, t := range ts {
		if slices.ContainsFunc(ts[:i], func(o *Terminal) bool { return o.Keys.KID == t.Keys.KID }) {
			return fmt.Errorf("two key sets have the id (kid) %02X", t.Keys.KID)
		}
	}
	return nil
}

// For gives the first one whose key set the card lists (GET DATA card info, §6)
// and that has the keys of the suite; else the error is a *KeySetError. A card
// that lists nothing at all gets the first that has the keys.
//
// The list is in the clear. Who lies in it chooses which of the server's own key
// sets is used, so that a set is as much in use as the server has it here; or
// has the authentication fail, as anybody on the way can. Nothing of what a
// session is good for hangs on it: requests, stored answers and receipts name no
// kid (§8), and recovery goes on under any set that the card holds.
func (ts Terminals) For(info *Info, suite cryptogram.Suite) (*Terminal, error) {
	none := &KeySetError{Suite: suite}
	for _, f := range info.Failures {
		none.Card = append(none.Card, f.KID)
	}
	for _, t := range ts {
		if !t.Keys.Public().Supports(suite) {
			continue
		}
		if len(none.Card) == 0 || slices.Contains(none.Card, t.Keys.KID) {
			return t, nil
		}
		none.Server = append(none.Server, t.Keys.KID)
	}
	return nil, none
}
