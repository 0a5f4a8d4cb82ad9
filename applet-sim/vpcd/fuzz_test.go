package vpcd

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
)

type nullCard struct{}

func (nullCard) ATR() []byte                 { return []byte{0x3B, 0x80, 0x01, 0x81} }
func (nullCard) Power(bool)                  {}
func (nullCard) Reset()                      {}
func (nullCard) Process(capdu []byte) []byte { return append(capdu[:len(capdu):len(capdu)], 0x90, 0) }

// FuzzServe holds that whatever a reader sends, the card's side ends with the
// connection and has answered each whole message as it should.
func FuzzServe(f *testing.F) {
	f.Add([]byte{0, 1, 1, 0, 1, 2, 0, 1, 4})
	f.Add([]byte{0, 4, 0, 0xA4, 4, 0, 0, 0, 0, 1, 0xFF})
	f.Add([]byte{0xFF, 0xFF, 0})
	f.Fuzz(func(t *testing.T, sent []byte) {
		var want []byte
		for rest := sent; len(rest) >= lengthBytes; {
			n := int(binary.BigEndian.Uint16(rest))
			rest = rest[lengthBytes:]
			if len(rest) < n {
				break
			}
			switch {
			case n == 1 && rest[0] == controlATR:
				want = append(want, 0, 4, 0x3B, 0x80, 0x01, 0x81)
			case n > 1:
				want = binary.BigEndian.AppendUint16(want, uint16(n+2))
				want = append(append(want, rest[:n]...), 0x90, 0)
			}
			rest = rest[n:]
		}
		var answers bytes.Buffer
		err := (&server{card: nullCard{}}).serve(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(sent), &answers})
		assert.Condition(t, func() bool { return err == io.EOF || err == io.ErrUnexpectedEOF }, "%v", err)
		assert.Equal(t, want, answers.Bytes())
	})
}
