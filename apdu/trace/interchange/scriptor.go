package interchange

import (
	"bytes"
	"fmt"
	"io"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// scriptor reads what scriptor prints and what it takes:
//
//	> 00 A4 00 04 02 3F 00
//	< 62 1E 82 02 78 21 83 02 3F 00 A5 09 80 01 71 83
//	03 07 92 FC 8A 01 05 90 00 : Normal processing.
//	> RESET
//	< OK: 3B 9F 96
//
// A line of a script is a command too, unless it is printed again with its ">"
// as scriptor does with a file.
type scriptor struct {
	script []byte // a line of a script that goes on, in hex
	held   []byte // a command of a script, which may be printed again
	again  bool   // a reset of a script, which may be printed again
	answer []byte // of an answer that goes on
	open   bool   // an answer goes on
	reset  bool   // after "> RESET"
}

func isScriptor(b []byte) bool {
	switch {
	case bytes.Equal(b, []byte("> RESET")), bytes.HasPrefix(b, []byte("< OK:")), bytes.HasPrefix(b, []byte("< KO:")):
		return true
	case bytes.HasPrefix(b, []byte("< ")), bytes.HasPrefix(b, []byte(": ")):
		data, _, ok := bytes.Cut(b, []byte(": "))
		return ok && isHex(bytes.TrimLeft(data, "< "), 0)
	}
	data, _, ok := bytes.Cut(b, []byte(" : "))
	return ok && isHex(data, 2)
}

// isCommandLine reports whether a line may be one of a script.
func isCommandLine(b []byte) bool {
	return isHex(bytes.TrimSuffix(bytes.TrimPrefix(b, []byte("> ")), []byte{'\\'}), 4)
}

func (s *scriptor) line(out *output, b []byte) error {
	switch {
	case bytes.HasPrefix(b, []byte("> ")):
		s.script = nil
		s.flush(out)
		if s.reset = bytes.EqualFold(b[2:], []byte("RESET")); s.reset {
			s.again = false
			s.unheld(out)
			return nil
		}
		c, err := hexBytes(b[2:])
		if s.held != nil && bytes.Equal(s.held, c) {
			s.held = nil
		}
		s.unheld(out)
		if err != nil {
			return err
		}
		return out.command(c)
	case bytes.HasPrefix(b, []byte("< OK:")) && s.reset:
		atr, err := hexBytes(b[5:])
		if err != nil {
			return err
		}
		s.reset = false
		out.event(trace.Reset, atr, "")
		return nil
	case bytes.HasPrefix(b, []byte("< KO:")):
		s.reset = false
		out.event(trace.Error, nil, string(bytes.TrimSpace(b[5:])))
		return nil
	case bytes.HasPrefix(b, []byte("<")):
		s.flush(out)
		s.open = true
		return s.part(out, b[1:])
	case s.open:
		return s.part(out, b)
	case len(b) == 0 || b[0] == '#', bytes.EqualFold(b, []byte("exit")):
		return nil
	case bytes.EqualFold(b, []byte("reset")):
		s.unheld(out)
		s.again = true
		return nil
	}
	for _, says := range [...]string{"Using given card reader: ", "No reader given: using "} {
		if name, ok := bytes.CutPrefix(b, []byte(says)); ok {
			out.reader(name)
			return nil
		}
	}
	for _, says := range [...]string{"Using ", "Reading commands from ", "Trying T="} {
		if bytes.HasPrefix(b, []byte(says)) {
			return nil
		}
	}
	if !isHex(bytes.TrimSuffix(b, []byte{'\\'}), 1) {
		return errNotUnderstood
	}
	line, more := bytes.CutSuffix(b, []byte{'\\'})
	if len(s.script)+len(line) > maxLine {
		s.script = nil
		return fmt.Errorf("a command longer than %d bytes", maxLine)
	}
	s.script = append(s.script, line...)
	if more {
		return nil
	}
	c, err := hexBytes(s.script)
	s.script = nil
	if err != nil {
		return err
	}
	s.unheld(out)
	s.held = c
	return nil
}

// part is a line of an answer, which ends with what the status word means.
func (s *scriptor) part(out *output, b []byte) error {
	data, _, last := bytes.Cut(b, []byte{':'})
	part, err := hexBytes(data)
	if err == nil && len(s.answer)+len(part) > maxAPDU {
		err = fmt.Errorf("more than %d bytes", maxAPDU)
	}
	if err != nil {
		s.open, s.answer = false, nil
		return fmt.Errorf("an answer: %w", err)
	}
	s.answer = append(s.answer, part...)
	if !last {
		return nil
	}
	answer := s.answer
	s.open, s.answer = false, nil
	return out.response(answer, 0)
}

// flush hands out an answer that was cut off.
func (s *scriptor) flush(out *output) {
	if !s.open {
		return
	}
	answer := s.answer
	s.open, s.answer = false, nil
	if err := out.response(answer, 0); err != nil {
		out.doubt(err.Error())
		return
	}
	out.doubt("an answer without an end: cut off?")
}

// unheld hands out what a script has and nothing printed again.
func (s *scriptor) unheld(out *output) {
	if s.again {
		s.again = false
		out.event(trace.Reset, nil, "")
	}
	if s.held == nil {
		return
	}
	if err := out.command(s.held); err != nil {
		out.doubt(err.Error())
	}
	s.held = nil
}

func (s *scriptor) end(out *output) error {
	s.flush(out)
	s.unheld(out)
	return nil
}

// scriptorSink writes a script: commands and resets. What a script cannot do is
// in its comments.
type scriptorSink struct {
	w   io.Writer
	buf []byte
}

func (s *scriptorSink) Begin(h trace.Header) error {
	s.buf = append(s.buf[:0], "# a script for scriptor\n"...)
	for _, f := range headerFields(h) {
		s.buf = fmt.Appendf(s.buf, "# %s: %s\n", f[0], f[1])
	}
	return s.flush()
}

func (s *scriptorSink) Write(e trace.Entry) error {
	s.buf = s.buf[:0]
	switch {
	case e.Kind == trace.Command && len(e.Mask) > 0:
		s.buf = append(appendSpaced(append(s.buf, "# redacted: "...), e), '\n')
	case e.Kind == trace.Command:
		s.buf = append(appendSpaced(s.buf, e), '\n')
	case e.Kind == trace.Response:
		s.buf = append(appendSpaced(append(s.buf, "# < "...), e), '\n')
	case e.Name == trace.Reset:
		s.buf = append(s.buf, "reset\n"...)
	default:
		s.buf = append(append(s.buf, "# ! "...), word(e.Name)...)
		if len(e.Data) > 0 {
			s.buf = appendSpaced(append(s.buf, ' '), e)
		}
		if text := oneLine(e.Text); text != "" {
			s.buf = append(append(s.buf, ' '), text...)
		}
		s.buf = append(s.buf, '\n')
	}
	return s.flush()
}

func (s *scriptorSink) Close() error { return nil }

func (s *scriptorSink) flush() error {
	_, err := s.w.Write(s.buf)
	return err
}

// appendSpaced writes bytes in hexadecimal, blanks between, ** where masked.
func appendSpaced(b []byte, e trace.Entry) []byte {
	for i, v := range e.Data {
		if i > 0 {
			b = append(b, ' ')
		}
		if e.Masked(i) {
			b = append(b, "**"...)
		} else {
			b = append(b, upperHex[v>>4], upperHex[v&15])
		}
	}
	return b
}
