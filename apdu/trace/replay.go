package trace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// Replayer sends the commands of traces to a card, byte for byte, and holds what
// it answers against what the trace says. It serves one goroutine.
//
// A session that was drawn anew, as each of docs/protocol.md is, goes through
// only where the card draws the same random bytes again. Commands of which bytes
// are redacted are not sent, nor is what is no command but an event of which no
// caller can make it happen; both are Skipped. Answers that the trace does not
// have are not compared.
type Replayer struct {
	// Connect connects to the card: at the beginning, and where the trace says
	// that a connection was made. The Replayer closes what it gives.
	Connect func(context.Context) (apdu.Conn, error)
	Rules   *Rules // nil: DefaultRules
	// KeepGoing goes on after what differs and may not.
	KeepGoing  bool
	Unredacted bool                   // leave secrets in what is reported
	Report     func(Difference) error // is told of each exchange, equal ones too; nil does without
}

// Run replays all sessions of src. It ends with the first exchange that differs
// and may not, which is no error: the summary is not Equal. It fails where src,
// Connect, Report or ctx does.
func (r *Replayer) Run(ctx context.Context, src Source) (sum Summary, err error) {
	opts := DiffOptions{Rules: r.Rules}
	p := replay{
		Replayer: r,
		rules:    opts.rules(),
		want:     newItems(src, opts.rules()),
		live:     newItems(nil, opts.rules()),
	}
	defer func() {
		if cerr := p.close(); err == nil {
			err = cerr
		}
	}()
	for {
		it, err := p.want.next()
		if errors.Is(err, io.EOF) {
			return p.sum, nil
		}
		if err != nil {
			return p.sum, err
		}
		v, err := p.step(ctx, it)
		if err != nil {
			return p.sum, err
		}
		if v == Different && !r.KeepGoing {
			return p.sum, nil
		}
	}
}

// replay is one Run.
type replay struct {
	*Replayer
	rules *Rules
	want  *items
	live  *items // the card's side: for its secrets and no source
	conn  apdu.Conn
	sum   Summary
}

func (p *replay) close() error {
	if p.conn == nil {
		return nil
	}
	err := p.conn.Close()
	p.conn = nil
	return err
}

func (p *replay) connect(ctx context.Context) error {
	_ = p.close() // what is left of a connection that the trace gave up
	conn, err := p.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the card: %w", err)
	}
	p.conn = conn
	return nil
}

// step replays one exchange.
func (p *replay) step(ctx context.Context, want *item) (Verdict, error) {
	got := &item{}
	var answer Entry
	switch c := want.x.Command; {
	case c.Kind == Command && len(c.Mask) > 0:
		return p.report(Difference{Verdict: Skipped, A: want.shown(p.Unredacted)})
	case c.Kind == Command:
		if p.conn == nil {
			if err := p.connect(ctx); err != nil {
				return Different, err
			}
		}
		p.live.sent(got, Entry{Kind: Command, Data: c.Data})
		answer = p.transmit(ctx, c.Data)
	case want.x.Answer.Name == Connected:
		if err := p.connect(ctx); err != nil {
			return Different, err
		}
		answer = Entry{Kind: Event, Name: Connected, Data: p.conn.ATR()}
	case want.x.Answer.Name == Reset && p.conn != nil:
		answer = Entry{Kind: Event, Name: Reset}
		if err := p.conn.Reset(ctx); err != nil {
			answer = failure(err)
		} else {
			answer.Data = p.conn.ATR()
		}
	case want.x.Answer.Name == Closed && p.conn != nil:
		if err := p.close(); err != nil {
			return Different, err
		}
		answer = Entry{Kind: Event, Name: Closed}
	default:
		return p.report(Difference{Verdict: Skipped, A: want.shown(p.Unredacted)})
	}
	if err := ctx.Err(); err != nil {
		return Different, err
	}
	p.live.answered(got, answer)
	d := Difference{A: want.shown(p.Unredacted), B: got.shown(p.Unredacted)}
	if want.x.Answer.Kind != 0 {
		d.Verdict, d.Fields = p.rules.compare(want, got)
	}
	return p.report(d)
}

func (p *replay) transmit(ctx context.Context, capdu []byte) Entry {
	began := time.Now()
	rapdu, err := p.conn.Transmit(ctx, capdu)
	switch {
	case err != nil:
		return failure(err)
	case len(rapdu) < 2:
		return failure(apdu.ErrShortAnswer)
	}
	return Entry{Kind: Response, Data: rapdu, Took: time.Since(began)}
}

// failure is the event that an error is.
func failure(err error) Entry {
	if errors.Is(err, apdu.ErrCardRemoved) {
		return Entry{Kind: Event, Name: Removed, Text: err.Error()}
	}
	return Entry{Kind: Event, Name: Error, Text: err.Error()}
}

func (p *replay) report(d Difference) (Verdict, error) {
	p.sum.count(d.Verdict)
	if p.Report == nil {
		return d.Verdict, nil
	}
	return d.Verdict, p.Report(d)
}

// Sessions is traces in memory as a Source.
func Sessions(list ...*Trace) Source { return &sessions{list: list} }

type sessions struct {
	list []*Trace
	left []Entry
}

func (s *sessions) NextSession() (Header, error) {
	if len(s.list) == 0 {
		s.left = nil
		return Header{}, io.EOF
	}
	t := s.list[0]
	s.list, s.left = s.list[1:], t.Entries
	return t.Header, nil
}

func (s *sessions) Next() (Entry, error) {
	if len(s.left) == 0 {
		return Entry{}, io.EOF
	}
	e := s.left[0]
	s.left = s.left[1:]
	return e, nil
}
