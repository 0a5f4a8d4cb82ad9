package inventory_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// harmless are the commands that a card which may be anything is given to find
// out: they select, read, and open and close a logical channel.
var harmless = map[byte]string{
	0x70: "MANAGE CHANNEL", 0xA4: "SELECT", 0xAA: "TERMINAL CAPABILITY", 0xC0: "GET RESPONSE", 0xCA: "GET DATA", 0xE2: "STORE DATA",
}

// commands are what a reader was given; each must be harmless.
func commands(t *testing.T, readers *servertest.Readers, name string) (got []string) {
	for _, c := range readers.Sent(name) {
		what := harmless[c[1]]
		assert.NotEmpty(t, what, "%X", c)
		if c[1] == 0xE2 {
			assert.Equal(t, []byte{0xBF, 0x3E, 0x03, 0x5C, 0x01, 0x5A}, c[5:11], "GetEID alone")
		}
		got = append(got, what)
	}
	return got
}

// closed checks that the first logical channel of a card is free.
func closed(t *testing.T, c *appletsim.Card) {
	rapdu, err := c.Connect().Transmit(t.Context(), []byte{0x00, 0x70, 0x00, 0x00, 0x01})
	require.NoError(t, err)
	assert.Equal(t, []byte{0x01, 0x90, 0x00}, rapdu)
}

func TestPlainEUICC(t *testing.T) {
	for name, intercept := range map[string]servertest.Intercept{
		"as it is": nil,
		"no logical channels": func(capdu []byte, next servertest.Next) ([]byte, error) {
			if capdu[1] == 0x70 {
				return []byte{0x68, 0x81}, nil
			}
			return next(capdu)
		},
		"an ISD-R that hides until TERMINAL CAPABILITY": hiding(),
	} {
		t.Run(name, func(t *testing.T) {
			readers := servertest.NewReaders()
			c := servertest.Card(servertest.Plain(servertest.Image(1)))
			before := c.Image()
			readers.Insert("plain", c, intercept)
			readers.Insert("applet", servertest.Card(servertest.Image(2)), nil)
			inv, seen := start(t, readers)
			assert.ElementsMatch(t, []id.EID{servertest.EID(1), servertest.EID(2)}, []id.EID{<-seen, <-seen})
			assert.Equal(t, []inventory.Place{{Name: "plain", ID: "id of plain", Plain: true}}, inv.Readers(servertest.EID(1)))
			assert.Equal(t, []inventory.Place{{Name: "applet", ID: "id of applet"}}, inv.Readers(servertest.EID(2)))
			list := inv.List()
			assert.Equal(t, []bool{false, true}, []bool{list[0].Plain, list[1].Plain})
			commands(t, readers, "plain")
			assert.NotContains(t, commands(t, readers, "applet"), "STORE DATA", "a card with the applet is not asked by ES10")
			assert.Equal(t, before, c.Image())
			conn, err := inv.Open(t.Context(), inv.Readers(servertest.EID(1))[0])
			require.NoError(t, err)
			require.NoError(t, conn.Close())
			closed(t, c)
			readers.Remove("plain")
			readers.Insert("plain", servertest.Card(servertest.Image(1)), nil)
			assert.Equal(t, servertest.EID(1), <-seen)
			assert.Equal(t, []inventory.Place{{Name: "plain", ID: "id of plain"}}, inv.Readers(servertest.EID(1)), "another card, with the applet")
		})
	}
}

// hiding has a card know its ISD-R only once there was TERMINAL CAPABILITY.
func hiding() servertest.Intercept {
	told := false
	return func(capdu []byte, next servertest.Next) ([]byte, error) {
		told = told || capdu[1] == 0xAA
		if capdu[1] == 0xA4 && capdu[2] == 0x04 && !told {
			return []byte{0x6A, 0x82}, nil
		}
		return next(capdu)
	}
}

// A card that is none of ours gets SELECTs alone; one that lies in its answers is
// not identified, and no channel of it stays open.
func TestCardsThatAreNoEUICC(t *testing.T) {
	selects := func(answer ...byte) servertest.Intercept {
		return func(capdu []byte, next servertest.Next) ([]byte, error) {
			if capdu[1] == 0xA4 {
				return answer, nil
			}
			return next(capdu)
		}
	}
	storeData := func(answer ...byte) servertest.Intercept {
		return func(capdu []byte, next servertest.Next) ([]byte, error) {
			if capdu[1] == 0xE2 {
				return answer, nil
			}
			return next(capdu)
		}
	}
	for name, tt := range map[string]struct {
		carry servertest.Intercept
		never []string
	}{
		"knows no AID and no MF": {selects(0x6A, 0x82), []string{"TERMINAL CAPABILITY", "STORE DATA"}},
		"knows no SELECT":        {selects(0x6D, 0x00), []string{"TERMINAL CAPABILITY", "STORE DATA"}},
		"no EID":                 {storeData(0x6A, 0x88), nil},
		"garbage for an EID":     {storeData(append([]byte{0xBF, 0x3E, 0x12, 0x5A, 0x10}, append(make([]byte, 16), 0x90, 0x00)...)...), nil},
		"an EID without end":     {storeData(0x61, 0x10), nil},
	} {
		t.Run(name, func(t *testing.T) {
			readers := servertest.NewReaders()
			c := servertest.Card(servertest.Plain(servertest.Image(1)))
			readers.Insert("odd", c, tt.carry)
			inv, _ := start(t, readers)
			require.Eventually(t, func() bool { return slices.Contains(commands(t, readers, "odd"), "SELECT") }, 5*time.Second, time.Millisecond)
			time.Sleep(20 * time.Millisecond)
			assert.Empty(t, inv.EIDs())
			got := commands(t, readers, "odd")
			for _, never := range tt.never {
				assert.NotContains(t, got, never)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			conn, err := inv.Open(ctx, inventory.Place{Name: "odd", ID: "id of odd"})
			require.NoError(t, err, "the reader is free between two tries")
			require.NoError(t, conn.Close())
			closed(t, c)
		})
	}
}

// A card that leaves while it is asked by ES10 is not known.
func TestPlainEUICCThatLeaves(t *testing.T) {
	for n := 1; n <= 6; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			readers := servertest.NewReaders()
			left := n
			readers.Insert("r", servertest.Card(servertest.Plain(servertest.Image(1))), func(capdu []byte, next servertest.Next) ([]byte, error) {
				if left--; left == 0 {
					return nil, apdu.ErrCardRemoved
				}
				return next(capdu)
			})
			_, seen := start(t, readers)
			assert.Equal(t, servertest.EID(1), <-seen, "it came back")
		})
	}
}
