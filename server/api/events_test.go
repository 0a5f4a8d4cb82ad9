package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// web is the interface on a real connection, bounded as in service.
func (f *fixture) web(change func(*httptest.Server)) *httptest.Server {
	srv := httptest.NewUnstartedServer(f.api)
	own := api.NewServer(f.api)
	srv.Config.ReadTimeout, srv.Config.WriteTimeout = own.ReadTimeout, own.WriteTimeout
	if change != nil {
		change(srv)
	}
	if srv.TLS == nil && !srv.EnableHTTP2 {
		srv.Start()
	} else {
		srv.StartTLS()
	}
	f.Cleanup(srv.Close)
	return srv
}

// event is one server-sent event, or a comment where all is empty.
type event struct{ name, id, data string }

// events reads a stream, until it ends, into a channel.
func events(t testing.TB, body io.Reader) <-chan event {
	out := make(chan event, 100)
	go func() {
		defer close(out)
		var e event
		for lines := bufio.NewScanner(body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch {
			case lines.Text() == "":
				out <- e
				e = event{}
			case field == "event":
				e.name = value
			case field == "id":
				e.id = value
			case field == "data":
				e.data = value
			default:
				assert.Empty(t, field, "a comment")
			}
		}
	}()
	return out
}

func (f *fixture) stream(srv *httptest.Server, request, token string, header ...string) *http.Response {
	req, err := http.NewRequest("GET", srv.URL+"/v1/deactivations/"+request+"/events", nil)
	require.NoError(f, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := srv.Client().Do(req)
	require.NoError(f, err)
	f.Cleanup(func() { res.Body.Close() })
	return res
}

// noStreams waits until none is open.
func (f *fixture) noStreams() {
	f.Helper()
	require.Eventually(f, func() bool { return f.api.Streams() == 0 }, 10*time.Second, time.Millisecond)
}

func TestEventStream(t *testing.T) {
	for name, change := range map[string]func(*httptest.Server){
		"HTTP/1.1": func(s *httptest.Server) {
			s.Config.ReadTimeout, s.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
		},
		"HTTP/2": func(s *httptest.Server) {
			s.EnableHTTP2 = true
			s.Config.ReadTimeout, s.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.api.Hasten(50*time.Millisecond, 200*time.Millisecond)
			srv := f.web(change)
			f.register(1)
			d := f.ask(1, f.token).deactivation(http.StatusAccepted)
			res := f.stream(srv, d.ID, f.token)
			assert.Equal(t, http.StatusOK, res.StatusCode)
			assert.Equal(t, name, strings.TrimSuffix(res.Proto, ".0"))
			assert.Equal(t, "text/event-stream", res.Header.Get("Content-Type"))
			assert.Equal(t, "no-store", res.Header.Get("Cache-Control"))
			stream := events(t, res.Body)
			// The server's bounds on short replies pass in the meantime.
			for silent := 0; silent < 8; {
				e, open := <-stream
				require.True(t, open, "cut off after %d", silent)
				if e == (event{}) {
					silent++
				}
			}
			f.readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
			var kinds, ids []string
			var end api.Deactivation
			for e := range stream {
				switch e.name {
				case "step":
					var s api.Step
					require.NoError(t, json.Unmarshal([]byte(e.data), &s))
					assert.Equal(t, strconv.FormatInt(s.Seq, 10), e.id)
					kinds, ids = append(kinds, s.Step), append(ids, e.id)
				case "finished":
					assert.Empty(t, end.ID, "once")
					assert.Equal(t, "end", e.id)
					require.NoError(t, json.Unmarshal([]byte(e.data), &end))
				default:
					assert.Equal(t, event{}, e)
				}
			}
			assert.Subset(t, kinds, []string{"authenticating", "sending"})
			assert.Equal(t, "done", kinds[len(kinds)-1])
			var now api.Deactivation
			f.do("GET", "/v1/deactivations/"+d.ID, f.token, "").into(&now)
			assert.Equal(t, now, end)

			// Whoever was cut off misses nothing.
			for i := range ids {
				var rest []string
				for e := range events(t, f.stream(srv, d.ID, f.token, "Last-Event-ID", ids[i]).Body) {
					if e != (event{}) {
						rest = append(rest, e.id)
					}
				}
				assert.Equal(t, append(append([]string{}, ids[i+1:]...), "end"), rest)
			}
			assert.Equal(t, http.StatusNoContent, f.stream(srv, d.ID, f.token, "Last-Event-ID", "end").StatusCode)
			f.noStreams()
		})
	}
}

func TestEventStreamRefuses(t *testing.T) {
	f := newFixture(t)
	srv := f.web(nil)
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	for name, c := range map[string]struct {
		id, token string
		header    []string
		status    int
	}{
		"another's":          {d.ID, f.other, nil, 404},
		"not there":          {"00000000-0000-4000-8000-000000000000", f.token, nil, 404},
		"another's, to end":  {d.ID, f.other, []string{"Last-Event-ID", "end"}, 404},
		"nobody's":           {d.ID, "x", nil, 401},
		"no id":              {"zz", f.token, nil, 422},
		"last id a word":     {d.ID, f.token, []string{"Last-Event-ID", "last"}, 422},
		"last id negative":   {d.ID, f.token, []string{"Last-Event-ID", "-1"}, 422},
		"last id signed":     {d.ID, f.token, []string{"Last-Event-ID", "+1"}, 422},
		"last id a fraction": {d.ID, f.token, []string{"Last-Event-ID", "1.5"}, 422},
		"last id too great":  {d.ID, f.token, []string{"Last-Event-ID", "9999999999999999999"}, 422},
		"last id too long":   {d.ID, f.token, []string{"Last-Event-ID", strings.Repeat("1", 1000)}, 422},
		"last id and more":   {d.ID, f.token, []string{"Last-Event-ID", "end 1"}, 422},
	} {
		t.Run(name, func(t *testing.T) {
			res := f.stream(srv, c.id, c.token, c.header...)
			assert.Equal(t, c.status, res.StatusCode)
			assert.Equal(t, "application/problem+json", res.Header.Get("Content-Type"))
		})
	}
	for accept, want := range map[string]string{
		"": "application/json", "*/*": "application/json", "application/json": "application/json",
		"text/event-stream, application/json": "application/json", "text/event-stream;q=0.9, application/json;q=0.1": "text/event-stream",
		"text/event-stream;q=0": "application/json", "text/html": "application/json", ";;,,": "application/json",
		"text/event-stream; charset=utf-8": "text/event-stream",
	} {
		res := f.stream(srv, d.ID, f.token, "Accept", accept)
		assert.Equal(t, want, res.Header.Get("Content-Type"), "%q", accept)
		res.Body.Close()
	}
	req, err := http.NewRequest("HEAD", srv.URL+"/v1/deactivations/"+d.ID+"/events", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+f.token)
	req.Header.Set("Accept", "text/event-stream")
	res, err := srv.Client().Do(req)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, res.StatusCode)
	f.noStreams()
}

// One operator's streams are bounded, and leave others theirs; a client that
// goes leaves nothing behind.
func TestManyEventStreams(t *testing.T) {
	f := newFixture(t)
	srv := f.web(nil)
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	var open []*http.Response
	for range api.StreamsOfOne {
		res := f.stream(srv, d.ID, f.token)
		require.Equal(t, http.StatusOK, res.StatusCode)
		open = append(open, res)
	}
	res := f.stream(srv, d.ID, f.token)
	assert.Equal(t, http.StatusTooManyRequests, res.StatusCode)
	assert.Equal(t, "5", res.Header.Get("Retry-After"))
	require.Equal(t, http.StatusCreated, f.do("POST", "/v1/cards", f.other, string(servertest.Record(servertest.Image(1)))).Code)
	theirs := f.do("POST", "/v1/deactivations", f.other, fmt.Sprintf(`{"eid":%q,"iccid":%q}`, servertest.EID(1), servertest.ICCID(1, 2)))
	id := theirs.problem(http.StatusConflict).RequestID
	assert.Equal(t, http.StatusOK, f.stream(srv, id, f.other).StatusCode)

	for _, res := range open[1:] {
		res.Body.Close()
	}
	require.Eventually(t, func() bool { return f.api.Streams() == 1 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, http.StatusOK, f.stream(srv, d.ID, f.token).StatusCode)
	f.readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
	var last event
	for e := range events(t, open[0].Body) {
		last = e
	}
	assert.Equal(t, "finished", last.name)
	f.noStreams()
}

// A stream from one server tells of what another does.
func TestEventStreamAcrossServers(t *testing.T) {
	where := postgres.Shared(t).NewDatabase(t, "")
	one := &fixture{TB: t, readers: servertest.NewReaders(), path: where}
	two := &fixture{TB: t, readers: servertest.NewReaders(), path: where}
	one.start()
	two.start()
	var err error
	_, one.token, err = server.AddOperator(t.Context(), one.store, "one", servertest.Owner, "", store.AllRoles)
	require.NoError(t, err)
	one.register(1)
	d := one.ask(1, one.token).deactivation(http.StatusAccepted)
	stream := events(t, two.stream(two.web(nil), d.ID, one.token).Body)
	require.Equal(t, event{}, <-stream, "it is open")
	one.readers.Insert("reader", servertest.Card(servertest.Image(1)), nil) // two has no reader
	var last event
	var seen []string
	for e := range stream {
		if last = e; e.name == "step" {
			var s api.Step
			require.NoError(t, json.Unmarshal([]byte(e.data), &s))
			seen = append(seen, s.Step)
		}
	}
	assert.Subset(t, seen, []string{"accepted", "sending", "done"})
	assert.Equal(t, "finished", last.name)
}

// A client that does not read is cut off.
func TestSlowEventStream(t *testing.T) {
	f := newFixture(t)
	f.api.Hasten(time.Microsecond, 50*time.Millisecond)
	srv := f.web(func(s *httptest.Server) { s.Listener = narrow{s.Listener} })
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	conn, err := (&net.Dialer{}).Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(2048))
	_, err = fmt.Fprintf(conn, "GET /v1/deactivations/%s/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\n\r\n", d.ID, f.token)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return f.api.Streams() == 1 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return f.api.Streams() == 0 }, 30*time.Second, 10*time.Millisecond)
}

// narrow gives connections small buffers.
type narrow struct{ net.Listener }

func (n narrow) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(2048)
	}
	return c, err
}

// Whose token is revoked, or who is removed, has no stream for long, while others'
// go on.
func TestEventStreamOfWhoIsNobodyAnyMore(t *testing.T) {
	f := newFixture(t)
	f.api.Hasten(20*time.Millisecond, time.Second)
	srv := f.web(nil)
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	token := func(user string) (string, store.Credential) {
		_, _, err := server.AddUser(t.Context(), f.store, "one", user, store.MayRead)
		require.NoError(t, err)
		_, c, token, err := server.NewToken(t.Context(), f.store, "one", user)
		require.NoError(t, err)
		return token, c
	}
	kim, credential := token("kim")
	lee, _ := token("lee")
	stays := events(t, f.stream(srv, d.ID, f.token).Body)
	for name, c := range map[string]struct {
		token string
		end   func() error
	}{
		"revoked": {kim, func() error {
			_, err := f.store.RevokeCredential(context.Background(), "one", "kim", store.Token, credential.ID)
			return err
		}},
		"removed": {lee, func() error {
			_, _, err := f.store.RemoveUser(context.Background(), "one", "lee", false)
			return err
		}},
	} {
		stream := events(t, f.stream(srv, d.ID, c.token).Body)
		for range 8 { // looked at more than once
			_, open := <-stream
			require.True(t, open, name)
		}
		require.NoError(t, c.end())
		cut := time.After(10 * time.Second)
		for open := true; open; {
			var e event
			select {
			case e, open = <-stream:
				assert.NotEqual(t, "finished", e.name)
			case <-cut:
				require.Fail(t, "it goes on", name)
			}
		}
		assert.Equal(t, http.StatusUnauthorized, f.stream(srv, d.ID, c.token).StatusCode, name)
	}
	f.readers.Insert("reader", servertest.Card(servertest.Image(1)), nil)
	var last event
	for e := range stays {
		last = e
	}
	assert.Equal(t, "finished", last.name)
	f.noStreams()
}

// A server that ends ends its streams, so that it can.
func TestEventStreamsEndWithTheServer(t *testing.T) {
	f := newFixture(t)
	srv := f.web(nil)
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	var open sync.WaitGroup
	for range 20 {
		body := f.stream(srv, d.ID, f.token).Body
		open.Go(func() {
			for e := range events(t, body) {
				assert.NotEqual(t, "finished", e.name)
			}
		})
	}
	require.NoError(t, f.stop())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	assert.NoError(t, srv.Config.Shutdown(ctx))
	open.Wait()
	f.noStreams()
}

func FuzzLastEventID(f *testing.F) {
	x := newFixture(f)
	x.register(1)
	d := x.ask(1, x.token).deactivation(http.StatusAccepted)
	for _, seed := range []string{"", "0", "1", "end", "-1", "99999999999999999999", "\n", "1\r\nid: 2", "٣"} {
		f.Add(seed, "text/event-stream")
	}
	f.Fuzz(func(t *testing.T, last, accept string) {
		// HEAD answers as GET does and then ends.
		r := x.do("HEAD", "/v1/deactivations/"+d.ID+"/events", x.token, "", "Last-Event-ID", last, "Accept", accept)
		if r.Code >= 500 {
			t.Fatalf("%d: %s", r.Code, r.Body)
		}
	})
}
