package apdu

import "fmt"

// StatusWord is SW1‖SW2 (ISO/IEC 7816-4 §5.6). Like syscall.Errno it is an
// error, so that errors.Is(err, apdu.SWSecurityStatusNotSatisfied) works.
type StatusWord uint16

// Status words of ISO/IEC 7816-4 that the card protocol uses.
const (
	SWSuccess                    StatusWord = 0x9000
	SWAuthenticationFailed       StatusWord = 0x6300
	SWMemoryFailure              StatusWord = 0x6581
	SWWrongLength                StatusWord = 0x6700
	SWChannelNotSupported        StatusWord = 0x6881
	SWSecureMessagingUnsupported StatusWord = 0x6882
	SWLastOfChainExpected        StatusWord = 0x6883
	SWChainingNotSupported       StatusWord = 0x6884
	SWSecurityStatusNotSatisfied StatusWord = 0x6982
	SWAuthenticationBlocked      StatusWord = 0x6983
	SWConditionsNotSatisfied     StatusWord = 0x6985
	SWSMObjectsMissing           StatusWord = 0x6987
	SWSMObjectsIncorrect         StatusWord = 0x6988
	SWIncorrectData              StatusWord = 0x6A80
	SWFileNotFound               StatusWord = 0x6A82
	SWIncorrectP1P2              StatusWord = 0x6A86
	SWReferenceNotFound          StatusWord = 0x6A88
	SWInstructionNotSupported    StatusWord = 0x6D00
	SWClassNotSupported          StatusWord = 0x6E00
)

var statusTexts = map[StatusWord]string{
	SWSuccess:                    "success",
	SWAuthenticationFailed:       "authentication failed",
	SWMemoryFailure:              "memory failure",
	SWWrongLength:                "wrong length",
	SWChannelNotSupported:        "logical channel not supported",
	SWSecureMessagingUnsupported: "secure messaging not supported",
	SWLastOfChainExpected:        "last command of the chain expected",
	SWChainingNotSupported:       "command chaining not supported",
	SWSecurityStatusNotSatisfied: "security status not satisfied",
	SWAuthenticationBlocked:      "authentication method blocked",
	SWConditionsNotSatisfied:     "conditions of use not satisfied",
	SWSMObjectsMissing:           "expected secure messaging data objects missing",
	SWSMObjectsIncorrect:         "incorrect secure messaging data objects",
	SWIncorrectData:              "incorrect parameters in the command data field",
	SWFileNotFound:               "file or application not found",
	SWIncorrectP1P2:              "incorrect parameters P1-P2",
	SWReferenceNotFound:          "referenced data or reference data not found",
	SWInstructionNotSupported:    "instruction not supported or invalid",
	SWClassNotSupported:          "class not supported",
}

// SW1 is the first byte of the status word.
func (s StatusWord) SW1() byte { return byte(s >> 8) }

// SW2 is the second byte of the status word.
func (s StatusWord) SW2() byte { return byte(s) }

// Append appends SW1 and SW2 to b.
func (s StatusWord) Append(b []byte) []byte { return append(b, byte(s>>8), byte(s)) }

// Hex is the status word as four upper-case hexadecimal digits.
func (s StatusWord) Hex() string { return fmt.Sprintf("%04X", uint16(s)) }

// String is the status word in hexadecimal and, where it is known, in words.
func (s StatusWord) String() string {
	if t, ok := statusTexts[s]; ok {
		return s.Hex() + " (" + t + ")"
	}
	switch s.SW1() {
	case 0x61:
		return fmt.Sprintf("%s (%d more response bytes)", s.Hex(), shortNe(s.SW2()))
	case 0x6C:
		return fmt.Sprintf("%s (wrong Le, %d is right)", s.Hex(), shortNe(s.SW2()))
	}
	return s.Hex()
}

// Error makes a status word an error; SWSuccess is one too and must not be
// returned as such.
func (s StatusWord) Error() string { return "status " + s.String() }

// Error says that a card refused a command. It unwraps to the status word.
type Error struct {
	Op  string // the command by name: "EXTERNAL AUTHENTICATE"
	INS byte
	SW  StatusWord
}

func (e *Error) Error() string { return fmt.Sprintf("%s: card answers %s", e.Op, e.SW) }

// Unwrap makes errors.Is find the status word.
func (e *Error) Unwrap() error { return e.SW }
