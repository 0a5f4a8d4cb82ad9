// Package interchange reads APDU traces in other tools' formats and writes
// some of them: docs/trace.md has the table. Every reader streams, in memory
// that does not grow with its input, and reads on past what it does not
// understand, with a warning that names the place.
package interchange

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/apdu/trace/internal/lines"
)

// Format is a format of traces, by the name that command lines use.
type Format string

// The formats.
const (
	Trace       Format = "trace"        // ours, docs/trace.md
	JSONLines   Format = "jsonl"        // one JSON object a line
	PCAPNG      Format = "pcapng"       // GSMTAP SIM in pcapng
	PCAP        Format = "pcap"         // GSMTAP SIM in pcap
	Scriptor    Format = "scriptor"     // what scriptor takes and prints
	PCSCD       Format = "pcscd"        // pcscd --apdu
	PySCard     Format = "pyscard"      // pyscard's ConsoleCardConnectionObserver
	OpenSCTool  Format = "opensc-tool"  // opensc-tool --send-apdu
	OpenSCDebug Format = "opensc-debug" // OPENSC_DEBUG
	LPAC        Format = "lpac"         // LIBEUICC_DEBUG_APDU
	GPPro       Format = "gp"           // GlobalPlatformPro --debug
	SIMtrace    Format = "simtrace2"    // simtrace2-sniff
	PySim       Format = "pysim"        // pySim --apdu-trace
	TCA         Format = "tca"          // TCA loader
)

// Warning says what a reader left out or doubts, and where.
type Warning struct {
	Line   int // of a text, from 1
	Packet int // of a capture, from 1
	Reason string
}

func (w Warning) String() string {
	switch {
	case w.Line > 0:
		return fmt.Sprintf("line %d: %s", w.Line, w.Reason)
	case w.Packet > 0:
		return fmt.Sprintf("packet %d: %s", w.Packet, w.Reason)
	}
	return w.Reason
}

// UnknownFormatError says that a trace is in none of the formats.
type UnknownFormatError struct {
	Format Format // the one asked for, "" where it was to be recognised
}

func (e *UnknownFormatError) Error() string {
	if e.Format == "" {
		return "interchange: not a trace in any format known"
	}
	return fmt.Sprintf("interchange: no format %.40q", string(e.Format))
}

// Formats lists the formats that NewSource reads.
func Formats() []Format {
	out := []Format{Trace, JSONLines, PCAPNG, PCAP}
	for _, f := range textFormats {
		out = append(out, f.name)
	}
	return out
}

// SinkFormats lists the formats that NewSink writes.
func SinkFormats() []Format { return []Format{Trace, JSONLines, PCAPNG, Scriptor} }

// headSize is how much of a trace Detect wants.
const headSize = 64 << 10

// Open reads r in the format that it has. warn is called where something is
// left out; nil does without. The error is an *UnknownFormatError or r's.
func Open(r io.Reader, warn func(Warning)) (trace.Source, Format, error) {
	b := bufio.NewReaderSize(r, headSize)
	head, err := b.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", fmt.Errorf("interchange: %w", err)
	}
	f, ok := Detect(head)
	if !ok {
		return nil, "", &UnknownFormatError{}
	}
	src, err := NewSource(f, b, warn)
	return src, f, err
}

// NewSource reads r in format f, warn as with Open.
func NewSource(f Format, r io.Reader, warn func(Warning)) (trace.Source, error) {
	w := &warner{to: warn}
	switch f {
	case PCAP, PCAPNG:
		return newCapture(r, w), nil
	}
	r = newUTF8(r)
	switch f {
	case Trace:
		return &lenient{Reader: trace.NewReader(r), warn: w}, nil
	case JSONLines:
		return newJSONSource(r, w), nil
	}
	for _, t := range textFormats {
		if t.name == f {
			return &textSource{lines: lines.New(r, maxLine), out: output{warn: w, header: trace.Header{Tool: string(f)}}, decoder: t.decoder()}, nil
		}
	}
	return nil, &UnknownFormatError{f}
}

// NewSink writes to w, which stays the caller's, in format f.
func NewSink(f Format, w io.Writer) (trace.Sink, error) {
	switch f {
	case Trace:
		return trace.NewWriter(w), nil
	case JSONLines:
		return &jsonSink{w: w}, nil
	case PCAPNG:
		return &pcapngSink{w: w}, nil
	case Scriptor:
		return &scriptorSink{w: w}, nil
	}
	return nil, &UnknownFormatError{f}
}

// maxWarnings bounds what one trace has to say.
const maxWarnings = 100

type warner struct {
	to func(Warning)
	n  int
}

func (w *warner) add(x Warning) {
	if w.n++; w.to == nil || w.n > maxWarnings {
		return
	}
	if w.n == maxWarnings {
		x.Reason += "; further warnings are left out"
	}
	w.to(x)
}

// lenient reads on past the lines that our format does not allow.
type lenient struct {
	*trace.Reader
	warn *warner
}

func (l *lenient) NextSession() (trace.Header, error) {
	h, err := l.Reader.NextSession()
	var syntax *trace.SyntaxError
	if errors.As(err, &syntax) && syntax.Line > 1 { // else it is no trace at all
		l.warn.add(Warning{Line: syntax.Line, Reason: syntax.Reason})
		err = nil
	}
	return h, err
}

func (l *lenient) Next() (trace.Entry, error) {
	for {
		e, err := l.Reader.Next()
		var syntax *trace.SyntaxError
		if !errors.As(err, &syntax) || syntax.Line == 1 {
			return e, err
		}
		l.warn.add(Warning{Line: syntax.Line, Reason: syntax.Reason})
	}
}
