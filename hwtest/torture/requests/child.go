package requests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// A server in a process of its own is this program started again. Over one
// connection it is asked to do what operators want; over another one it asks
// for its cards, and tells of every step, so that it can be killed there.

const childVar = "CARDBRIDGE_TORTURE_SERVER"

// childConfig is what the process is told.
type childConfig struct {
	Where, Socket, Budget string
	Offset                time.Duration
}

// child is the process, from outside.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{}
	conns [2]net.Conn
	once  sync.Once
}

// kill is kill -9.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill()
		<-c.ended
		for _, conn := range c.conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
}

const childTimeout = 30 * time.Second

// startChild starts a server in a process of its own.
func (w *world) startChild(ctx context.Context, index int) (*node, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n := &node{w: w, index: index, name: fmt.Sprintf("torture-%d", w.bench.worlds.Add(1)), readers: servertest.NewReaders()}
	socket := filepath.Join(w.bench.dir, n.name)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	config, err := json.Marshal(childConfig{named(w.where, n.name), socket, w.play.Load().budget, time.Duration(w.offset.Load())})
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childVar+"="+string(config))
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = c.cmd.Wait()
		close(c.ended)
	}()
	ctx, cancel := context.WithCancel(ctx)
	n.child, n.cancel = c, cancel
	n.stop = func() {
		cancel()
		c.kill()
	}
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(childTimeout)); err != nil {
		return nil, err
	}
	// The order of the connections is the process's.
	for i := range c.conns {
		if c.conns[i], err = l.Accept(); err != nil {
			n.stop()
			return nil, err
		}
	}
	calls := rpc.NewClient(c.conns[0])
	n.client = remote{calls}
	up := &cardsOf{n: n, ctx: ctx, conns: map[int]apdu.Conn{}, ready: make(chan struct{})}
	cards := rpc.NewServer()
	if err := cards.RegisterName("Cards", up); err != nil {
		n.stop()
		return nil, err
	}
	go cards.ServeConn(c.conns[1])
	go func() {
		_ = n.readers.Watch(ctx, func(e reader.Event) { _ = calls.Call("Server.Event", e, new(bool)) })
	}()
	select {
	case <-up.ready:
		return n, nil
	case <-c.ended:
		n.stop()
		return nil, errors.New("the server in a process of its own ended at its start")
	case <-time.After(childTimeout):
		n.stop()
		return nil, errors.New("the server in a process of its own does not start")
	}
}

// cardsOf is what the process asks of this one.
type cardsOf struct {
	n     *node
	ctx   context.Context
	ready chan struct{}

	mu    sync.Mutex
	last  int
	conns map[int]apdu.Conn
}

// StepArgs is a write of the record, before or after it was committed.
type StepArgs struct {
	Write     string
	Committed bool
}

// OpenArgs, OpenReply, TransmitArgs and Reply are those of reader.Source and
// apdu.Conn; Error is one of transportErrors and the words of it.
type (
	OpenArgs struct {
		Name string
		Mode reader.Mode
	}
	OpenReply struct {
		Conn int
		ATR  []byte
		Reply
	}
	TransmitArgs struct {
		Conn  int
		CAPDU []byte
	}
	Reply struct {
		RAPDU []byte
		Kind  int // from 1; 0: no error
		Text  string
	}
)

// transportErrors keep their identity between the processes. The last is any
// other.
var transportErrors = []error{
	apdu.ErrCardRemoved, apdu.ErrCardReset, apdu.ErrTimeout, apdu.ErrNoReader, apdu.ErrNoCard, apdu.ErrCardBusy, apdu.ErrTransport,
}

func (r *Reply) failed(err error) {
	if err == nil {
		return
	}
	r.Kind, r.Text = len(transportErrors), err.Error()
	for i, e := range transportErrors {
		if errors.Is(err, e) {
			r.Kind = i + 1
			return
		}
	}
}

func (r *Reply) err(call error) error {
	switch {
	case call != nil:
		return fmt.Errorf("%w: %w", apdu.ErrTransport, call)
	case r.Kind < 1 || r.Kind > len(transportErrors):
		return nil
	}
	return fmt.Errorf("%w: %s", transportErrors[r.Kind-1], r.Text)
}

// Ready says that the server works.
func (c *cardsOf) Ready(bool, *bool) error {
	close(c.ready)
	return nil
}

// Step tells of a write.
func (c *cardsOf) Step(a StepArgs, r *Reply) error {
	r.failed(c.n.write(a.Write, a.Committed))
	return nil
}

// Open opens a card.
func (c *cardsOf) Open(a OpenArgs, r *OpenReply) error {
	conn, err := (gate{c.n.readers, c.n}).Open(c.ctx, a.Name, a.Mode)
	if err != nil {
		r.failed(err)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.conns[c.last] = conn
	r.Conn, r.ATR = c.last, conn.ATR()
	return nil
}

func (c *cardsOf) conn(n int) (apdu.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[n]; conn != nil {
		return conn, nil
	}
	return nil, fmt.Errorf("no connection %d: %w", n, apdu.ErrTransport)
}

// Transmit carries a command.
func (c *cardsOf) Transmit(a TransmitArgs, r *Reply) error {
	conn, err := c.conn(a.Conn)
	if err == nil {
		r.RAPDU, err = conn.Transmit(c.ctx, a.CAPDU)
	}
	r.failed(err)
	return nil
}

// Reset resets a card.
func (c *cardsOf) Reset(n int, r *Reply) error {
	conn, err := c.conn(n)
	if err == nil {
		err = conn.Reset(c.ctx)
	}
	r.failed(err)
	return nil
}

// Close gives a card back.
func (c *cardsOf) Close(n int, r *Reply) error {
	conn, err := c.conn(n)
	if err == nil {
		err = conn.Close()
	}
	c.mu.Lock()
	delete(c.conns, n)
	c.mu.Unlock()
	r.failed(err)
	return nil
}

// remote is the server in the process, as a client.
type remote struct{ calls *rpc.Client }

// AskArgs is a request of an operator.
type AskArgs struct {
	Op      store.Operator
	What    server.Deactivation
	Request id.RequestID
}

func (r remote) call(ctx context.Context, method string, args AskArgs) (out id.RequestID, err error) {
	call := r.calls.Go(method, args, &out, nil)
	select {
	case <-call.Done:
		return out, call.Error
	case <-ctx.Done():
		return id.RequestID{}, ctx.Err()
	}
}

func (r remote) deactivate(ctx context.Context, op store.Operator, d server.Deactivation) (id.RequestID, error) {
	return r.call(ctx, "Server.Deactivate", AskArgs{Op: op, What: d})
}

func (r remote) approve(ctx context.Context, op store.Operator, request id.RequestID) error {
	_, err := r.call(ctx, "Server.Approve", AskArgs{Op: op, Request: request})
	return err
}

func (r remote) cancel(ctx context.Context, op store.Operator, request id.RequestID) error {
	_, err := r.call(ctx, "Server.Cancel", AskArgs{Op: op, Request: request})
	return err
}

// Enter makes a process that a trial has started a server, until it is killed;
// in any other it returns at once. Call it first of all.
func Enter() {
	config := os.Getenv(childVar)
	if config == "" {
		return
	}
	fmt.Fprintln(os.Stderr, "torture:", serve(config))
	os.Exit(1)
}

func serve(text string) error {
	var config childConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return err
	}
	var conns [2]net.Conn
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("unix", config.Socket); err != nil {
			return err
		}
	}
	up := rpc.NewClient(conns[1])
	ctx := context.Background()
	now := func() time.Time { return time.Now().Add(config.Offset) }
	s, err := store.Open(ctx, config.Where, store.WithClock(now), store.WithFaults(func(write string, committed bool) error {
		var r Reply
		err := up.Call("Cards.Step", StepArgs{write, committed}, &r)
		return r.err(err)
	}))
	if err != nil {
		return err
	}
	operations := rsafast.NewScheduler(rsafast.Config{})
	t, err := terminal(operations)
	if err != nil {
		return err
	}
	source := &remoteReaders{up: up, events: make(chan reader.Event, 64)}
	set := rulesWith(config.Budget)
	srv, err := server.New(settings(s, source, t, slog.New(slog.DiscardHandler), func() *rules.Set { return set }))
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-srv.Started():
			_ = up.Call("Cards.Ready", true, new(bool))
		case <-ctx.Done():
		}
	}()
	asks := rpc.NewServer()
	if err := asks.RegisterName("Server", &served{local{srv}, source}); err != nil {
		return err
	}
	go func() {
		asks.ServeConn(conns[0]) // ends with the process that started this one
		os.Exit(1)
	}()
	return srv.Run(ctx)
}

// served is what the process is asked.
type served struct {
	local  local
	source *remoteReaders
}

// Event tells of a reader.
func (s *served) Event(e reader.Event, _ *bool) error {
	s.source.events <- e
	return nil
}

// Deactivate hands a request in.
func (s *served) Deactivate(a AskArgs, out *id.RequestID) (err error) {
	*out, err = s.local.deactivate(context.Background(), a.Op, a.What)
	return err
}

// Approve approves one.
func (s *served) Approve(a AskArgs, _ *id.RequestID) error {
	return s.local.approve(context.Background(), a.Op, a.Request)
}

// Cancel cancels one.
func (s *served) Cancel(a AskArgs, _ *id.RequestID) error {
	return s.local.cancel(context.Background(), a.Op, a.Request)
}

// remoteReaders are the readers in the other process.
type remoteReaders struct {
	up     *rpc.Client
	events chan reader.Event
}

// Watch implements reader.Source.
func (r *remoteReaders) Watch(ctx context.Context, fn func(reader.Event)) error {
	for {
		select {
		case e := <-r.events:
			fn(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Open implements reader.Source.
func (r *remoteReaders) Open(_ context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	var reply OpenReply
	if err := reply.err(r.up.Call("Cards.Open", OpenArgs{name, mode}, &reply)); err != nil {
		return nil, err
	}
	return &remoteConn{r.up, reply.Conn, reply.ATR}, nil
}

type remoteConn struct {
	up   *rpc.Client
	conn int
	atr  []byte
}

// Transmit implements apdu.Transmitter.
func (c *remoteConn) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	var r Reply
	err := c.up.Call("Cards.Transmit", TransmitArgs{c.conn, capdu}, &r)
	return r.RAPDU, r.err(err)
}

// ATR implements apdu.Conn.
func (c *remoteConn) ATR() []byte { return c.atr }

// Reset implements apdu.Conn.
func (c *remoteConn) Reset(context.Context) error {
	var r Reply
	err := c.up.Call("Cards.Reset", c.conn, &r)
	return r.err(err)
}

// Close implements apdu.Conn.
func (c *remoteConn) Close() error {
	var r Reply
	err := c.up.Call("Cards.Close", c.conn, &r)
	return r.err(err)
}
