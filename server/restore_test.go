package server_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// A server on a record that was restored from a backup, whose cards went on
// since: it learns what they are, sends nothing again that it does not know to
// have been sent, brings to its end what it does know, and lets nothing out until
// the administrator says so.
func TestRestoredRecord(t *testing.T) {
	r := newRig(t)
	lost, later, fresh := servertest.Image(1), servertest.Image(2), servertest.Image(3)

	// One was sent, and its answer is lost, until after the backup.
	var losing atomic.Bool
	losing.Store(true)
	lostCard := r.insert(lost, func(capdu []byte, next servertest.Next) ([]byte, error) {
		answer, err := next(capdu)
		if isSecured(capdu, card.INSDeactivate) && losing.Load() {
			return nil, apdu.ErrCardRemoved
		}
		return answer, err
	})
	sent := r.ask(server.Deactivation{EID: lost.EID})
	r.until(sent, store.Unknown)
	// One waits for its card.
	r.register(later)
	waiting := r.ask(server.Deactivation{EID: later.EID})
	r.register(fresh)

	backup, restored := filepath.Join(r.dir, "backup.db"), filepath.Join(r.dir, "restored.db")
	require.NoError(t, store.Backup(t.Context(), filepath.Join(r.dir, "record.db"), backup))

	// What the backup does not know.
	losing.Store(false)
	before := r.finished(sent)
	require.Equal(t, store.Done, before.State)
	laterCard, freshCard := servertest.Card(later), servertest.Card(fresh)
	r.readers.Insert("later", laterCard, nil)
	require.Equal(t, store.Done, r.finished(waiting).State)
	require.NoError(t, r.stop())

	_, err := store.Restore(t.Context(), backup, restored)
	require.NoError(t, err)
	again := unstarted(t, restored)
	again.dir, again.op = r.dir, r.op
	again.start()
	for name, c := range map[string]*appletsim.Card{"lost": lostCard, "later": laterCard, "fresh": freshCard} {
		again.readers.Insert(name, c, nil)
	}
	after := again.finished(sent)
	assert.Equal(t, store.Done, after.State)
	assert.Equal(t, before.Answer.Receipt, after.Answer.Receipt, "the card's stored answer")
	assert.Equal(t, store.Unknown, again.finished(waiting).State, "nobody can know")
	for _, c := range []*appletsim.Card{lostCard, laterCard, freshCard} {
		im := c.Image()
		again.settled(im.EID)
		again.sameAs(im)
	}
	assert.Zero(t, again.secured("later", card.INSDeactivate), "it is not sent again")

	refused := again.ask(server.Deactivation{EID: fresh.EID})
	require.NotNil(t, refused.Refusal)
	assert.Equal(t, server.MassDeactivation, refused.Refusal.Rule)
	_, err = again.store.ResetBreaker(t.Context(), "one")
	require.NoError(t, err)
	assert.Equal(t, store.Done, again.finished(again.ask(server.Deactivation{EID: fresh.EID})).State)
}
