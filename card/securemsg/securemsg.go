// Package securemsg wraps and unwraps ISO/IEC 7816-4 secure messaging as the
// card protocol uses it (docs/protocol.md §5): the data objects and AES rules
// of ICAO Doc 9303-11 §9.8 with AES-128 and CMAC.
//
// The four calls are the two halves of one exchange: the server Wraps a command
// and Unwraps its response, the card does the reverse. Both sides count SSC the
// same way, so that a message lost, repeated or changed does not verify.
package securemsg

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

const (
	tagCryptogram tlv.Tag = 0x87 // 01 ‖ cryptogram
	tagLe         tlv.Tag = 0x97
	tagStatus     tlv.Tag = 0x99
	tagMAC        tlv.Tag = 0x8E

	macLen     = 8
	blockSize  = aes.BlockSize
	headerCLA  = 0x8C // CLA in the mac, whatever is on the wire
	paddedData = 0x01 // padding indicator of 87
)

// Overhead is the most bytes that wrapping adds to a command's or a response's
// data.
const Overhead = 1 + 3 + 1 + blockSize + 4 + 2 + macLen

// MaxData is the most bytes of plain data that a command's or a response's data
// field of 65535 bytes holds; Wrap and WrapResponse panic beyond it.
const MaxData = 0xFFFF - Overhead

var (
	// ErrObjects says that data objects are missing, unknown, out of order or
	// malformed (6987). The session is over.
	ErrObjects = errors.New("securemsg: data objects missing or malformed")
	// ErrMAC says that the mac does not verify (6988). The session is over.
	ErrMAC = errors.New("securemsg: mac does not verify")
	// ErrCryptogram says that under a good mac the cryptogram does not decrypt
	// to padded data (inner 6A80). The session goes on.
	ErrCryptogram = errors.New("securemsg: bad cryptogram under a good mac")
)

// Session is one side of a session. It is not safe for concurrent use and
// prints nothing of its keys.
type Session struct {
	enc, mac             cipher.Block
	encrypter, decrypter cbcMode         // under Kenc; only by cbc
	k1                   [blockSize]byte // CMAC subkey K1 (RFC 4493 §2.3)
	ssc                  [blockSize]byte
	block                [blockSize]byte // an IV, or CMAC's state
	buf                  []byte
}

// cbcMode is what crypto/cipher's CBC of crypto/aes is, beyond what its type
// says: it takes one IV after the other.
type cbcMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

// New starts a session under the keys Kenc and Kmac, SSC 0.
func New(kenc, kmac [16]byte) *Session {
	s := &Session{}
	var err error
	if s.enc, err = aes.NewCipher(kenc[:]); err == nil {
		s.mac, err = aes.NewCipher(kmac[:])
	}
	if err != nil {
		panic(err) // 16 bytes are always a key
	}
	s.encrypter = cipher.NewCBCEncrypter(s.enc, s.block[:]).(cbcMode)
	s.decrypter = cipher.NewCBCDecrypter(s.enc, s.block[:]).(cbcMode)
	s.mac.Encrypt(s.block[:], s.block[:])
	s.k1 = double(s.block)
	return s
}

func (Session) String() string   { return "securemsg.Session" }
func (Session) GoString() string { return "securemsg.Session" }

// Wrap is the server's: the command data field of INS P1 P2 with data.
func (s *Session) Wrap(ins, p1, p2 byte, data []byte) []byte {
	s.count()
	out := make([]byte, 0, len(data)+Overhead)
	if len(data) > 0 {
		out = s.appendCryptogram(out, data)
	}
	out = tlv.Append(out, tagLe, 0, 0)
	sum := s.commandMAC(ins, p1, p2, out)
	return tlv.Append(out, tagMAC, sum[:]...)
}

// Unwrap is the server's: it verifies a response data field and gives the plain
// data and the inner status word. After an error the session must be dropped;
// the command's outcome is not known.
func (s *Session) Unwrap(field []byte) (data []byte, sw apdu.StatusWord, err error) {
	s.count()
	o, rest, err := tlv.Read(field)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrObjects, err)
	}
	var cryptogram []byte
	if o.Tag == tagCryptogram {
		cryptogram = o.Value
		if o, rest, err = tlv.Read(rest); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrObjects, err)
		}
	}
	if o.Tag != tagStatus || len(o.Value) != 2 {
		return nil, 0, fmt.Errorf("%w: no 99", ErrObjects)
	}
	mac, err := lastMAC(rest)
	if err != nil {
		return nil, 0, err
	}
	sum := s.responseMAC(field[:len(field)-len(rest)])
	if subtle.ConstantTimeCompare(sum[:], mac) != 1 {
		return nil, 0, ErrMAC
	}
	sw = apdu.StatusWord(o.Value[0])<<8 | apdu.StatusWord(o.Value[1])
	if cryptogram != nil {
		if data, err = s.decrypt(cryptogram); err != nil {
			return nil, 0, err
		}
	}
	return data, sw, nil
}

// UnwrapCommand is the card's: it verifies a command data field received with
// INS P1 P2 and gives the plain data, nil where there is no 87. ErrCryptogram
// alone leaves the session alive.
func (s *Session) UnwrapCommand(ins, p1, p2 byte, field []byte) ([]byte, error) {
	s.count()
	o, rest, err := tlv.Read(field)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrObjects, err)
	}
	var cryptogram []byte
	if o.Tag == tagCryptogram {
		cryptogram = o.Value
		if o, rest, err = tlv.Read(rest); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrObjects, err)
		}
	}
	if o.Tag != tagLe {
		return nil, fmt.Errorf("%w: no 97", ErrObjects)
	}
	mac, err := lastMAC(rest)
	if err != nil {
		return nil, err
	}
	sum := s.commandMAC(ins, p1, p2, field[:len(field)-len(rest)])
	if subtle.ConstantTimeCompare(sum[:], mac) != 1 {
		return nil, ErrMAC
	}
	if cryptogram == nil {
		return nil, nil
	}
	return s.decrypt(cryptogram)
}

// WrapResponse is the card's: the response data field for plain data and the
// inner status word.
func (s *Session) WrapResponse(data []byte, sw apdu.StatusWord) []byte {
	s.count()
	out := make([]byte, 0, len(data)+Overhead)
	if len(data) > 0 {
		out = s.appendCryptogram(out, data)
	}
	out = tlv.Append(out, tagStatus, sw.SW1(), sw.SW2())
	sum := s.responseMAC(out)
	return tlv.Append(out, tagMAC, sum[:]...)
}

func lastMAC(b []byte) ([]byte, error) {
	mac, rest, err := tlv.Expect(b, tagMAC)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrObjects, err)
	}
	if len(mac) != macLen || len(rest) != 0 {
		return nil, fmt.Errorf("%w: 8E is not the last object, of 8 bytes", ErrObjects)
	}
	return mac, nil
}

// count increments SSC, before each command and each response.
func (s *Session) count() {
	for i := blockSize - 1; i >= 0; i-- {
		if s.ssc[i]++; s.ssc[i] != 0 {
			return
		}
	}
}

// iv is AES-ECB(Kenc, SSC), in the session's memory.
func (s *Session) iv() []byte {
	s.enc.Encrypt(s.block[:], s.ssc[:])
	return s.block[:]
}

// cbc does mode on b in place, under iv.
func (s *Session) cbc(mode cbcMode, b []byte) {
	mode.SetIV(s.iv())
	mode.CryptBlocks(b, b)
}

func (s *Session) appendCryptogram(b, data []byte) []byte {
	if len(data) > MaxData {
		panic("securemsg: data longer than MaxData")
	}
	padded := len(data)/blockSize*blockSize + blockSize
	b = tlv.AppendHeader(b, tagCryptogram, 1+padded)
	b = append(b, paddedData)
	start := len(b)
	b = pad(append(b, data...), start)
	s.cbc(s.encrypter, b[start:])
	return b
}

func (s *Session) decrypt(value []byte) ([]byte, error) {
	if len(value) < 1+blockSize || (len(value)-1)%blockSize != 0 || value[0] != paddedData {
		return nil, ErrCryptogram
	}
	plain := bytes.Clone(value[1:])
	s.cbc(s.decrypter, plain)
	n := len(plain) - 1
	for n > 0 && n > len(plain)-blockSize && plain[n] == 0 {
		n--
	}
	if plain[n] != 0x80 {
		return nil, ErrCryptogram
	}
	return plain[:n], nil
}

func (s *Session) commandMAC(ins, p1, p2 byte, objects []byte) [macLen]byte {
	s.buf = append(s.buf[:0], s.ssc[:]...)
	s.buf = pad(append(s.buf, headerCLA, ins, p1, p2), 0)
	s.buf = append(s.buf, objects...)
	return s.sum()
}

func (s *Session) responseMAC(objects []byte) [macLen]byte {
	s.buf = append(append(s.buf[:0], s.ssc[:]...), objects...)
	return s.sum()
}

// sum is CMAC(Kmac, pad(buf))[0:8] (NIST SP 800-38B, RFC 4493).
func (s *Session) sum() (out [macLen]byte) {
	s.buf = pad(s.buf, 0)
	x, last := s.block[:], len(s.buf)-blockSize
	clear(x)
	for i := 0; i < last; i += blockSize {
		subtle.XORBytes(x, x, s.buf[i:i+blockSize])
		s.mac.Encrypt(x, x)
	}
	// The protocol pads first, so the last block is always complete: K1.
	subtle.XORBytes(x, x, s.buf[last:])
	subtle.XORBytes(x, x, s.k1[:])
	s.mac.Encrypt(x, x)
	copy(out[:], x)
	return out
}

// pad appends 80 00… to the next block boundary counted from start, always.
func pad(b []byte, start int) []byte {
	b = append(b, 0x80)
	for (len(b)-start)%blockSize != 0 {
		b = append(b, 0)
	}
	return b
}

// double is multiplication by x in GF(2^128) (RFC 4493 §2.3).
func double(b [blockSize]byte) (out [blockSize]byte) {
	for i := range blockSize - 1 {
		out[i] = b[i]<<1 | b[i+1]>>7
	}
	out[blockSize-1] = b[blockSize-1]<<1 ^ 0x87*(b[0]>>7)
	return out
}
