package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/simtest"
	"github.com/cardbridge/cardbridge/applet-sim/testcard"
)

const (
	selectApplet = "00A404000BF06361726462726964676500"
	getEID       = "80CA005A00"
)

// dialogue is a client's end of a connection.
type dialogue struct {
	t *testing.T
	net.Conn
	lines *bufio.Scanner
}

// start serves a card's control at an address, and ends with the test.
func start(t *testing.T, sim *simtest.Sim, at string) (s *Server, addr net.Addr, quit chan struct{}) {
	quit = make(chan struct{})
	s = New(sim.Card, func() { close(quit) })
	s.patience = 50 * time.Millisecond
	l, err := Listen(at)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); assert.ErrorIs(t, <-ended, context.Canceled) })
	return s, l.Addr(), quit
}

func dial(t *testing.T, addr net.Addr) *dialogue {
	conn, err := net.Dial(addr.Network(), addr.String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	d := &dialogue{t, conn, bufio.NewScanner(conn)}
	d.lines.Buffer(nil, 1<<20)
	return d
}

func (d *dialogue) next() map[string]any {
	d.t.Helper()
	require.True(d.t, d.lines.Scan(), "%v", d.lines.Err())
	var v map[string]any
	require.NoError(d.t, json.Unmarshal(d.lines.Bytes(), &v), d.lines.Text())
	return v
}

// ask sends a request and gives its response, which must say ok.
func (d *dialogue) ask(line string) map[string]any {
	d.t.Helper()
	v := d.try(line)
	require.Equal(d.t, true, v["ok"], "%s: %v", line, v)
	return v
}

func (d *dialogue) try(line string) map[string]any {
	d.t.Helper()
	_, err := d.Write([]byte(line + "\n"))
	require.NoError(d.t, err)
	return d.next()
}

func TestDialogue(t *testing.T) {
	sim := simtest.New(t)
	socket := filepath.Join(t.TempDir(), "control")
	_, addr, quit := start(t, sim, socket)
	info, err := os.Stat(socket)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	d := dial(t, addr)
	eid := sim.Image().EID.String()
	assert.Equal(t, map[string]any{"control": 1.0, "program": "cardbridge applet-sim", "eid": eid}, d.next())
	assert.Equal(t, "id-7", d.ask(`{"v":1,"id":"id-7","op":"state"}`)["id"])
	assert.Equal(t, 8.0, d.ask(`{"id":8,"op":"reset"}`)["id"])

	assert.Equal(t, "6F1A840BF063617264627269646765A50B80010181020103820208009000", d.ask(`{"op":"transmit","apdu":"` + selectApplet + `"}`)["apdu"])
	assert.Equal(t, 1.0, d.ask(`{"op":"fault.set","fault":{"kind":"wrong-sw","sw":"6F00"}}`)["fault"])
	assert.Equal(t, 2.0, d.ask(`{"op":"fault.set","fault":{"kind":"mute","apdu":9}}`)["fault"])
	assert.True(t, strings.HasSuffix(d.ask(`{"op":"transmit","apdu":"` + getEID + `"}`)["apdu"].(string), "6F00"))
	assert.Len(t, d.ask(`{"op":"fault.list"}`)["faults"], 1)
	assert.Equal(t, "bad-request", d.try(`{"op":"fault.clear","n":1}`)["error"].(map[string]any)["code"])
	d.ask(`{"op":"fault.clear"}`)
	assert.Empty(t, d.ask(`{"op":"fault.list"}`)["faults"])

	d.ask(`{"op":"fault.set","fault":{"kind":"mute"}}`)
	assert.Equal(t, "no-answer", d.try(`{"op":"transmit","apdu":"` + getEID + `"}`)["error"].(map[string]any)["code"])
	d.ask(`{"op":"remove"}`)
	assert.Equal(t, "no-answer", d.try(`{"op":"transmit","apdu":"` + getEID + `"}`)["error"].(map[string]any)["code"])
	assert.Equal(t, false, d.ask(`{"op":"state"}`)["state"].(map[string]any)["inserted"])
	d.ask(`{"op":"insert"}`)
	d.ask(`{"op":"power","on":false}`)
	d.ask(`{"op":"power","on":true}`)
	state := d.ask(`{"op":"state"}`)["state"].(map[string]any)
	assert.Equal(t, []any{true, true, eid, 3.0}, []any{state["inserted"], state["powered"], state["eid"], state["apdus"]})
	assert.Equal(t, "enabled", state["profiles"].([]any)[0].(map[string]any)["state"])
	d.ask(`{"op":"remove","for":"1ms"}`)
	require.Eventually(t, func() bool { return d.ask(`{"op":"state"}`)["state"].(map[string]any)["inserted"] == true }, 10*time.Second, time.Millisecond)

	image := d.ask(`{"op":"image.get"}`)
	b, err := json.Marshal(image)
	require.NoError(t, err)
	assert.Contains(t, string(b), eid)
	assert.NotContains(t, string(b), "PRIVATE")

	d.ask(`{"op":"quit"}`)
	<-quit
	assert.False(t, d.lines.Scan(), "it is the last")
}

// TestTrace: exchanges, resets and strikes come as they happen, PINs masked.
func TestTrace(t *testing.T) {
	sim := simtest.New(t)
	_, addr, _ := start(t, sim, "127.0.0.1:0")
	tracer, other := dial(t, addr), dial(t, addr)
	tracer.next()
	other.next()
	tracer.ask(`{"op":"trace","on":true}`)
	other.ask(`{"op":"transmit","apdu":"00200001083132333435363738"}`)
	assert.Equal(t, map[string]any{"event": "apdu", "command": "0020000108****************", "response": "6984"}, tracer.next())
	other.ask(`{"op":"fault.set","fault":{"kind":"lost","seed":5}}`)
	other.try(`{"op":"transmit","apdu":"` + getEID + `"}`)
	hit := tracer.next()
	assert.Equal(t, "fault", hit["event"])
	assert.Equal(t, map[string]any{"kind": "lost", "seed": 5.0}, hit["strike"].(map[string]any)["what"])
	assert.Equal(t, map[string]any{"event": "apdu", "command": getEID}, tracer.next())
	other.ask(`{"op":"reset"}`)
	assert.Equal(t, map[string]any{"event": "reset"}, tracer.next())
	tracer.ask(`{"op":"trace","on":false}`)
	other.ask(`{"op":"reset"}`)
	tracer.ask(`{"op":"state"}`)
}

func TestBadRequests(t *testing.T) {
	_, addr, _ := start(t, simtest.New(t), "localhost:0")
	d := dial(t, addr)
	d.next()
	for line, code := range map[string]string{
		`x`:                             "bad-request",
		`[]`:                            "bad-request",
		`{}`:                            "bad-request",
		`{"op":"explode"}`:              "bad-request",
		`{"op":"state","op":"state"}`:   "bad-request",
		`{"v":2,"op":"state"}`:          "bad-request",
		`{"op":"state","colour":"red"}`: "bad-request",
		`{"op":"state","on":true}`:      "bad-request",
		`{"OP":"state"}`:                "bad-request",
		`{"op":"power"}`:                "bad-request",
		`{"op":"trace"}`:                "bad-request",
		`{"op":"remove","for":"-1s"}`:   "bad-request",
		`{"op":"transmit","apdu":"00"}`: "bad-request",
		`{"op":"transmit","apdu":"XY"}`: "bad-request",
		`{"op":"fault.set"}`:            "bad-fault",
		`{"op":"fault.set","fault":{"kind":"x"}}`:                "bad-fault",
		`{"id":"` + strings.Repeat("x", 300) + `","op":"state"}`: "bad-request",
	} {
		v := d.try(line)
		require.Equal(t, false, v["ok"], line)
		assert.Equal(t, code, v["error"].(map[string]any)["code"], line)
		assert.NotEmpty(t, v["error"].(map[string]any)["message"], line)
	}
	_, err := d.Write(bytes.Repeat([]byte("x"), maxLine+2))
	require.NoError(t, err)
	assert.Equal(t, false, d.next()["ok"])
	assert.False(t, d.lines.Scan(), "a line too long ends the connection")
}

func TestListen(t *testing.T) {
	for _, at := range []string{"0.0.0.0:0", "example.com:80", ":0", "192.0.2.1:1"} {
		_, err := Listen(at)
		assert.ErrorContains(t, err, "loopback", at)
	}
	_, err := Listen(filepath.Join(t.TempDir(), "none", "s"))
	assert.Error(t, err)
}

func TestSocketThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := ListenUnix(file)
	assert.ErrorIs(t, err, syscall.EADDRINUSE)
	used := filepath.Join(t.TempDir(), "used")
	l, err := ListenUnix(used)
	require.NoError(t, err)
	defer l.Close()
	_, err = ListenUnix(used)
	assert.ErrorIs(t, err, syscall.EADDRINUSE)
}

func TestTooManyClients(t *testing.T) {
	_, addr, _ := start(t, simtest.New(t), "127.0.0.1:0")
	for range maxClients {
		dial(t, addr).next()
	}
	d := dial(t, addr)
	assert.Equal(t, "busy", d.next()["error"].(map[string]any)["code"])
	assert.False(t, d.lines.Scan())
}

// TestSlowClient: a client that does not read what it asked for is cut off, and
// the card goes on.
func TestSlowClient(t *testing.T) {
	sim := simtest.New(t)
	s := New(sim.Card, func() {})
	mine, its := net.Pipe()
	done := make(chan struct{})
	go func() { s.ServeConn(t.Context(), its); close(done) }()
	_, err := bufio.NewReader(mine).ReadBytes('\n')
	require.NoError(t, err)
	_, err = mine.Write([]byte(`{"op":"trace","on":true}` + "\n"))
	require.NoError(t, err)
	for range maxTrace + 10 {
		sim.Reset()
	}
	require.Eventually(t, func() bool { sim.Reset(); s.mu.Lock(); defer s.mu.Unlock(); return len(s.clients) == 0 }, 10*time.Second, time.Millisecond)
	<-done
}

// script is a connection that sends what it has and keeps what it gets.
type script struct {
	*bytes.Reader
	got bytes.Buffer
}

func (s *script) Write(b []byte) (int, error) { return s.got.Write(b) }
func (s *script) Close() error                { return nil }

// FuzzRequests: whatever a client sends, each line has its answer, and the card
// is a card.
func FuzzRequests(f *testing.F) {
	for _, op := range Ops() {
		f.Add([]byte(`{"id":1,"op":"` + op + `"}`))
	}
	f.Add([]byte(`{"op":"fault.set","fault":{"kind":"flip","times":-1}}` + "\n" + `{"op":"transmit","apdu":"` + selectApplet + `"}` + "\n\n" + `{"op":"remove","for":"1s"}`))
	f.Add([]byte(`{"op":"trace","on":true}` + "\n" + `{"op":"power","on":false}` + "\n" + `{"op":"fault.clear","n":3}`))
	sim, err := appletsim.New(testcard.Image(0)) // simtest would log in the wrong place
	require.NoError(f, err)
	s := New(sim, func() {})
	s.patience = time.Millisecond
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Count(b, []byte("\n")) > 100 {
			return
		}
		conn := &script{Reader: bytes.NewReader(b)}
		s.ServeConn(t.Context(), conn)
		sim.ClearFault(0)
		sim.Insert()
		sim.Power(true)
		asked := 0
		for line := range bytes.Lines(b) {
			if len(bytes.TrimSpace(line)) > 0 {
				asked++
			}
		}
		answered := -1
		for line := range bytes.Lines(conn.got.Bytes()) {
			var v map[string]any
			require.NoError(t, json.Unmarshal(line, &v), "%s", line)
			if v["event"] == nil {
				answered++
			}
		}
		if !bytes.Contains(b, []byte("quit")) {
			require.Equal(t, asked, answered, "%s", conn.got.Bytes())
		}
		_, err := sim.Image().Marshal()
		require.NoError(t, err)
	})
}
