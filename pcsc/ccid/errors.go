package ccid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cardbridge/cardbridge/apdu"
)

// Errors that an *Error may match beside those of package apdu.
var (
	// ErrReader says that the reader's answer breaks the USB CCID specification.
	ErrReader = errors.New("the reader breaks the CCID protocol")
	// ErrT0 and ErrT1 say that the card breaks its transmission protocol.
	ErrT0 = errors.New("the card breaks T=0")
	ErrT1 = errors.New("the card breaks T=1")
	// ErrAborted says that the card aborted the exchange (S(ABORT)).
	ErrAborted = errors.New("the card aborted the chain")
	// ErrExtended says that a command with extended length fields cannot be
	// carried: T=0 has none, nor has a reader of the short-APDU level.
	ErrExtended = errors.New("no extended length: T=0, or a reader of the short-APDU level")
	// ErrTooLong says that a command is longer than the reader takes.
	ErrTooLong = errors.New("longer than the reader's messages")
	// ErrProtocol says that card and reader have no protocol in common, or not
	// the one that was asked for.
	ErrProtocol = errors.New("card and reader have no such protocol in common")
	// ErrEscape says that Options.AllowEscape is not set.
	ErrEscape = errors.New("escape commands are not allowed")
	// ErrNotBuilt says that this program was built without libusb.
	ErrNotBuilt = errors.New("built without libusb: build with CGO_ENABLED=1, a C compiler and libusb's headers (Debian: gcc pkg-config libusb-1.0-0-dev)")
	// ErrNoUSB says that this system has no USB.
	ErrNoUSB = errors.New("this system has no USB (a container or virtual machine without it, or a kernel without usbcore)")
	// ErrNoPermission says that the user may not use the device.
	ErrNoPermission = errors.New("no permission on the USB device (Linux: a udev rule such as " +
		`SUBSYSTEM=="usb", ATTR{idVendor}=="VVVV", ATTR{idProduct}=="PPPP", MODE="0660", TAG+="uaccess"` +
		", or run as root)")
	// ErrUnplugged says that the reader has gone.
	ErrUnplugged error = &unplugged{}
)

// unplugged is ErrUnplugged: a card leaves with its reader.
type unplugged struct{}

func (*unplugged) Error() string { return "the reader was unplugged" }
func (*unplugged) Is(target error) bool {
	return target == apdu.ErrNoReader || target == apdu.ErrCardRemoved
}

// Error is a call to a reader that failed. It matches Err and what that matches,
// and apdu.ErrTransport where that says no more.
type Error struct {
	Op     string // "connect", "transmit", …
	Reader string // its name, with the slot
	Err    error
}

func (e *Error) Error() string {
	if e.Reader == "" {
		return fmt.Sprintf("ccid: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("ccid: %s %q: %v", e.Op, e.Reader, e.Err)
}

// Unwrap gives the causes.
func (e *Error) Unwrap() []error {
	for _, kind := range kinds {
		if errors.Is(e.Err, kind) {
			return []error{e.Err}
		}
	}
	return []error{e.Err, apdu.ErrTransport}
}

// kinds are the errors that say more than that the transport failed.
var kinds = []error{
	apdu.ErrCardRemoved, apdu.ErrCardReset, apdu.ErrTimeout, apdu.ErrNoCard, apdu.ErrNoReader, apdu.ErrCardBusy,
	apdu.ErrMalformed, ErrExtended, ErrTooLong, ErrEscape, ErrNotBuilt, ErrNoUSB, ErrNoPermission,
	context.Canceled, context.DeadlineExceeded,
}

// Code is bError of a command that failed (CCID 1.1 §6.2.6): 81 to FF are those
// of the table there, C0 to 81 the vendor's; 00 says that the reader has no such
// command, 01 to 7F which byte of the message it does not take.
type Code byte

// The codes of CCID 1.1 table 6.2-2.
const (
	CodeAborted       Code = 0xFF
	CodeMute          Code = 0xFE
	CodeParity        Code = 0xFD
	CodeOverrun       Code = 0xFC
	CodeHardware      Code = 0xFB
	CodeBadTS         Code = 0xF8
	CodeBadTCK        Code = 0xF7
	CodeProtocol      Code = 0xF6
	CodeClass         Code = 0xF5
	CodeProcedureByte Code = 0xF4
	CodeDeactivated   Code = 0xF3
	CodeAutoSequence  Code = 0xF2
	CodePINTimeout    Code = 0xF0
	CodePINCancelled  Code = 0xEF
	CodeSlotBusy      Code = 0xE0
	CodeNotSupported  Code = 0x00
	codeSlotParameter Code = 0x05
)

var codeTexts = map[Code]string{
	CodeAborted:       "the command was aborted (CMD_ABORTED)",
	CodeMute:          "the card does not answer (ICC_MUTE)",
	CodeParity:        "parity error (XFR_PARITY_ERROR)",
	CodeOverrun:       "overrun (XFR_OVERRUN)",
	CodeHardware:      "hardware error: short circuit or fault (HW_ERROR)",
	CodeBadTS:         "the answer to reset has a bad TS (BAD_ATR_TS)",
	CodeBadTCK:        "the answer to reset has a bad TCK (BAD_ATR_TCK)",
	CodeProtocol:      "the reader does not speak the card's protocol (ICC_PROTOCOL_NOT_SUPPORTED)",
	CodeClass:         "the reader does not take the card's class (ICC_CLASS_NOT_SUPPORTED)",
	CodeProcedureByte: "procedure byte conflict (PROCEDURE_BYTE_CONFLICT)",
	CodeDeactivated:   "the protocol was deactivated (DEACTIVATED_PROTOCOL)",
	CodeAutoSequence:  "busy with an automatic sequence (BUSY_WITH_AUTO_SEQUENCE)",
	CodePINTimeout:    "PIN entry timed out (PIN_TIMEOUT)",
	CodePINCancelled:  "PIN entry was cancelled (PIN_CANCELLED)",
	CodeSlotBusy:      "the slot is busy (CMD_SLOT_BUSY)",
	CodeNotSupported:  "the reader has no such command (CMD_NOT_SUPPORTED)",
	codeSlotParameter: "the reader has no such slot",
}

func (c Code) Error() string {
	if text, known := codeTexts[c]; known {
		return text
	}
	if c < 0x80 {
		return fmt.Sprintf("the reader does not take byte %d of the message", byte(c))
	}
	return fmt.Sprintf("reader's error %02X", byte(c))
}

// Is reports whether c means target.
func (c Code) Is(target error) bool { return c == CodeMute && target == apdu.ErrTimeout }

// brokenReader is an error that matches ErrReader.
func brokenReader(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrReader}, args...)...)
}

// pipeError makes of a pipe's error what it means.
func pipeError(err error) error {
	for _, gone := range []error{apdu.ErrNoReader, fs.ErrClosed, io.EOF, io.ErrClosedPipe} {
		if errors.Is(err, gone) && !errors.Is(err, ErrUnplugged) {
			return fmt.Errorf("%w: %w", ErrUnplugged, err)
		}
	}
	return err
}
