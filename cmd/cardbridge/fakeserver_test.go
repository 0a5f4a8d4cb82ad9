package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// claims is a server that takes any request in, as if it were d's, and then
// says that it ended as d.
func claims(t *testing.T, d client.Deactivation) string {
	accepted := d
	accepted.State, accepted.Finished, accepted.SentAt, accepted.Answer, accepted.Refusal = "accepted", false, nil, nil, nil
	mux := http.NewServeMux()
	reply := func(pattern string, v any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { assert.NoError(t, json.NewEncoder(w).Encode(v)) })
	}
	reply("POST /v1/deactivations", accepted)
	reply("GET /v1/deactivations/{id}/events", client.Steps{State: d.State, Finished: true})
	reply("GET /v1/deactivations/{id}", d)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

// believe runs the client against a server that claims d.
func (s *served) believe(t *testing.T, d client.Deactivation, asJSON bool, change func(*asking)) (stdout string, status int) {
	a := asking{
		remote: remote{server: claims(t, d), tokenFile: s.path("token")},
		eid:    d.EID, record: s.path(d.EID), timeout: time.Minute, wait: true,
	}
	if change != nil {
		change(&a)
	}
	var out, steps bufferOf
	err := a.run(t.Context(), &printer{out: &out, err: &steps, json: asJSON})
	var exit exitStatus
	if err != nil {
		require.ErrorAs(t, err, &exit)
	}
	return out.String(), int(exit)
}

// end has a request carried out and gives its record.
func (s *served) end(n int, args ...string) client.Deactivation {
	res, stderr, _ := s.deactivate(n, args...)
	require.NotNil(s, res.ReceiptVerified, "%s", stderr)
	require.True(s, *res.ReceiptVerified)
	r := remote{server: s.ready.URL, tokenFile: s.path("token"), pin: s.ready.Pin}
	c, err := r.client()
	require.NoError(s, err)
	d, err := c.GetDeactivation(context.Background(), res.RequestID)
	require.NoError(s, err)
	require.NotNil(s, d.Answer)
	s.write(d.EID, servertest.Record(servertest.Image(n)))
	return *d
}

// What the client says the card did it says with the card's receipt for it
// alone.
func TestWhatCannotBeVerifiedIsUnknown(t *testing.T) {
	s := serve(t, "--insecure-http")
	s.insert(1, nil, nil)
	s.insert(2, nil, nil)
	s.insert(3, func(im *appletsim.Image) { im.Profiles[0].PPR1 = true }, nil)
	done, foreign := s.end(1), s.end(2)
	refused, earlier := s.end(3), s.end(3)

	t.Run("genuine", func(t *testing.T) {
		out, status := s.believe(t, done, true, nil)
		assert.Zero(t, status)
		assert.Contains(t, out, `"outcome":"done"`)
		out, status = s.believe(t, done, false, nil)
		assert.Zero(t, status)
		assert.Regexp(t, `(?m)^outcome +done$`, out)
		out, status = s.believe(t, refused, true, nil)
		assert.Equal(t, exitCardRefused, status)
		assert.Contains(t, out, `"refused_by":"card"`)
	})
	for name, c := range map[string]struct {
		of     client.Deactivation
		change func(d *client.Deactivation, a *client.Answer)
		ask    func(*asking)
	}{
		"garbage":        {of: done, change: func(_ *client.Deactivation, a *client.Answer) { a.Receipt = "garbage" }},
		"no receipt":     {of: done, change: func(_ *client.Deactivation, a *client.Answer) { a.Receipt = "" }},
		"forged receipt": {of: done, change: func(_ *client.Deactivation, a *client.Answer) { a.Receipt = strings.Repeat("5a", len(a.Receipt)/2) }},
		"forged response": {of: refused, change: func(d *client.Deactivation, a *client.Answer) {
			d.State, a.Result, a.Response = "done", "00", "900100"+a.Response[6:]
		}},
		"another's receipt": {of: done, change: func(_ *client.Deactivation, a *client.Answer) {
			a.Receipt, a.Response = foreign.Answer.Receipt, foreign.Answer.Response
		}},
		"another's answer": {of: done, change: func(_ *client.Deactivation, a *client.Answer) { *a = *foreign.Answer }},
		"an earlier receipt": {of: refused, change: func(_ *client.Deactivation, a *client.Answer) {
			a.Receipt, a.Response = earlier.Answer.Receipt, earlier.Answer.Response
		}},
		"an earlier answer":                    {of: refused, change: func(_ *client.Deactivation, a *client.Answer) { *a = *earlier.Answer }},
		"another command":                      {of: done, change: func(_ *client.Deactivation, a *client.Answer) { a.Command = "00" + a.Command[2:] }},
		"a command cut off":                    {of: done, change: func(_ *client.Deactivation, a *client.Answer) { a.Command = "8210" }},
		"another's request":                    {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.EID = foreign.EID }, ask: func(a *asking) { a.eid, a.record = done.EID, s.path(done.EID) }},
		"another's record":                     {of: done, ask: func(a *asking) { a.record = s.path(foreign.EID) }},
		"another profile":                      {of: done, ask: func(a *asking) { a.iccid = servertest.ICCID(1, 1).String() }},
		"another reason":                       {of: done, ask: func(a *asking) { a.reason = 9 }},
		"another result":                       {of: done, change: func(_ *client.Deactivation, a *client.Answer) { a.Result = "03" }},
		"done, not refused":                    {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.State = "refused" }},
		"refused, not done":                    {of: refused, change: func(d *client.Deactivation, _ *client.Answer) { d.State = "done" }},
		"done, no answer":                      {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.Answer = nil }},
		"refused, no answer":                   {of: refused, change: func(d *client.Deactivation, _ *client.Answer) { d.Answer = nil }},
		"by ES10c, and there are keys":         {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.How, d.Answer = "es10c", nil }},
		"by ES10c, the card not shown":         {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.How, d.Answer = "es10c", nil }, ask: func(a *asking) { a.record = "" }},
		"refused by ES10c, and there are keys": {of: refused, change: func(d *client.Deactivation, _ *client.Answer) { d.How, d.Answer = "es10c", nil }},
		"unknown, no answer":                   {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.State, d.Detail, d.Answer = "unknown", "", nil }},
		"done, not finished":                   {of: done, change: func(d *client.Deactivation, _ *client.Answer) { d.Finished, d.SentAt, d.Answer = false, nil, nil }},
		"a rule, and sent":                     {of: refused, change: func(d *client.Deactivation, _ *client.Answer) { d.Answer, d.Refusal = nil, &client.Refusal{Rule: "x"} }},
		"a rule, an answer": {of: done, change: func(d *client.Deactivation, a *client.Answer) {
			a.Receipt, d.SentAt, d.Refusal = "00", nil, &client.Refusal{Rule: "x"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := c.of
			answer := *d.Answer
			d.Answer = &answer
			if c.change != nil {
				c.change(&d, &answer)
			}
			ask := func(a *asking) {
				a.record = s.path(c.of.EID)
				if c.ask != nil {
					c.ask(a)
				}
			}
			out, status := s.believe(t, d, true, ask)
			assert.Equal(t, exitUnknown, status, "%s", out)
			var res map[string]any
			require.NoError(t, json.Unmarshal([]byte(out), &res))
			assert.Equal(t, "unknown", res["outcome"])
			assert.Equal(t, "unknown", res["state"])
			assert.NotEqual(t, true, res["receipt_verified"])
			for _, member := range []string{"result", "sw", "event_counter", "refused_by"} {
				assert.NotContains(t, res, member)
			}
			out, status = s.believe(t, d, false, ask)
			assert.Equal(t, exitUnknown, status)
			assert.Regexp(t, `(?m)^outcome +unknown$`, out)
			assert.NotContains(t, out, "done")
		})
	}
	t.Run("the record of another request", func(t *testing.T) {
		end := earlier
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/deactivations", func(w http.ResponseWriter, _ *http.Request) {
			assert.NoError(t, json.NewEncoder(w).Encode(client.Deactivation{ID: refused.ID, EID: refused.EID, State: "accepted"}))
		})
		mux.HandleFunc("GET /v1/deactivations/{id}/events", func(w http.ResponseWriter, _ *http.Request) {
			assert.NoError(t, json.NewEncoder(w).Encode(client.Steps{State: "refused", Finished: true}))
		})
		mux.HandleFunc("GET /v1/deactivations/{id}", func(w http.ResponseWriter, _ *http.Request) { assert.NoError(t, json.NewEncoder(w).Encode(end)) })
		srv := httptest.NewServer(mux)
		defer srv.Close()
		out, status := s.believe(t, end, true, func(a *asking) { a.server = srv.URL })
		assert.Equal(t, exitUnknown, status)
		assert.Contains(t, out, "another request")
	})
}

// A reply that is lost is not a request that failed.
func TestDeactivateLosesTheReply(t *testing.T) {
	var key atomic.Value // of the last request
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key.Store(r.Header.Get("Idempotency-Key"))
		panic(http.ErrAbortHandler)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer srv.Close()
	s := &served{TB: t, dir: t.TempDir()}
	a := asking{
		remote: remote{server: srv.URL, tokenFile: s.write("token", []byte("cbt_x\n"))},
		eid:    servertest.EID(1).String(), timeout: time.Minute, wait: true,
	}
	var out, steps bufferOf
	err := a.run(t.Context(), &printer{out: &out, err: &steps, json: true})
	var exit exitStatus
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, exitStatus(exitUnknown), exit)
	var res deactivateJSON
	require.NoError(t, json.Unmarshal([]byte(out.String()), &res))
	assert.Equal(t, "unknown", res.Outcome)
	assert.Equal(t, key.Load(), res.IdempotencyKey)
	assert.Contains(t, steps.String(), "--idempotency-key "+res.IdempotencyKey)
}
