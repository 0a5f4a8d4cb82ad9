package ccidsim_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

func TestATR(t *testing.T) {
	for _, tt := range []struct {
		name string
		atr  ccidsim.ATR
		want string
	}{
		{"nothing", ccidsim.ATR{}, "3B00"},
		{"T=0 alone has no TCK", ccidsim.ATR{TA1: 0x95, WI: 10, Historical: []byte{1, 2}}, "3B92 95 40 0A 0102"},
		{"T=1", ccidsim.ATR{Protocols: []byte{1}}, "3B80 01 81"},
		{"T=1 with its bytes in the third group", ccidsim.ATR{Protocols: []byte{1}, IFSC: 0xFE, Waiting: 0x45, CRC: true}, "3B80 81 71 FE 45 01 CA"},
		{"both", ccidsim.ATR{Protocols: []byte{0, 1}, TA1: 0x96, Guard: 5, IFSC: 0xFE}, "3BD0 9605 80 11 FE 2C"},
		{"specific mode", ccidsim.ATR{Protocols: []byte{1}, TA1: 0x95, Specific: true}, "3B90 95 11 01 15"},
		{"classes", ccidsim.ATR{Protocols: []byte{0, 1}, Classes: 0xC7}, "3B80 80 81 1F C7 59"},
	} {
		assert.Equal(t, hexOf(bytesOf(tt.want)), hexOf(tt.atr.Bytes()), tt.name)
	}
}

func TestWithATRKeepsTheHistoricalBytes(t *testing.T) {
	card := ccidsim.WithATR(&echo{}, ccidsim.ATR{Protocols: []byte{1}})
	assert.Equal(t, "3B84"+"01"+hexOf([]byte("echo"))+"84", hexOf(card.ATR())[:14]+"84")
	assert.Len(t, card.ATR(), 8)
}
