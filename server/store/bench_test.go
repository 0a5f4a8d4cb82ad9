package store

import (
	"context"
	"encoding/binary"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
)

// BenchmarkDeactivation is what the record does for a request that is carried
// out at once, submit, mark and finish, by 32 callers on cards of their own: with
// the audit trail, checkpoints made all the time, and without.
func BenchmarkDeactivation(b *testing.B) {
	for _, database := range []string{"sqlite", "postgres"} {
		for _, kind := range []string{"audit", "none"} {
			b.Run(database+"/"+kind, func(b *testing.B) {
				b.ReportAllocs()
				where := filepath.Join(b.TempDir(), "record.db")
				if database == "postgres" {
					where = postgres.Shared(b).NewDatabase(b, "")
				}
				f := newFixture(b, where)
				var opts []Option
				if kind == "none" {
					opts = append(opts, WithoutAudit())
				}
				s := f.open(b, opts...)
				const callers = 32
				eids := make(chan id.EID, callers)
				for n := range callers {
					eid := testEID(byte(n + 10))
					c := f.card(b, eid)
					require.NoError(b, s.RegisterCard(b.Context(), f.op, c))
					w, err := s.Claim(b.Context(), f.me, eid)
					require.NoError(b, err)
					require.NoError(b, s.RecordCard(b.Context(), w.Claim, CardState{EventCounter: 5, Complete: true, Profiles: c.Profiles}))
					eids <- eid
				}
				stop := make(chan struct{})
				signed := make(chan struct{})
				go func() { // far more often than servers do
					defer close(signed)
					key, last := newAuditKey(b), ""
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Second):
						}
						if note, err := s.Checkpoint(context.Background(), key, last); err == nil && note != "" {
							last = note
						}
					}
				}()
				var n atomic.Uint64
				b.SetParallelism(callers / 2)
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					eid := <-eids
					defer func() { eids <- eid }()
					for pb.Next() {
						if err := deactivate(s, f, eid, n.Add(1)); err != nil {
							b.Error(err)
							return
						}
					}
				})
				b.StopTimer()
				close(stop)
				<-signed
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deactivations/s")
			})
		}
	}
}

// apduTrace is as long as the text of a deactivation's exchanges under keys of
// 2048 bits.
var apduTrace = strings.Repeat("> 8C040000 # +0.0\n< 9000 # +0.0\n", 110)

// deactivate has the events of a server's.
func deactivate(s *Store, f *fixture, eid id.EID, n uint64) error {
	ctx := context.Background()
	sub := f.submission(0)
	binary.BigEndian.PutUint64(sub.ID[:], n)
	sub.EID, sub.Claim = eid, &f.me
	input := map[string]any{"input": strings.Repeat("x", 900), "rules_digest": strings.Repeat("x", 64), "allowed": true}
	out, err := s.Submit(ctx, sub, func(*Moment) Verdict { return Verdict{ICCID: &f.iccid, Window: time.Hour, Audit: input} })
	if err != nil {
		return err
	}
	step := Event{Kind: "sending", Detail: map[string]any{"suite": "01", "event_counter": 5}}
	if err := s.MarkSending(ctx, out.Work.Claim, out.Request, 5, []Event{{Kind: "authenticating", Detail: map[string]any{"reader": "r"}}}, step, allow); err != nil {
		return err
	}
	answer := &Answer{SW: 0x9000, Suite: 1, EventCounter: 6, Command: make([]byte, 47), Response: make([]byte, 30), Receipt: make([]byte, 256)}
	_, err = s.Finish(ctx, out.Work.Claim, out.ID, Outcome{State: Done, Answer: answer, Steps: []Event{
		{Kind: "apdus", Internal: true, Detail: map[string]any{"trace": apduTrace}},
		{Kind: "done", Detail: map[string]any{"by": "card", "command": strings.Repeat("0", 94), "response": strings.Repeat("0", 60), "receipt": strings.Repeat("0", 512)}},
	}})
	return err
}
