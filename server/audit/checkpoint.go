package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Range is numbers in the record that no committed entry has, From to To, both
// taken in: of transactions that were undone, or not at their end yet.
type Range struct {
	From, To int64
	Since    int64 // when they were missed first, milliseconds since 1970
}

// Checkpoint is what a server signs: all entries that were there at a moment,
// in the order in which they became known. That of those which a checkpoint adds
// is the order of their numbers.
type Checkpoint struct {
	Number  int64 // from 1
	Time    int64 // milliseconds since 1970
	Before  Hash  // of the note of the one before; zero for the first
	Events  int64 // how many it covers, those of the ones before included
	Chains  int64 // in how many chains they are
	Through int64 // the highest number in the record that it covers
	// Missing are numbers up to Through that it does not cover. A later one covers
	// what has come of them.
	Missing []Range
	Digest  Hash // Digest of all it covers
}

// CheckpointTitle is the first line of a checkpoint.
const CheckpointTitle = "cardbridge audit checkpoint v1"

const (
	timeForm = "2006-01-02T15:04:05.000Z"

	// maxMissing bounds the ranges of a checkpoint, and Patience how long what is
	// missing is waited for: databases end transactions that take that long.
	maxMissing = 512
	Patience   = time.Hour
)

// text is what is signed (docs/audit.md).
func (c *Checkpoint) text() string {
	var missing strings.Builder
	for _, r := range c.Missing {
		fmt.Fprintf(&missing, " %d-%d@%d", r.From, r.To, r.Since)
	}
	return fmt.Sprintf("%s\nnumber %d\ntime %s\nbefore %s\nevents %d\nchains %d\nthrough %d\nmissing%s\ndigest %s\n",
		CheckpointTitle, c.Number, time.UnixMilli(c.Time).UTC().Format(timeForm), base64.StdEncoding.EncodeToString(c.Before[:]),
		c.Events, c.Chains, c.Through, missing.String(), base64.StdEncoding.EncodeToString(c.Digest[:]))
}

var errCheckpoint = errors.New("it does not have the form of a checkpoint")

// ParseCheckpoint reads a checkpoint's note. Who signed it is not looked at.
func ParseCheckpoint(signed string) (Checkpoint, error) {
	text, _, ok := strings.Cut(signed, "\n\n")
	if !ok {
		return Checkpoint{}, errCheckpoint
	}
	return parseText(text + "\n")
}

func parseText(text string) (c Checkpoint, err error) {
	rest, ok := strings.CutPrefix(text, CheckpointTitle+"\n")
	field := func(name string) string {
		line, after, found := strings.Cut(rest, "\n")
		value, named := strings.CutPrefix(line, name)
		rest, ok = after, ok && found && named
		return strings.TrimPrefix(value, " ")
	}
	number := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		ok = ok && err == nil && n >= 0
		return n
	}
	hash := func(text string) (h Hash) {
		b, err := base64.StdEncoding.DecodeString(text)
		ok = ok && err == nil && copy(h[:], b) == len(h) && len(b) == len(h)
		return h
	}
	c.Number = number(field("number"))
	at, err := time.Parse(timeForm, field("time"))
	c.Time = at.UnixMilli()
	c.Before = hash(field("before"))
	c.Events, c.Chains, c.Through = number(field("events")), number(field("chains")), number(field("through"))
	for part := range strings.FieldsSeq(field("missing")) {
		from, more, _ := strings.Cut(part, "-")
		to, since, _ := strings.Cut(more, "@")
		c.Missing = append(c.Missing, Range{number(from), number(to), number(since)})
		if len(c.Missing) > maxMissing {
			return c, errCheckpoint
		}
	}
	c.Digest = hash(field("digest"))
	// Whatever else reads as the same is not what was signed.
	if !ok || err != nil || rest != "" || c.text() != text {
		return Checkpoint{}, errCheckpoint
	}
	return c, nil
}

// Add takes in an entry that becomes known now, in the order of Checkpoint.
func (c *Checkpoint) Add(d *Digest, e *Entry) {
	d.Add(e)
	c.Events++
	if e.N == 1 {
		c.Chains++
	}
}

// Misses reports whether it says that a number was not there.
func (c *Checkpoint) Misses(seq int64) bool {
	return slices.ContainsFunc(c.Missing, func(r Range) bool { return r.From <= seq && seq <= r.To })
}

// Miss says that the numbers from to to are not there, where there are such.
func (c *Checkpoint) Miss(from, to, now int64) {
	if from <= to {
		c.Missing = append(c.Missing, Range{from, to, now})
	}
}

// Sign signs the checkpoint, once what was missing for too long is given up.
func (c *Checkpoint) Sign(by note.Signer) (string, error) {
	old := 0
	for old < len(c.Missing) && (len(c.Missing)-old > maxMissing || c.Time-c.Missing[old].Since > Patience.Milliseconds()) {
		old++
	}
	c.Missing = c.Missing[old:]
	signed, err := note.Sign(&note.Note{Text: c.text()}, by)
	return string(signed), err
}

// HashNote is how a checkpoint tells the note of the one before.
func HashNote(signed string) Hash { return sha256.Sum256([]byte(signed)) }

// open verifies a note under keys that are trusted. It must be, byte for byte,
// as one server signed it.
func open(signed string, trusted note.Verifiers) (Checkpoint, error) {
	n, err := note.Open([]byte(signed), trusted)
	var unknown *note.UnverifiedNoteError
	switch {
	case errors.As(err, &unknown):
		return Checkpoint{}, fmt.Errorf("it is signed by none of the keys that are trusted, but by %s: if that is a server of yours, trust its verifier line too (audit key, --key)", names(unknown.Note))
	case err != nil:
		return Checkpoint{}, errors.New("its signature does not verify")
	case len(n.Sigs) != 1 || len(n.UnverifiedSigs) > 0:
		return Checkpoint{}, errors.New("it has more signatures than a server's one")
	}
	s := n.Sigs[0]
	if signed != n.Text+"\n— "+s.Name+" "+s.Base64+"\n" {
		return Checkpoint{}, errCheckpoint
	}
	if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
		return Checkpoint{}, errCheckpoint
	}
	return parseText(n.Text)
}

func names(n *note.Note) string {
	var out []string
	for _, s := range n.UnverifiedSigs {
		out = append(out, fmt.Sprintf("%.80q", fmt.Sprintf("%s+%08x", s.Name, s.Hash)))
	}
	return strings.Join(out, ", ")
}

// Key is what a server signs checkpoints with: an Ed25519 key of a signed note.
type Key struct {
	note.Signer
	verifier string
}

// ErrKey says that a text is not a key.
var ErrKey = errors.New("not an Ed25519 key of signed notes")

// NewKey makes a key, as it is kept: a secret. name is the server's, such as its
// host's; other characters than those of a host's name become -.
func NewKey(name string) (string, error) {
	name = strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7F && r != '+' {
			return r
		}
		return '-'
	}, name)
	if name == "" {
		name = "server"
	}
	secret, _, err := note.GenerateKey(rand.Reader, "cardbridge/"+name)
	return secret, err
}

// ParseKey reads a key as NewKey gives it. The error matches ErrKey and tells
// nothing of it.
func ParseKey(secret string) (*Key, error) {
	secret = strings.TrimSpace(secret)
	signer, err := note.NewSigner(secret)
	if err != nil {
		return nil, ErrKey
	}
	seed, err := base64.StdEncoding.DecodeString(strings.SplitN(secret, "+", 5)[4]) // base64 has + too
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, ErrKey
	}
	public := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	verifier, err := note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return nil, ErrKey
	}
	return &Key{signer, verifier}, nil
}

// Verifier is the line that others verify the key's checkpoints with.
func (k *Key) Verifier() string { return k.verifier }

// String keeps the key out of logs.
func (k *Key) String() string { return k.verifier }

// GoString keeps the key out of logs.
func (k *Key) GoString() string { return k.verifier }

// Trust makes the verifier lines of keys that are trusted into what Verifier
// takes. The error matches ErrKey.
func Trust(lines ...string) (note.Verifiers, error) {
	var out []note.Verifier
	seen := map[string]bool{}
	for _, line := range lines {
		v, err := note.NewVerifier(line)
		if err != nil {
			return nil, fmt.Errorf("%w: %.200q; a verifier line is like cardbridge/host+0a1b2c3d+Aa…, as audit key prints it", ErrKey, line)
		}
		if id := fmt.Sprintf("%s+%08x", v.Name(), v.KeyHash()); !seen[id] { // twice would be ambiguous
			seen[id] = true
			out = append(out, v)
		}
	}
	return note.VerifierList(out...), nil
}
