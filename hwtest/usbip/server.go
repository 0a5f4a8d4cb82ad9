package usbip

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Serve answers the requests that come by conn with what the device does, until
// conn, the device or ctx ends; it closes conn. Its error matches ErrMalformed
// where the peer does not speak USB/IP, and ctx's end and the others' are none.
func Serve(ctx context.Context, conn io.ReadWriteCloser, d Device) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{ctx: ctx, device: d, conn: conn, urbs: map[uint32]*urb{}, endpoints: map[byte][]*urb{}, draining: map[byte]bool{}}
	defer s.working.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	gone := d.Unplugged()
	s.working.Go(func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	})
	defer conn.Close()
	err := s.serve()
	if errors.Is(err, ErrMalformed) {
		return err
	}
	return nil
}

type server struct {
	ctx     context.Context
	device  Device
	conn    io.ReadWriteCloser
	working sync.WaitGroup

	mu        sync.Mutex
	urbs      map[uint32]*urb // outstanding, by their sequence number
	endpoints map[byte][]*urb // in their order, by address; the first one is under way
	draining  map[byte]bool   // endpoints whose transfers a goroutine carries out
	pending   int             // bytes of their data

	writing sync.Mutex
	buffer  []byte
}

// urb is a transfer that is outstanding.
type urb struct {
	*request
	cancel  context.CancelFunc // nil until it is under way
	unlinks []uint32           // requests to unlink it
}

func (s *server) serve() error {
	in := bufio.NewReaderSize(s.conn, 1<<16)
	for {
		r, err := readRequest(in)
		if err != nil {
			return err
		}
		if r.unlink != 0 {
			err = s.unlink(r)
		} else {
			err = s.submit(r)
		}
		if err != nil {
			return err
		}
	}
}

// submit puts a transfer behind the others of its endpoint.
func (s *server) submit(r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.urbs[r.seq] != nil:
		return fmt.Errorf("%w: sequence number %d twice", ErrMalformed, r.seq)
	case len(s.urbs) >= maxURBs, s.pending+len(r.data) > maxPending:
		return fmt.Errorf("%w: %d transfers of %d bytes outstanding", ErrMalformed, len(s.urbs), s.pending)
	}
	u := &urb{request: r}
	s.urbs[r.seq] = u
	s.pending += len(r.data)
	address := r.address()
	if r.ep == 0 {
		address = 0 // one pipe for both directions
	}
	s.endpoints[address] = append(s.endpoints[address], u)
	if !s.draining[address] {
		s.draining[address] = true
		s.working.Go(func() { s.drain(address) })
	}
	return nil
}

// drain carries out an endpoint's transfers until none waits.
func (s *server) drain(address byte) {
	for {
		s.mu.Lock()
		queue := s.endpoints[address]
		if len(queue) == 0 {
			s.draining[address] = false
			s.mu.Unlock()
			return
		}
		u := queue[0]
		ctx, cancel := context.WithCancel(s.ctx)
		u.cancel = cancel
		s.mu.Unlock()

		data, n, err := s.transfer(ctx, u.request)
		canceled := err != nil && ctx.Err() != nil
		cancel()
		// Its answer leaves before that to an unlink that finds it forgotten: the
		// kernel takes them in no other order.
		s.writing.Lock()
		s.mu.Lock()
		s.forget(address, u)
		unlinks := u.unlinks
		s.mu.Unlock()
		ok := s.complete(u, data, n, err, canceled, unlinks)
		s.writing.Unlock()
		if !ok {
			return
		}
	}
}

// forget takes a transfer out. The caller holds mu.
func (s *server) forget(address byte, u *urb) {
	delete(s.urbs, u.seq)
	s.pending -= len(u.data)
	queue := s.endpoints[address]
	if i := slices.Index(queue, u); i >= 0 {
		s.endpoints[address] = slices.Delete(queue, i, i+1)
	}
}

// transfer carries out one transfer; data is what came in.
func (s *server) transfer(ctx context.Context, r *request) (data []byte, n int, err error) {
	b := r.data
	if r.in {
		b = make([]byte, r.length)
	}
	if r.ep == 0 {
		u16 := func(offset int) uint16 { return binary.LittleEndian.Uint16(r.setup[offset:]) }
		b = b[:min(len(b), int(u16(6)))]
		n, err = s.device.Control(ctx, r.setup[0], r.setup[1], u16(2), u16(4), b)
	} else {
		n, err = s.device.Transfer(ctx, r.address(), b)
		if err == nil && !r.in && r.flags&zeroPacket != 0 && len(b) > 0 && len(b)%maxPacket(s.device) == 0 {
			_, err = s.device.Transfer(ctx, r.address(), nil)
		}
	}
	n = max(0, min(n, len(b)))
	if r.in && err == nil {
		data = b[:n]
	}
	return data, n, err
}

// complete answers a transfer that ended, and reports whether the connection
// still stands. The caller holds writing.
func (s *server) complete(u *urb, data []byte, n int, err error, canceled bool, unlinks []uint32) bool {
	if s.ctx.Err() != nil {
		return false
	}
	unlinked := int32(0) // of an unlink that came too late
	if canceled && len(unlinks) > 0 {
		unlinked = statusUnlinked
	}
	st := status(err)
	if err != nil {
		n = 0
	} else if u.in && n < u.length && u.flags&shortNotOK != 0 {
		st = statusShort
	}
	return s.send(func(b []byte) []byte {
		if unlinked == 0 {
			b = appendSubmitted(b, u.seq, st, n, data)
		}
		for _, seq := range unlinks {
			b = appendUnlinked(b, seq, unlinked)
		}
		return b
	}) == nil
}

// unlink takes a transfer back. Where it has not begun it is answered at once,
// where it is under way when it ends.
func (s *server) unlink(r *request) error {
	s.mu.Lock()
	u := s.urbs[r.unlink]
	st := int32(0) // it has been answered already
	if u != nil && u.cancel != nil {
		if len(u.unlinks) >= maxURBs {
			s.mu.Unlock()
			return fmt.Errorf("%w: transfer %d unlinked again and again", ErrMalformed, r.unlink)
		}
		u.unlinks = append(u.unlinks, r.seq)
		u.cancel()
		s.mu.Unlock()
		return nil
	}
	if u != nil {
		address := u.address()
		if u.ep == 0 {
			address = 0
		}
		s.forget(address, u)
		st = statusUnlinked
	}
	s.mu.Unlock()
	return s.write(func(b []byte) []byte { return appendUnlinked(b, r.seq, st) })
}

// write sends what fill appends, in one piece.
func (s *server) write(fill func([]byte) []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.send(fill)
}

// send is write where the caller holds writing.
func (s *server) send(fill func([]byte) []byte) error {
	s.buffer = fill(s.buffer[:0])
	_, err := s.conn.Write(s.buffer)
	return err
}
