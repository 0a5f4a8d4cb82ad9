package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/applet-sim/uicc"
)

// sequences are how many TestInvariants plays; the race detector makes them slow,
// and the Makefile runs this package without it.
const sequences = 20000

func TestInvariants(t *testing.T) {
	n := uint64(sequences)
	if raceEnabled {
		n = 1000
	}
	var found bytes.Buffer
	sum, err := plan{n: n, seed: 1, workers: runtime.GOMAXPROCS(0), found: &found}.run(t.Context())
	require.NoError(t, err)
	assert.Zero(t, sum.violations, found.String())
	assert.Equal(t, n, sum.sequences)
	assert.GreaterOrEqual(t, sum.rsa*100, sum.sequences, "RSA in 1 of 100")
	t.Log(sum, "steps", sum.steps)
}

// onWrongPIN2 breaks what is seen of a card's memory once PIN2 was presented
// wrongly.
func onWrongPIN2(broken func(*appletsim.Image)) func(*torment) {
	return func(t *torment) {
		t.view = func(im *appletsim.Image) *appletsim.Image {
			for _, p := range im.Profiles {
				if pinOf(im, p.ICCID, uicc.PIN2).Failed > 0 {
					broken(im)
					break
				}
			}
			return im
		}
	}
}

// TestBrokenCards: each invariant is one that a broken card breaks, and the
// sequence that shows it is made short.
func TestBrokenCards(t *testing.T) {
	for _, tt := range []struct {
		invariant string
		spoil     func(*torment)
		steps     int // of the minimised sequence at most; -1: whatever it takes
	}{
		{oneEnabled, onWrongPIN2(func(im *appletsim.Image) {
			for i := range im.Profiles {
				im.Profiles[i].State = appletsim.Enabled
			}
		}), 3},
		{authorised, onWrongPIN2(func(im *appletsim.Image) {
			for i := range im.Profiles {
				im.Profiles[i].State = appletsim.Disabled
			}
			im.EventCounter++
		}), 3},
		{counting, onWrongPIN2(func(im *appletsim.Image) { im.EventCounter-- }), 3},
		{answers, onWrongPIN2(func(*appletsim.Image) { panic("broken") }), 3},
		{wholly, func(t *torment) { // half of the new image over the old one
			t.memory.tear = func(before, next []byte, n int) []byte {
				n = min(n, len(before), len(next))
				return append(next[:n:n], before[n:]...)
			}
		}, -1},
		{pinsCount, func(t *torment) { // an image of long ago
			t.memory.tear = func(_, _ []byte, _ int) []byte { return t.memory.began }
		}, -1},
		{coherent, func(t *torment) {
			t.view = func(im *appletsim.Image) *appletsim.Image {
				im.EventCounter++
				return im
			}
		}, 0},
	} {
		t.Run(tt.invariant, func(t *testing.T) {
			var found bytes.Buffer
			sum, err := plan{n: 5000, seed: 3, workers: 2, spoil: tt.spoil, until: tt.invariant, found: &found}.run(t.Context())
			require.NoError(t, err)
			require.NotZero(t, sum.broken[tt.invariant], "%v", sum.broken)
			_, after, _ := strings.Cut(found.String(), "violation: "+tt.invariant)
			lines := strings.Split(after, "\n")
			require.Greater(t, len(lines), 3, found.String())
			var q sequence
			require.NoError(t, json.Unmarshal([]byte(lines[3]), &q), lines[3])
			if tt.steps >= 0 {
				assert.LessOrEqual(t, len(q.Steps), tt.steps, lines[3])
			}
			path := filepath.Join(t.TempDir(), "sequence.json")
			require.NoError(t, os.WriteFile(path, []byte(lines[3]), 0o600))
			var stdout, stderr bytes.Buffer
			assert.Zero(t, run(t.Context(), []string{"-replay", path}, &stdout, &stderr), "a card that is whole: %s%s", &stdout, &stderr)
		})
	}
}

// TestProgram: the last line and the exit status.
func TestProgram(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Zero(t, run(t.Context(), []string{"-n", "20", "-seed", "9"}, &stdout, &stderr))
	assert.Equal(t, "sequences 20, violations 0, seed 9\n", stdout.String())
	for _, args := range [][]string{{"-nonsense"}, {"-replay", filepath.Join(t.TempDir(), "none")}} {
		assert.Equal(t, 2, run(t.Context(), args, &stdout, &stderr))
	}
}

// TestRepeatable: a seed and a number give the same sequence, and it goes through
// JSON.
func TestRepeatable(t *testing.T) {
	for n := range uint64(200) {
		q := generate(5, n)
		b, err := json.Marshal(q)
		require.NoError(t, err)
		var again sequence
		require.NoError(t, json.Unmarshal(b, &again))
		assert.Equal(t, q, again)
		assert.Equal(t, q, generate(5, n))
	}
	assert.NotEqual(t, generate(5, 1), generate(6, 1))
}
