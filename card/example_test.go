package card_test

import (
	"context"
	"fmt"
	"log"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
)

// Deactivate the enabled profile of an emulated card, and show the proof.
func Example() {
	f, err := vectors.Read()
	if err != nil {
		log.Fatal(err)
	}
	server, err := cryptogram.KeySetPEM{ID: 1, KeysPEM: cryptogram.KeysPEM{Auth: f.PEM("server-auth-1"), Enc: f.Keys["server-enc"]}}.Private()
	if err != nil {
		log.Fatal(err)
	}
	conn, record := emulated(f, server)

	ctx := context.Background()
	terminal := card.Terminal{Keys: server}
	ch := apdu.BasicChannel(conn)
	status, _, err := terminal.ReadStatus(ctx, ch, record.Target())
	if err != nil {
		log.Fatal(err)
	}
	profile, _ := status.Enabled()
	rep, err := terminal.Attempt(ctx, ch, record.Target(), card.Attempt{
		Command: card.Command{
			INS: card.INSDeactivate, RequestID: id.RequestID{1}, Operator: profile.Owner, ICCID: &profile.ICCID, Counter: status.EventCounter,
		},
		Recorded: status.EventCounter,
	})
	fmt.Println(rep.Outcome, err)
	fmt.Println(rep.Answer.ICCID, "is", rep.Answer.State, "- event counter", rep.Answer.Counter)
	fmt.Println("receipt of", len(rep.Answer.Receipt), "bytes")
	// Output:
	// done <nil>
	// 898603D0A1B2C3E40042 is disabled - event counter 1
	// receipt of 256 bytes
}

// emulated makes a card that trusts the server, and its record.
func emulated(f *vectors.File, server cryptogram.ServerKeys) (apdu.Conn, *card.Record) {
	public, err := cryptogram.EncodePublic(server.Public())
	if err != nil {
		log.Fatal(err)
	}
	var im appletsim.Image
	im.Keys = cryptogram.KeysPEM{Auth: f.PEM("card-auth-1"), Enc: f.Keys["card-enc"]}
	im.ServerKeySets = []cryptogram.KeySetPEM{{ID: server.KID, KeysPEM: public}}
	im.Suites = []int{1}
	if im.EID, err = id.ParseEID("89049032000000000000000000424247"); err != nil {
		log.Fatal(err)
	}
	p := appletsim.Profile{State: appletsim.Enabled, Class: appletsim.Operational, Provider: "Operator Eleven", Name: "Everyday"}
	if p.ICCID, err = id.ParseICCID("898603D0A1B2C3E40042"); err != nil {
		log.Fatal(err)
	}
	if p.Owner, err = id.ParseMCCMNC("46011"); err != nil {
		log.Fatal(err)
	}
	im.Profiles = []appletsim.Profile{p}
	emulator, err := appletsim.New(&im)
	if err != nil {
		log.Fatal(err)
	}
	own, err := im.Keys.Private()
	if err != nil {
		log.Fatal(err)
	}
	return emulator.Connect(), &card.Record{EID: im.EID, Keys: own.Public(), Suites: []cryptogram.Suite{cryptogram.Suite01}}
}
