package trace

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

// judged is a test whose end and failures are seen.
type judged struct {
	testing.TB
	ends   []func()
	errors []string
}

func (j *judged) Helper()           {}
func (j *judged) Cleanup(fn func()) { j.ends = append(j.ends, fn) }
func (j *judged) Errorf(format string, args ...any) {
	j.errors = append(j.errors, fmt.Sprintf(format, args...))
}

// play runs a session under Golden to the test's end, and gives what it failed
// with.
func play(t testing.TB, file string, rules []*Rules, answers ...string) []string {
	t.Helper()
	j := &judged{TB: t}
	for _, a := range answers {
		c := Golden(j, &conn{answer: func([]byte) ([]byte, error) { return bytesOf(t, a), nil }}, file, rules...)
		_, err := c.Transmit(t.Context(), bytesOf(t, "0084000002"))
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	for _, end := range j.ends {
		end()
	}
	return j.errors
}

func setUpdate(t testing.TB, value string) {
	t.Helper()
	before := flag.Lookup(updateFlag).Value.String()
	require.NoError(t, flag.Set(updateFlag, value))
	t.Cleanup(func() { require.NoError(t, flag.Set(updateFlag, before)) })
}

func TestGolden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "x.apdu")
	setUpdate(t, "")
	assert.Equal(t, []string{"there is no " + file + " yet: write it with -update=x.apdu"}, play(t, file, nil, "11229000"))

	setUpdate(t, "y.apdu")
	assert.Len(t, play(t, file, nil, "11229000"), 1, "another file is meant")
	setUpdate(t, "x.apdu")
	assert.Empty(t, play(t, file, nil, "11229000", "33449000"))
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(b), "# title: TestGolden\n")
	assert.Contains(t, string(b), "\n! connected 3B00\n> 0084000002\n< 11229000\n! closed\n! connected 3B00\n> 0084000002\n< 33449000\n! closed\n")

	setUpdate(t, "")
	assert.Empty(t, play(t, file, nil, "55669000", "33449000"), "GET CHALLENGE may differ")
	assert.Equal(t, []string{fmt.Sprintf("what passed is not what %s says (-), but (+):\n"+
		"line 7, session 1: different\n    > 0084000002\n  - < 11229000\n  + < 55669000\n      response bytes 0-1: 1122, then 5566\n"+
		"if that is right, write it with -update=x.apdu", file)}, play(t, file, []*Rules{{}}, "55669000", "33449000"))
	assert.Len(t, play(t, file, nil, "11229000"), 1, "less than there was")

	setUpdate(t, "all")
	require.NoError(t, os.WriteFile(file, append(b, "# by hand\n"...), 0o600))
	assert.Empty(t, play(t, file, nil, "11229000", "33449000"))
	again, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(b)+"# by hand\n", string(again), "what is right stays as it is")
	assert.Empty(t, play(t, file, nil, "77889000"))
	again, err = os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(again), "7788")
	assert.Contains(t, string(again), "# title: TestGolden\n")
}

func ExampleGolden() {
	test := func(t *testing.T, card apdu.Conn) {
		card = Golden(t, card, "testdata/read-eid.apdu")
		// … what the test does with the card
		_, _ = card.Transmit(t.Context(), []byte{0x80, 0xCA, 0x00, 0x5A, 0x00})
	}
	_ = test
}
