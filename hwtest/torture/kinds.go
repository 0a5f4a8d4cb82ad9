package torture

import (
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// Kinds of cards.
const (
	Extended = "extended" // extended length: one APDU a command
	Short    = "short"    // command chaining and GET RESPONSE
	Triple   = "triple"   // extended length, suite 03
)

var kinds = map[string]struct {
	image   func(*appletsim.Image)
	options []appletsim.Option
}{
	Extended: {},
	Short:    {options: []appletsim.Option{appletsim.WithoutExtendedLength()}},
	Triple:   {image: func(im *appletsim.Image) { im.Policy.RequireTriple = true }},
}

// newCard makes the n-th card of a kind, and the image it had then.
func newCard(kind string, n int) (*Card, *appletsim.Image) {
	k := kinds[kind]
	im := servertest.Image(n)
	if k.image != nil {
		k.image(im)
	}
	return NewCard(servertest.Card(im, k.options...)), im
}
