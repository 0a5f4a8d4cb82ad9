package audit

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// MaxLine bounds a line of an export, in bytes.
const MaxLine = 4 << 20

// Line is one of what an export has, in its order: an entry, or a checkpoint's
// note.
type Line struct {
	Entry *Entry
	Note  string
	At    int // where a Reader found it, from 1
}

// The first line of an export, and how lines begin.
const (
	firstLine = `{"cardbridge_audit_export":1}`
	lastLine  = `{"end":{"events":%d,"checkpoints":%d}}`
)

// Writer writes an export. It serves one goroutine.
type Writer struct {
	w                   *bufio.Writer
	buf                 []byte
	events, checkpoints int64
}

// NewWriter begins an export on w, which stays the caller's.
func NewWriter(w io.Writer) *Writer {
	out := &Writer{w: bufio.NewWriterSize(w, 1<<16)}
	out.w.WriteString(firstLine + "\n") // errors stay until Close
	return out
}

// Write writes one line. The error is of w, or says that an entry's detail is no
// JSON.
func (w *Writer) Write(l Line) error {
	if l.Entry == nil {
		w.checkpoints++
		w.buf = appendNote(w.buf[:0], l.Note)
	} else {
		w.events++
		if d := l.Entry.Detail; !json.Valid([]byte(d)) || bytes.ContainsAny([]byte(d), "\n\r") {
			return fmt.Errorf("audit: event %d: its detail is no JSON on one line: it was not written by a server; audit verify tells more", l.Entry.Seq)
		}
		w.buf = appendEntry(w.buf[:0], l.Entry)
	}
	_, err := w.w.Write(append(w.buf, '\n'))
	return err
}

// Close ends the export.
func (w *Writer) Close() error {
	fmt.Fprintf(w.w, lastLine+"\n", w.events, w.checkpoints)
	return w.w.Flush()
}

func appendNote(b []byte, text string) []byte {
	b = append(b, `{"checkpoint":`...)
	return append(appendString(b, text), '}')
}

func appendString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // strings do not fail
	return append(b, quoted...)
}

// appendEntry writes an entry as a line: all members in this order, those that
// are empty left out.
func appendEntry(b []byte, e *Entry) []byte {
	b = strconv.AppendInt(append(b, `{"seq":`...), e.Seq, 10)
	if e.N > 0 {
		b = append(hex.AppendEncode(append(b, `,"chain":"`...), e.Chain[:]), '"')
		b = strconv.AppendInt(append(b, `,"n":`...), e.N, 10)
		b = append(hex.AppendEncode(append(b, `,"hash":"`...), e.Hash[:]), '"')
	}
	b = strconv.AppendInt(append(b, `,"at":`...), e.At, 10)
	b = appendString(append(b, `,"kind":`...), e.Kind)
	if e.Request != "" {
		b = appendString(append(b, `,"request_id":`...), e.Request)
	}
	if e.EID != "" {
		b = appendString(append(b, `,"eid":`...), e.EID)
	}
	if e.Operator != 0 {
		b = strconv.AppendInt(append(b, `,"operator":`...), e.Operator, 10)
	}
	if e.Internal {
		b = append(b, `,"internal":true`...)
	}
	b = append(append(b, `,"detail":`...), e.Detail...)
	return append(b, '}')
}

// SyntaxError says that a text is not an export.
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("audit: line %d: %s", e.Line, e.Reason) }

// Reader reads an export in bounded memory.
type Reader struct {
	r                   *bufio.Reader
	line                int
	buf                 []byte
	events, checkpoints int64
	ended               bool
}

// NewReader reads an export.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 1<<16)} }

func (r *Reader) syntax(format string, args ...any) error {
	return &SyntaxError{r.line, fmt.Sprintf(format, args...)}
}

// Next is the next line; io.EOF follows the end that an export has. The error is
// a *SyntaxError where the text is not what a Writer writes, byte for byte, else
// that of what is read.
func (r *Reader) Next() (Line, error) {
	b, err := r.read()
	if errors.Is(err, io.EOF) && !r.ended {
		return Line{}, r.syntax("the export ends here, without the line that ends one: it is cut off")
	}
	if err != nil {
		return Line{}, err
	}
	if r.line == 1 {
		if string(b) != firstLine {
			return Line{}, r.syntax("an export of the audit trail begins with %s", firstLine)
		}
		return r.Next()
	}
	if r.ended {
		return Line{}, r.syntax("something follows the end of the export")
	}
	var in struct {
		Seq      int64           `json:"seq"`
		Chain    string          `json:"chain"`
		N        int64           `json:"n"`
		Hash     string          `json:"hash"`
		At       int64           `json:"at"`
		Kind     string          `json:"kind"`
		Request  string          `json:"request_id"`
		EID      string          `json:"eid"`
		Operator int64           `json:"operator"`
		Internal bool            `json:"internal"`
		Detail   json.RawMessage `json:"detail"`

		Checkpoint string `json:"checkpoint"`

		End *struct {
			Events      int64 `json:"events"`
			Checkpoints int64 `json:"checkpoints"`
		} `json:"end"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return Line{}, r.syntax("not a line of an export: %.200s", err)
	}
	out := Line{At: r.line}
	var again []byte // as a Writer writes what was read
	switch {
	case in.End != nil:
		again = fmt.Appendf(nil, lastLine, in.End.Events, in.End.Checkpoints)
	case in.Checkpoint != "":
		out.Note = in.Checkpoint
		again = appendNote(nil, in.Checkpoint)
	default:
		out.Entry = &Entry{
			Seq: in.Seq, N: in.N, At: in.At, Kind: in.Kind, Request: in.Request, EID: in.EID, Operator: in.Operator, Internal: in.Internal,
			Detail: string(in.Detail),
		}
		if !unhex(out.Entry.Chain[:], in.Chain) || !unhex(out.Entry.Hash[:], in.Hash) {
			return Line{}, r.syntax("chain has 32 hexadecimal digits and hash 64")
		}
		again = appendEntry(nil, out.Entry)
	}
	if !bytes.Equal(b, again) {
		return Line{}, r.syntax("not as an export is written: it was changed, or written by something else")
	}
	switch {
	case in.End == nil && out.Entry == nil:
		r.checkpoints++
	case in.End == nil:
		r.events++
	case in.End.Events != r.events || in.End.Checkpoints != r.checkpoints:
		return Line{}, r.syntax("the export had %d events and %d checkpoints, %d and %d are here: lines were removed or added",
			in.End.Events, in.End.Checkpoints, r.events, r.checkpoints)
	default:
		r.ended = true
		return r.Next()
	}
	return out, nil
}

// unhex decodes into all of dst; nothing leaves it as it is.
func unhex(dst []byte, text string) bool {
	if text == "" {
		return true
	}
	if hex.DecodedLen(len(text)) != len(dst) {
		return false
	}
	_, err := hex.Decode(dst, []byte(text))
	return err == nil
}

// read is the next line without its end. It stays until the next call.
func (r *Reader) read() ([]byte, error) {
	r.line++
	r.buf = r.buf[:0]
	for {
		part, err := r.r.ReadSlice('\n')
		r.buf = append(r.buf, part...)
		switch {
		case len(r.buf) > MaxLine:
			return nil, r.syntax("longer than %d bytes", MaxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(r.buf) > 0:
			return nil, r.syntax("it does not end: the export is cut off")
		case err != nil:
			return nil, err
		}
		return r.buf[:len(r.buf)-1], nil
	}
}
