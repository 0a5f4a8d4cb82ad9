package control

import (
	"strings"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
)

// tracer redacts what passes the card.
type tracer struct{ redactor trace.Redactor }

// traced is one exchange, as a trace has it: "*" for each digit of a secret.
type traced struct {
	Event    string `json:"event"` // "apdu"
	Command  string `json:"command"`
	Response string `json:"response,omitempty"` // absent: there was none
}

type strike struct {
	Event  string       `json:"event"` // "fault"
	Strike fault.Strike `json:"strike"`
}

// exchanged tells those who trace of an exchange; rapdu is nil where there was no
// answer.
func (s *Server) exchanged(capdu, rapdu []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := traced{Event: "apdu"}
	e.Command = s.tracer.line(trace.Command, capdu)
	if rapdu != nil {
		e.Response = s.tracer.line(trace.Response, rapdu)
	}
	s.tell(e)
}

// restarted tells of a reset, after which no command is what it was before.
func (s *Server) restarted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tracer = tracer{}
	s.tell(struct {
		Event string `json:"event"`
	}{"reset"})
}

// struck tells those who trace of a strike.
func (s *Server) struck(hit fault.Strike) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(strike{"fault", hit})
}

func (s *Server) tell(v any) {
	for c := range s.clients {
		c.mu.Lock()
		wants := c.traces
		c.mu.Unlock()
		if wants {
			c.send(v)
		}
	}
}

// line is bytes in hexadecimal, masked where they are secret.
func (t *tracer) line(kind trace.Kind, b []byte) string {
	e := t.redactor.Redact(trace.Entry{Kind: kind, Data: b})
	out := []byte(hexOf(e.Data))
	for i := range e.Data {
		if e.Masked(i) {
			copy(out[2*i:], strings.Repeat("*", 2))
		}
	}
	return string(out)
}
