package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// spool keeps what is known of each card in a file that nobody else sees, so
// that a fleet's keys need no memory.
type spool struct {
	f  *os.File
	w  *bufio.Writer
	n  int64 // bytes written
	at map[string]place
}

type place struct {
	from int64
	n    int32
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "cardbridge-audit-")
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 1<<16), at: map[string]place{}}, nil
}

func (s *spool) close() error { return errors.Join(s.f.Close(), os.Remove(s.f.Name())) }

// put keeps b under a name, in place of what was there.
func (s *spool) put(name string, b []byte) error {
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	s.at[name] = place{s.n, int32(len(b))}
	s.n += int64(len(b))
	return nil
}

// get is what is kept under a name, nil where there is nothing.
func (s *spool) get(name string) ([]byte, error) {
	p, ok := s.at[name]
	if !ok {
		return nil, nil
	}
	if p.from+int64(p.n) > s.n-int64(s.w.Buffered()) {
		if err := s.w.Flush(); err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
	}
	b := make([]byte, p.n)
	if _, err := io.ReadFull(io.NewSectionReader(s.f, p.from, int64(p.n)), b); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return b, nil
}
