package trace

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
)

// updateFlag is the flag that has Golden write files. Test programs alone have
// it, and another package's of that name serves as well.
const updateFlag = "update"

func init() {
	if testing.Testing() && flag.Lookup(updateFlag) == nil {
		flag.String(updateFlag, "", "write this golden trace anew: its `file` name, or all")
	}
}

// updates reports whether the flag names a file.
func updates(file string) bool {
	f := flag.Lookup(updateFlag)
	if f == nil {
		return false
	}
	v := f.Value.String()
	return v == "all" || v == "true" || v != "" && v == filepath.Base(file)
}

// Golden is conn, and has t fail at its end where what passed is not what file
// says. Connections of one test that are given the same file follow each other
// in it. Rules say what may differ; with none those of DefaultRules do, with
// several the last.
//
// With -update=NAME, the file's name without its folder, it writes that file
// instead, redacted and without times; the header stays as it is where there is
// one. With -update=all it writes every file that a test asks for.
func Golden(t testing.TB, conn apdu.Conn, file string, rules ...*Rules) apdu.Conn {
	t.Helper()
	key := goldenKey{t, file}
	goldens.Lock()
	defer goldens.Unlock()
	g := goldens.m[key]
	if g == nil {
		g = newGolden(t, file, rules)
		goldens.m[key] = g
		t.Cleanup(func() {
			t.Helper()
			goldens.Lock()
			delete(goldens.m, key)
			goldens.Unlock()
			g.end(t)
		})
	}
	return g.recorder.Wrap(conn)
}

type goldenKey struct {
	t    testing.TB
	file string
}

// goldens are those of tests that are running.
var goldens = struct {
	sync.Mutex
	m map[goldenKey]*golden
}{m: map[goldenKey]*golden{}}

// golden is one file in one test.
type golden struct {
	file     string
	rules    *Rules
	want     *Trace // nil where there is no such file yet
	got      memory
	recorder *Recorder
}

func newGolden(t testing.TB, file string, rules []*Rules) *golden {
	t.Helper()
	g := &golden{file: file, rules: DefaultRules()}
	if len(rules) > 0 {
		g.rules = rules[len(rules)-1]
	}
	b, err := os.ReadFile(file)
	switch {
	case err == nil:
		if g.want, err = Parse(bytes.NewReader(b)); err != nil && !updates(file) {
			t.Fatalf("%s: %v", file, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		t.Fatal(err)
	}
	g.recorder = NewSinkRecorder(&g.got, Header{})
	return g
}

// end compares, or writes.
func (g *golden) end(t testing.TB) {
	t.Helper()
	g.got.mu.Lock()
	got := &Trace{Entries: g.got.entries}
	g.got.mu.Unlock()
	if updates(g.file) {
		if err := g.write(t, got); err != nil {
			t.Error(err)
		}
		return
	}
	if g.want == nil {
		t.Errorf("there is no %s yet: write it with -update=%s", g.file, filepath.Base(g.file))
		return
	}
	var text strings.Builder
	sum, err := Diff(Sessions(g.want), Sessions(got), DiffOptions{Rules: g.rules}, func(d Difference) error {
		if (d.Verdict != Same && d.Verdict != May) && text.Len() < maxGoldenText {
			text.WriteString(d.String())
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", g.file, err)
	}
	if !sum.Equal() {
		t.Errorf("what passed is not what %s says (-), but (+):\n%sif that is right, write it with -update=%s",
			g.file, text.String(), filepath.Base(g.file))
	}
}

// maxGoldenText bounds what is told of one file, bytes.
const maxGoldenText = 16 << 10

func (g *golden) write(t testing.TB, got *Trace) error {
	got.Header = Header{Title: t.Name(), Origin: Emulator, Date: time.Now(), Redacted: true}
	if g.want != nil {
		got.Header = g.want.Header
		got.Redacted = true
		if sum, err := Diff(Sessions(g.want), Sessions(got), DiffOptions{Rules: &Rules{}}, nil); err == nil && sum.Equal() && sum.May == 0 {
			return nil // so that its comments stay
		}
	}
	b := appendHeader(nil, got.Header)
	for _, e := range got.Entries {
		e.At, e.Took = 0, 0
		b = appendEntry(b, e)
		b = append(bytes.TrimRight(b[:bytes.LastIndexByte(b, '#')], " "), '\n')
	}
	if err := os.MkdirAll(filepath.Dir(g.file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(g.file, b, 0o644); err != nil {
		return err
	}
	t.Logf("wrote %s, %d entries", g.file, len(got.Entries))
	return nil
}

// memory is a Sink that keeps entries, for connections that may be used at the
// same time.
type memory struct {
	mu      sync.Mutex
	entries []Entry
}

func (m *memory) Begin(Header) error { return nil }

func (m *memory) Write(e Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.entries) == maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	e.Data = bytes.Clone(e.Data)
	e.Mask = append([]Span(nil), e.Mask...)
	m.entries = append(m.entries, e)
	return nil
}

func (m *memory) Close() error { return nil }
