package uicc

import (
	"crypto/subtle"
	"slices"

	"github.com/cardbridge/cardbridge/apdu"
)

// authenticate is AUTHENTICATE (TS 31.102 §7.1), in the 3G security context and
// the GSM one.
func (u *UICC) authenticate(p *position, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	const (
		gsm = 0x80
		g3  = 0x81
	)
	switch {
	case u.sub == nil || !p.usim:
		return nil, apdu.SWConditionsNotSatisfied
	case cmd.P1 != 0 || cmd.P2 != gsm && cmd.P2 != g3:
		return nil, apdu.SWIncorrectP1P2
	case !u.satisfied(byte(refPIN1)):
		return nil, apdu.SWSecurityStatusNotSatisfied
	}
	rand, rest, ok := sixteen(cmd.Data)
	if !ok {
		return nil, apdu.SWIncorrectData
	}
	if cmd.P2 == gsm {
		if len(rest) > 0 {
			return nil, apdu.SWIncorrectData
		}
		r := u.sub.key.F2345(rand)
		sres, kc := r.GSM()
		return prefixed(prefixed(nil, sres[:]), kc[:]), apdu.SWSuccess
	}
	autn, rest, ok := sixteen(rest)
	if !ok || len(rest) > 0 {
		return nil, apdu.SWIncorrectData
	}
	return u.aka(rand, autn)
}

// sixteen reads a length of 16 and as many bytes.
func sixteen(b []byte) (value [16]byte, rest []byte, ok bool) {
	if len(b) < 17 || b[0] != 16 {
		return value, nil, false
	}
	return [16]byte(b[1:17]), b[17:], true
}

func prefixed(b, value []byte) []byte { return append(append(b, byte(len(value))), value...) }

// Tags of what AUTHENTICATE answers with.
const (
	akaSuccess = 0xDB
	akaResync  = 0xDC
)

// aka is the authentication of TS 33.102 §6.3: the network's MAC, then whether
// its SQN is new, which is stored before the card answers.
func (u *UICC) aka(rand, autn [16]byte) ([]byte, apdu.StatusWord) {
	r := u.sub.key.F2345(rand)
	sqn := [6]byte(autn[:6])
	subtle.XORBytes(sqn[:], sqn[:], r.AK[:])
	amf := [2]byte(autn[6:8])
	mac, _ := u.sub.key.F1(rand, sqn, amf)
	if subtle.ConstantTimeCompare(mac[:], autn[8:]) != 1 {
		return nil, swAuthentication
	}
	next, ok := accept(u.sub.SEQ, sqn)
	if !ok {
		return u.resync(rand), apdu.SWSuccess
	}
	d := u.sub.Data
	d.SEQ = next
	if sw := u.store(d); sw != apdu.SWSuccess {
		return nil, sw
	}
	_, kc := r.GSM()
	b := prefixed([]byte{akaSuccess}, r.RES[:])
	b = prefixed(prefixed(b, r.CK[:]), r.IK[:])
	return prefixed(b, kc[:]), apdu.SWSuccess
}

// resync is AUTS: the highest SQN that was accepted, hidden, and its MAC with an
// AMF of zeroes (TS 33.102 §6.3.3).
func (u *UICC) resync(rand [16]byte) []byte {
	sqn := highest(u.sub.SEQ)
	_, mac := u.sub.key.F1(rand, sqn, [2]byte{})
	ak := u.sub.key.F5Star(rand)
	subtle.XORBytes(sqn[:], sqn[:], ak[:])
	return prefixed([]byte{akaResync}, append(sqn[:], mac[:]...))
}

// maxJump is how far a SEQ may be above the highest one (TS 33.102 §C.3.2).
const maxJump = 1 << 28

// accept takes an SQN, SEQ ‖ IND with 5 bits of IND, where its SEQ is above that
// of its IND and not too far above all (TS 33.102 §C.2.2). next is seq with it.
func accept(seq []uint64, sqn [6]byte) (next []uint64, ok bool) {
	var n uint64
	for _, b := range sqn {
		n = n<<8 | uint64(b)
	}
	value, ind := n/inds, int(n%inds)
	top := uint64(0)
	if len(seq) > 0 {
		top = slices.Max(seq)
	}
	if value <= at(seq, ind) || value > top+maxJump {
		return nil, false
	}
	next = make([]uint64, max(len(seq), ind+1))
	copy(next, seq)
	next[ind] = value
	return next, true
}

func at(seq []uint64, ind int) uint64 {
	if ind < len(seq) {
		return seq[ind]
	}
	return 0
}

// highest is the highest SQN that was accepted.
func highest(seq []uint64) (sqn [6]byte) {
	ind := 0
	for i := range seq {
		if seq[i] > seq[ind] {
			ind = i
		}
	}
	n := at(seq, ind)*inds + uint64(ind)
	for i := range sqn {
		sqn[i] = byte(n >> (40 - 8*i))
	}
	return sqn
}
