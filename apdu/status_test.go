package apdu

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStatusWordIsAnError(t *testing.T) {
	err := fmt.Errorf("card 3: %w", &Error{Op: "GET STATUS", INS: 0xF2, SW: SWSecurityStatusNotSatisfied})
	assert.ErrorIs(t, err, SWSecurityStatusNotSatisfied)
	assert.NotErrorIs(t, err, SWConditionsNotSatisfied)
	assert.EqualError(t, err, "card 3: GET STATUS: card answers status 6982 (security status not satisfied)")
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, byte(0xF2), e.INS)
	var sw StatusWord
	require.True(t, errors.As(err, &sw))
	assert.Equal(t, SWSecurityStatusNotSatisfied, sw)
	assert.EqualError(t, sw, "status 6982 (security status not satisfied)")
}

func TestStatusWordText(t *testing.T) {
	for sw, want := range map[StatusWord]string{
		SWSuccess: "9000 (success)",
		0x6100:    "6100 (256 more response bytes)",
		0x6112:    "6112 (18 more response bytes)",
		0x6C10:    "6C10 (wrong Le, 16 is right)",
		0x6F00:    "6F00",
		0x0001:    "0001",
	} {
		assert.Equal(t, want, sw.String())
	}
	assert.Equal(t, byte(0x6A), SWFileNotFound.SW1())
	assert.Equal(t, byte(0x82), SWFileNotFound.SW2())
	assert.Equal(t, "6A82", SWFileNotFound.Hex())
	assert.Equal(t, []byte{1, 0x6A, 0x82}, SWFileNotFound.Append([]byte{1}))
}
