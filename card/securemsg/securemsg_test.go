package securemsg

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func pair(q *vectors.Session) (server, card *Session) {
	enc, mac := [16]byte(q.Kenc), [16]byte(q.Kmac)
	return New(enc, mac), New(enc, mac)
}

func first(t testing.TB) *vectors.Session { return &vectors.Load(t).Sets[0].Sessions[0] }

// fresh is a pair under keys of no meaning.
func fresh() (server, card *Session) {
	return New([16]byte{1}, [16]byte{2}), New([16]byte{1}, [16]byte{2})
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestVectors(t *testing.T) {
	for _, s := range vectors.Load(t).Sets {
		for _, q := range s.Sessions {
			t.Run(s.Name+"/"+q.Purpose, func(t *testing.T) {
				server, card := pair(&q)
				for _, e := range q.Exchanges {
					testExchange(t, &e, server, card)
				}
			})
		}
	}
}

func testExchange(t *testing.T, e *vectors.Exchange, server, card *Session) {
	ins, p1, p2 := e.HeaderInMAC[1], e.HeaderInMAC[2], e.HeaderInMAC[3]
	field := server.Wrap(ins, p1, p2, e.CommandData)
	assert.Equal(t, []byte(e.CommandField), field)
	assert.Equal(t, []byte(e.CommandSSC), server.ssc[:])
	assert.Equal(t, []byte(e.CommandIV), server.iv())
	assert.Equal(t, []byte(e.CommandField), join(e.DO87, e.DO97, []byte{0x8E, 8}, e.CommandMAC))
	input := join(pad(join(e.CommandSSC, e.HeaderInMAC), 0), e.DO87, e.DO97)
	assert.Equal(t, []byte(e.CommandMACInput), input)
	mac := server.commandMAC(ins, p1, p2, join(e.DO87, e.DO97))
	assert.Equal(t, []byte(e.CommandMAC), mac[:])

	plain, err := card.UnwrapCommand(ins, p1, p2, e.CommandField)
	require.NoError(t, err)
	assert.Equal(t, string(e.CommandData), string(plain))
	if len(e.DO87) == 0 {
		assert.Nil(t, plain)
	}
	for _, wire := range []vectors.Hex{e.APDU.Short, e.APDU.Extended} {
		if wire == nil {
			continue
		}
		c, err := apdu.ParseCommand(wire)
		require.NoError(t, err)
		assert.Equal(t, field, c.Data)
		assert.Equal(t, byte(0x8C), c.CLA)
	}

	sw := apdu.StatusWord(e.InnerSW[0])<<8 | apdu.StatusWord(e.InnerSW[1])
	resp := card.WrapResponse(e.ResponseData, sw)
	assert.Equal(t, []byte(e.ResponseField), resp)
	assert.Equal(t, []byte(e.ResponseSSC), card.ssc[:])
	assert.Equal(t, []byte(e.ResponseIV), card.iv())
	assert.Equal(t, []byte(e.ResponseMACInput), join(e.ResponseSSC, e.ResponseField[:len(e.ResponseField)-10]))
	assert.Equal(t, []byte(e.ResponseAPDU), apdu.SWSuccess.Append(bytes.Clone(e.ResponseField)))
	data, got, err := server.Unwrap(e.ResponseField)
	require.NoError(t, err)
	assert.Equal(t, string(e.ResponseData), string(data))
	assert.Equal(t, sw, got)
}

func TestNegativeVectors(t *testing.T) {
	f := vectors.Load(t)
	n := 0
	for _, v := range f.Negative {
		_, q := f.Find(v)
		server, card := pair(q)
		switch v.InputIs {
		case "command_field":
			_, err := card.UnwrapCommand(0xF2, 0, 0, v.Input)
			assert.Equal(t, ErrMAC, err, v.Name)
			n++
		case "response_field":
			server.Wrap(0xF2, 0, 0, nil)
			_, _, err := server.Unwrap(v.Input)
			assert.Equal(t, ErrMAC, err, v.Name)
			n++
		}
	}
	assert.Equal(t, 2, n)
}

// RFC 4493 §4: the subkeys and the complete-block messages. The protocol pads
// before CMAC, so that no other messages occur; here the pad is taken off, to
// meet the RFC's.
func TestCMAC(t *testing.T) {
	k := [16]byte(unhex(t, "2b7e151628aed2a6abf7158809cf4f3c"))
	s := New(k, k)
	assert.Equal(t, unhex(t, "fbeed618357133667c85e08f7236a8de"), s.k1[:])
	k2 := double(s.k1)
	assert.Equal(t, unhex(t, "f7ddac306ae266ccf90bc11ee46d513b"), k2[:])
	message := unhex(t, "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710")
	for n, want := range map[int]string{16: "070a16b46b4d4144f79bdd9dd04a287c", 64: "51f0bebf7e3b9d92fc49741779363cfe"} {
		assert.Equal(t, unhex(t, want)[:macLen], reference(t, k, message[:n]), "the reference, %d bytes", n)
	}
	for n, want := range map[int]string{0: "bb1d6929e95937287fa37d129b756746", 40: "dfa66747de9ae63030ca32611497c827"} {
		assert.Equal(t, unhex(t, want)[:macLen], reference(t, k, message[:n]), "the reference, %d bytes", n)
	}
	for n := range 65 {
		s.buf = append(s.buf[:0], message[:n]...)
		got := s.sum()
		assert.Equal(t, reference(t, k, pad(bytes.Clone(message[:n]), 0)), got[:], "%d bytes", n)
	}
}

// reference is CMAC as RFC 4493 §2.4 writes it, 8 bytes of it.
func reference(t *testing.T, k [16]byte, m []byte) []byte {
	block, err := aes.NewCipher(k[:])
	require.NoError(t, err)
	var l [16]byte
	block.Encrypt(l[:], l[:])
	k1 := double(l)
	last := k1
	n := (len(m) + 15) / 16
	if n == 0 || len(m)%16 != 0 {
		last = double(k1)
		m = pad(bytes.Clone(m), 0)
		n = len(m) / 16
	}
	var x [16]byte
	for i := range n {
		for j := range x {
			x[j] ^= m[16*i+j]
			if i == n-1 {
				x[j] ^= last[j]
			}
		}
		block.Encrypt(x[:], x[:])
	}
	return x[:macLen]
}

// isOurs reports whether the error is one of the package's that end a session.
func isOurs(err error) bool { return errors.Is(err, ErrMAC) || errors.Is(err, ErrObjects) }

func TestEveryFlippedByteIsRejected(t *testing.T) {
	q := first(t)
	for i := range q.Exchanges[0].CommandField {
		for _, bit := range []byte{1, 0x80} {
			_, card := pair(q)
			bad := bytes.Clone(q.Exchanges[0].CommandField)
			bad[i] ^= bit
			_, err := card.UnwrapCommand(0xF2, 0, 0, bad)
			assert.True(t, isOurs(err), "byte %d: %v", i, err)
		}
	}
	e := q.Exchanges[1] // with 87
	for i := range e.CommandField {
		_, card := pair(q)
		card.ssc = [16]byte(e.CommandSSC)
		card.ssc[15]--
		bad := bytes.Clone(e.CommandField)
		bad[i] ^= 0x10
		_, err := card.UnwrapCommand(0x04, 0, 0, bad)
		assert.True(t, isOurs(err), "byte %d: %v", i, err)
	}
	for i := range e.ResponseField {
		server, _ := pair(q)
		server.ssc = [16]byte(e.CommandSSC)
		bad := bytes.Clone(e.ResponseField)
		bad[i] ^= 0x10
		data, sw, err := server.Unwrap(bad)
		assert.True(t, isOurs(err), "byte %d: %v", i, err)
		assert.Nil(t, data)
		assert.Zero(t, sw)
	}
	for _, header := range [][3]byte{{0x44, 0, 0}, {0x04, 1, 0}, {0x04, 0, 1}} {
		server, card := fresh()
		field := server.Wrap(0x04, 0, 0, []byte{1})
		_, err := card.UnwrapCommand(header[0], header[1], header[2], field)
		assert.ErrorIs(t, err, ErrMAC, "%X", header)
	}
}

func TestObjects(t *testing.T) {
	server, _ := fresh()
	field := server.Wrap(4, 0, 0, []byte{1})
	do87, do97, do8E := field[:19], field[19:23], field[23:]
	do99 := []byte{0x99, 2, 0x90, 0}
	unknown := []byte{0x85, 1, 0}
	for _, bad := range [][]byte{
		nil, do87, do97, do8E,
		join(do87, do97),       // no 8E
		join(do87, do8E),       // no 97
		join(do97, do87, do8E), // out of order
		join(do8E, do97), join(do87, do8E, do97),
		join(do87, do87, do97, do8E), join(do97, do97, do8E), // twice
		join(unknown, do97, do8E), join(do87, unknown, do97, do8E), join(do87, do97, unknown, do8E),
		join(do87, do97, do8E, unknown), join(do87, do97, do8E, []byte{0}),
		join(do87, do97, do8E[:9]), // cut off
		join(do87, do97, []byte{0x8E, 7}, do8E[2:9]), join(do87, do97, []byte{0x8E, 9}, do8E[2:], []byte{0}),
		join(do87, do97, []byte{0x8E, 0}),
		join(do87, []byte{0x97, 0x81, 2, 0, 0}, do8E),        // not minimal
		join([]byte{0x87, 0x81, 0x11}, do87[2:], do97, do8E), // not minimal
		join(do87, do97, []byte{0x8E, 0x81, 8}, do8E[2:]),
		join(do87, do99, do8E), // a response's object
		{0x87}, {0x87, 0x80}, {0xFF, 0xFF, 0xFF}, bytes.Repeat([]byte{0x30}, 500),
	} {
		_, card := fresh()
		_, err := card.UnwrapCommand(4, 0, 0, bad)
		assert.ErrorIs(t, err, ErrObjects, "%X", bad)
	}
	for _, bad := range [][]byte{
		nil, do87, do99, do8E,
		join(do99, do87, do8E), join(do87, do8E), join(do87, do97, do8E), join(do87, do99),
		join(do99, do99, do8E), join(do87, do87, do99, do8E), join(do99, do8E, do8E), join(do99, do8E, []byte{0}),
		join([]byte{0x99, 1, 0x90}, do8E), join([]byte{0x99, 3, 0x90, 0, 0}, do8E), join([]byte{0x99, 0}, do8E),
		join([]byte{0x99, 0x81, 2, 0x90, 0}, do8E), join(unknown, do99, do8E),
	} {
		server, _ := fresh()
		data, sw, err := server.Unwrap(bad)
		assert.ErrorIs(t, err, ErrObjects, "%X", bad)
		assert.Nil(t, data)
		assert.Zero(t, sw)
	}
}

// 97's value is ignored, whatever its length, and still covered by the mac.
func TestLeValueIsIgnored(t *testing.T) {
	for n := range 5 {
		_, card := fresh()
		sender, _ := fresh()
		sender.count()
		objects := tlv.Append(nil, tagLe, bytes.Repeat([]byte{9}, n)...)
		sum := sender.commandMAC(4, 0, 0, objects)
		data, err := card.UnwrapCommand(4, 0, 0, tlv.Append(objects, tagMAC, sum[:]...))
		require.NoError(t, err)
		assert.Nil(t, data)
	}
}

// A bad 87 under a good mac leaves the session alive.
func TestBadCryptogramUnderAGoodMAC(t *testing.T) {
	block := func(s *Session, plain []byte) []byte {
		out := s.appendCryptogram(nil, nil)
		// Overwrite with the encryption of plain, no padding added.
		iv := bytes.Clone(s.iv())
		for i := range plain {
			iv[i] ^= plain[i]
		}
		s.enc.Encrypt(out[3:], iv)
		return out
	}
	zero, only := make([]byte, 16), make([]byte, 16)
	only[0] = 0x80
	noPad := bytes.Repeat([]byte{0x55}, 16)
	values := map[string]func(*Session) []byte{
		"empty":             func(*Session) []byte { return []byte{0x87, 0} },
		"only an indicator": func(*Session) []byte { return []byte{0x87, 1, 1} },
		"half a block":      func(*Session) []byte { return tlv.Append(nil, 0x87, append([]byte{1}, make([]byte, 8)...)...) },
		"a byte too many":   func(*Session) []byte { return tlv.Append(nil, 0x87, append([]byte{1}, make([]byte, 17)...)...) },
		"indicator 02":      func(s *Session) []byte { b := s.appendCryptogram(nil, []byte{1}); b[2] = 2; return b },
		"indicator 00":      func(s *Session) []byte { b := s.appendCryptogram(nil, []byte{1}); b[2] = 0; return b },
		"no padding":        func(s *Session) []byte { return block(s, noPad) },
		"zeroes":            func(s *Session) []byte { return block(s, zero) },
	}
	for name, make87 := range values {
		server, card := fresh()
		server.count()
		objects := tlv.Append(make87(server), tagLe, 0, 0)
		sum := server.commandMAC(4, 0, 0, objects)
		_, err := card.UnwrapCommand(4, 0, 0, tlv.Append(objects, tagMAC, sum[:]...))
		assert.Equal(t, ErrCryptogram, err, name)
		data, sw, err := server.Unwrap(card.WrapResponse(nil, apdu.SWIncorrectData))
		require.NoError(t, err, "the session goes on")
		assert.Nil(t, data)
		assert.Equal(t, apdu.SWIncorrectData, sw)

		server, card = fresh()
		card.count()
		objects = tlv.Append(make87(card), tagStatus, 0x90, 0)
		sum = card.responseMAC(objects)
		_, _, err = server.Unwrap(tlv.Append(objects, tagMAC, sum[:]...))
		assert.Equal(t, ErrCryptogram, err, name)
	}
	// 80 alone is padding: no data, and yet an 87.
	server, card := fresh()
	server.count()
	objects := tlv.Append(block(server, only), tagLe, 0, 0)
	sum := server.commandMAC(4, 0, 0, objects)
	data, err := card.UnwrapCommand(4, 0, 0, tlv.Append(objects, tagMAC, sum[:]...))
	require.NoError(t, err)
	assert.Empty(t, data)
	assert.NotNil(t, data)
}

func TestLengths(t *testing.T) {
	server, card := fresh() // one session for all: SSC goes on
	for _, n := range []int{0, 1, 15, 16, 17, 94, 95, 96, 110, 111, 112, 127, 128, 239, 240, 255, 256, 1000, 4096, 0x8000, MaxData} {
		data := bytes.Repeat([]byte{0x80}, n) // looks like padding
		field := server.Wrap(4, 1, 2, data)
		assert.LessOrEqual(t, len(field), n+Overhead)
		assert.LessOrEqual(t, len(field), apdu.MaxExtendedData)
		got, err := card.UnwrapCommand(4, 1, 2, field)
		require.NoError(t, err, "%d bytes", n)
		assert.True(t, bytes.Equal(data, got))
		field = card.WrapResponse(data, 0x6300)
		assert.LessOrEqual(t, len(field), n+Overhead)
		got, sw, err := server.Unwrap(field)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
		assert.Equal(t, apdu.StatusWord(0x6300), sw)
	}
	assert.Panics(t, func() { server.Wrap(4, 0, 0, make([]byte, MaxData+1)) })
	assert.Panics(t, func() { card.WrapResponse(make([]byte, MaxData+1), apdu.SWSuccess) })
	// More than any data object holds.
	_, _, err := server.Unwrap(bytes.Repeat([]byte{0x87, 0x82, 0xFF, 0xFF}, 1<<15))
	assert.ErrorIs(t, err, ErrObjects)
}

func TestReplayLossAndOrder(t *testing.T) {
	server, card := fresh()
	one := server.Wrap(4, 0, 0, []byte{1})
	_, err := card.UnwrapCommand(4, 0, 0, one)
	require.NoError(t, err)
	resp := card.WrapResponse([]byte{2}, apdu.SWSuccess)
	_, _, err = server.Unwrap(resp)
	require.NoError(t, err)
	_, err = card.UnwrapCommand(4, 0, 0, one)
	assert.ErrorIs(t, err, ErrMAC, "a command again")
	_, _, err = server.Unwrap(resp)
	assert.ErrorIs(t, err, ErrMAC, "a response again")

	server, card = fresh()
	server.Wrap(4, 0, 0, []byte{1})
	_, err = card.UnwrapCommand(4, 0, 0, server.Wrap(4, 0, 0, []byte{2}))
	assert.ErrorIs(t, err, ErrMAC, "one command was lost")

	server, card = fresh()
	field := server.Wrap(4, 0, 0, nil)
	_, _, err = server.Unwrap(join([]byte{0x99, 2, 0x90, 0}, field[4:]))
	assert.ErrorIs(t, err, ErrMAC, "a command's mac for a response")
	other := New([16]byte{1}, [16]byte{3})
	_, err = other.UnwrapCommand(4, 0, 0, field)
	assert.ErrorIs(t, err, ErrMAC, "another Kmac")
	_, err = card.UnwrapCommand(4, 0, 0, field)
	assert.NoError(t, err)
}

func TestSSCCarries(t *testing.T) {
	for before, after := range map[string]string{
		"00000000000000000000000000000000": "00000000000000000000000000000001",
		"000000000000000000000000000000FF": "00000000000000000000000000000100",
		"0000000000000000FFFFFFFFFFFFFFFF": "00000000000000010000000000000000",
		"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF": "00000000000000000000000000000000",
	} {
		s, card := fresh()
		s.ssc = [16]byte(unhex(t, before))
		card.ssc = s.ssc
		field := s.Wrap(4, 0, 0, []byte{1})
		assert.Equal(t, unhex(t, after), s.ssc[:])
		_, err := card.UnwrapCommand(4, 0, 0, field)
		assert.NoError(t, err)
	}
}

func TestNothingSecretIsPrinted(t *testing.T) {
	s := New([16]byte(bytes.Repeat([]byte{0xA5}, 16)), [16]byte(bytes.Repeat([]byte{0x5A}, 16)))
	s.Wrap(4, 0, 0, []byte("plain"))
	for _, v := range []any{s, *s, struct{ S *Session }{s}, struct{ S Session }{*s}} {
		for _, verb := range []string{"%v", "%+v", "%s", "%#v", "%x"} {
			out := fmt.Sprintf(verb, v)
			assert.NotContains(t, out, "165")
			assert.NotContains(t, strings.ToLower(out), "a5a5")
			assert.NotContains(t, out, strings.Trim(fmt.Sprint(s.k1), "[]"))
			assert.NotContains(t, out, fmt.Sprintf("%x", s.k1))
		}
	}
}

func FuzzUnwrapCommand(f *testing.F) {
	q := first(f)
	for _, e := range q.Exchanges {
		f.Add(e.HeaderInMAC[1], []byte(e.CommandField), false)
	}
	for _, s := range []string{"", "97020000", "970200008E08", "87110100", "8700970200008E080000000000000000"} {
		f.Add(byte(4), unhex(f, s), true)
	}
	f.Fuzz(func(t *testing.T, ins byte, field []byte, sign bool) {
		server, card := pair(q)
		want := server.Wrap(0xF2, 0, 0, nil) // also counts
		if sign {
			// A sender that has the keys and sends what it likes.
			sum := server.commandMAC(ins, 0, 0, field)
			field = tlv.Append(bytes.Clone(field), tagMAC, sum[:]...)
		}
		data, err := card.UnwrapCommand(ins, 0, 0, field)
		switch {
		case err == nil && !sign:
			assert.Equal(t, byte(0xF2), ins)
			assert.Equal(t, want, field, "a forgery")
		case err == nil:
			assert.Less(t, len(data), len(field))
		case !isOurs(err):
			assert.Equal(t, ErrCryptogram, err)
			assert.True(t, sign)
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	q := first(f)
	f.Add([]byte(q.Exchanges[0].ResponseField), false)
	for _, s := range []string{"", "99029000", "990290008E08", "87110100", "870099029000"} {
		f.Add(unhex(f, s), true)
	}
	f.Fuzz(func(t *testing.T, field []byte, sign bool) {
		server, card := pair(q)
		server.Wrap(0xF2, 0, 0, nil)
		if sign {
			card.count()
			card.count()
			sum := card.responseMAC(field)
			field = tlv.Append(bytes.Clone(field), tagMAC, sum[:]...)
		}
		data, sw, err := server.Unwrap(field)
		if err != nil {
			assert.Nil(t, data)
			assert.Zero(t, sw)
			assert.True(t, isOurs(err) || sign && err == ErrCryptogram, "%v", err)
			return
		}
		if !sign {
			assert.Equal(t, []byte(q.Exchanges[0].ResponseField), field, "a forgery")
		}
	})
}

func BenchmarkWrap(b *testing.B) {
	server, _ := fresh()
	data := make([]byte, 48)
	b.ReportAllocs()
	for b.Loop() {
		server.Wrap(4, 0, 0, data)
	}
}

func Example() {
	kenc, kmac := [16]byte{1}, [16]byte{2} // cryptogram.SessionKeys
	server, card := New(kenc, kmac), New(kenc, kmac)

	field := server.Wrap(0x04, 0, 0, []byte("command"))
	plain, err := card.UnwrapCommand(0x04, 0, 0, field)
	fmt.Printf("%s %v\n", plain, err)

	field = card.WrapResponse([]byte("answer"), apdu.SWSuccess)
	data, sw, err := server.Unwrap(field)
	fmt.Printf("%s %s %v\n", data, sw.Hex(), err)

	_, _, err = server.Unwrap(field) // replayed
	fmt.Println(err)
	// Output:
	// command <nil>
	// answer 9000 <nil>
	// securemsg: mac does not verify
}
