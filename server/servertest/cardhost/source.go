package cardhost

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// redial is how long Watch waits before it looks for a host again.
const redial = 50 * time.Millisecond

// Source is a host's readers, seen from another process. It is safe for
// concurrent use. All its cards share a connection: when the process ends, all
// are reset.
type Source struct {
	client client
	sees   func(card int) bool
}

var _ reader.Source = (*Source)(nil)

// NewSource is the readers of the host at addr; sees says which of them this
// one has (nil: all), so that several servers can have a part each. It connects
// when it is used, and must be closed.
func NewSource(addr string, sees func(card int) bool) *Source {
	if sees == nil {
		sees = func(int) bool { return true }
	}
	return &Source{client: client{addr: addr}, sees: sees}
}

// Close ends the connection. Cards that are open are reset.
func (s *Source) Close() { s.client.close() }

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
	conn, err := dial(ctx, s.client.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	w := writer{conn: conn}
	if w.send(frameWatch, 0, nil) != nil {
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
	for in := bufio.NewReader(conn); ; {
		f, err := readFrame(in)
		if err != nil || f.kind != frameEvents || len(f.body)%eventLen != 0 {
			return
		}
		for body := f.body; len(body) > 0; body = body[eventLen:] {
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
	ch, err := s.client.channel(ctx)
	if err != nil {
		return nil, err
	}
	var body [5]byte
	binary.BigEndian.PutUint32(body[:], uint32(n))
	body[4] = byte(mode)
	atr, alive, err := ch.exchange(ctx, frameOpen, body[:])
	if err != nil {
		if alive {
			ch.forget()
		}
		return nil, err
	}
	return &conn{channel: ch, atr: atr}, nil
}

// conn is a card that is open.
type conn struct {
	channel *channel // nil once it is of no use
	atr     []byte
}

func (c *conn) exchange(ctx context.Context, kind byte, body []byte) ([]byte, error) {
	if c.channel == nil {
		return nil, fmt.Errorf("cardhost: %w: the connection is closed", apdu.ErrTransport)
	}
	answer, alive, err := c.channel.exchange(ctx, kind, body)
	if !alive {
		c.channel = nil
	}
	return answer, err
}

// Transmit implements apdu.Transmitter.
func (c *conn) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	return c.exchange(ctx, frameAPDU, capdu)
}

// ATR implements apdu.Conn.
func (c *conn) ATR() []byte { return c.atr }

// Reset implements apdu.Conn.
func (c *conn) Reset(ctx context.Context) error {
	_, err := c.exchange(ctx, frameReset, nil)
	return err
}

// Close gives the card back as it is: to this Source at once, to another as soon
// as the host hears of it.
func (c *conn) Close() error {
	if c.channel == nil {
		return nil
	}
	err := c.channel.line.send(frameClose, c.channel.number, nil)
	c.channel.forget()
	c.channel = nil
	if err != nil {
		return fmt.Errorf("cardhost: %w: %w", apdu.ErrTransport, err)
	}
	return nil
}
