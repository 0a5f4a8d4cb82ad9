package cardhost

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/cardbridge/cardbridge/apdu"
)

// client is a connection to a host, made when it is first needed and again
// after its end. It is safe for concurrent use.
type client struct {
	addr string

	mu     sync.Mutex
	line   *line
	closed bool
}

// line is one connection.
type line struct {
	writer
	ended chan struct{} // closed with the connection

	mu   sync.Mutex
	last uint32              // number given
	open map[uint32]*channel // by number
	err  error               // why it ended
}

// channel is what has a number: it carries one exchange at a time.
type channel struct {
	line   *line
	number uint32
	answer chan frame // one at the most
}

// channel gives a number on a connection that lives, as far as is known.
func (c *client) channel(ctx context.Context) (*channel, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("cardhost: %w: closed", apdu.ErrTransport)
	}
	if c.line != nil {
		select {
		case <-c.line.ended:
			c.line = nil
		default:
		}
	}
	if c.line == nil {
		conn, err := dial(ctx, c.addr)
		if err != nil {
			return nil, err
		}
		c.line = &line{writer: writer{conn: conn}, ended: make(chan struct{}), open: map[uint32]*channel{}}
		go c.line.read()
	}
	l := c.line
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	ch := &channel{line: l, number: l.last, answer: make(chan frame, 1)}
	l.open[ch.number] = ch
	return ch, nil
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, fmt.Errorf("cardhost: %w: %w", apdu.ErrTransport, err)
	}
	return c, nil
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.line != nil {
		_ = c.line.conn.Close()
	}
}

// read hands out answers until the connection ends.
func (l *line) read() {
	in := bufio.NewReaderSize(l.conn, 64<<10)
	for {
		f, err := readFrame(in)
		if err != nil {
			_ = l.conn.Close()
			l.err = err
			close(l.ended)
			return
		}
		l.mu.Lock()
		ch := l.open[f.number] // nil: given up
		l.mu.Unlock()
		if ch != nil {
			select {
			case ch.answer <- f:
			default: // nobody asked
			}
		}
	}
}

// forget gives the number up.
func (ch *channel) forget() {
	ch.line.mu.Lock()
	defer ch.line.mu.Unlock()
	delete(ch.line.open, ch.number)
}

// exchange sends a frame and gives the body of its answer. Where alive is false
// the channel is of no use any more, and has been given up.
func (ch *channel) exchange(ctx context.Context, kind byte, body []byte) (answer []byte, alive bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, true, err
	}
	l := ch.line
	var f frame
	if err = l.send(kind, ch.number, body); err == nil {
		select {
		case f = <-ch.answer:
		case <-ctx.Done():
			_ = l.send(frameAbandon, ch.number, nil)
			ch.forget()
			return nil, false, ctx.Err()
		case <-l.ended:
			err = l.err
		}
	}
	switch {
	case err != nil:
		ch.forget()
		return nil, false, fmt.Errorf("cardhost: %w: %w", apdu.ErrTransport, err)
	case f.kind == frameOK:
		return f.body, true, nil
	case f.kind == frameError:
		return nil, true, decodeError(f.body)
	}
	return nil, true, fmt.Errorf("cardhost: %w: a frame of kind %q", apdu.ErrTransport, f.kind)
}
