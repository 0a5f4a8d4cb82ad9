// Package control lets a program in any language drive an emulated card: JSON,
// one request and one response on a line each, over a socket (docs/emulator.md).
//
// Whoever can connect can do everything with the card, but read its secrets. So
// Listen makes a socket for its owner alone, or takes loopback addresses.
package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
)

// Version is that of the protocol: a request says it, if anything, in v.
const Version = 1

// Bounds.
const (
	maxLine    = 1 << 18 // bytes of a request: an extended APDU in hexadecimal fits
	maxClients = 16
	maxTrace   = 1024 // lines that wait for a client; a slower one is cut off
)

// Server drives one card.
type Server struct {
	card     *appletsim.Card
	quit     func()
	patience time.Duration // for an answer

	mu      sync.Mutex
	clients map[*client]bool
	tracer  tracer
}

// New makes the control of a card; quit is called where a client asks for the
// end of the program.
func New(card *appletsim.Card, quit func()) *Server {
	s := &Server{card: card, quit: quit, patience: 30 * time.Second, clients: map[*client]bool{}}
	card.Observe(appletsim.Observer{Exchange: s.exchanged, Restart: s.restarted, Fault: s.struck})
	return s
}

// Listen listens at a path for a Unix socket, made for its owner alone, or at a
// HOST:PORT on the loopback interface.
func Listen(at string) (net.Listener, error) {
	if host, _, err := net.SplitHostPort(at); err == nil && !strings.ContainsAny(at, `/\`) {
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("control: %s is no loopback address: whoever can connect can do everything", at)
		}
		return net.Listen("tcp", at)
	}
	return ListenUnix(at)
}

// ListenUnix makes a socket for its owner alone, in place of one where nobody
// listens any more.
func ListenUnix(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil && abandoned(path) {
		if err = os.Remove(path); err == nil {
			l, err = net.Listen("unix", path)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// abandoned reports whether a path is a socket where nobody listens.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return err != nil
}

// Serve serves whoever connects until ctx ends, whose error it returns, or l
// fails. It closes l and every connection.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return ctx.Err()
		case err != nil:
			return err
		}
		all.Go(func() { s.ServeConn(ctx, conn) })
	}
}

// ServeConn serves one connection to its end, and closes it.
func (s *Server) ServeConn(ctx context.Context, conn io.ReadWriteCloser) {
	ctx, cancel := context.WithCancel(ctx)
	c := &client{out: make(chan []byte, maxTrace), cancel: cancel}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var written sync.WaitGroup
	written.Go(func() {
		defer cancel() // what cannot be written ends the reading too
		for line := range c.out {
			if _, err := conn.Write(line); err != nil {
				return
			}
		}
	})
	quit := false
	if s.enter(c) {
		c.send(hello{Control: Version, Program: "cardbridge applet-sim", EID: s.card.Image().EID.String()})
		quit = s.read(ctx, c, conn)
	} else {
		c.send(response{Error: &failure{"busy", fmt.Sprintf("%d clients are connected, which is the most", maxClients)}})
	}
	s.leave(c)
	written.Wait()
	if quit {
		s.quit()
	}
}

func (s *Server) enter(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients) == maxClients {
		return false
	}
	s.clients[c] = true
	return true
}

// leave ends what is written to a client.
func (s *Server) leave(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
	c.close()
}

// read carries out requests until there are no more, or one is no line. quit says
// that the last one was to end the program.
func (s *Server) read(ctx context.Context, c *client, conn io.Reader) (quit bool) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 4096), maxLine)
	for lines.Scan() && ctx.Err() == nil {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var r response
		r, quit = s.answer(ctx, c, lines.Bytes())
		c.send(r)
		if quit {
			return true
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		c.send(response{Error: &failure{"bad-request", fmt.Sprintf("a line of more than %d bytes", maxLine)}})
	}
	return false
}

// client is one connection.
type client struct {
	mu     sync.Mutex
	out    chan []byte
	closed bool
	traces bool
	cancel context.CancelFunc
}

// send has v written on a line of its own. A client that does not read what it
// asked for is cut off.
func (c *client) send(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	select {
	case c.out <- append(b, '\n'):
	default:
		c.closed = true
		close(c.out)
		c.cancel()
	}
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.out)
	}
}

// Messages.
type (
	hello struct {
		Control int    `json:"control"` // Version
		Program string `json:"program"`
		EID     string `json:"eid"`
	}
	request struct {
		V     int             `json:"v"`
		ID    json.RawMessage `json:"id"` // given back
		Op    string          `json:"op"`
		Fault json.RawMessage `json:"fault"`
		N     int             `json:"n"`
		On    *bool           `json:"on"`
		For   string          `json:"for"`
		APDU  string          `json:"apdu"`
	}
	response struct {
		ID    json.RawMessage `json:"id,omitempty"`
		OK    bool            `json:"ok"`
		Error *failure        `json:"error,omitempty"`
		result
	}
	failure struct {
		Code    string `json:"code"` // bad-request, bad-fault, no-answer, busy
		Message string `json:"message"`
	}
	// result is what an op gives; each has some of it.
	result struct {
		Fault  int               `json:"fault,omitzero"`
		Faults *[]fault.Armed    `json:"faults,omitempty"`
		State  *state            `json:"state,omitempty"`
		Image  []appletsim.Field `json:"image,omitempty"`
		APDU   string            `json:"apdu,omitempty"`
	}
	state struct {
		EID          string              `json:"eid"`
		ATR          string              `json:"atr"`
		Powered      bool                `json:"powered"`
		Inserted     bool                `json:"inserted"`
		APDUs        int                 `json:"apdus"`
		Writes       int                 `json:"writes"`
		Resets       int                 `json:"resets"`
		EventCounter uint32              `json:"event_counter"`
		Profiles     []appletsim.Profile `json:"profiles"`
	}
)

// refused is an error for the client.
func refused(code string, err error) *failure { return &failure{code, err.Error()} }

// hexOf is bytes as hexadecimal digits.
func hexOf(b []byte) string { return fmt.Sprintf("%X", b) }

// transmit sends one command to the card, as a reader would.
func (s *Server) transmit(ctx context.Context, capdu []byte) (string, *failure) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	rapdu, err := s.card.Connect().Transmit(ctx, capdu)
	switch {
	case errors.Is(err, apdu.ErrCardRemoved), errors.Is(err, apdu.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return "", refused("no-answer", err)
	case err != nil:
		return "", refused("bad-request", err)
	}
	return hexOf(rapdu), nil
}
