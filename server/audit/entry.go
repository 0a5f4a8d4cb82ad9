// Package audit is the form of the audit trail, and the proof of it: that
// nothing in it was changed or removed, and that each outcome which it tells has
// the signature of its card (docs/audit.md).
//
// It reads and writes no record: package store does, and hands over what is in
// one in the order of an export.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
)

// ChainID is what a chain is called: random bytes.
type ChainID [16]byte

// Hash is a SHA-256.
type Hash = [sha256.Size]byte

// Entry is one event as it is stored. What is empty, or 0, is not there.
type Entry struct {
	Seq      int64 // its number in the record
	Chain    ChainID
	N        int64 // its place in the chain, from 1; 0: it is from before there were chains
	Hash     Hash
	At       int64 // milliseconds since 1970
	Kind     string
	Request  string
	EID      string
	Operator int64
	Internal bool
	Detail   string // a JSON object, byte for byte
}

// Head is the last entry of a chain.
type Head struct {
	Chain ChainID
	N     int64
	Hash  Hash
}

// Extend makes e the chain's next entry, and the head. It works in buf, and
// gives it back for the next one.
func (h *Head) Extend(e *Entry, buf []byte) []byte {
	e.Chain, e.N = h.Chain, h.N+1
	e.Hash, buf = e.sum(h.Hash, buf)
	h.N, h.Hash = e.N, e.Hash
	return buf
}

// sum is the hash of an entry after the one whose hash is before. The number in
// the record, which the database gives, is not in it: checkpoints have that.
func (e *Entry) sum(before Hash, buf []byte) (Hash, []byte) {
	buf = append(buf[:0], before[:]...)
	buf = append(buf, 1) // of this coding
	buf = append(buf, e.Chain[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(e.N))
	buf = e.appendContent(buf)
	return sha256.Sum256(buf), buf
}

func (e *Entry) appendContent(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.At))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Operator))
	internal := byte(0)
	if e.Internal {
		internal = 1
	}
	b = append(b, internal)
	for _, s := range [...]string{e.Kind, e.Request, e.EID, e.Detail} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// Digest is that of all entries until now, in their order. Its zero value is
// that of none.
type Digest struct {
	Sum Hash
	buf []byte
}

// Add takes an entry in: what it is of its chain, and its number in the record.
func (d *Digest) Add(e *Entry) {
	b := append(d.buf[:0], d.Sum[:]...)
	b = append(b, e.Chain[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.N))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Seq))
	b = append(b, e.Hash[:]...)
	d.Sum, d.buf = sha256.Sum256(b), b
}

// AddUnchained takes an entry in from before there were chains: its number and
// all that is in it.
func (d *Digest) AddUnchained(e *Entry) {
	b := append(d.buf[:0], d.Sum[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Seq))
	b = e.appendContent(b)
	d.Sum, d.buf = sha256.Sum256(b), b
}

// Began is the kind of a chain's first entry, which says who writes it, and
// Earlier what was there before the first chain.
const Began = "chain begun"

// Earlier is how many entries there are from before there were chains, and their
// digest, in hexadecimal.
type Earlier struct {
	Events int64  `json:"events"`
	Digest string `json:"digest"`
}
