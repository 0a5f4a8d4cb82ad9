package es10

import (
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// Enable enables a profile, and disables the one that is enabled (EnableProfile,
// SGP.22 §5.7.16). With refresh the card sends the terminal a REFRESH. The error
// is an *Error where the eUICC refuses; Attempt is what survives a card that
// answers no more.
func (e *EUICC) Enable(ctx context.Context, profile id.ICCID, refresh bool) error {
	return e.act(ctx, enableProfile, switchArguments(profile, refresh))
}

// Disable disables a profile (DisableProfile, SGP.22 §5.7.17); else as Enable.
func (e *EUICC) Disable(ctx context.Context, profile id.ICCID, refresh bool) error {
	return e.act(ctx, disableProfile, switchArguments(profile, refresh))
}

// Delete deletes a disabled profile for good (DeleteProfile, SGP.22 §5.7.18).
func (e *EUICC) Delete(ctx context.Context, profile id.ICCID) error {
	return e.act(ctx, deleteProfile, tlv.Append(nil, tagICCID, profile[:]...))
}

// maxNickname is the most bytes of a nickname.
const maxNickname = 64

// SetNickname gives a profile a nickname of at most 64 bytes of UTF-8, and takes
// it away where it is empty (SetNickname, SGP.22 §5.7.21).
func (e *EUICC) SetNickname(ctx context.Context, profile id.ICCID, nickname string) error {
	if err := checkNickname(nickname); err != nil {
		return err
	}
	arguments := tlv.Append(nil, tagICCID, profile[:]...)
	return e.act(ctx, setNickname, tlv.Append(arguments, tagNickname, []byte(nickname)...))
}

func checkNickname(s string) error {
	if len(s) > maxNickname || !utf8.ValidString(s) {
		return fmt.Errorf("es10: nickname of %d bytes, at most %d bytes of UTF-8 wanted", len(s), maxNickname)
	}
	return nil
}

// MemoryReset is what a memory reset deletes, whatever is enabled and whatever
// policy rules say.
type MemoryReset struct {
	Operational bool // profiles
	Test        bool // profiles, those not of the eUICC's maker
	DefaultDP   bool // address
}

// MemoryReset resets the eUICC's memory (eUICCMemoryReset, SGP.22 §5.7.19). The
// error matches ErrNothingToDelete where there was nothing.
func (e *EUICC) MemoryReset(ctx context.Context, r MemoryReset) error {
	return e.act(ctx, memoryReset, r.arguments())
}

func (r MemoryReset) arguments() []byte {
	options := byte(0)
	for i, on := range []bool{r.Operational, r.Test, r.DefaultDP} {
		if on {
			options |= 0x80 >> i
		}
	}
	return tlv.Append(nil, 0x82, 5, options) // a BIT STRING of three bits
}

// Addresses are those of the servers that the eUICC asks for profiles.
type Addresses struct {
	DefaultDP string // default SM-DP+; "": none
	RootDS    string // root SM-DS
}

// Addresses reads the configured addresses (GetEuiccConfiguredAddresses, SGP.22
// §5.7.3).
func (e *EUICC) Addresses(ctx context.Context) (Addresses, error) {
	answer, err := e.call(ctx, getAddresses, nil)
	if err != nil {
		return Addresses{}, err
	}
	a, err := parseAddresses(answer)
	return a, malformed(getAddresses, err)
}

func parseAddresses(b []byte) (a Addresses, err error) {
	in, err := only(b, getAddresses.tag)
	if err != nil {
		return a, err
	}
	err = members(in, map[tlv.Tag]func([]byte) error{
		0x80: func(v []byte) error { return text(v, &a.DefaultDP) },
		0x81: func(v []byte) error { return text(v, &a.RootDS) },
	})
	return a, err
}

// SetDefaultDP sets the default SM-DP+ address, or takes it away where it is
// empty (SetDefaultDpAddress, SGP.22 §5.7.4).
func (e *EUICC) SetDefaultDP(ctx context.Context, address string) error {
	return e.act(ctx, setDefaultDP, tlv.Append(nil, 0x80, []byte(address)...))
}

func switchArguments(profile id.ICCID, refresh bool) []byte {
	flag := byte(0x00)
	if refresh {
		flag = 0xFF
	}
	return tlv.Append(tlv.Append(nil, tagList, tlv.Append(nil, tagICCID, profile[:]...)...), 0x81, flag)
}

// act carries out a function that answers with a result code alone.
func (e *EUICC) act(ctx context.Context, f function, arguments []byte) error {
	answer, err := e.call(ctx, f, arguments)
	if err != nil {
		return err
	}
	return malformed(f, parseResult(answer, f))
}

// parseResult parses the answer of a function that has a result code alone.
func parseResult(b []byte, f function) error {
	in, err := only(b, f.tag)
	if err != nil {
		return err
	}
	code, err := only(in, 0x80)
	switch {
	case err != nil:
		return err
	case len(code) != 1:
		return fmt.Errorf("a result of %d bytes", len(code))
	case code[0] != 0:
		return &Error{Function: f.name, Code: code[0]}
	}
	return nil
}
