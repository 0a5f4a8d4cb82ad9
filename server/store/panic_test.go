package store

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A decision that panics undoes its own write and is its caller's panic; the
// writes beside it go on.
func TestWriteThatPanics(t *testing.T) {
	each(t, func(t *testing.T, f *fixture) {
		before, err := f.Events(t.Context(), 0, 100)
		require.NoError(t, err)
		assert.PanicsWithValue(t, "a rule", func() {
			_, _ = f.Submit(t.Context(), f.submission(1), func(*Moment) Verdict { panic("a rule") })
		})
		after, err := f.Events(t.Context(), 0, 100)
		require.NoError(t, err)
		assert.Equal(t, before, after)
		assert.Equal(t, Accepted, f.submit(t, 2).State)
	})
}
