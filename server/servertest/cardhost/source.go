package cardhost

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

const (
	redial       = 50 * time.Millisecond // Watch looks for a host again
	closeTimeout = 5 * time.Second       // a host answers at once, if it runs at all
)

// pool is connections to a host that nobody uses now.
type pool struct {
	addr string
	mu   sync.Mutex
	idle []*link
	done bool
}

// exchange is the first on a link that is free: one of the pool if there is one
// that lives. The link is the caller's then.
func (p *pool) exchange(ctx context.Context, kind byte, body []byte) (*link, []byte, error) {
	for {
		p.mu.Lock()
		var l *link
		if n := len(p.idle); n > 0 {
			l, p.idle = p.idle[n-1], p.idle[:n-1]
		}
		p.mu.Unlock()
		fresh := l == nil
		if fresh {
			var err error
			if l, err = p.dial(ctx); err != nil {
				return nil, nil, err
			}
		}
		answer, alive, err := l.exchange(ctx, kind, body)
		switch {
		case err == nil && alive:
			return l, answer, nil
		case alive:
			p.put(l)
			return nil, nil, err
		}
		_ = l.Close()
		if fresh || ctx.Err() != nil {
			return nil, nil, cmp.Or(err, ctx.Err()) // a link may die with an answer on it
		}
		// The host was started anew: its connections from before are dead.
	}
}

func (p *pool) dial(ctx context.Context) (*link, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", p.addr)
	if err != nil {
		return nil, fmt.Errorf("cardhost: %w: %w", apdu.ErrTransport, err)
	}
	return newLink(c), nil
}

func (p *pool) put(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		_ = l.Close()
		return
	}
	p.idle = append(p.idle, l)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	for _, l := range p.idle {
		_ = l.Close()
	}
	p.idle = nil
}

// Source is a host's readers, seen from another process. It is safe for
// concurrent use.
type Source struct {
	links pool
	sees  func(card int) bool
}

var _ reader.Source = (*Source)(nil)

// NewSource is the readers of the host at addr; sees says which of them this
// one has (nil: all), so that several servers can have a part each.
func NewSource(addr string, sees func(card int) bool) *Source {
	if sees == nil {
		sees = func(int) bool { return true }
	}
	return &Source{links: pool{addr: addr}, sees: sees}
}

// Close gives back the connections that are kept for the next Open.
func (s *Source) Close() { s.links.close() }

// Watch implements reader.Source: while there is no host, there are no readers.
func (s *Source) Watch(ctx context.Context, fn func(reader.Event)) error {
	for {
		s.watchOnce(ctx, fn)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(redial):
		}
	}
}

// watchOnce watches until the connection ends.
func (s *Source) watchOnce(ctx context.Context, fn func(reader.Event)) {
	l, err := s.links.dial(ctx)
	if err != nil {
		return
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(longAgo) })()
	if l.send(frameWatch, nil) != nil {
		return
	}
	there := map[int]reader.Reader{}
	defer func() {
		if ctx.Err() != nil {
			return
		}
		for _, r := range there {
			fn(reader.Event{Kind: reader.ReaderRemoved, Reader: reader.Reader{Name: r.Name, ID: r.ID}})
		}
	}()
	for {
		kind, body, err := l.receive()
		if err != nil || kind != frameEvents || len(body)%eventLen != 0 {
			return
		}
		for ; len(body) > 0; body = body[eventLen:] {
			n := int(binary.BigEndian.Uint32(body[1:]))
			if ctx.Err() != nil || !s.sees(n) {
				continue
			}
			r, ok := there[n]
			if !ok {
				r = reader.Reader{Name: Name(n)}
				r.ID = "name:" + r.Name
			}
			e := reader.Event{Kind: reader.EventKind(body[0])}
			r.Card = e.Kind == reader.CardInserted
			there[n] = r
			e.Reader = r
			fn(e)
		}
	}
}

// Open implements reader.Source.
func (s *Source) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	n, ok := number(name)
	if !ok || !s.sees(n) {
		return nil, fmt.Errorf("%s: %w", name, apdu.ErrNoReader)
	}
	var body [5]byte
	binary.BigEndian.PutUint32(body[:], uint32(n))
	body[4] = byte(mode)
	l, atr, err := s.links.exchange(ctx, frameOpen, body[:])
	if err != nil {
		return nil, err
	}
	return &conn{links: &s.links, link: l, atr: bytes.Clone(atr)}, nil
}

// conn is a card that is open: it has a link to itself.
type conn struct {
	links *pool
	link  *link // nil once it is of no use
	atr   []byte
}

func (c *conn) exchange(ctx context.Context, kind byte, body []byte) ([]byte, error) {
	if c.link == nil {
		return nil, fmt.Errorf("cardhost: %w: the connection is closed", apdu.ErrTransport)
	}
	answer, alive, err := c.link.exchange(ctx, kind, body)
	if !alive {
		// The host resets the card when it finds this connection gone.
		_ = c.link.Close()
		c.link = nil
	}
	return answer, err
}

// Transmit implements apdu.Transmitter.
func (c *conn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	rapdu, err := c.exchange(ctx, frameAPDU, capdu)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(rapdu), nil
}

// ATR implements apdu.Conn.
func (c *conn) ATR() []byte { return c.atr }

// Reset implements apdu.Conn.
func (c *conn) Reset(ctx context.Context) error {
	_, err := c.exchange(ctx, frameReset, nil)
	return err
}

// Close gives the card back as it is.
func (c *conn) Close() error {
	if c.link == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, err := c.exchange(ctx, frameClose, nil)
	if c.link != nil {
		c.links.put(c.link)
		c.link = nil
	}
	return err
}
