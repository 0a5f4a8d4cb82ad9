package metrics

import (
	"strings"
	"sync"
)

// maxReaders is how many readers have series of their own.
const maxReaders = 256

// otherReaders is the label of those beyond.
const otherReaders = "other"

// readerNames bounds the readers that are labels. Where all places are taken, a
// reader that is gone gives its own to one that is new.
type readerNames struct {
	mu     sync.Mutex
	names  map[string]struct{}
	gone   map[string]struct{} // of names, as of the last look at the readers
	forget func(name string)   // drops a reader's series
}

func newReaderNames(forget func(string)) *readerNames {
	return &readerNames{names: map[string]struct{}{}, gone: map[string]struct{}{}, forget: forget}
}

// with calls f with the label of a reader, which stays its while f works.
func (r *readerNames) with(name string, f func(label string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.label(name))
}

// label is a name as a label has it. Names are what devices say: Prometheus
// panics on one that is not UTF-8.
func (r *readerNames) label(name string) string {
	name = strings.ToValidUTF8(name, "\uFFFD")
	delete(r.gone, name)
	if _, ok := r.names[name]; ok {
		return name
	}
	if len(r.names) == maxReaders {
		for old := range r.gone {
			delete(r.names, old)
			delete(r.gone, old)
			r.forget(old)
			break
		}
	}
	if len(r.names) == maxReaders || name == "" {
		return otherReaders
	}
	r.names[name] = struct{}{}
	return name
}

// present says which readers there are, and gives their labels.
func (r *readerNames) present(names []string) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.gone)
	for name := range r.names {
		r.gone[name] = struct{}{}
	}
	for _, name := range names {
		delete(r.gone, name)
	}
	labels := make(map[string]string, len(names))
	for _, name := range names {
		labels[name] = r.label(name)
	}
	return labels
}
