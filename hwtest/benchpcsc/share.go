package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// operationTime is what a card takes for a private-key operation.
const operationTime = 300 * time.Millisecond

// slowKey takes a card's time.
type slowKey struct{ cryptogram.PrivateKey }

func (k slowKey) Private(ctx context.Context, c []byte) ([]byte, error) {
	end := time.Now().Add(operationTime)
	m, err := k.PrivateKey.Private(ctx, c)
	time.Sleep(time.Until(end))
	return m, err
}

// timedCard adds up the time for which it has a command.
type timedCard struct {
	*appletsim.Card
	spent atomic.Int64 // ns
}

func (c *timedCard) Process(capdu []byte) []byte {
	start := time.Now()
	defer func() { c.spent.Add(int64(time.Since(start))) }()
	return c.Card.Process(capdu)
}

// share measures deactivations of a card with real timing, through pcscd, and
// gives the median of what they take beyond the card's own time, as a part of
// that.
func share(rounds int) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	daemon, err := rig.StartPCSCD(ctx, rig.Options{Slots: 1})
	if err != nil {
		return 0, err
	}
	defer daemon.Stop()
	slot := daemon.Slots()[0]

	image := servertest.Image(1)
	keys, err := image.Keys.Private()
	if err != nil {
		return 0, err
	}
	for i := range keys.Auth {
		keys.Auth[i] = slowKey{keys.Auth[i]}
	}
	keys.Enc = slowKey{keys.Enc}
	slow := &timedCard{Card: servertest.Card(image, appletsim.WithKeys(keys))}
	record, err := card.ParseRecord(servertest.Record(image))
	if err != nil {
		return 0, err
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- vpcd.Serve(serving, slot.Addr, slow) }()
	defer func() { stop(); <-served }()
	source := pcsc.New()
	if _, err := source.WaitCard(ctx, slot.Reader); err != nil {
		return 0, err
	}
	open := func(ctx context.Context) (apdu.Conn, error) { return source.Connect(ctx, slot.Reader, pcsc.Options{}) }

	terminal := servertest.Terminal()
	ins := card.INSDeactivate
	var shares []float64
	fmt.Printf("%8s  %14s  %14s  %8s\n", "round", "whole", "card", "ours")
	for round := range rounds {
		request := id.RequestID{byte(round), byte(round >> 8), 1}
		before, start := slow.spent.Load(), time.Now()
		_, rep, err := terminal.Run(ctx, record.Target(), card.Operation{
			INS: ins, RequestID: request, ICCID: &record.Profiles[0].ICCID, Attempts: 1, Open: open, Wait: 10 * time.Second,
		})
		whole := time.Since(start)
		if err == nil && rep.Outcome != card.OutcomeDone {
			err = fmt.Errorf("the card's answer is %s", rep.Outcome)
		}
		if err != nil {
			return 0, errors.Join(errors.New("deactivation"), err)
		}
		spent := time.Duration(slow.spent.Load() - before)
		shares = append(shares, float64(whole-spent)/float64(spent))
		fmt.Printf("%8d  %11.1f ms  %11.1f ms  %7.2f%%\n", round+1, ms(whole), ms(spent), 100*shares[round])
		ins ^= card.INSDeactivate ^ card.INSActivate
	}
	return median(shares), nil
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }
