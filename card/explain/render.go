package explain

import (
	"errors"
	"io"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// Renderer writes explained sessions: Text, JSON, HTML.
type Renderer interface {
	Session(h trace.Header) error // begins a session
	Entry(e Explained) error      // keeps nothing of e
	Close() error                 // ends what was begun; what is below stays open
}

// Show explains every session of src to each of the renderers, which the caller
// closes. A line that a trace.Reader does not understand is left out, and warn
// hears of it; warn and keys may be nil.
func Show(src trace.Source, keys *Keys, warn func(error), to ...Renderer) error {
	x := New(keys)
	for {
		h, err := src.NextSession()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err := passable(err, warn); err != nil {
			return err
		}
		x.Begin()
		for _, r := range to {
			if err := r.Session(h); err != nil {
				return err
			}
		}
		if err := entries(src, x, warn, to); err != nil {
			return err
		}
	}
}

// entries explains one session.
func entries(src trace.Source, x *Explainer, warn func(error), to []Renderer) error {
	for {
		e, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if err := passable(err, warn); err != nil {
				return err
			}
			continue
		}
		explained := x.Explain(e)
		for _, r := range to {
			if err := r.Entry(explained); err != nil {
				return err
			}
		}
	}
}

// passable is nil where the source goes on after err; what fails in its first
// line is no trace.
func passable(err error, warn func(error)) error {
	var syntax *trace.SyntaxError
	if !errors.As(err, &syntax) || syntax.Line <= 1 {
		return err
	}
	if warn != nil {
		warn(err)
	}
	return nil
}
