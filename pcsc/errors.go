package pcsc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cardbridge/cardbridge/apdu"
)

// ErrNoService says that the PC/SC service does not run, or ended.
var ErrNoService = errors.New("the PC/SC service is not running (Linux: systemctl start pcscd.socket, or pcscd; Windows: sc start SCardSvr)")

// ErrNotBuilt says that this program was built without PC/SC.
var ErrNotBuilt = errors.New("built without PC/SC: build with CGO_ENABLED=1, a C compiler and libpcsclite's headers (Debian: gcc pkg-config libpcsclite-dev)")

// ErrStuck says that an earlier call to the reader has not returned.
var ErrStuck = errors.New("an earlier call to this reader has not returned: pull the card, or end the program that holds it")

// ErrEscapeNotAllowed says that a control code could do anything to the reader,
// and Options.AllowEscape was not given.
var ErrEscapeNotAllowed = errors.New("control codes of the reader's own are not allowed here (see AllowEscape)")

// errDead says that an earlier call ended the connection.
var errDead = errors.New("the connection ended before")

// Error is a PC/SC call that failed. It matches Code, Err and what they match:
// apdu.ErrCardRemoved and its like, ErrNoService, a context's error.
type Error struct {
	Op     string // "connect", "transmit", …
	Reader string // "" where it concerns no one reader
	Code   Code   // 0 where PC/SC gave none
	Err    error  // a cause beside Code, or nil
}

func (e *Error) Error() string {
	var s strings.Builder
	s.WriteString("pcsc: " + e.Op)
	if e.Reader != "" {
		fmt.Fprintf(&s, " %q", e.Reader)
	}
	if e.Code != 0 {
		s.WriteString(": " + e.Code.Error())
	}
	if e.Err != nil {
		s.WriteString(": " + e.Err.Error())
	}
	return s.String()
}

// Unwrap gives the causes.
func (e *Error) Unwrap() []error {
	var causes []error
	if e.Code != 0 {
		causes = append(causes, e.Code)
	}
	if e.Err != nil {
		causes = append(causes, e.Err)
	}
	return causes
}

// Code is a return code of PC/SC (winscard.h, PC/SC part 5).
type Code uint32

// Codes that say more than that the transport failed.
const (
	CodeCancelled          Code = 0x80100002
	CodeInvalidHandle      Code = 0x80100003
	CodeInsufficientBuffer Code = 0x80100008
	CodeUnknownReader      Code = 0x80100009
	CodeTimeout            Code = 0x8010000A
	CodeSharingViolation   Code = 0x8010000B
	CodeNoSmartcard        Code = 0x8010000C
	CodeProtoMismatch      Code = 0x8010000F
	CodeInvalidValue       Code = 0x80100011
	CodeCommError          Code = 0x80100013
	CodeNotTransacted      Code = 0x80100016
	CodeReaderUnavailable  Code = 0x80100017
	CodeNoService          Code = 0x8010001D
	CodeServiceStopped     Code = 0x8010001E
	CodeNoReadersAvailable Code = 0x8010002E
	CodeCommDataLost       Code = 0x8010002F
	CodeUnresponsiveCard   Code = 0x80100066
	CodeUnpoweredCard      Code = 0x80100067
	CodeResetCard          Code = 0x80100068
	CodeRemovedCard        Code = 0x80100069
)

// meanings are the codes by name, with a text where the error they match has
// not the right one, and the errors they match where that is not
// apdu.ErrTransport alone.
var meanings = map[Code]struct {
	name    string
	text    string
	matches []error
}{
	0x80100001:             {name: "SCARD_F_INTERNAL_ERROR"},
	CodeCancelled:          {name: "SCARD_E_CANCELLED"},
	CodeInvalidHandle:      {name: "SCARD_E_INVALID_HANDLE"},
	0x80100004:             {name: "SCARD_E_INVALID_PARAMETER"},
	0x80100005:             {name: "SCARD_E_INVALID_TARGET"},
	0x80100006:             {name: "SCARD_E_NO_MEMORY"},
	0x80100007:             {name: "SCARD_F_WAITED_TOO_LONG"},
	CodeInsufficientBuffer: {name: "SCARD_E_INSUFFICIENT_BUFFER"},
	CodeUnknownReader:      {name: "SCARD_E_UNKNOWN_READER", matches: []error{apdu.ErrNoReader}},
	CodeTimeout:            {name: "SCARD_E_TIMEOUT", matches: []error{apdu.ErrTimeout}},
	CodeSharingViolation:   {name: "SCARD_E_SHARING_VIOLATION", matches: []error{apdu.ErrCardBusy}},
	CodeNoSmartcard:        {name: "SCARD_E_NO_SMARTCARD", matches: []error{apdu.ErrNoCard}},
	0x8010000D:             {name: "SCARD_E_UNKNOWN_CARD"},
	0x8010000E:             {name: "SCARD_E_CANT_DISPOSE"},
	CodeProtoMismatch:      {name: "SCARD_E_PROTO_MISMATCH", text: "the card offers no such protocol, or another program uses another"},
	0x80100010:             {name: "SCARD_E_NOT_READY"},
	CodeInvalidValue:       {name: "SCARD_E_INVALID_VALUE"},
	0x80100012:             {name: "SCARD_E_SYSTEM_CANCELLED"},
	CodeCommError:          {name: "SCARD_F_COMM_ERROR", matches: []error{ErrNoService, apdu.ErrTransport}},
	0x80100014:             {name: "SCARD_F_UNKNOWN_ERROR"},
	0x80100015:             {name: "SCARD_E_INVALID_ATR"},
	CodeNotTransacted:      {name: "SCARD_E_NOT_TRANSACTED"},
	CodeReaderUnavailable:  {name: "SCARD_E_READER_UNAVAILABLE", matches: []error{apdu.ErrNoReader, apdu.ErrCardRemoved}}, // a card leaves with its reader
	0x80100018:             {name: "SCARD_P_SHUTDOWN"},
	0x80100019:             {name: "SCARD_E_PCI_TOO_SMALL"},
	0x8010001A:             {name: "SCARD_E_READER_UNSUPPORTED"},
	0x8010001B:             {name: "SCARD_E_DUPLICATE_READER"},
	0x8010001C:             {name: "SCARD_E_CARD_UNSUPPORTED"},
	CodeNoService:          {name: "SCARD_E_NO_SERVICE", matches: []error{ErrNoService, apdu.ErrTransport}},
	CodeServiceStopped:     {name: "SCARD_E_SERVICE_STOPPED", matches: []error{ErrNoService, apdu.ErrTransport}},
	0x8010001F:             {name: "SCARD_E_UNSUPPORTED_FEATURE"},
	CodeNoReadersAvailable: {name: "SCARD_E_NO_READERS_AVAILABLE", matches: []error{apdu.ErrNoReader}},
	CodeCommDataLost:       {name: "SCARD_E_COMM_DATA_LOST"},
	0x80100031:             {name: "SCARD_E_SERVER_TOO_BUSY"},
	0x80100065:             {name: "SCARD_W_UNSUPPORTED_CARD"},
	CodeUnresponsiveCard:   {name: "SCARD_W_UNRESPONSIVE_CARD", text: "the card does not answer to reset"},
	CodeUnpoweredCard:      {name: "SCARD_W_UNPOWERED_CARD", text: "the card has no power: it did not take it, or another program has switched it off", matches: []error{apdu.ErrCardReset}},
	CodeResetCard:          {name: "SCARD_W_RESET_CARD", matches: []error{apdu.ErrCardReset}},
	CodeRemovedCard:        {name: "SCARD_W_REMOVED_CARD", matches: []error{apdu.ErrCardRemoved}},
	0x8010006A:             {name: "SCARD_W_SECURITY_VIOLATION"},
}

// String is the code's name in winscard.h, or its number.
func (c Code) String() string {
	if m, known := meanings[c]; known {
		return m.name
	}
	return fmt.Sprintf("0x%08X", uint32(c))
}

func (c Code) Error() string {
	text := meanings[c].text
	if text == "" {
		text = c.matches()[0].Error()
	}
	return fmt.Sprintf("%s (%s)", text, c.String())
}

// Is reports whether c means target.
func (c Code) Is(target error) bool { return slices.Contains(c.matches(), target) }

func (c Code) matches() []error {
	if m := meanings[c].matches; m != nil {
		return m
	}
	return []error{apdu.ErrTransport}
}

// ends reports whether a connection is of no more use after c.
func (c Code) ends() bool {
	switch c {
	case CodeRemovedCard, CodeNoSmartcard, CodeReaderUnavailable, CodeUnknownReader, CodeInvalidHandle,
		CodeCommError, CodeNoService, CodeServiceStopped:
		return true
	}
	return false
}
