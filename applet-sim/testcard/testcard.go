// Package testcard makes card images with the public test keys
// (card/cryptogram/testkeys), for tests and for trying things out.
package testcard

import (
	"fmt"
	"sync"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
	"github.com/cardbridge/cardbridge/card/id"
)

// Max is how many cards there are.
const Max = 1_000_000

// Image is the n-th card, n from 0 to Max-1: its EID and ICCIDs are its own. It
// takes suites 01 and 03, and has three profiles of operator 001 01: operational
// and enabled, operational and disabled, provisioning and disabled. It panics
// where n is out of range.
func Image(n int) *appletsim.Image {
	if n < 0 || n >= Max {
		panic(fmt.Sprintf("testcard: card %d: there are %d", n, Max))
	}
	im := &appletsim.Image{
		EID:  id.EID{0x89, 0x04, 0x90, 0x32, 0x11, 12: digits(n / 10000), 13: digits(n / 100), 14: digits(n)}.WithCheckDigits(),
		Keys: testkeys.Card(), Suites: []int{1, 3},
		ServerKeySets: []cryptogram.KeySetPEM{{ID: testkeys.Server().ID, KeysPEM: server()}},
	}
	var err error
	for i, name := range []string{"Working", "Spare", "Bootstrap"} {
		p := appletsim.Profile{State: appletsim.Disabled, Class: appletsim.Operational, Provider: "Test network", Name: name}
		p.ICCID, err = id.ParseICCID(fmt.Sprintf("8988001%011d%d", n, i))
		must(err)
		p.Owner, err = id.ParseMCCMNC("00101")
		must(err)
		im.Profiles = append(im.Profiles, p)
	}
	im.Profiles[0].State = appletsim.Enabled
	im.Profiles[2].Class = appletsim.Provisioning
	return im
}

// server is the public half of the server's key set.
var server = sync.OnceValue(func() cryptogram.KeysPEM {
	k, err := testkeys.Server().KeysPEM.PublicHalf()
	must(err)
	return k
})

func digits(n int) byte { return byte(n/10%10<<4 | n%10) }

// must is for what cannot fail: a test has made the images.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("testcard: %v", err))
	}
}
