package appletsim

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// TestSecureMessagingErrors: each is answered in the clear, and the session is
// gone.
func TestSecureMessagingErrors(t *testing.T) {
	tests := []struct {
		name string
		bend func(field []byte) []byte
		want apdu.StatusWord
	}{
		{"mac", func(f []byte) []byte { f[len(f)-1] ^= 1; return f }, 0x6988},
		{"97 changed", func(f []byte) []byte { f[3] = 1; return f }, 0x6988},
		{"nothing", func([]byte) []byte { return nil }, 0x6987},
		{"not TLV", func([]byte) []byte { return []byte{0x97, 0x7F} }, 0x6987},
		{"97 missing", func(f []byte) []byte { return f[4:] }, 0x6987},
		{"8E missing", func(f []byte) []byte { return f[:4] }, 0x6987},
		{"8E short", func(f []byte) []byte { f[5] = 7; return f[:len(f)-1] }, 0x6987},
		{"8E long", func(f []byte) []byte { f[5] = 9; return append(f, 0) }, 0x6987},
		{"out of order", func(f []byte) []byte { return append(f[4:], f[:4]...) }, 0x6987},
		{"unknown object", func(f []byte) []byte { return append([]byte{0x85, 0}, f...) }, 0x6987},
		{"one more", func(f []byte) []byte { return append(f, 0x85, 0) }, 0x6987},
		{"length not minimal", func(f []byte) []byte { return append([]byte{0x97, 0x81, 2}, f[2:]...) }, 0x6987},
		{"longer than any command", func([]byte) []byte { return make([]byte, maxCommandData+1) }, 0x6700},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newTerminal(t, newCard(t, testImage(t)))
			m.authenticate(1, 0, nil)
			_, sw := m.wire(insGetStatus, 0, 0, tt.bend(m.sm.Wrap(insGetStatus, 0, 0, nil)))
			assert.Equal(t, tt.want, sw)
			assert.False(t, getStatusWorks(m))
		})
	}
}

// TestSecuredStatus: once the mac verified, every status is an inner one and
// the session goes on.
func TestSecuredStatus(t *testing.T) {
	tests := []struct {
		name        string
		ins, p1, p2 byte
		data        []byte
		want        apdu.StatusWord
	}{
		{"unknown INS", 0xB0, 1, 2, nil, 0x6D00},
		{"unknown INS with data", 0xE2, 0, 0, []byte{1}, 0x6D00},
		{"GET STATUS with data", insGetStatus, 0, 0, []byte{1}, 0x6A80},
		{"GET STATUS, P1 P2", insGetStatus, 0x40, 0, nil, 0x6A86},
		{"DEACTIVATE without HC", insDeactivate, 0, 0, order{}.data(), 0x6982},
		{"ACTIVATE without data", insActivate, 0, 0, nil, 0x6982},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newTerminal(t, newCard(t, testImage(t)))
			m.authenticate(1, 0, nil)
			field, sw := m.wire(tt.ins, tt.p1, tt.p2, m.sm.Wrap(tt.ins, tt.p1, tt.p2, tt.data))
			require.Equal(t, apdu.SWSuccess, sw)
			data, sw, err := m.sm.Unwrap(field)
			require.NoError(t, err)
			assert.Equal(t, tt.want, sw)
			assert.Empty(t, data)
			assert.True(t, getStatusWorks(m))
		})
	}
}

// TestBadCryptogram: a bad 87 under a good mac is an inner 6A80, whatever the
// command, and the session goes on.
func TestBadCryptogram(t *testing.T) {
	for _, do87 := range []string{"8700", "870101", "871102" + strings.Repeat("00", 16), "871101" + strings.Repeat("00", 16), "871001" + strings.Repeat("00", 15)} {
		m := newTerminal(t, newCard(t, testImage(t)))
		data := order{request: 1, operator: eleven, counter: 0x100}.data()
		m.authenticate(1, insDeactivate, data)
		for i, ins := range []byte{insGetStatus, 0xE2, insDeactivate} {
			objects := append(unhex(do87), 0x97, 0x00) // the value of 97 does not matter
			mac := m.commandMAC(2*i+1, ins, objects)
			m.sm.Wrap(ins, 0, 0, nil) // counts
			field, sw := m.wire(ins, 0, 0, tlv.Append(objects, 0x8E, mac...))
			require.Equal(t, apdu.SWSuccess, sw)
			out, sw, err := m.sm.Unwrap(field)
			require.NoError(t, err)
			assert.Equal(t, apdu.SWIncorrectData, sw)
			assert.Empty(t, out)
		}
		_, sw := m.secured(insDeactivate, data)
		assert.Equal(t, apdu.SWSecurityStatusNotSatisfied, sw, "the one was spent")
		assert.True(t, getStatusWorks(m))
	}
}

// commandMAC is the mac of §5, by hand: CMAC is AES-CBC with the last block
// masked, which the pad makes always a whole one.
func (m *terminal) commandMAC(ssc int, ins byte, objects []byte) []byte {
	pad := func(b []byte) []byte {
		b = append(b, 0x80)
		for len(b)%16 != 0 {
			b = append(b, 0)
		}
		return b
	}
	in := append(make([]byte, 15), byte(ssc))
	in = pad(append(in, pad([]byte{0x8C, ins, 0, 0})...))
	in = pad(append(in[:32], objects...))
	block, err := aes.NewCipher(m.kmac[:])
	require.NoError(m.t, err)
	k1 := make([]byte, 16)
	block.Encrypt(k1, k1)
	n := new(big.Int).Lsh(new(big.Int).SetBytes(k1), 1)
	if n.BitLen() > 128 {
		n.SetBit(n, 128, 0).Xor(n, big.NewInt(0x87))
	}
	n.FillBytes(k1)
	subtle.XORBytes(in[len(in)-16:], in[len(in)-16:], k1)
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(in, in)
	return in[len(in)-16:][:8]
}

// TestSecureMessagingOnOtherChannels: CLA carries the channel, the mac has 8C.
func TestSecureMessagingOnOtherChannels(t *testing.T) {
	for channel, cla := range map[int]string{1: "8D", 3: "8F", 4: "E0", 19: "EF"} {
		m := newTerminal(t, newCard(t, testImage(t))).on(channel)
		m.authenticate(1, 0, nil)
		field := hexBytes(m.sm.Wrap(insGetStatus, 0, 0, nil))
		r := send(m.card, cla+"F200000E"+field+"00")
		require.Equal(t, "9000", last(r, 4), "channel %d", channel)
		_, sw, err := m.sm.Unwrap(unhex(r[:len(r)-4]))
		require.NoError(t, err)
		assert.Equal(t, apdu.SWSuccess, sw)
	}
}

// TestSecuredTransport: chained commands are joined first, responses come in
// pieces, and neither touches SSC.
func TestSecuredTransport(t *testing.T) {
	m := newTerminal(t, newCard(t, testImage(t)))
	m.authenticate(1, 0, nil)
	field := hexBytes(m.sm.Wrap(insGetStatus, 0, 0, nil))
	run(t, m.card,
		step{"9CF2000005" + field[:10], "9000"},
		step{"9CF2000001" + field[10:12], "9000"},
		step{"8CF2000008" + field[12:], "61A2"}) // Le absent
	first := send(m.card, "80C0000007")
	require.Equal(t, "619B", last(first, 4))
	rest := send(m.card, "8CC0000000")
	require.Equal(t, "9000", last(rest, 4))
	_, sw, err := m.sm.Unwrap(unhex(first[:len(first)-4] + rest[:len(rest)-4]))
	require.NoError(t, err)
	assert.Equal(t, apdu.SWSuccess, sw)
	assert.True(t, getStatusWorks(m))

	_ = m.sm.Wrap(insGetStatus, 0, 0, nil)
	run(t, m.card, step{"9CF2000005" + field[:10], "9000"}, step{"8CF2010009" + field[10:], "6883"})
	assert.False(t, getStatusWorks(m), "a chain that breaks ends the session")
}

func TestGetStatus(t *testing.T) {
	im := testImage(t)
	im.EventCounter = 0xFFFFFFFE
	im.Profiles[0].PPR1, im.Profiles[0].PPR2 = true, true
	im.Profiles[1].Fallback = true
	im.Profiles[1].Class = Test
	im.Profiles[1].Provider, im.Profiles[1].Name = "", strings.Repeat("x", 200)
	m := newTerminal(t, newCard(t, im))
	m.authenticate(3, 0, nil)
	data, sw := m.secured(insGetStatus, nil)
	require.Equal(t, apdu.SWSuccess, sw)
	assert.Equal(t, ""+
		"E33D"+"5A0A9868300D1A2B3C4E0024"+"9F700101"+"910F"+hexBytes([]byte("Operator Eleven"))+"9208"+hexBytes([]byte("Everyday"))+
		"950102"+"B705800364F011"+"99020560"+"DF010100"+
		"E381EE"+"5A0A98101400000000004043"+"9F700100"+"9100"+"9281C8"+strings.Repeat("78", 200)+
		"950100"+"B7058003130014"+"990100"+"DF010101"+
		"9404FFFFFFFE", hexBytes(data))
}

// TestGetStatusOfManyProfiles: the longest answer that an image allows.
func TestGetStatusOfManyProfiles(t *testing.T) {
	im := testImage(t)
	im.Profiles = nil
	for i := range maxProfiles {
		im.Profiles = append(im.Profiles, Profile{
			ICCID: mustICCID(fmt.Sprintf("89860000000000000%02dA", i)), Owner: eleven, State: Disabled, Class: Operational,
			Provider: strings.Repeat("p", maxName), Name: strings.Repeat("n", maxName),
		})
	}
	m := newTerminal(t, newCard(t, im))
	m.authenticate(1, 0, nil)
	data, sw := m.secured(insGetStatus, nil)
	require.Equal(t, apdu.SWSuccess, sw)
	n := 0
	for len(data) > 0 {
		_, rest, err := tlv.Read(data)
		require.NoError(t, err)
		data, n = rest, n+1
	}
	assert.Equal(t, maxProfiles+1, n)
}
