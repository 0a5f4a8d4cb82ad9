package cryptogram

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

// Lengths in bytes of the messages under the private-key layer (§4, §8).
const (
	lenM1      = 84
	lenM2      = 100
	lenReceipt = 83
)

const version = 0x01

// OpenError says that what a peer sent does not open, or does not match what
// was expected of it. It reads the same whatever failed; Reason is for the
// audit log alone and must not reach whoever carries the APDUs.
type OpenError struct{ Reason string }

func (*OpenError) Error() string { return "cryptogram: the peer's message does not verify" }

// Challenge is what both sides know once INTERNAL AUTHENTICATE was sent (§4).
type Challenge struct {
	Suite Suite
	KID   byte
	RS    [16]byte // the server's random
	SID   [32]byte // the server's identity, ServerID
	EID   [16]byte
}

// Session is a session's secrets: what M1 and M2 carried. It prints as nothing.
type Session struct {
	RC [32]byte // the card's random
	RK [16]byte // the server's key random
	HC [32]byte // HashCommand of the one command, or zeroes
}

func (Session) String() string   { return "cryptogram.Session" }
func (Session) GoString() string { return "cryptogram.Session" }

// ServerID is SID = H(kid ‖ n of each auth key ‖ n of enc) (§2).
func ServerID(kid byte, keys PublicKeys) [32]byte {
	h := sha256.New()
	h.Write([]byte{kid})
	for _, k := range keys.Auth {
		h.Write(k.N.Bytes())
	}
	h.Write(keys.Enc.N.Bytes())
	return [32]byte(h.Sum(nil))
}

// HashCommand is H(INS ‖ command data) (§4, §8).
func HashCommand(ins byte, data []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{ins})
	h.Write(data)
	return [32]byte(h.Sum(nil))
}

func (c *Challenge) m1(rc [32]byte) []byte {
	m := append(make([]byte, 0, lenM1), 0xA1, version, byte(c.Suite), c.KID)
	m = append(m, c.RS[:]...)
	m = append(m, c.SID[:16]...)
	m = append(m, rc[:]...)
	return append(m, c.EID[:]...)
}

func (c *Challenge) m2(s *Session) []byte {
	m := append(make([]byte, 0, lenM2), 0xA2, version, byte(c.Suite), c.KID)
	m = append(m, s.RC[:]...)
	m = append(m, s.RK[:]...)
	m = append(m, s.HC[:]...)
	bind := make([]byte, 0, 64)
	bind = append(bind, c.RS[:]...)
	bind = append(bind, c.SID[:]...)
	bind = append(bind, c.EID[:]...)
	sum := sha256.Sum256(bind)
	return append(m, sum[:16]...)
}

// SealM1 is the card's: M1 = Env(server.enc, PrivEnc(card.auth, m1)).
func (c *Challenge) SealM1(ctx context.Context, rand io.Reader, card PrivateKeys, server PublicKeys, rc [32]byte) ([]byte, error) {
	auth, err := card.layers(c.Suite)
	if err != nil {
		return nil, err
	}
	x, err := PrivEnc(ctx, auth, c.m1(rc))
	if err != nil {
		return nil, err
	}
	return Seal(rand, server.Enc, x)
}

// OpenM1 is the server's: it opens M1 and gives RC where tag, version, suite,
// kid, RS, SID and EID are the challenge's. The error is an *OpenError whatever
// failed to open or match, ErrLength among them.
func (c *Challenge) OpenM1(ctx context.Context, server PrivateKeys, card PublicKeys, envelope []byte) (rc [32]byte, err error) {
	auth, err := card.layers(c.Suite)
	if err != nil {
		return rc, err
	}
	x, opened, err := open(ctx, server.Enc, envelope, auth[0].Size())
	if err != nil {
		return rc, lengthToOpen(err)
	}
	m, signed, err := pubDec(auth, x, lenM1)
	if err != nil {
		return rc, err
	}
	got := [32]byte(m[36:68])
	want := c.m1(got)
	part := func(from, to int) int { return subtle.ConstantTimeCompare(m[from:to], want[from:to]) }
	head, rs, sid, eid := part(0, 4), part(4, 20), part(20, 36), part(68, 84)
	if opened&signed&head&rs&sid&eid == 1 {
		return got, nil
	}
	for _, f := range []struct {
		ok     int
		reason string
	}{
		{opened, "public-key layer"}, {signed, "private-key layer"}, {head, "tag, version, suite or kid"},
		{rs, "RS"}, {sid, "SID"}, {eid, "EID"},
	} {
		if f.ok != 1 {
			return rc, &OpenError{Reason: "M1: " + f.reason}
		}
	}
	return rc, &OpenError{Reason: "M1"}
}

// SealM2 is the server's: M2 = Env(card.enc, PrivEnc(server.auth, m2)).
func (c *Challenge) SealM2(ctx context.Context, rand io.Reader, server PrivateKeys, card PublicKeys, s *Session) ([]byte, error) {
	auth, err := server.layers(c.Suite)
	if err != nil {
		return nil, err
	}
	x, err := PrivEnc(ctx, auth, c.m2(s))
	if err != nil {
		return nil, err
	}
	return Seal(rand, card.Enc, x)
}

// OpenM2 is the card's: it opens M2 and gives the session where all but RK and
// HC is what it expects. The error matches ErrLength where the length is wrong
// (6700), and is an *OpenError for all else (6300), after the same work.
func (c *Challenge) OpenM2(ctx context.Context, card PrivateKeys, server PublicKeys, rc [32]byte, envelope []byte) (*Session, error) {
	auth, err := server.layers(c.Suite)
	if err != nil {
		return nil, err
	}
	x, ok, err := open(ctx, card.Enc, envelope, auth[0].Size())
	if err != nil {
		return nil, err
	}
	m, signed, err := pubDec(auth, x, lenM2)
	if err != nil {
		return nil, err
	}
	s := &Session{RC: rc, RK: [16]byte(m[36:52]), HC: [32]byte(m[52:84])}
	ok &= signed & subtle.ConstantTimeCompare(m, c.m2(s))
	if ok != 1 {
		return nil, &OpenError{Reason: "M2"}
	}
	return s, nil
}

func lengthToOpen(err error) error {
	if errors.Is(err, ErrLength) {
		return &OpenError{Reason: "M1: length"}
	}
	return err
}

// SessionKeys are Kenc and Kmac (§4), 16 bytes each.
type SessionKeys struct{ Enc, Mac [16]byte }

func (SessionKeys) String() string   { return "cryptogram.SessionKeys" }
func (SessionKeys) GoString() string { return "cryptogram.SessionKeys" }

// Keys derives the session keys.
func (c *Challenge) Keys(s *Session) SessionKeys {
	in := make([]byte, 0, 116)
	in = append(in, s.RC[:]...)
	in = append(in, s.RK[:]...)
	in = append(in, c.RS[:]...)
	in = append(in, c.SID[:]...)
	in = append(in, c.EID[:]...)
	in = append(in, 0, 0, 0, 1)
	enc := sha256.Sum256(in)
	in[len(in)-1] = 2
	mac := sha256.Sum256(in)
	return SessionKeys{Enc: [16]byte(enc[:16]), Mac: [16]byte(mac[:16])}
}

// Receipt is what a card signs about one command (§8).
type Receipt struct {
	Suite    Suite
	EID      [16]byte
	Command  [32]byte // HashCommand of the command
	Response []byte   // the response data before the receipt, 9E
}

func (r *Receipt) message() []byte {
	m := append(make([]byte, 0, lenReceipt), 0xA3, version, byte(r.Suite))
	m = append(m, r.EID[:]...)
	m = append(m, r.Command[:]...)
	sum := sha256.Sum256(r.Response)
	return append(m, sum[:]...)
}

// Sign is the card's: PrivEnc(card.auth, A3 …), deterministic.
func (r *Receipt) Sign(ctx context.Context, card PrivateKeys) ([]byte, error) {
	auth, err := card.layers(r.Suite)
	if err != nil {
		return nil, err
	}
	return PrivEnc(ctx, auth, r.message())
}

// Verify is the server's: value must open under the registered keys and say
// exactly this. The error is an *OpenError.
func (r *Receipt) Verify(card PublicKeys, value []byte) error {
	auth, err := card.layers(r.Suite)
	if err != nil {
		return &OpenError{Reason: fmt.Sprintf("receipt: %v", err)}
	}
	m, err := PubDec(auth, value, lenReceipt)
	if err != nil {
		return &OpenError{Reason: "receipt: private-key layer"}
	}
	if subtle.ConstantTimeCompare(m, r.message()) != 1 {
		return &OpenError{Reason: "receipt: other suite, EID, command or response"}
	}
	return nil
}
