package pcsc_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func TestCodes(t *testing.T) {
	kinds := []error{apdu.ErrCardRemoved, apdu.ErrCardReset, apdu.ErrTimeout, apdu.ErrNoCard,
		apdu.ErrNoReader, apdu.ErrCardBusy, apdu.ErrTransport, pcsc.ErrNoService}
	for _, c := range []struct {
		code    pcsc.Code
		name    string
		matches []error
	}{
		{0x80100016, "SCARD_E_NOT_TRANSACTED", []error{apdu.ErrTransport}},
		{0x80100069, "SCARD_W_REMOVED_CARD", []error{apdu.ErrCardRemoved}},
		{0x80100068, "SCARD_W_RESET_CARD", []error{apdu.ErrCardReset}},
		{0x80100067, "SCARD_W_UNPOWERED_CARD", []error{apdu.ErrCardReset}},
		{0x80100066, "SCARD_W_UNRESPONSIVE_CARD", []error{apdu.ErrTransport}},
		{0x8010000B, "SCARD_E_SHARING_VIOLATION", []error{apdu.ErrCardBusy}},
		{0x8010000F, "SCARD_E_PROTO_MISMATCH", []error{apdu.ErrTransport}},
		{0x8010000C, "SCARD_E_NO_SMARTCARD", []error{apdu.ErrNoCard}},
		{0x80100009, "SCARD_E_UNKNOWN_READER", []error{apdu.ErrNoReader}},
		{0x80100017, "SCARD_E_READER_UNAVAILABLE", []error{apdu.ErrNoReader, apdu.ErrCardRemoved}},
		{0x8010002E, "SCARD_E_NO_READERS_AVAILABLE", []error{apdu.ErrNoReader}},
		{0x8010000A, "SCARD_E_TIMEOUT", []error{apdu.ErrTimeout}},
		{0x80100002, "SCARD_E_CANCELLED", []error{apdu.ErrTransport}},
		{0x8010001D, "SCARD_E_NO_SERVICE", []error{pcsc.ErrNoService, apdu.ErrTransport}},
		{0x8010001E, "SCARD_E_SERVICE_STOPPED", []error{pcsc.ErrNoService, apdu.ErrTransport}},
		{0x80100013, "SCARD_F_COMM_ERROR", []error{pcsc.ErrNoService, apdu.ErrTransport}},
		{0x00000057, "0x00000057", []error{apdu.ErrTransport}},
	} {
		err := error(&pcsc.Error{Op: "transmit", Reader: "R", Code: c.code})
		assert.ErrorIs(t, err, c.code)
		assert.Contains(t, err.Error(), c.name)
		assert.Equal(t, c.name, c.code.String())
		for _, k := range kinds {
			assert.Equal(t, slices.Contains(c.matches, k), errors.Is(err, k), "%s: %v", c.name, k)
		}
	}
}

func TestFind(t *testing.T) {
	readers := []reader.Reader{{Name: "ACS ACR39U 00 00"}, {Name: "Virtual PCD 00 00"}, {Name: "Virtual PCD 00 00 b"}}
	for name, want := range map[string]string{
		"ACS": "ACS ACR39U 00 00", "Virtual PCD 00 00": "Virtual PCD 00 00", "00 b": "Virtual PCD 00 00 b",
	} {
		r, err := pcsc.Find(readers, name)
		require.NoError(t, err)
		assert.Equal(t, want, r.Name)
	}
	_, err := pcsc.Find(readers, "PCD")
	assert.EqualError(t, err, `reader "PCD" is ambiguous: "Virtual PCD 00 00", "Virtual PCD 00 00 b"`)
	assert.NotErrorIs(t, err, apdu.ErrNoReader)
	_, err = pcsc.Find(readers[:1], "Omnikey")
	assert.EqualError(t, err, `no reader "Omnikey"; there are "ACS ACR39U 00 00"`)
	assert.ErrorIs(t, err, apdu.ErrNoReader)
	_, err = pcsc.Find(nil, "")
	assert.EqualError(t, err, "there are no readers")
	r, err := pcsc.Find(readers[:1], "")
	require.NoError(t, err)
	assert.Equal(t, readers[0], r, "the only one")
}

func ExampleFind() {
	readers := []reader.Reader{{Name: "Virtual PCD 00 00"}, {Name: "Virtual PCD 00 01"}}
	r, _ := pcsc.Find(readers, "00 01")
	fmt.Println(r.Name)
	_, err := pcsc.Find(readers, "Virtual")
	fmt.Println(err)
	// Output:
	// Virtual PCD 00 01
	// reader "Virtual" is ambiguous: "Virtual PCD 00 00", "Virtual PCD 00 01"
}
