// Package hwtest checks real readers and cards on a lab bench: what the reader
// says of itself by PC/SC and by USB, how fast it is, how much it carries, whether
// it survives power cycles and hands that pull cards; and then the cards, by
// card/cardtest and by ES10c.
//
// Its tests are the program: built by go test -c, it runs them on the bench that a
// file describes (docs/hardware.md), or on a virtual one of its own, and writes
// reports (hwtest/report).
package hwtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// ErrBench is matched by every error that says a bench file is not one.
var ErrBench = errors.New("bad bench file")

const maxBench = 1 << 20 // bytes of a bench file

// Bench is what stands on a lab bench, as its file says.
type Bench struct {
	// Readers must be there; one that is missing is a failure. With none named,
	// whatever is plugged in is checked.
	Readers []Reader `yaml:"readers"`
	// Keys are what the conformance suite needs, card by card.
	Keys []Keys `yaml:"keys"`
	// Limits hold for each reader that has none of its own.
	Limits Limits `yaml:"limits"`
	// Person says that somebody is there to pull cards and unplug readers.
	Person bool `yaml:"person"`
}

// Reader is a reader that the bench has.
type Reader struct {
	// Reader is its stable ID, its name, or a part of the name that no other has
	// (see cardbridge reader list).
	Reader string `yaml:"reader"`
	Card   *Card  `yaml:"card"` // the card that must be in it; nil: any, or none
	Limits Limits `yaml:"limits"`
}

// Card is the card that a reader is to hold; with nothing said of it, any card.
type Card struct {
	EID   *id.EID   `yaml:"eid"`
	ICCID *id.ICCID `yaml:"iccid"`
	// EUICC says that it is a plain eUICC, without the management applet.
	EUICC bool `yaml:"euicc"`
}

// Keys are the files by which a card is tested for conformance, relative to the
// bench file.
type Keys struct {
	EID    id.EID `yaml:"eid"`
	Record string `yaml:"record"` // the card's record, as cardbridge card new writes it
	Keyset string `yaml:"keyset"` // a server key set that the card holds, with private keys
	Other  string `yaml:"other"`  // a second one with one auth key; may be left out

	record *card.Record
	server cryptogram.ServerKeys
	other  *cryptogram.ServerKeys
}

// Limits are how far the checks go; zero takes the default.
type Limits struct {
	RoundTrips  int           `yaml:"round_trips"`  // how many to time
	PowerCycles int           `yaml:"power_cycles"` // a card's contacts and start-up wear
	Data        int           `yaml:"data"`         // bytes of command data to try at most
	Answer      time.Duration `yaml:"answer"`       // how long the card may take for one APDU
	Person      time.Duration `yaml:"person"`       // how long the person may take
}

// DefaultLimits are those of a bench that sets none.
var DefaultLimits = Limits{RoundTrips: 500, PowerCycles: 100, Data: 65535, Answer: 20 * time.Second, Person: time.Minute}

// Bounds of the limits.
const (
	minRoundTrips  = 200 // fewer have no p99
	maxRoundTrips  = 100_000
	maxPowerCycles = 10_000
)

// or is l with what it leaves out taken from d.
func (l Limits) or(d Limits) Limits {
	pick := func(v, def int) int {
		if v == 0 {
			return def
		}
		return v
	}
	return Limits{
		RoundTrips: pick(l.RoundTrips, d.RoundTrips), PowerCycles: pick(l.PowerCycles, d.PowerCycles), Data: pick(l.Data, d.Data),
		Answer: time.Duration(pick(int(l.Answer), int(d.Answer))), Person: time.Duration(pick(int(l.Person), int(d.Person))),
	}
}

func (l Limits) check() error {
	switch {
	case l.RoundTrips < minRoundTrips || l.RoundTrips > maxRoundTrips:
		return fmt.Errorf("round_trips %d, %d to %d wanted", l.RoundTrips, minRoundTrips, maxRoundTrips)
	case l.PowerCycles < 1 || l.PowerCycles > maxPowerCycles:
		return fmt.Errorf("power_cycles %d, 1 to %d wanted", l.PowerCycles, maxPowerCycles)
	case l.Data < 1 || l.Data > 65535:
		return fmt.Errorf("data %d, 1 to 65535 wanted", l.Data)
	case l.Answer < time.Second || l.Answer > 10*time.Minute:
		return fmt.Errorf("answer %s, 1s to 10m wanted", l.Answer)
	case l.Person < time.Second || l.Person > time.Hour:
		return fmt.Errorf("person %s, 1s to 1h wanted", l.Person)
	}
	return nil
}

// ParseBench parses a bench file (YAML) and loads the key files that it names by
// read. Unknown fields are errors. The error matches ErrBench.
func ParseBench(b []byte, read func(name string) ([]byte, error)) (*Bench, error) {
	if len(b) > maxBench {
		return nil, fmt.Errorf("%w: %d bytes", ErrBench, len(b))
	}
	bench := &Bench{}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(bench); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", ErrBench, err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one document", ErrBench)
	}
	bench.Limits = bench.Limits.or(DefaultLimits)
	if err := bench.Limits.check(); err != nil {
		return nil, fmt.Errorf("%w: limits: %w", ErrBench, err)
	}
	named := map[string]bool{}
	for i := range bench.Readers {
		r := &bench.Readers[i]
		if r.Reader == "" || named[r.Reader] {
			return nil, fmt.Errorf("%w: reader %d: no name, or one that is there already: %.80q", ErrBench, i+1, r.Reader)
		}
		named[r.Reader] = true
		r.Limits = r.Limits.or(bench.Limits)
		if err := r.Limits.check(); err != nil {
			return nil, fmt.Errorf("%w: reader %.80q: limits: %w", ErrBench, r.Reader, err)
		}
		if r.Card != nil && r.Card.EID != nil {
			if err := r.Card.EID.Check(); err != nil {
				return nil, fmt.Errorf("%w: reader %.80q: %w", ErrBench, r.Reader, err)
			}
		}
	}
	for i := range bench.Keys {
		k := &bench.Keys[i]
		if bench.KeysOf(k.EID) != k {
			return nil, fmt.Errorf("%w: keys for %s twice", ErrBench, k.EID)
		}
		if err := k.load(read); err != nil {
			return nil, fmt.Errorf("%w: keys for %s: %w", ErrBench, k.EID, err)
		}
	}
	return bench, nil
}

// KeysOf gives the keys for a card; nil if there are none.
func (b *Bench) KeysOf(eid id.EID) *Keys {
	for i := range b.Keys {
		if b.Keys[i].EID == eid {
			return &b.Keys[i]
		}
	}
	return nil
}

func (k *Keys) load(read func(string) ([]byte, error)) error {
	if k.Record == "" || k.Keyset == "" {
		return errors.New("record and keyset are wanted, files as cardbridge card new and keys new write them")
	}
	b, err := read(k.Record)
	if err != nil {
		return err
	}
	if k.record, err = card.ParseRecord(b); err != nil {
		return fmt.Errorf("%s: %w", k.Record, err)
	}
	if k.record.EID != k.EID {
		return fmt.Errorf("%s is the record of %s", k.Record, k.record.EID)
	}
	if k.server, err = loadKeyset(k.Keyset, read); err != nil {
		return err
	}
	if target := k.record.Target(); !k.server.Public().Supports(target.Suite) {
		return fmt.Errorf("%s has too few auth keys for suite %s", k.Keyset, target.Suite)
	}
	if k.Other == "" {
		return nil
	}
	other, err := loadKeyset(k.Other, read)
	k.other = &other
	return err
}

func loadKeyset(name string, read func(string) ([]byte, error)) (cryptogram.ServerKeys, error) {
	b, err := read(name)
	if err != nil {
		return cryptogram.ServerKeys{}, err
	}
	set, err := cryptogram.ParseKeySet(b)
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", name, err)
	}
	keys, err := set.Private()
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

// Find gives the readers that r names: by ID or by name exactly, else by a part
// of the name.
func (r Reader) Find(readers []reader.Reader) []reader.Reader {
	var parts []reader.Reader
	for _, c := range readers {
		if c.ID == r.Reader || c.Name == r.Reader {
			return []reader.Reader{c}
		}
		if strings.Contains(c.Name, r.Reader) {
			parts = append(parts, c)
		}
	}
	return parts
}
