package cryptogram

import (
	"context"
	"crypto/aes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
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
	b := append(make([]byte, 0, 1+4*maxModulus), kid)
	for _, k := range keys.Auth {
		b = appendModulus(b, k)
	}
	return sha256.Sum256(appendModulus(b, keys.Enc))
}

func appendModulus(b []byte, k *rsa.PublicKey) []byte {
	n := len(b)
	b = slices.Grow(b, k.Size())[:n+k.Size()]
	k.N.FillBytes(b[n:])
	return b
}

// HashCommand is H(INS ‖ command data) (§4, §8).
func HashCommand(ins byte, data []byte) (out [32]byte) {
	h := sha256.New()
	h.Write([]byte{ins})
	h.Write(data)
	h.Sum(out[:0])
	return out
}

func (c *Challenge) m1(rc [32]byte) (m [lenM1]byte) {
	m[0], m[1], m[2], m[3] = 0xA1, version, byte(c.Suite), c.KID
	copy(m[4:], c.RS[:])
	copy(m[20:], c.SID[:16])
	copy(m[36:], rc[:])
	copy(m[68:], c.EID[:])
	return m
}

func (c *Challenge) m2(s *Session) (m [lenM2]byte) {
	m[0], m[1], m[2], m[3] = 0xA2, version, byte(c.Suite), c.KID
	copy(m[4:], s.RC[:])
	copy(m[36:], s.RK[:])
	copy(m[52:], s.HC[:])
	var bind [64]byte
	copy(bind[:], c.RS[:])
	copy(bind[16:], c.SID[:])
	copy(bind[48:], c.EID[:])
	sum := sha256.Sum256(bind[:])
	copy(m[84:], sum[:16])
	return m
}

// workspaces hold the memory of messages on their way through the two layers:
// an envelope of the longest modulus on the longest. They are left clean.
var workspaces = sync.Pool{New: func() any { return new(workspace) }}

type workspace [maxModulus + oaepOver + 2*aes.BlockSize]byte

func (w *workspace) free() {
	clear(w[:])
	workspaces.Put(w)
}

// sealSigned is Env(peer, PrivEnc(auth, m)), the public operation by ops.
func sealSigned(ctx context.Context, ops PublicOps, rand io.Reader, auth []PrivateKey, peer *rsa.PublicKey, m []byte) ([]byte, error) {
	k, err := layerLen(auth, m)
	if err != nil {
		return nil, err
	}
	w := workspaces.Get().(*workspace)
	defer w.free()
	if err := privEnc(ctx, auth, w[:k], m); err != nil {
		return nil, err
	}
	return seal(ctx, ops, rand, peer, w[:k])
}

// SealM1 is the card's: M1 = Env(server.enc, PrivEnc(card.auth, m1)).
func (c *Challenge) SealM1(ctx context.Context, rand io.Reader, card PrivateKeys, server PublicKeys, rc [32]byte) ([]byte, error) {
	auth, err := card.layers(c.Suite)
	if err != nil {
		return nil, err
	}
	m := c.m1(rc)
	return sealSigned(ctx, card.Ops, rand, auth, server.Enc, m[:])
}

// OpenM1 is the server's: it opens M1 and gives RC where tag, version, suite,
// kid, RS, SID and EID are the challenge's. The error is an *OpenError whatever
// failed to open or match, ErrLength among them.
func (c *Challenge) OpenM1(ctx context.Context, server PrivateKeys, card PublicKeys, envelope []byte) (rc [32]byte, err error) {
	auth, err := card.layers(c.Suite)
	if err != nil {
		return rc, err
	}
	w := workspaces.Get().(*workspace)
	defer w.free()
	x, opened, err := open(ctx, server.Enc, w[:], envelope, auth[0].Size())
	if err != nil {
		return rc, lengthToOpen(err)
	}
	m, signed, err := pubDec(ctx, server.Ops, auth, x, lenM1)
	if err != nil {
		return rc, err
	}
	got := [32]byte(m[36:68])
	want := c.m1(got)
	// In the order of errM1.
	checks := [...]int{
		opened, signed,
		subtle.ConstantTimeCompare(m[0:4], want[0:4]),
		subtle.ConstantTimeCompare(m[4:20], want[4:20]),
		subtle.ConstantTimeCompare(m[20:36], want[20:36]),
		subtle.ConstantTimeCompare(m[68:84], want[68:84]),
	}
	all, first := 1, 0 // first counts the checks before the first that failed
	for _, ok := range checks {
		all &= ok
		first += all
	}
	if all != 1 {
		return rc, errM1[first]
	}
	return got, nil
}

// errM1 says which check of M1 failed first. Nothing is made for it then, so
// that it takes no time that a good M1 does not.
var errM1 = [...]*OpenError{
	{"M1: public-key layer"}, {"M1: private-key layer"}, {"M1: tag, version, suite or kid"}, {"M1: RS"}, {"M1: SID"}, {"M1: EID"},
}

// SealM2 is the server's: M2 = Env(card.enc, PrivEnc(server.auth, m2)).
func (c *Challenge) SealM2(ctx context.Context, rand io.Reader, server PrivateKeys, card PublicKeys, s *Session) ([]byte, error) {
	auth, err := server.layers(c.Suite)
	if err != nil {
		return nil, err
	}
	m := c.m2(s)
	return sealSigned(ctx, server.Ops, rand, auth, card.Enc, m[:])
}

// OpenM2 is the card's: it opens M2 and gives the session where all but RK and
// HC is what it expects. The error matches ErrLength where the length is wrong
// (6700), and is an *OpenError for all else (6300), after the same work.
func (c *Challenge) OpenM2(ctx context.Context, card PrivateKeys, server PublicKeys, rc [32]byte, envelope []byte) (*Session, error) {
	auth, err := server.layers(c.Suite)
	if err != nil {
		return nil, err
	}
	w := workspaces.Get().(*workspace)
	defer w.free()
	x, ok, err := open(ctx, card.Enc, w[:], envelope, auth[0].Size())
	if err != nil {
		return nil, err
	}
	m, signed, err := pubDec(ctx, card.Ops, auth, x, lenM2)
	if err != nil {
		return nil, err
	}
	s := &Session{RC: rc, RK: [16]byte(m[36:52]), HC: [32]byte(m[52:84])}
	want := c.m2(s)
	ok &= signed & subtle.ConstantTimeCompare(m, want[:])
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
	var in [116]byte
	copy(in[:], s.RC[:])
	copy(in[32:], s.RK[:])
	copy(in[48:], c.RS[:])
	copy(in[64:], c.SID[:])
	copy(in[96:], c.EID[:])
	in[115] = 1
	enc := sha256.Sum256(in[:])
	in[115] = 2
	mac := sha256.Sum256(in[:])
	return SessionKeys{Enc: [16]byte(enc[:16]), Mac: [16]byte(mac[:16])}
}

// Receipt is what a card signs about one command (§8).
type Receipt struct {
	Suite    Suite
	EID      [16]byte
	Command  [32]byte // HashCommand of the command
	Response []byte   // the response data before the receipt, 9E
}

func (r *Receipt) message() (m [lenReceipt]byte) {
	m[0], m[1], m[2] = 0xA3, version, byte(r.Suite)
	copy(m[3:], r.EID[:])
	copy(m[19:], r.Command[:])
	sum := sha256.Sum256(r.Response)
	copy(m[51:], sum[:])
	return m
}

// Sign is the card's: PrivEnc(card.auth, A3 …), deterministic.
func (r *Receipt) Sign(ctx context.Context, card PrivateKeys) ([]byte, error) {
	auth, err := card.layers(r.Suite)
	if err != nil {
		return nil, err
	}
	m := r.message()
	return PrivEnc(ctx, auth, m[:])
}

// Verify is the server's: value must open under the registered keys and say
// exactly this. The error is an *OpenError.
func (r *Receipt) Verify(card PublicKeys, value []byte) error { return r.VerifyBy(nil, card, value) }

// VerifyBy is Verify with the public operations by ops, or by this package
// where ops is nil or fails: a receipt is no less true for that.
func (r *Receipt) VerifyBy(ops PublicOps, card PublicKeys, value []byte) error {
	auth, err := card.layers(r.Suite)
	if err != nil {
		return &OpenError{Reason: fmt.Sprintf("receipt: %v", err)}
	}
	if len(value) > maxModulus {
		return &OpenError{Reason: "receipt: length"}
	}
	w := workspaces.Get().(*workspace)
	defer w.free()
	m, ok, err := pubDec(context.Background(), ops, auth, w[:copy(w[:], value)], lenReceipt)
	if err != nil && ops != nil {
		m, ok, err = pubDec(context.Background(), nil, auth, w[:copy(w[:], value)], lenReceipt)
	}
	if err != nil {
		return &OpenError{Reason: fmt.Sprintf("receipt: %v", err)}
	}
	if ok != 1 {
		return &OpenError{Reason: "receipt: private-key layer"}
	}
	want := r.message()
	if subtle.ConstantTimeCompare(m, want[:]) != 1 {
		return &OpenError{Reason: "receipt: other suite, EID, command or response"}
	}
	return nil
}
