package cardhost

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/id"
)

// State is what a card is like.
type State struct {
	Card         int            `json:"card"`
	EID          id.EID         `json:"eid"`
	Present      bool           `json:"present"` // in its reader
	EventCounter uint32         `json:"event_counter"`
	Changes      uint32         `json:"changes"` // of a profile's state: by how much the counter has grown
	Profiles     []ProfileState `json:"profiles"`
	Done         []id.RequestID `json:"done"` // the last 8 requests done, the oldest first
	// Connections is how many have the card open. A client that was killed
	// counts until the last command that it sent was carried out: where it is 0,
	// nothing that was sent so far can change the card any more.
	Connections int `json:"connections"`
	APDUs       int `json:"apdus"` // that reached the reader
	FaultsMet   int `json:"faults_met"`
	FaultsLeft  int `json:"faults_left"`
}

// ProfileState is one profile's.
type ProfileState struct {
	ICCID id.ICCID        `json:"iccid"`
	State appletsim.State `json:"state"`
}

// Profile is the state of a profile, "" if the card does not have it.
func (s State) Profile(iccid id.ICCID) appletsim.State {
	for _, p := range s.Profiles {
		if p.ICCID == iccid {
			return p.State
		}
	}
	return ""
}

// Control does to cards what an operator's hands and a fault would. It is safe
// for concurrent use and must be closed.
type Control struct{ client client }

// NewControl is for the host at addr.
func NewControl(addr string) *Control { return &Control{client: client{addr: addr}} }

// Close ends the connection.
func (c *Control) Close() { c.client.close() }

func (c *Control) order(ctx context.Context, o order, answer any) error {
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("cardhost: %w", err)
	}
	ch, err := c.client.channel(ctx)
	if err != nil {
		return err
	}
	defer ch.forget()
	body, _, err = ch.exchange(ctx, frameControl, body)
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(body, answer)
}

// Insert puts a card back into its reader.
func (c *Control) Insert(ctx context.Context, card int) error {
	return c.order(ctx, order{Op: opInsert, Card: card}, nil)
}

// Remove pulls a card, for that long; 0: until Insert.
func (c *Control) Remove(ctx context.Context, card int, away time.Duration) error {
	return c.order(ctx, order{Op: opRemove, Card: card, For: away}, nil)
}

// Arm arranges for a fault, beside those arranged for before.
func (c *Control) Arm(ctx context.Context, card int, f Fault) error {
	return c.order(ctx, order{Op: opArm, Card: card, Fault: &f}, nil)
}

// Disarm drops the faults of a card that have not come yet.
func (c *Control) Disarm(ctx context.Context, card int) error {
	return c.order(ctx, order{Op: opDisarm, Card: card}, nil)
}

// Warm makes all cards, which else are made when they are first needed: it takes
// a millisecond for each.
func (c *Control) Warm(ctx context.Context) error {
	return c.order(ctx, order{Op: opWarm, Card: -1}, nil)
}

// States are those of count cards from first on.
func (c *Control) States(ctx context.Context, first, count int) ([]State, error) {
	all := make([]State, 0, count)
	for count > 0 {
		n := min(count, maxStates)
		var some []State
		if err := c.order(ctx, order{Op: opStates, Card: first, Count: n}, &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
		first, count = first+n, count-n
	}
	return all, nil
}
