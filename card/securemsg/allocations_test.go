package securemsg

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
)

// A message costs the memory of what it gives, and no other.
func TestAllocations(t *testing.T) {
	server, card := fresh()
	data := make([]byte, 200)
	var command, response []byte
	count := func(f func()) float64 { f(); return testing.AllocsPerRun(100, f) }
	assert.Equal(t, 1.0, count(func() { command = server.Wrap(4, 0, 0, data); server.count() }), "Wrap")
	assert.Equal(t, 1.0, count(func() { response = card.WrapResponse(data, apdu.SWSuccess); card.count() }), "WrapResponse")
	assert.Equal(t, 1.0, count(func() { server.Wrap(0xF2, 0, 0, nil); server.count() }), "Wrap without data")

	// Each is opened as if it came for the first time.
	server, card = fresh()
	command = server.Wrap(4, 0, 0, data)
	assert.Equal(t, 1.0, count(func() {
		card.ssc = [16]byte{}
		if _, err := card.UnwrapCommand(4, 0, 0, command); err != nil {
			panic(err)
		}
	}), "UnwrapCommand")
	response = card.WrapResponse(data, apdu.SWSuccess)
	ssc := server.ssc
	assert.Equal(t, 1.0, count(func() {
		server.ssc = ssc
		if _, _, err := server.Unwrap(response); err != nil {
			panic(err)
		}
	}), "Unwrap")
}
