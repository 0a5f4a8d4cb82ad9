package trace

import (
	"errors"
	"fmt"
	"io"
)

// Exchange is one command and what came of it, or an event between commands.
type Exchange struct {
	Session int   // from 1; 0 for no exchange
	Command Entry // Kind 0 where there is none
	Answer  Entry // the response, or the event that stands in its place; Kind 0 where there is none
}

// Line is where the exchange begins, 0 where that is not known.
func (x *Exchange) Line() int {
	if x.Command.Kind != 0 {
		return x.Command.Line
	}
	return x.Answer.Line
}

// Verdict says how two exchanges compare.
type Verdict int

// The verdicts.
const (
	Same      Verdict = iota // to the byte
	May                      // what differs may
	Different                // something differs that may not
	Missing                  // it is in the first trace alone
	Extra                    // it is in the second trace alone
	Skipped                  // a Replayer did not send it, because bytes of it are redacted
)

var verdicts = [...]string{"same", "may differ", "different", "missing", "extra", "skipped"}

func (v Verdict) String() string { return verdicts[v] }

// MarshalText is String.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// Field is bytes of one side that are others on the other side.
type Field struct {
	What string // "command", "response", "status word", "answer", "ATR", "event", "text", "time"
	A, B Span   // in the entries' Data; empty where it is not about bytes
	Rule string // the rule that lets them differ; "" where none does
}

// May reports whether a rule lets the field differ.
func (f *Field) May() bool { return f.Rule != "" }

// What Field.Rule has beside the names of rules.
const (
	ruleRedacted = "redacted"
	ruleWords    = "words of errors"
	ruleATR      = "atr: any"
)

// Difference is how one exchange of a trace compares with one of another.
type Difference struct {
	Verdict Verdict
	A, B    Exchange // redacted; A is empty for Extra, B for Missing and Skipped
	Fields  []Field
}

// Summary counts exchanges by verdict.
type Summary struct {
	Same      int `json:"same"`
	May       int `json:"may_differ"`
	Different int `json:"different"`
	Missing   int `json:"missing"`
	Extra     int `json:"extra"`
	Skipped   int `json:"skipped"`
}

// Equal reports whether nothing differs that may not.
func (s Summary) Equal() bool { return s.Different+s.Missing+s.Extra == 0 }

func (s *Summary) count(v Verdict) {
	*[...]*int{&s.Same, &s.May, &s.Different, &s.Missing, &s.Extra, &s.Skipped}[v]++
}

// DiffOptions is how two traces are compared. The zero value holds them against
// the built-in rules.
type DiffOptions struct {
	Rules      *Rules // nil: DefaultRules
	Unredacted bool   // leave secrets in what is reported
}

func (o *DiffOptions) rules() *Rules {
	if o.Rules == nil {
		return DefaultRules()
	}
	return o.Rules
}

// Diff compares two traces of any length and reports exchange after exchange,
// equal ones too; an error of report's ends it. What a Difference points to is
// report's to keep.
//
// Exchanges are aligned by their commands, without what may differ in them.
// Where the traces part they are read ahead until three commands in a row agree
// again, at most 8,192 exchanges or 32 MiB on either side; what lies before is
// aligned so that most commands agree. What was put in beyond that is not
// bridged: all that follows differs. Memory is bounded by it.
func Diff(a, b Source, opts DiffOptions, report func(Difference) error) (Summary, error) {
	d := differ{
		a:      newWindow(a, "first trace", opts.rules()),
		b:      newWindow(b, "second trace", opts.rules()),
		rules:  opts.rules(),
		report: report,
		clear:  opts.Unredacted,
	}
	err := d.run()
	return d.sum, err
}

// item is an exchange and what comparing it takes.
type item struct {
	x       Exchange
	secret  [2][]Span // of command and answer: what a Redactor masks
	command freedom
	answer  freedom
	key     uint64 // one for all commands that are the same but for what may differ
	size    int    // bytes, about
}

// What an item takes beside its bytes, about.
const (
	overhead  = 256
	spanBytes = 32
)

// items groups the entries of a source to exchanges.
type items struct {
	src      Source
	session  int
	within   bool
	held     Entry // read ahead; Kind 0 for none
	redactor Redactor
	masker   masker
}

func newItems(src Source, rules *Rules) *items {
	return &items{src: src, masker: masker{rules: rules}}
}

// entry is the next entry of any session.
func (s *items) entry() (Entry, error) {
	if e := s.held; e.Kind != 0 {
		s.held = Entry{}
		return e, nil
	}
	for {
		if !s.within {
			if _, err := s.src.NextSession(); err != nil {
				return Entry{}, err
			}
			s.within = true
			s.session++
			s.masker.reset()
			s.redactor = Redactor{}
		}
		e, err := s.src.Next()
		if !errors.Is(err, io.EOF) {
			return e, err
		}
		s.within = false
	}
}

// next is the next exchange; io.EOF follows the last.
func (s *items) next() (*item, error) {
	e, err := s.entry()
	if err != nil {
		return nil, err
	}
	it := &item{x: Exchange{Session: s.session}}
	if e.Kind != Command {
		s.answered(it, e)
		it.key = keyOf(it.x.Answer, true, freedom{}, nil)
		return it, nil
	}
	s.sent(it, e)
	answer, err := s.entry()
	switch {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, err
	case s.session == it.x.Session && isAnswer(answer):
		s.answered(it, answer)
	default:
		s.held = answer
	}
	return it, nil
}

// isAnswer reports whether an entry stands where a response does.
func isAnswer(e Entry) bool {
	return e.Kind == Response || e.Kind == Event && (e.Name == Error || e.Name == Removed)
}

// sent begins an exchange.
func (s *items) sent(it *item, e Entry) {
	it.x.Command = e
	it.secret[0] = s.secret(e)
	it.command = s.masker.command(e.Data)
	it.key = keyOf(e, false, it.command, it.secret[0])
	it.size = overhead + len(e.Data) + spanBytes*(len(e.Mask)+len(it.secret[0])+len(it.command.spans))
}

// answered completes an exchange.
func (s *items) answered(it *item, e Entry) {
	it.x.Answer = e
	it.secret[1] = s.secret(e)
	it.size += overhead + len(e.Data) + len(e.Text) + spanBytes*(len(e.Mask)+len(it.secret[1]))
	switch {
	case e.Kind == Response:
		it.answer = s.masker.response(e.Data)
	case e.Name == Connected, e.Name == Reset, e.Name == Removed:
		s.masker.reset()
	}
}

func (s *items) secret(e Entry) []Span {
	if r := s.redactor.Redact(e); len(r.Mask) > 0 {
		return append([]Span(nil), r.Mask...)
	}
	return nil
}

// shown is the exchange as it is reported.
func (it *item) shown(unredacted bool) Exchange {
	x := it.x
	if !unredacted {
		x.Command = hide(x.Command, it.secret[0])
		x.Answer = hide(x.Answer, it.secret[1])
	}
	return x
}

func hide(e Entry, secret []Span) Entry {
	if len(secret) == 0 {
		return e
	}
	e.Data = append([]byte(nil), e.Data...)
	for _, s := range secret {
		clear(e.Data[s.From:s.To])
	}
	e.Mask = secret
	return e
}

// located names the side of an error.
func located(side string, err error) error { return fmt.Errorf("%s: %w", side, err) }
