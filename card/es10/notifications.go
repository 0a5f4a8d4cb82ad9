package es10

import (
	"context"
	"fmt"
	"math/bits"

	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/id"
)

// Event is what a notification is of (SGP.22 NotificationEvent).
type Event byte

// The events.
const (
	EventInstall Event = iota
	EventEnable
	EventDisable
	EventDelete
)

var events = []string{"install", "enable", "disable", "delete"}

func (e Event) String() string { return word(events, "event", byte(e)) }

// MarshalText is the event's word.
func (e Event) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Notification is what the eUICC has for a profile's SM-DP+, until it is removed
// (SGP.22 NotificationMetadata).
type Notification struct {
	Sequence uint64
	Event    Event
	Address  string    // the SM-DP+'s, a host name
	ICCID    *id.ICCID // nil: not said
}

// Notifications lists the notifications that wait (ListNotification, SGP.22
// §5.7.9).
func (e *EUICC) Notifications(ctx context.Context) ([]Notification, error) {
	answer, err := e.call(ctx, listNotifications, nil)
	if err != nil {
		return nil, err
	}
	list, err := parseNotifications(answer)
	return list, malformed(listNotifications, err)
}

// PendingNotification is a notification as it is handed to its SM-DP+ (SGP.22
// §5.7.10).
type PendingNotification struct {
	Notification
	Raw []byte // PendingNotification, with the eUICC's signature and certificates
}

// RetrieveNotification gives one notification by its sequence number
// (RetrieveNotificationsList). The error matches ErrNoResult where there is none.
// Its signature is not verified.
func (e *EUICC) RetrieveNotification(ctx context.Context, sequence uint64) (PendingNotification, error) {
	answer, err := e.call(ctx, retrieveNotifications, tlv.Append(nil, tagList, tlv.Append(nil, 0x80, integer(sequence)...)...))
	if err != nil {
		return PendingNotification{}, err
	}
	p, err := parsePending(answer)
	if err == nil && p.Sequence != sequence {
		err = fmt.Errorf("notification %d where %d belongs", p.Sequence, sequence)
	}
	if err != nil {
		return PendingNotification{}, malformed(retrieveNotifications, err)
	}
	return p, nil
}

// RemoveNotification removes one from the list (RemoveNotificationFromList,
// SGP.22 §5.7.11). The error matches ErrNothingToDelete where there is none.
func (e *EUICC) RemoveNotification(ctx context.Context, sequence uint64) error {
	return e.act(ctx, removeNotification, tlv.Append(nil, 0x80, integer(sequence)...))
}

// maxNotifications bounds a list; eUICCs keep some tens.
const maxNotifications = 1024

func parseNotifications(b []byte) ([]Notification, error) {
	rest, err := parseList(b, listNotifications)
	if err != nil {
		return nil, err
	}
	var list []Notification
	for len(rest) > 0 {
		if len(list) == maxNotifications {
			return nil, fmt.Errorf("more than %d notifications", maxNotifications)
		}
		var v []byte
		if v, rest, err = tlv.Expect(rest, tagMetadata); err != nil {
			return nil, err
		}
		n, err := parseMetadata(v)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// parsePending parses the first of the notifications of an answer to
// RetrieveNotificationsList.
func parsePending(b []byte) (p PendingNotification, err error) {
	in, err := parseList(b, retrieveNotifications)
	if err != nil {
		return p, err
	}
	o, _, err := tlv.Read(in)
	if err != nil {
		return p, err
	}
	p.Raw = o.Raw
	in = o.Value
	if o.Tag == tagInstallation {
		if in, _, err = tlv.Expect(in, tagInstallationData); err != nil {
			return p, err
		}
		if _, in, err = tlv.Expect(in, 0x80); err != nil { // transaction id
			return p, err
		}
	} else if o.Tag != tagOther {
		return p, fmt.Errorf("tag %X is no notification", uint16(o.Tag))
	}
	v, _, err := tlv.Expect(in, tagMetadata)
	if err != nil {
		return p, err
	}
	p.Notification, err = parseMetadata(v)
	return p, err
}

const (
	tagMetadata         tlv.Tag = 0xBF2F
	tagInstallation     tlv.Tag = 0xBF37
	tagInstallationData tlv.Tag = 0xBF27
	tagOther            tlv.Tag = 0x30
)

func parseMetadata(b []byte) (n Notification, err error) {
	seen := 0
	err = members(b, map[tlv.Tag]func([]byte) error{
		0x80: func(v []byte) error {
			seen++
			if len(v) == 0 || len(v) > 9 || len(v) == 9 && v[0] != 0 {
				return fmt.Errorf("a sequence number of %d bytes", len(v))
			}
			for _, b := range v {
				n.Sequence = n.Sequence<<8 | uint64(b)
			}
			return nil
		},
		0x81: func(v []byte) error {
			seen++
			if len(v) != 2 || v[0] > 7 || bits.OnesCount8(v[1]) != 1 || bits.LeadingZeros8(v[1]) >= len(events) {
				return fmt.Errorf("%X is no event", v[:min(len(v), 8)])
			}
			n.Event = Event(bits.LeadingZeros8(v[1]))
			return nil
		},
		0x0C: func(v []byte) error { return text(v, &n.Address) },
		tagICCID: func(v []byte) error {
			c, err := id.ICCIDFromBytes(v)
			n.ICCID = &c
			return err
		},
	})
	if err == nil && seen != 2 {
		err = fmt.Errorf("a notification without a sequence number or an event")
	}
	return n, err
}

// integer is the value of a DER INTEGER.
func integer(n uint64) []byte {
	b := []byte{0}
	for shift := 56; shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift))
	}
	for len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		b = b[1:]
	}
	return b
}
