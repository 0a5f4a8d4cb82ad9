package server_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// Where two readers say that they have a plain eUICC, one lies, and nothing tells
// which: neither is asked until one of them says so no more.
func TestPlainEUICCInTwoReaders(t *testing.T) {
	onBoth(t, func(t *testing.T, r *rig) {
		im := servertest.Plain(servertest.Image(1))
		c := r.insert(im, nil)
		liar := servertest.Card(servertest.Plain(servertest.Image(1)))
		r.readers.Insert("a liar", liar, nil)
		require.Eventually(t, func() bool { return len(r.Inventory.Readers(im.EID)) == 2 }, 10*time.Second, time.Millisecond)
		req := r.ask(server.Deactivation{EID: im.EID})
		require.Eventually(t, func() bool {
			events, err := r.store.RequestEvents(context.Background(), req.ID, 0, true, 100)
			require.NoError(t, err)
			for _, e := range events {
				if e.Kind == "waiting" && e.Detail["text"] == "several readers say that they have this card, and nothing tells which of them does" {
					return true
				}
			}
			now, err := r.store.Request(context.Background(), req.ID)
			require.NoError(t, err)
			require.Nil(t, now.FinishedAt, "%s: %s", now.State, now.Detail)
			return false
		}, 10*time.Second, time.Millisecond)
		assert.Zero(t, r.disables("reader")+r.disables("a liar"))
		r.readers.Remove("a liar")
		req = r.finished(req)
		assert.Equal(t, store.Done, req.State, req.Detail)
		assert.Equal(t, appletsim.Disabled, c.Image().Profiles[0].State)
		r.asPlain(c)
	})
}
