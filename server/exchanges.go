package server

import (
	"bytes"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/server/store"
)

// maxExchanges bounds what the audit trail keeps of one attempt, in bytes: some
// three times what a card with the longest keys says.
const maxExchanges = 64 << 10

// exchanges are the APDUs of one attempt, as a text trace (docs/trace.md) for
// the audit trail. Secrets are masked, and of what goes in the clear the server's
// random number too. It is the trace's Sink.
type exchanges struct {
	trace.Sink
	text bytes.Buffer
	cut  bool
}

// wrap is conn, recorded.
func (x *exchanges) wrap(conn apdu.Conn, reader string) apdu.Conn {
	x.Sink = trace.NewWriter(&x.text)
	return trace.NewSinkRecorder(x, trace.Header{Reader: reader}).Wrap(conn)
}

// internalAuthenticate is INS of the command that carries RS (docs/protocol.md §6).
const internalAuthenticate = 0x88

// Write keeps entries until there are too many.
func (x *exchanges) Write(e trace.Entry) error {
	if x.cut = x.cut || x.text.Len()+2*len(e.Data) > maxExchanges; x.cut {
		return nil
	}
	if e.Kind == trace.Command && len(e.Data) > 5 && e.Data[1] == internalAuthenticate {
		e.Mask = []trace.Span{{From: 5, To: len(e.Data)}}
	}
	return x.Sink.Write(e)
}

// peek gives the event of what was exchanged, where anything was.
func (x *exchanges) peek() []store.Event {
	if x.text.Len() == 0 {
		return nil
	}
	e := store.Event{Kind: "apdus", Internal: true, Detail: map[string]any{"trace": x.text.String()}}
	if x.cut {
		e.Detail["cut"] = true
	}
	return []store.Event{e}
}

// take gives that event, once, and those that come after it.
func (x *exchanges) take(more ...store.Event) []store.Event {
	out := append(x.peek(), more...)
	x.text.Reset()
	return out
}
