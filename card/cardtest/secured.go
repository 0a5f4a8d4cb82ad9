package cardtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"fmt"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Data objects of secure messaging (§5).
const (
	tagCryptogram tlv.Tag = 0x87
	tagLe         tlv.Tag = 0x97
	tagStatus     tlv.Tag = 0x99
	tagMAC        tlv.Tag = 0x8E
)

// le is DO97 as a server sends it.
var le = []byte{0x97, 0x02, 0x00, 0x00}

// session is the server's side of secure messaging, of a kind that can be made
// to misbehave. It shares no code with package securemsg: a second reading.
type session struct {
	link
	enc, mac cipher.Block
	ssc      [16]byte
}

func (c *challenge) start(s *cryptogram.Session) *session {
	c.Helper()
	k := c.Keys(s)
	enc, err := aes.NewCipher(k.Enc[:])
	require.NoError(c, err)
	mac, err := aes.NewCipher(k.Mac[:])
	require.NoError(c, err)
	return &session{link: c.link, enc: enc, mac: mac}
}

// count increments SSC.
func (s *session) count() {
	for i := len(s.ssc) - 1; i >= 0; i-- {
		s.ssc[i]++
		if s.ssc[i] != 0 {
			return
		}
	}
}

func (s *session) iv() []byte {
	iv := make([]byte, aes.BlockSize)
	s.enc.Encrypt(iv, s.ssc[:])
	return iv
}

func padded(b []byte) []byte {
	b = append(append([]byte(nil), b...), 0x80)
	for len(b)%aes.BlockSize != 0 {
		b = append(b, 0)
	}
	return b
}

// encrypt is AES-CBC of whole blocks under this SSC.
func (s *session) encrypt(plain []byte) []byte {
	out := make([]byte, len(plain))
	cipher.NewCBCEncrypter(s.enc, s.iv()).CryptBlocks(out, plain)
	return out
}

// do87 is the cryptogram of data, nothing for none.
func (s *session) do87(data []byte) []byte {
	if len(data) == 0 {
		return nil
	}
	return tlv.Append(nil, tagCryptogram, append([]byte{0x01}, s.encrypt(padded(data))...)...)
}

// cmac is CMAC(Kmac, pad(b))[0:8]. What it gets is padded, so the last block is
// always complete.
func (s *session) cmac(b []byte) []byte {
	b = padded(b)
	var x, k [aes.BlockSize]byte
	s.mac.Encrypt(k[:], k[:])
	carry := byte(0)
	for i := len(k) - 1; i >= 0; i-- {
		k[i], carry = k[i]<<1|carry, k[i]>>7
	}
	k[len(k)-1] ^= carry * 0x87
	for ; len(b) > 0; b = b[aes.BlockSize:] {
		subtle.XORBytes(x[:], x[:], b[:aes.BlockSize])
		if len(b) == aes.BlockSize {
			subtle.XORBytes(x[:], x[:], k[:])
		}
		s.mac.Encrypt(x[:], x[:])
	}
	return x[:8]
}

// commandMAC is the mac of a command whose objects before 8E are these.
func (s *session) commandMAC(cla, ins, p1, p2 byte, objects []byte) []byte {
	in := append(s.ssc[:], padded([]byte{cla, ins, p1, p2})...)
	return s.cmac(append(in, objects...))
}

// signed adds 8E to objects.
func (s *session) signed(ins, p1, p2 byte, objects []byte) []byte {
	mac := s.commandMAC(secured, ins, p1, p2, objects)
	return tlv.Append(append([]byte(nil), objects...), tagMAC, mac...)
}

// wrap counts and wraps a command as a server does.
func (s *session) wrap(ins, p1, p2 byte, data []byte) []byte {
	s.count()
	return s.signed(ins, p1, p2, append(s.do87(data), le...))
}

func (s *session) command(ins, p1, p2 byte, field []byte) apdu.Command {
	return apdu.Command{CLA: secured, INS: ins, P1: p1, P2: p2, Data: field, Ne: s.ch.MaxNe()}
}

// deliver sends a command's field, expects the outer 9000 and opens the
// response.
func (s *session) deliver(ins, p1, p2 byte, field []byte) ([]byte, apdu.StatusWord) {
	s.Helper()
	resp, sw := s.exchange(s.ch, s.command(ins, p1, p2, field))
	require.Equal(s, apdu.SWSuccess.Hex(), sw.Hex(), "outer status")
	return s.unwrap(resp)
}

// unwrap counts, and checks a response to the byte.
func (s *session) unwrap(field []byte) (data []byte, sw apdu.StatusWord) {
	s.Helper()
	s.count()
	o, rest, err := tlv.Read(field)
	require.NoError(s, err)
	if o.Tag == tagCryptogram {
		require.NotEmpty(s, o.Value)
		require.Equal(s, byte(0x01), o.Value[0], "padding indicator")
		require.Positive(s, len(o.Value)-1, "cryptogram")
		require.Zero(s, (len(o.Value)-1)%aes.BlockSize)
		plain := make([]byte, len(o.Value)-1)
		cipher.NewCBCDecrypter(s.enc, s.iv()).CryptBlocks(plain, o.Value[1:])
		data = unpadded(plain)
		require.NotEmpty(s, data, "87 is there for data alone, and is padded")
		o, rest, err = tlv.Read(rest)
		require.NoError(s, err)
	}
	require.Equal(s, tagStatus, o.Tag)
	require.Len(s, o.Value, 2)
	mac, end, err := tlv.Expect(rest, tagMAC)
	require.NoError(s, err)
	require.Empty(s, end)
	require.Equal(s, s.cmac(append(s.ssc[:], field[:len(field)-len(rest)]...)), mac, "response mac")
	return data, apdu.StatusWord(o.Value[0])<<8 | apdu.StatusWord(o.Value[1])
}

// unpadded is nil where the padding is not 80 00… within the last block.
func unpadded(b []byte) []byte {
	for i := len(b) - 1; i >= len(b)-aes.BlockSize; i-- {
		switch b[i] {
		case 0x00:
		case 0x80:
			return b[:i]
		default:
			return nil
		}
	}
	return nil
}

// do carries out a command.
func (s *session) do(ins, p1, p2 byte, data []byte) ([]byte, apdu.StatusWord) {
	s.Helper()
	return s.deliver(ins, p1, p2, s.wrap(ins, p1, p2, data))
}

// inner carries out a command and expects an inner status word without data.
func (s *session) inner(want apdu.StatusWord, ins byte, data []byte, what ...any) {
	s.Helper()
	out, sw := s.do(ins, 0, 0, data)
	assert.Equal(s, want.Hex(), sw.Hex(), what...)
	assert.Empty(s, out, what...)
}

// alive expects that the session is there, by a GET STATUS.
func (s *session) alive(what ...any) {
	s.Helper()
	field, sw := s.exchange(s.ch, s.command(insGetStatus, 0, 0, s.wrap(insGetStatus, 0, 0, nil)))
	if !assert.Equal(s, apdu.SWSuccess.Hex(), sw.Hex(), message("the session goes on", what)) {
		return
	}
	_, inner := s.unwrap(field)
	assert.Equal(s, apdu.SWSuccess.Hex(), inner.Hex(), what...)
}

// over expects that the session is gone, by a GET STATUS.
func (s *session) over(what ...any) {
	s.Helper()
	s.expect(apdu.SWSecurityStatusNotSatisfied, s.ch, s.command(insGetStatus, 0, 0, s.wrap(insGetStatus, 0, 0, nil)), message("the session is gone", what))
}

// message is a fact to assert, with the case it is about.
func message(fact string, what []any) string {
	if len(what) == 0 {
		return fact
	}
	return fmt.Sprintf("%s: "+what[0].(string), append([]any{fact}, what[1:]...)...)
}
