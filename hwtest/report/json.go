package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// WriteJSON writes the suite as JSON of Schema.
func WriteJSON(w io.Writer, s *Suite) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

// ReadJSON reads what WriteJSON wrote: a report to compare with. Members that a
// later version added are ignored.
func ReadJSON(r io.Reader) (*Suite, error) {
	const maxReport = 64 << 20 // bytes
	b, err := io.ReadAll(io.LimitReader(r, maxReport+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxReport {
		return nil, fmt.Errorf("report: more than %d bytes", maxReport)
	}
	s := &Suite{}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(s); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	if s.Schema != Schema {
		return nil, fmt.Errorf("report: schema %.40q, %q wanted", s.Schema, Schema)
	}
	return s, nil
}
