package lines

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
)

type read struct {
	text string
	line int
	err  error
}

func all(r io.Reader, max int) (out []read) {
	for l := New(r, max); ; {
		b, err := l.Next()
		if err != nil && !errors.Is(err, ErrTooLong) {
			return append(out, read{err: err})
		}
		out = append(out, read{string(b), l.Line(), err})
	}
}

func TestNext(t *testing.T) {
	long := strings.Repeat("x", 100_000)
	assert.Equal(t, []read{
		{"a", 1, nil}, {"", 2, nil}, {"b\rc", 3, nil}, {"d", 4, nil}, {err: io.EOF},
	}, all(strings.NewReader("a\n\r\nb\rc\r\nd"), 10))
	assert.Equal(t, []read{
		{"12345", 1, nil}, {"12345", 2, ErrTooLong}, {"y", 3, nil}, {err: io.EOF},
	}, all(strings.NewReader("12345\r\n123456\ny"), 5))
	for _, r := range []func(io.Reader) io.Reader{iotest.DataErrReader, iotest.HalfReader} {
		assert.Equal(t, []read{
			{long, 1, nil}, {long, 2, ErrTooLong}, {long, 3, nil}, {long, 4, ErrTooLong}, {err: io.EOF},
		}, all(r(strings.NewReader(long+"\r\n"+long+long+"\n"+long+"\n"+long+"z")), len(long)))
	}
	assert.Equal(t, []read{{err: io.EOF}}, all(strings.NewReader(""), 5))
}

// What came before an error is read.
func TestReaderFails(t *testing.T) {
	broken := errors.New("broken")
	assert.Equal(t, []read{{"a", 1, nil}, {"b", 2, nil}, {err: broken}},
		all(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), 5))
}
