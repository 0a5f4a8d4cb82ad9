package rules

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// numberedSet is a file of which both rules refuse with the same number, the
// second only where the first does not.
func numberedSet(n int) string {
	return head + fmt.Sprintf(`rules:
  - {name: odd, subject_code: 1, reason_code: 1, require: request.reason != 1, text: n%d}
  - {name: even, subject_code: 1, reason_code: 1, require: request.reason == 1, text: n%d}
`, n, n)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

// Requests are judged while the file is read again and again: each by one set,
// and none waits or is dropped.
func TestReloadWhileEvaluating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.yaml")
	write(t, path, numberedSet(0))
	f, err := Open(path)
	require.NoError(t, err)
	done := make(chan struct{})
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			last := 0
			for {
				select {
				case <-done:
					return
				default:
				}
				set := f.Current()
				var n [2]int
				for reason := range n {
					d := set.Evaluate(&Input{Reason: byte(reason)})
					if !assert.NotNil(t, d.Face) {
						return
					}
					_, err := fmt.Sscanf(d.Face.Text, "n%d", &n[reason])
					assert.NoError(t, err)
				}
				assert.Equal(t, n[0], n[1], "one set, one number")
				assert.GreaterOrEqual(t, n[0], last, "no older set comes back")
				last = n[0]
			}
		})
	}
	for i := 1; i <= 25; i++ {
		write(t, path, numberedSet(i))
		require.NoError(t, f.Reload())
		write(t, path, "version: 2\n")
		require.Error(t, f.Reload())
		assert.Contains(t, f.Current().Evaluate(&Input{}).Face.Text, fmt.Sprintf("n%d", i), "a bad file changes nothing")
	}
	close(done)
	workers.Wait()
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.Empty(t, Faults(err))
	_, err = Open(dir)
	require.Error(t, err)
	bad := filepath.Join(dir, "bad.yaml")
	write(t, bad, strings.Replace(numberedSet(0), "request.reason", "request.raeson", 1))
	_, err = Open(bad)
	require.Len(t, Faults(err), 1)
	assert.Equal(t, bad, Faults(err)[0].File)
	write(t, bad, strings.Repeat("#", MaxFile+1))
	_, err = Open(bad)
	assert.ErrorContains(t, err, "at most 262144")
}

// Each step of what Watch does, by hand.
func TestLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.yaml")
	write(t, path, numberedSet(1))
	f, err := Open(path)
	require.NoError(t, err)
	var log bytes.Buffer
	w := watch{f: f, log: slog.New(slog.NewTextHandler(&log, nil))}
	number := func() string { return f.Current().Evaluate(&Input{}).Face.Text }
	w.look()
	w.look()
	assert.Empty(t, log.String(), "nothing changed")

	write(t, path, numberedSet(2))
	w.look()
	assert.Equal(t, "n1", number(), "it may not be all written")
	w.look()
	assert.Equal(t, "n2", number())
	assert.Contains(t, log.String(), f.Current().Digest())

	half := numberedSet(3)
	write(t, path, half[:strings.Index(half, "  - {name: even")]) // a good file too
	w.look()
	write(t, path, half)
	w.look()
	assert.Equal(t, "n2", number())
	w.look()
	assert.Equal(t, "n3", number())

	log.Reset()
	write(t, path, "version: 2\n")
	for range 4 {
		w.look()
	}
	assert.Equal(t, "n3", number())
	assert.Equal(t, 1, strings.Count(log.String(), "\n"), "told once: %s", &log)
	assert.Contains(t, log.String(), "rules.yaml:1:10: version")

	log.Reset()
	require.NoError(t, os.Remove(path))
	for range 3 {
		w.look()
	}
	assert.Equal(t, "n3", number())
	assert.Equal(t, 1, strings.Count(log.String(), "level=ERROR"), "told once: %s", &log)
	write(t, path, numberedSet(4))
	w.look()
	w.look()
	assert.Equal(t, "n4", number())

	log.Reset()
	write(t, path, numberedSet(5))
	require.NoError(t, f.Reload())
	w.look()
	w.look()
	assert.Equal(t, "n5", number())
	assert.Empty(t, log.String(), "what Reload took is not taken again")
}

func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules.yaml")
	write(t, path, numberedSet(1))
	f, err := Open(path)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { f.Watch(ctx, slog.New(slog.DiscardHandler)) })
	before := f.Current()
	write(t, path, numberedSet(2))
	assert.Eventually(t, func() bool { return f.Current() != before }, time.Minute, 10*time.Millisecond)
	stop()
	watching.Wait()
}
