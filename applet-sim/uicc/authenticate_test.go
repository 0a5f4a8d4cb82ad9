package uicc

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim/milenage"
)

// network is the other end of AUTHENTICATE, with the default keys.
type network struct{ key *milenage.Key }

func newNetwork() network { return network{milenage.New(DefaultK, DefaultOPc)} }

// challenge is AUTHENTICATE in the 3G context.
func (n network) challenge(rand [16]byte, sqn uint64) string {
	r := n.key.F2345(rand)
	s := sqnBytes(sqn)
	amf := [2]byte{0x80, 0x00}
	mac, _ := n.key.F1(rand, s, amf)
	subtle.XORBytes(s[:], s[:], r.AK[:])
	return fmt.Sprintf("00880081 22 10%X 10%X%X%X 00", rand, s, amf, mac)
}

func sqnBytes(n uint64) (s [6]byte) {
	copy(s[:], binary.BigEndian.AppendUint64(nil, n)[2:])
	return s
}

func (n network) success(rand [16]byte) string {
	r := n.key.F2345(rand)
	_, kc := r.GSM()
	return fmt.Sprintf("DB 08%X 10%X 10%X 08%X 9000", r.RES, r.CK, r.IK, kc)
}

// resync is AUTS with the card's SQN.
func (n network) resync(rand [16]byte, sqn uint64) string {
	s := sqnBytes(sqn)
	_, mac := n.key.F1(rand, s, [2]byte{})
	ak := n.key.F5Star(rand)
	subtle.XORBytes(s[:], s[:], ak[:])
	return fmt.Sprintf("DC 0E%X%X 9000", s, mac)
}

// Test set 1 of TS 35.208 from end to end: the network's RAND, SQN and AMF, on a
// card whose SQN is just below.
func TestTestSet1(t *testing.T) {
	seq := make([]uint64, 32)
	for i := range seq {
		seq[i] = 0xFF9BB4D0B607>>5 - 1
	}
	const set1 = "00880081 22 10 23553CBE9637A89D218AE64DAE47BF35 10 55F328B43577 B9B9 4A9FFAC354DFAFB3 00"
	c := newUSIM(t, Data{SEQ: seq})
	c.run(
		[2]string{set1, "DB 08 A54211D5E3BA50BF 10 B40BA9A3C58B2A05BBF0D987B21BF8CB 10 F769BCD751044604127672711C6D3441 08 EAE4BE823AF9A08B 9000"},
		[2]string{"00880080 11 10 23553CBE9637A89D218AE64DAE47BF35 00", "04 46F8416A 08 EAE4BE823AF9A08B 9000"},
		[2]string{set1, newNetwork().resync([16]byte{0x23, 0x55, 0x3C, 0xBE, 0x96, 0x37, 0xA8, 0x9D, 0x21, 0x8A, 0xE6, 0x4D, 0xAE, 0x47, 0xBF, 0x35}, 0xFF9BB4D0B607)},
	)
}

func TestSequenceNumbers(t *testing.T) {
	n := newNetwork()
	rand := [16]byte{1, 2, 3}
	c := newUSIM(t, Data{})
	accepted := func(sqn uint64) { t.Helper(); c.run([2]string{n.challenge(rand, sqn), n.success(rand)}) }
	refused := func(sqn, highest uint64) {
		t.Helper()
		c.run([2]string{n.challenge(rand, sqn), n.resync(rand, highest)})
	}
	refused(0, 0)
	refused(31, 0) // SEQ 0
	accepted(1 << 5)
	refused(1<<5, 1<<5)
	accepted(1<<5 | 1) // the same SEQ under another IND
	accepted(9<<5 | 7)
	accepted(2 << 5) // lower than the highest, under its own IND
	refused(2<<5, 9<<5|7)
	refused(9<<5|7, 9<<5|7)
	accepted((9 + maxJump) << 5)
	refused((10+2*maxJump)<<5, (9+maxJump)<<5) // too far ahead
	c.start()
	c.run([2]string{selectUSIM, "9000"})
	refused((9+maxJump)<<5, (9+maxJump)<<5)
	assert.Equal(t, []uint64{9 + maxJump, 1, 0, 0, 0, 0, 0, 9}, c.saved.SEQ)
}

func TestAuthenticateErrors(t *testing.T) {
	n := newNetwork()
	rand := [16]byte{9}
	good := n.challenge(rand, 1<<5)
	c := newUSIM(t, withPIN())
	c.run(
		[2]string{good, "6982"}, [2]string{"0020000108" + padded("1234"), "9000"},
		[2]string{"00880181" + good[8:], "6A86"}, [2]string{"00880082" + good[8:], "6A86"}, [2]string{"00880001" + good[8:], "6A86"},
		[2]string{"00880081", "6A80"}, [2]string{"00880081 11 10 00000000000000000000000000000000", "6A80"},
		[2]string{"00880081 22 0F 000000000000000000000000000000 11 0000000000000000000000000000000000", "6A80"},
		[2]string{"00880081 23 10 00000000000000000000000000000000 10 00000000000000000000000000000000 00", "6A80"},
		[2]string{"00880080 12 10 00000000000000000000000000000000 00", "6A80"}, [2]string{"00880080", "6A80"},
		[2]string{"00880081 22 10 00000000000000000000000000000000 10 00000000000000000000000000000000", "9862"},
		[2]string{good, n.success(rand)},
	)
	c.u.Close(0)
	c.run([2]string{good, "6985"}) // the USIM is not the application
}

// What the memory did not take was not accepted, and gives no keys away.
func TestAuthenticateWriteFails(t *testing.T) {
	n := newNetwork()
	rand := [16]byte{9}
	c := newUSIM(t, Data{})
	c.fail = 1
	c.run([2]string{n.challenge(rand, 1<<5), "6581"}, [2]string{n.challenge(rand, 1<<5), n.success(rand)})
	require.Equal(t, []uint64{1}, c.saved.SEQ)
}

func TestOwnKeys(t *testing.T) {
	k, opc := [16]byte{1}, [16]byte{2}
	n := network{milenage.New(k, opc)}
	c := newUSIM(t, Data{K: k[:], OPc: opc[:]})
	c.run([2]string{n.challenge([16]byte{3}, 1<<5), n.success([16]byte{3})})
}
