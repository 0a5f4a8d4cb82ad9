// Package reader is what every kind of card reader answers: Reader, Event and
// Source. It is pure Go, so that who only watches readers needs no PC/SC.
package reader

import (
	"context"

	"github.com/cardbridge/cardbridge/apdu"
)

// Reader is one slot of a card reader and what is in it now.
type Reader struct {
	Name string `json:"name"` // the name to open it by; it may come to mean another slot
	// ID is the slot's identity, which stays where names move: see USB.ID for a
	// USB reader, else "name:" and Name.
	ID   string `json:"id"`
	Card bool   `json:"card"`          // a card is in it
	ATR  []byte `json:"atr,omitempty"` // its answer to reset, while Card
	// Mute says that a card is in it that does not answer to reset.
	Mute bool `json:"mute,omitempty"`
	// InUse says that another program is connected to the card, exclusively or
	// not.
	InUse     bool `json:"in_use,omitempty"`
	Exclusive bool `json:"exclusive,omitempty"`
}

// EventKind says what happened.
type EventKind int

// What can happen to a reader. A source that starts sends ReaderAdded for each
// reader that is there and CardInserted for each card in one.
const (
	ReaderAdded EventKind = iota + 1
	ReaderRemoved
	CardInserted
	CardRemoved
)

func (k EventKind) String() string {
	switch k {
	case ReaderAdded:
		return "reader added"
	case ReaderRemoved:
		return "reader removed"
	case CardInserted:
		return "card inserted"
	case CardRemoved:
		return "card removed"
	}
	return "unknown event"
}

// Event is a change of one reader; Reader is its state after it.
type Event struct {
	Kind   EventKind
	Reader Reader
}

// Checker is a Source that can say whether what it watches can be reached: where
// the error is not nil it sees no readers, and would not.
type Checker interface{ Check(context.Context) error }

// Mode is how a card is shared with other programs.
type Mode int

// Shared lets other programs connect, Exclusive keeps them out.
const (
	Shared Mode = iota
	Exclusive
)

// Source is a set of readers.
type Source interface {
	// Watch sends events to fn, one at a time, until ctx ends, and returns
	// ctx's error; it outlives restarts of what it watches.
	Watch(ctx context.Context, fn func(Event)) error
	// Open powers and connects the card in the reader of that name. Its errors
	// match apdu.ErrNoReader, apdu.ErrNoCard, apdu.ErrCardBusy and their like.
	Open(ctx context.Context, name string, mode Mode) (apdu.Conn, error)
}
