package server

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// GET STATUS in recovery settles the record of the card although the request's
// own outcome stays unknown.
func TestLostKeepsTheStatus(t *testing.T) {
	records, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "record.db"))
	require.NoError(t, err)
	defer records.Close()
	log := slog.New(slog.DiscardHandler)
	s, err := New(Config{Store: records, Inventory: inventory.New(servertest.NewReaders(), log), Terminal: servertest.Terminal(), Log: log})
	require.NoError(t, err)
	op, _, err := AddOperator(t.Context(), records, "one", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	im := servertest.Image(1)
	_, _, err = s.RegisterCard(t.Context(), op, servertest.Record(im))
	require.NoError(t, err)
	iccid := im.Profiles[0].ICCID
	sub := store.Submission{ID: id.RequestID{1}, Operator: op, EID: im.EID, ICCID: &iccid, Timeout: time.Hour, Claim: &s.self}
	out, err := records.Submit(t.Context(), sub, func(*store.Moment) store.Verdict { return store.Verdict{ICCID: &iccid} })
	require.NoError(t, err)
	require.NotNil(t, out.Work)
	let := func(*store.Moment, *store.Request) store.Verdict { return store.Verdict{ICCID: &iccid} }
	require.NoError(t, records.MarkSending(t.Context(), out.Work.Claim, out.Request, 5, nil, store.Event{Kind: "sending"}, let))

	status := &card.Status{EventCounter: 9, Profiles: []card.Profile{{ICCID: iccid, Owner: servertest.Owner, State: card.Disabled}}}
	rep := card.Report{Outcome: card.OutcomeUnknown, Sent: true, Authenticated: true, Status: status}
	s.work = t.Context()
	a := &attempt{s: s, work: &taken{Work: *out.Work}}
	assert.Equal(t, soon, a.lost(rep, card.ErrOutcomeUnknown))
	c, err := records.Card(t.Context(), im.EID, 0)
	require.NoError(t, err)
	assert.Equal(t, uint32(9), c.EventCounter)
	assert.Equal(t, store.Disabled, c.Profile(iccid).State)
	assert.False(t, c.Unsettled)
	req, err := records.Request(t.Context(), out.ID)
	require.NoError(t, err)
	assert.Equal(t, store.Unknown, req.State)
	assert.Nil(t, req.FinishedAt)
}
