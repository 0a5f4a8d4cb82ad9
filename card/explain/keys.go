package explain

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
)

// ErrKeys is matched by every error that says a file has no keys.
var ErrKeys = errors.New("explain: no key set, card image or card record")

// Keys is what makes a recorded session of the card protocol readable. Which key
// opens what follows from docs/protocol.md §4:
//
//   - M2 has both nonces, RC and RK, and opens with the card's private enc key
//     and the server's public keys: a card image alone has both, and the session
//     keys follow.
//   - M1 has RC alone and opens with the server's private enc key and the card's
//     public keys: it shows that the card proved itself, and no more.
//   - Receipts verify under the card's public keys.
//
// It prints as nothing.
type Keys struct {
	servers []serverKeys
	cards   []cardKeys
}

type serverKeys struct {
	kid     byte
	sid     [32]byte
	public  cryptogram.PublicKeys
	private *cryptogram.PrivateKeys // nil where not given
}

type cardKeys struct {
	eid    id.EID
	public cryptogram.PublicKeys
	enc    *rsa.PrivateKey // nil where not given
}

func (*Keys) String() string   { return "explain.Keys" }
func (*Keys) GoString() string { return "explain.Keys" }

// maxKeys bounds the trials that a message under unknown keys costs.
const maxKeys = 64

// Add takes the keys of a file of docs/protocol.md §9: a server's key set, with
// private or public keys, a card image or a card record. The error matches
// ErrKeys or cryptogram.ErrKey, and the Keys are as before.
func (k *Keys) Add(file []byte) error {
	var f struct {
		cryptogram.KeySetPEM
		EID     string                 `json:"eid"`
		Keys    cryptogram.KeysPEM     `json:"keys"`
		Servers []cryptogram.KeySetPEM `json:"server_keysets"`
	}
	if err := json.Unmarshal(file, &f); err != nil {
		return fmt.Errorf("%w: not JSON of that form", ErrKeys) // the text has keys: it is not repeated
	}
	next := Keys{servers: append([]serverKeys{}, k.servers...), cards: append([]cardKeys{}, k.cards...)}
	switch {
	case f.EID != "":
		if err := next.addCard(f.EID, f.Keys); err != nil {
			return err
		}
		for _, s := range f.Servers {
			if err := next.addServer(s); err != nil {
				return err
			}
		}
	case len(f.Auth) > 0:
		if err := next.addServer(f.KeySetPEM); err != nil {
			return err
		}
	default:
		return ErrKeys
	}
	return k.become(next)
}

// AddServer takes a server's key set, wherever its private keys are. The error
// matches ErrKeys, and the Keys are as before.
func (k *Keys) AddServer(set cryptogram.ServerKeys) error {
	next := Keys{servers: append([]serverKeys{}, k.servers...), cards: k.cards}
	next.put(serverKeys{kid: set.KID, public: set.Public(), private: &set.PrivateKeys})
	return k.become(next)
}

// become takes over next, unless that is too much.
func (k *Keys) become(next Keys) error {
	if len(next.servers) > maxKeys || len(next.cards) > maxKeys {
		return fmt.Errorf("%w: more than %d keys", ErrKeys, maxKeys)
	}
	*k = next
	return nil
}

func (k *Keys) addServer(set cryptogram.KeySetPEM) error {
	s := serverKeys{kid: set.ID}
	if private, err := set.Private(); err == nil {
		s.private, s.public = &private.PrivateKeys, private.Public()
	} else if s.public, err = set.Public(); err != nil {
		return fmt.Errorf("key set %d: %w", set.ID, err)
	}
	k.put(s)
	return nil
}

func (k *Keys) put(s serverKeys) {
	s.sid = cryptogram.ServerID(s.kid, s.public)
	for i, old := range k.servers {
		if old.sid == s.sid {
			if s.private != nil {
				k.servers[i] = s
			}
			return
		}
	}
	k.servers = append(k.servers, s)
}

func (k *Keys) addCard(eid string, set cryptogram.KeysPEM) error {
	c := cardKeys{}
	var err error
	if c.eid, err = id.ParseEID(eid); err != nil {
		return fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if private, perr := set.PrivateBy(func(r *rsa.PrivateKey) (cryptogram.PrivateKey, error) {
		c.enc = r // the last is enc
		return cryptogram.NewKey(r)
	}); perr == nil {
		c.public = private.Public()
	} else {
		c.enc = nil
		if c.public, err = set.Public(); err != nil {
			return fmt.Errorf("card %s: %w", eid, err)
		}
	}
	for i, old := range k.cards {
		if old.eid == c.eid && old.public.Enc.Equal(c.public.Enc) {
			if c.enc != nil {
				k.cards[i] = c
			}
			return nil
		}
	}
	k.cards = append(k.cards, c)
	return nil
}

// openM1 finds the card that M1 proves. tried says whether there were keys to
// try.
func (k *Keys) openM1(ch cryptogram.Challenge, m1 []byte) (card *cardKeys, tried bool) {
	for _, s := range k.servers {
		if s.private == nil || s.kid != ch.KID {
			continue
		}
		for i := range k.cards {
			c := &k.cards[i]
			if !c.public.Supports(ch.Suite) {
				continue
			}
			tried = true
			ch.SID, ch.EID = s.sid, c.eid
			if _, err := ch.OpenM1(context.Background(), *s.private, c.public, m1); err == nil {
				return c, true
			}
		}
	}
	return nil, tried
}

// opened is what M2 told.
type opened struct {
	card    *cardKeys
	keys    cryptogram.SessionKeys
	command [32]byte // HC
}

// openM2 derives a session's keys. ch lacks SID and EID.
func (k *Keys) openM2(ch cryptogram.Challenge, m2 []byte) (o *opened, tried bool) {
	for i := range k.cards {
		c := &k.cards[i]
		if c.enc == nil {
			continue
		}
		signed := openEnvelope(c.enc, m2)
		for _, s := range k.servers {
			if s.kid != ch.KID || !s.public.Supports(ch.Suite) {
				continue
			}
			tried = true
			if signed == nil {
				continue
			}
			m, err := cryptogram.PubDec(s.public.Auth[:ch.Suite.Layers()], signed, lenM2)
			if err != nil {
				continue
			}
			ch.SID, ch.EID = s.sid, c.eid
			if session, ok := readM2(ch, m); ok {
				return &opened{card: c, keys: ch.Keys(&session), command: session.HC}, true
			}
		}
	}
	return nil, tried
}
