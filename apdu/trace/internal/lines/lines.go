// Package lines reads text line by line in bounded memory, whatever is in it.
package lines

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// ErrTooLong says that a line is longer than the limit.
var ErrTooLong = errors.New("line too long")

// Reader reads lines. It serves one goroutine.
type Reader struct {
	r    *bufio.Reader
	max  int
	buf  []byte // a line that the bufio.Reader's buffer does not hold
	line int
}

// New reads r, whose lines may have up to max bytes.
func New(r io.Reader, max int) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10), max: max}
}

// Next is the next line without its ending, LF or CR LF; it is valid until the
// next call. With ErrTooLong it is the line's beginning, the rest of which is
// skipped, and the next call goes on with the next line. Any other error is r's,
// io.EOF at the end.
func (r *Reader) Next() ([]byte, error) {
	b, err := r.r.ReadSlice('\n')
	if err == nil {
		r.line++
		return r.check(trim(b))
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		return r.long(b)
	}
	if len(b) == 0 {
		return nil, err
	}
	r.line++
	return r.check(trim(b)) // the next call meets err again
}

func (r *Reader) check(b []byte) ([]byte, error) {
	if len(b) > r.max {
		return b[:r.max], ErrTooLong
	}
	return b, nil
}

// long is the line that begins with b and goes on.
func (r *Reader) long(b []byte) ([]byte, error) {
	r.line++
	r.buf = append(r.buf[:0], b...)
	for {
		b, err := r.r.ReadSlice('\n')
		if room := r.max + 2 - len(r.buf); len(b) > room { // 2 for CR LF
			b = b[:max(room, 0)]
			r.buf = append(r.buf, b...)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.r.ReadSlice('\n')
			}
			return r.buf[:r.max], ErrTooLong
		}
		r.buf = append(r.buf, b...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return r.check(trim(r.buf))
		}
	}
}

// Line is the number of the line that Next gave last, from 1.
func (r *Reader) Line() int { return r.line }

func trim(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte{'\n'}), []byte{'\r'})
}
