package apdu

import (
	"context"
	"errors"
	"io"
)

// Transmitter carries one command APDU to a card and brings back its response
// APDU (data ‖ SW1 SW2). It serves one goroutine, does not keep capdu, and gives
// rapdu away for good. An error says that the response is not known: the card
// may or may not have carried out the command.
type Transmitter interface {
	Transmit(ctx context.Context, capdu []byte) (rapdu []byte, err error)
}

// Conn is a card that is powered and connected. ATR returns the answer to reset
// (nil if none is known), Reset resets the card. A Conn serves one goroutine.
type Conn interface {
	Transmitter
	io.Closer
	ATR() []byte
	Reset(ctx context.Context) error
}

// Errors that those of every transport match, so that nobody above a transport
// needs to know which one it is.
var (
	ErrCardRemoved = errors.New("card removed")          // the card left; a new Conn is needed
	ErrCardReset   = errors.New("card reset")            // the card lost its state; a new Conn is needed
	ErrTimeout     = errors.New("card does not answer")  // no answer in time; the Conn is dead
	ErrNoCard      = errors.New("no card in the reader") // nothing to connect to
	ErrNoReader    = errors.New("no such reader")        // the reader is not there (any more)
	ErrCardBusy    = errors.New("card in use")           // another program holds it exclusively
	ErrTransport   = errors.New("transport failed")      // anything else below the APDU
	ErrShortAnswer = errors.New("answer without a status word")
)

// Gone reports whether it was the transport that failed, so that a card that comes
// back may answer.
func Gone(err error) bool {
	for _, e := range []error{ErrCardRemoved, ErrCardReset, ErrTimeout, ErrNoCard, ErrNoReader, ErrTransport, ErrShortAnswer} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
