package rules

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// poll is how often Watch looks at the file.
const poll = time.Second

// File is a file of rules that is read again when it changes. It is safe for
// concurrent use, and Current never waits.
type File struct {
	path    string
	set     atomic.Pointer[Set]
	good    atomic.Int64 // readings
	bad     atomic.Int64
	mu      sync.Mutex // of what follows
	content []byte     // that was last read, good or bad
}

// Open reads a file of rules. The error is that of Parse where the file can be
// read.
func Open(path string) (*File, error) {
	f := &File{path: path}
	return f, f.Reload()
}

// Current is the set of the last file that was good.
func (f *File) Current() *Set { return f.set.Load() }

// Reload reads the file again. Where it is bad the set stays what it was.
func (f *File) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.read()
	if err != nil {
		return err
	}
	return f.take(b)
}

func (f *File) take(b []byte) error {
	f.content = b
	s, err := Parse(f.path, b)
	if err != nil {
		f.bad.Add(1)
		return err
	}
	f.set.Store(s)
	f.good.Add(1)
	return nil
}

// Readings is how often the file was read and good, and read and bad.
func (f *File) Readings() (good, bad int64) { return f.good.Load(), f.bad.Load() }

// read gives the file, one byte more than is allowed at most.
func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("management rules: %w", err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("management rules: %w", err)
	}
	return b, nil
}

// Watch reads the file again when it has changed, until ctx is done. It is taken
// once two looks in a row, a second apart, found the same: half a file that is
// being written may be a good one. What is wrong is logged, once.
func (f *File) Watch(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	w := watch{f: f, log: log}
	for {
		select {
		case <-tick.C:
			w.look()
		case <-ctx.Done():
			return
		}
	}
}

// watch is what Watch saw last.
type watch struct {
	f       *File
	log     *slog.Logger
	seen    []byte
	failing string
}

func (w *watch) look() {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	b, err := w.f.read()
	if err != nil {
		if w.failing != err.Error() {
			w.log.Error("management rules not read; the ones before stay", "error", err)
		}
		w.failing = err.Error()
		return
	}
	w.failing = ""
	same := bytes.Equal(b, w.seen)
	w.seen = b
	if !same || bytes.Equal(b, w.f.content) {
		return
	}
	if err := w.f.take(b); err != nil {
		w.log.Error("management rules are bad; the ones before stay", "file", w.f.path, "error", err)
		return
	}
	w.log.Info("management rules loaded", "file", w.f.path, "rules", len(w.f.Current().rules), "digest", w.f.Current().Digest())
}
