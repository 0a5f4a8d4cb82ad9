package corpus_test

import (
	"context"
	"crypto/sha256"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/hwtest/corpus"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// exact lets nothing differ: both sides draw the same random bytes each time.
var exact = &trace.Rules{}

// randomness is what one side of a scene draws, every time the same.
func randomness(side, scene string) *rand.ChaCha8 {
	return rand.NewChaCha8(sha256.Sum256([]byte(side + " of " + scene)))
}

// scene is a session with an emulated card.
type scene struct {
	name  string
	title string
	image func(*appletsim.Image) // what is other than servertest.Image has it; may be nil
	opts  []appletsim.Option     // of the card
	fault func(*appletsim.Card)  // what goes wrong in the card; may be nil
	carry func(*carrier)         // what goes wrong on the way; may be nil
	play  func(*side)            // the terminal's part
	other func(*appletsim.Image) // gives the card other keys than its record has; may be nil
}

// cardNumber is which of servertest's cards plays in every scene.
const cardNumber = 7

func (s *scene) file() string { return filepath.Join("testdata", s.name+".apdu") }

func (s *scene) newImage() *appletsim.Image {
	im := servertest.Image(cardNumber)
	if s.image != nil {
		s.image(im)
	}
	return im
}

// newCard is the card of the scene, at its beginning, and what connects to it.
func (s *scene) newCard() func() apdu.Conn {
	im := s.newImage()
	if s.other != nil {
		s.other(im)
	}
	c := servertest.Card(im, append([]appletsim.Option{appletsim.WithRand(randomness("card", s.name))}, s.opts...)...)
	if s.fault != nil {
		s.fault(c)
	}
	way := &carrier{card: c}
	if s.carry != nil {
		s.carry(way)
	}
	return way.connect
}

// newSide is the terminal of the scene, which connects by connect.
func (s *scene) newSide(t *testing.T, connect func() apdu.Conn) *side {
	record, err := card.ParseRecord(servertest.Record(s.newImage()))
	require.NoError(t, err)
	p := &side{T: t, terminal: servertest.Terminal(), target: record.Target(), open: connect}
	p.terminal.Rand = randomness("terminal", s.name)
	return p
}

// carrier carries APDUs between terminal and card, across connections, and may
// do something about one of them.
type carrier struct {
	card *appletsim.Card
	n    int // commands so far, from 1
	// before is asked before the n-th command goes out. Where it gives an answer
	// or an error, that is what comes back, and the card gets nothing.
	before func(n int) ([]byte, error)
}

func (c *carrier) connect() apdu.Conn {
	if _, away := c.card.Away(); away {
		c.card.Insert() // a card that left comes back
	}
	return &carried{c.card.Connect(), c}
}

type carried struct {
	apdu.Conn
	way *carrier
}

func (c *carried) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	c.way.n++
	if c.way.before != nil {
		if rapdu, err := c.way.before(c.way.n); rapdu != nil || err != nil {
			return rapdu, err
		}
	}
	return c.Conn.Transmit(ctx, capdu)
}

// update reports whether the test is to write the recordings: the flag is
// trace.Golden's.
func update() bool { return flag.Lookup("update").Value.String() != "" }

// TestCorpus records each scene anew and compares it to the byte, replays its
// file on another card of the same kind, and plays the terminal's part against
// the file as a card. Files by hand it replays on themselves, and some with the
// program that they were written after. No file is left out.
//
// go test ./hwtest/corpus -update=NAME.apdu records one scene anew, -update=all
// those that changed.
func TestCorpus(t *testing.T) {
	var replayed []string
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			s.header(t)
			t.Run("recorded", func(t *testing.T) {
				connect := s.newCard()
				p := s.newSide(t, func() apdu.Conn { return trace.Golden(t, connect(), s.file(), exact) })
				s.play(p)
				p.end()
			})
			tr := parse(t, s.file())
			assert.Equal(t, trace.Emulator, tr.Origin)
			assert.Equal(t, s.title, tr.Title)
			t.Run("replayed", func(t *testing.T) {
				connect := s.newCard()
				replay(t, tr, func() apdu.Conn { return connect() })
			})
			t.Run("offline", func(t *testing.T) {
				c := trace.NewCard(tr, trace.WithRules(exact), trace.OnMiss(func(m trace.Miss) { t.Error(m) }))
				p := s.newSide(t, func() apdu.Conn { return c.Connect() })
				s.play(p)
				p.end()
				assert.Zero(t, c.Left(), "commands that were not sent")
			})
			replayed = append(replayed, s.name+".apdu")
		})
	}
	for name, program := range byHand {
		t.Run(name, func(t *testing.T) {
			tr := parse(t, filepath.Join("testdata", name))
			assert.Equal(t, trace.Hand, tr.Origin)
			assert.NotEmpty(t, tr.Title)
			opts := []trace.CardOption{trace.OnMiss(func(m trace.Miss) { t.Error(m) })}
			if tr.Redacted {
				opts = append(opts, trace.BestMatch()) // commands are left out
			}
			c := trace.NewCard(tr, opts...)
			replay(t, tr, func() apdu.Conn { return c.Connect() })
			assert.Zero(t, c.Left())
			if program != nil {
				program(t, trace.NewCard(tr, trace.OnMiss(func(m trace.Miss) { t.Error(m) })))
			}
			replayed = append(replayed, name)
		})
	}
	all, err := filepath.Glob("testdata/*")
	require.NoError(t, err)
	for i, f := range all {
		all[i] = filepath.Base(f)
	}
	slices.Sort(replayed)
	assert.Equal(t, all, replayed, "a file of the corpus is not replayed")
	if !update() {
		assert.Equal(t, all, corpus.Names())
	}
}

// header begins the file of a scene that has none yet, where it is to be
// written.
func (s *scene) header(t *testing.T) {
	if _, err := os.Stat(s.file()); err == nil || !update() {
		return
	}
	f, err := os.Create(s.file())
	require.NoError(t, err)
	h := trace.Header{Title: s.title, Card: s.newImage().EID.String(), Origin: trace.Emulator, Date: time.Now(), Redacted: true}
	_, err = (&trace.Trace{Header: h}).WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func parse(t *testing.T, file string) *trace.Trace {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	tr, err := trace.Parse(f)
	require.NoError(t, err)
	return tr
}

// replay replays a trace, of which nothing may differ but the words of errors.
func replay(t *testing.T, tr *trace.Trace, connect func() apdu.Conn) {
	t.Helper()
	r := trace.Replayer{
		Rules:   exact,
		Connect: func(context.Context) (apdu.Conn, error) { return connect(), nil },
		Report: func(d trace.Difference) error {
			if d.Verdict != trace.Same && !redacted(d) && !words(d) {
				t.Error(d)
			}
			return nil
		},
	}
	sum, err := r.Run(t.Context(), trace.Sessions(tr))
	require.NoError(t, err)
	assert.Positive(t, sum.Same)
}

// words reports whether it is but the words of an error that differ.
func words(d trace.Difference) bool {
	return d.Verdict == trace.May && len(d.Fields) == 1 && d.Fields[0].What == "text"
}

// redacted reports whether it differs because the file is redacted.
func redacted(d trace.Difference) bool { return len(d.A.Command.Mask)+len(d.A.Answer.Mask) > 0 }

// byHand is the files that are written by hand, and the program that must go
// through with each as its card; nil where there is none of ours.
var byHand = map[string]func(*testing.T, *trace.Card){
	"lpac-chip-info.apdu":       nil,
	"lpac-profile-disable.apdu": nil,
	"onomondo-ipa.apdu":         nil,
	"pysim-shell-start.apdu":    nil,
	"pysim-usim.apdu":           nil,
	"pysim-read-sim.apdu":       nil,
	"es10-profiles.apdu": func(t *testing.T, c *trace.Card) {
		e, err := es10.Open(t.Context(), c.Connect(), es10.Options{})
		require.NoError(t, err)
		eid, err := e.EID(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "89049032000000000000000000000066", eid.String())
		profiles, err := e.Profiles(t.Context())
		require.NoError(t, err)
		require.Len(t, profiles, 1)
		assert.Equal(t, "everyday", profiles[0].Name)
		require.NoError(t, e.Close(t.Context()))
		assert.Zero(t, c.Left())
	},
}
