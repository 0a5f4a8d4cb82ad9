package explain

import (
	"bufio"
	"encoding/json"
	"io"

	"github.com/cardbridge/cardbridge/apdu/trace"
)

// JSON writes explained sessions as one JSON object a line: one for a session,
// of the kind "session", and one for each of its entries.
type JSON struct {
	w        *bufio.Writer
	enc      *json.Encoder
	sessions int
}

// NewJSON writes to w, which stays the caller's.
func NewJSON(w io.Writer) *JSON {
	b := bufio.NewWriterSize(w, 64<<10)
	return &JSON{w: b, enc: json.NewEncoder(b)}
}

type jsonSession struct {
	Session  int    `json:"session"`
	Kind     string `json:"kind"`
	Title    string `json:"title,omitempty"`
	Card     string `json:"card,omitempty"`
	Reader   string `json:"reader,omitempty"`
	Tool     string `json:"tool,omitempty"`
	Date     string `json:"date,omitempty"`
	Origin   string `json:"origin,omitempty"`
	Redacted bool   `json:"redacted"`
}

type jsonEntry struct {
	Session int         `json:"session"`
	Line    int         `json:"line,omitempty"`
	Kind    string      `json:"kind"`
	AtUS    int64       `json:"at_us,omitempty"`   // microseconds since the beginning
	TookUS  int64       `json:"took_us,omitempty"` // microseconds since the command
	Channel int         `json:"channel"`
	Title   string      `json:"title"`
	Level   Level       `json:"level"`
	Data    string      `json:"data,omitempty"` // hexadecimal, ** where secret
	Fields  []jsonField `json:"fields,omitempty"`
}

type jsonField struct {
	Depth int    `json:"depth,omitempty"`
	Tag   string `json:"tag,omitempty"`
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
	Level string `json:"level,omitempty"`
}

var kinds = map[trace.Kind]string{trace.Command: "command", trace.Response: "response", trace.Event: "event"}

// Session implements Renderer.
func (j *JSON) Session(h trace.Header) error {
	j.sessions++
	s := jsonSession{
		Session: j.sessions, Kind: "session", Title: printable(h.Title), Card: printable(h.Card), Reader: printable(h.Reader),
		Tool: printable(h.Tool), Origin: printable(string(h.Origin)), Redacted: h.Redacted,
	}
	if !h.Date.IsZero() {
		s.Date = h.Date.UTC().Format("2006-01-02T15:04:05Z")
	}
	return j.enc.Encode(s)
}

// Entry implements Renderer.
func (j *JSON) Entry(e Explained) error {
	out := jsonEntry{
		Session: j.sessions, Line: e.Line, Kind: kinds[e.Kind], AtUS: e.At.Microseconds(), TookUS: e.Took.Microseconds(),
		Channel: e.Channel, Title: printable(e.Title), Level: e.Level, Data: maskedHex(e.Entry, 0),
	}
	if len(e.Fields) > 0 {
		out.Fields = make([]jsonField, len(e.Fields))
	}
	for i, f := range e.Fields {
		out.Fields[i] = jsonField{Depth: f.Depth, Tag: f.Tag, Name: f.Name, Value: printable(f.Value)}
		if f.Level != Plain {
			out.Fields[i].Level = f.Level.String()
		}
	}
	return j.enc.Encode(out)
}

// Close implements Renderer.
func (j *JSON) Close() error { return j.w.Flush() }
