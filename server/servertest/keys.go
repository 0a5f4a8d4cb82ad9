// Package servertest is emulated cards in readers of their own, for tests of
// the card management server and of what stands on it.
package servertest

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
)

// vectorKeys are the private keys of the protocol's test vectors, by name: keys
// take long to make.
var vectorKeys = sync.OnceValue(func() map[string]string {
	f, err := vectors.Read()
	must(err)
	return f.Keys
})

// must is for what cannot fail where the tree is whole.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("servertest: %v", err))
	}
}

func keySet(side string) cryptogram.KeysPEM {
	k := vectorKeys()
	return cryptogram.KeysPEM{Auth: []string{k[side+"-auth-1"], k[side+"-auth-2"], k[side+"-auth-3"]}, Enc: k[side+"-enc"]}
}

// serverPublic is made once: there may be many cards.
var serverPublic = sync.OnceValue(func() cryptogram.KeysPEM {
	k, err := keySet("server").PublicHalf()
	must(err)
	return k
})

// KID is the id of the server's key set.
const KID = 1

// KeySetFile is the server's key set file (docs/protocol.md §9).
func KeySetFile() []byte {
	b, err := json.Marshal(cryptogram.KeySetPEM{ID: KID, KeysPEM: keySet("server")})
	must(err)
	return b
}

// Terminal is the server's side, with the key set of KeySetFile.
func Terminal() *card.Terminal {
	keys, err := cryptogram.KeySetPEM{ID: KID, KeysPEM: keySet("server")}.Private()
	must(err)
	return &card.Terminal{Keys: keys}
}

// Owner and Other are two operators' networks.
var (
	Owner = parse(id.ParseMCCMNC, "46011")
	Other = parse(id.ParseMCCMNC, "26201")
)

func parse[T any](f func(string) (T, error), s string) T {
	v, err := f(s)
	must(err)
	return v
}

// EID is the n-th card's, n from 0 to 99,999,999.
func EID(n int) id.EID {
	e := id.EID{0x89, 0x04, 0x90, 0x32}
	for i := 14; n > 0; i-- {
		e[i] = byte(n/10%10<<4 | n%10)
		n /= 100
	}
	return e.WithCheckDigits()
}

// ICCID is that of the n-th card's profile i.
func ICCID(n, i int) id.ICCID { return parse(id.ParseICCID, fmt.Sprintf("898603%012d%d", n, i)) }

// Image is the n-th card: profile 0 of Owner, enabled; profile 1 of Owner,
// disabled; profile 2 of Other, disabled.
func Image(n int) *appletsim.Image {
	profile := func(i int, owner id.MCCMNC, state appletsim.State) appletsim.Profile {
		return appletsim.Profile{
			ICCID: ICCID(n, i), Owner: owner, State: state, Class: appletsim.Operational,
			Provider: "Provider", Name: fmt.Sprintf("Profile %d", i),
		}
	}
	return &appletsim.Image{
		EID: EID(n), Keys: keySet("card"), Suites: []int{1, 3}, EventCounter: 5,
		ServerKeySets: []cryptogram.KeySetPEM{{ID: KID, KeysPEM: serverPublic()}},
		Profiles:      []appletsim.Profile{profile(0, Owner, appletsim.Enabled), profile(1, Owner, appletsim.Disabled), profile(2, Other, appletsim.Disabled)},
	}
}

// Stranger gives an image the keys of another card.
func Stranger(im *appletsim.Image) *appletsim.Image {
	k := vectorKeys()
	im.Keys = cryptogram.KeysPEM{Auth: []string{k["card-enc"]}, Enc: k["card-auth-1"]}
	im.Suites = []int{1}
	return im
}

// Plain makes an image that of a plain eUICC. It gives the image.
func Plain(im *appletsim.Image) *appletsim.Image {
	im.Runtime = &appletsim.Runtime{About: &appletsim.EUICC{Plain: true}}
	return im
}

// Record is the card record file of an image.
func Record(im *appletsim.Image) []byte {
	b, err := im.Record()
	must(err)
	return b
}

// Card makes an emulated card.
func Card(im *appletsim.Image, opts ...appletsim.Option) *appletsim.Card {
	c, err := appletsim.New(im, opts...)
	must(err)
	return c
}
