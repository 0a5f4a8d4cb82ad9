package server_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/audit"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// auditKey signs the checkpoints of the servers of this package's tests.
var auditKey = func() *audit.Key {
	secret, err := audit.NewKey("test")
	if err != nil {
		panic(err)
	}
	key, err := audit.ParseKey(secret)
	if err != nil {
		panic(err)
	}
	return key
}()

// verified is the trail of a record, which every test leaves whole.
func verified(t testing.TB, s *store.Store) audit.Report {
	trusted, err := audit.Trust(auditKey.Verifier())
	require.NoError(t, err)
	v, err := audit.NewVerifier(trusted)
	require.NoError(t, err)
	defer v.Close()
	trail, err := s.Trail(context.Background())
	require.NoError(t, err)
	defer trail.Close()
	report, err := trail.Verify(v, nil)
	require.NoError(t, err)
	return report
}

// The trail alone proves what a card did, and has what went between it and the
// server, without secrets.
func TestTrailOfADeactivation(t *testing.T) {
	r := newRig(t)
	im := servertest.Image(1)
	var wire servertest.Wire
	r.insert(im, wire.Carry)
	req := r.finished(r.ask(server.Deactivation{EID: im.EID}))
	require.Equal(t, store.Done, req.State)
	events, err := r.store.RequestEvents(t.Context(), req.ID, 0, true, 100)
	require.NoError(t, err)
	apdus := 0
	for _, e := range events {
		if e.Kind == "apdus" {
			apdus++
			assert.True(t, e.Internal)
			assert.Contains(t, e.Detail["trace"], "00A40400", "SELECT")
			assert.Contains(t, e.Detail["trace"], "8C040000", "DEACTIVATE")
		}
	}
	assert.Equal(t, 1, apdus)
	all, err := r.store.Events(t.Context(), 0, 1000)
	require.NoError(t, err)
	b, err := json.Marshal(all)
	require.NoError(t, err)
	secrets := wire.Secrets(t, im)
	require.NotEmpty(t, secrets)
	secrets.AbsentFrom(t, "audit trail", b)
	servertest.KeySetSecrets().AbsentFrom(t, "audit trail", b)
	require.NoError(t, r.stop())
}
