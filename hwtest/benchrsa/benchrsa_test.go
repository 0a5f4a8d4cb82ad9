package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func builtPeer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peer")
	require.NoError(t, buildPeer(t.Context(), "cc", path))
	return path
}

// All races run and their figures are printed; what they are is not tested.
func TestMeasure(t *testing.T) {
	o := options{slice: time.Millisecond, rounds: 1, cards: 2, fleet: 3, sizes: []int{2048}}
	var out bytes.Buffer
	require.NoError(t, measure(t.Context(), o, builtPeer(t), &out))
	lines := regexp.MustCompile(`(?m)^ratio (\S+) (\S+)$`).FindAllStringSubmatch(out.String(), -1)
	var names []string
	for _, l := range lines {
		names = append(names, l[1])
		value, err := strconv.ParseFloat(l[2], 64)
		assert.NoError(t, err)
		assert.Positive(t, value, l[1])
	}
	assert.Equal(t, []string{"rsa2048/openssl", "rsa2048/go", "handshake/go", "handshake/rsa-bound"}, names)
	assert.True(t, strings.HasSuffix(out.String(), lines[len(lines)-1][0]+"\n"), "they are the last")
	assert.Contains(t, out.String(), "OpenSSL 3")
}

func TestPeerFails(t *testing.T) {
	path := builtPeer(t)
	for _, command := range []string{"private 2048 1", "nonsense", "key 00"} {
		p, err := startPeer(t.Context(), path)
		require.NoError(t, err)
		p.cmd.Stderr = nil
		var n int
		assert.Error(t, p.ask(command, &n), command)
		assert.Error(t, p.Close(), command)
	}
	assert.ErrorContains(t, buildPeer(t.Context(), "false", path), "libssl-dev")
}

func TestRace(t *testing.T) {
	var order []int
	contestant := func(i, count int) contestant {
		return func(d time.Duration) (result, error) {
			order = append(order, i)
			return result{count, d}, nil
		}
	}
	r, err := race(3, time.Second, contestant(0, 10), contestant(1, 5))
	require.NoError(t, err)
	assert.Equal(t, []int{0, 1, 1, 0, 0, 1, 1, 0}, order, "each begins in its turn; the first round does not count")
	assert.Equal(t, rates{{10, 10, 10}, {5, 5, 5}}, r)
	assert.Equal(t, 2.0, r.ratio(0, 1))
	assert.Equal(t, 5.0, r.median(1))

	failed := errors.New("failed")
	_, err = race(1, time.Second, func(time.Duration) (result, error) { return result{}, failed })
	assert.ErrorIs(t, err, failed)
	assert.Equal(t, 3.0, median([]float64{9, 1, 3}))
	// The median is the rounds' ratios', not the rates'.
	assert.Equal(t, 2.0, rates{{2, 10, 30}, {1, 5, 100}}.ratio(0, 1))
}

func TestHandshakeFails(t *testing.T) {
	f, err := newFleet(t.Context(), 1)
	require.NoError(t, err)
	keys, err := f.onCryptoRSA()
	require.NoError(t, err)
	require.NoError(t, f.authenticate(t.Context(), keys, 0))
	f.cards[0].m1[0] ^= 1
	_, err = f.handshakes(context.Background(), keys, 2)(time.Millisecond)
	assert.Error(t, err)
}
