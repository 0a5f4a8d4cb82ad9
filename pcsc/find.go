package pcsc

import (
	"fmt"
	"strings"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// FindError says that a name fits no reader, or several. It matches
// apdu.ErrNoReader where it fits none.
type FindError struct {
	Name    string
	Matches []string // the readers it fits
	Readers []string // all there are
}

func (e *FindError) Error() string {
	switch {
	case len(e.Readers) == 0 && e.Name == "":
		return "there are no readers"
	case e.Name == "":
		return "there are several readers, say which: " + quoted(e.Readers)
	case len(e.Readers) == 0:
		return fmt.Sprintf("no reader %q: there are no readers", e.Name)
	case len(e.Matches) == 0:
		return fmt.Sprintf("no reader %q; there are %s", e.Name, quoted(e.Readers))
	}
	return fmt.Sprintf("reader %q is ambiguous: %s", e.Name, quoted(e.Matches))
}

// Is reports whether target is apdu.ErrNoReader and e means it.
func (e *FindError) Is(target error) bool { return target == apdu.ErrNoReader && len(e.Matches) == 0 }

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}

// Find gives the reader of exactly that name or identity (Reader.ID), else the
// only one whose name has it as a part; so "" finds the only reader. Its error is a *FindError.
func Find(readers []reader.Reader, name string) (reader.Reader, error) {
	failed := &FindError{Name: name}
	var found reader.Reader
	for _, r := range readers {
		if r.Name == name {
			return r, nil
		}
	}
	for _, r := range readers {
		if r.ID == name && name != "" {
			return r, nil
		}
		failed.Readers = append(failed.Readers, r.Name)
		if strings.Contains(r.Name, name) {
			failed.Matches = append(failed.Matches, r.Name)
			found = r
		}
	}
	if len(failed.Matches) != 1 {
		return reader.Reader{}, failed
	}
	return found, nil
}
