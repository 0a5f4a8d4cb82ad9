package isdr

import (
	"encoding/binary"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// metadata is NotificationMetadata, with its tag.
func (n Notification) metadata() []byte {
	var event [4]bool
	event[n.Event] = true
	b := tlv.Append(nil, 0x80, integer(n.Sequence)...)
	b = tlv.Append(b, 0x81, bits(event[:]...)...)
	b = tlv.Append(b, 0x0C, []byte(n.Address)...)
	b = tlv.Append(b, tagICCID, n.ICCID[:]...)
	return tlv.Append(nil, 0xBF2F, b...)
}

// integer is the value of a DER INTEGER.
func integer(n uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, n)
	for len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		b = b[1:]
	}
	return b
}

// readInteger reads an INTEGER that is not negative; without the leading zero
// byte too, which some clients leave out.
func readInteger(v []byte) (uint32, bool) {
	if len(v) == 0 || len(v) > 5 || len(v) == 5 && v[0] != 0 {
		return 0, false
	}
	var n uint32
	for _, b := range v {
		n = n<<8 | uint32(b)
	}
	return n, true
}

// search gives the notifications that fit a sequence number or events; nil: all.
// Events of which none is named are all too.
func (c *call) search(number, events []byte) ([]Notification, error) {
	if events != nil && !isBits(events) {
		return nil, tlv.ErrMalformed
	}
	any := true
	for e := Install; e <= Delete; e++ {
		any = any && !bit(events, int(e))
	}
	n, ok := readInteger(number)
	if number != nil && !ok {
		return nil, tlv.ErrMalformed
	}
	var found []Notification
	for _, has := range c.Notifications {
		if (number == nil || has.Sequence == n) && (any || bit(events, int(has.Event))) {
			found = append(found, has)
		}
	}
	return found, nil
}

// listNotifications is ListNotification (§5.7.9).
func (c *call) listNotifications(body []byte) ([]byte, error) {
	var events []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0x81: &events}); err != nil {
		return nil, err
	}
	found, err := c.search(nil, events)
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, n := range found {
		all = append(all, n.metadata()...)
	}
	return list(all), nil
}

// retrieveNotifications is RetrieveNotificationsList (§5.7.10): the notifications
// with the eUICC's signature and certificates.
func (c *call) retrieveNotifications(body []byte) ([]byte, error) {
	var criteria, number, events []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0xA0: &criteria}); err != nil {
		return nil, err
	}
	if err := objects(criteria, map[tlv.Tag]*[]byte{0x80: &number, 0x81: &events}); err != nil {
		return nil, err
	}
	found, err := c.search(number, events)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return []byte{0x81, 0x01, resultNone}, nil // noResultAvailable
	}
	signer, err := newSigner(c.EID)
	if err != nil {
		return nil, fmt.Errorf("notifications: %w", err)
	}
	var all []byte
	for _, n := range found {
		signed, err := signer.sign(n.metadata())
		if err != nil {
			return nil, fmt.Errorf("notifications: %w", err)
		}
		all = tlv.Append(all, 0x30, signed...)
		if len(all) > maxAnswer {
			break
		}
	}
	return list(all), nil
}

// removeNotification is RemoveNotificationFromList (§5.7.11).
func (c *call) removeNotification(body []byte) ([]byte, error) {
	var number []byte
	if err := objects(body, map[tlv.Tag]*[]byte{0x80: &number}); err != nil {
		return nil, err
	}
	n, ok := readInteger(number)
	if !ok {
		return nil, tlv.ErrMalformed
	}
	kept := make([]Notification, 0, len(c.Notifications))
	for _, has := range c.Notifications {
		if has.Sequence != n {
			kept = append(kept, has)
		}
	}
	if len(kept) == len(c.Notifications) {
		return result(resultNone), nil
	}
	c.Notifications, c.write = kept, true
	return result(resultOK), nil
}
