package appletsim

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/applet-sim/uicc"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// Card is an emulated card. It is safe for concurrent use: a card does one
// thing at a time, whoever asks.
type Card struct {
	line         chan struct{} // held for one command and its answer, which may take time
	mu           sync.Mutex
	image        *Image // never changed in place: persist replaces it
	material     material
	store        Store // nil: memory alone
	rand         io.Reader
	extended     bool // announces and takes extended length
	applications []*application
	files        *uicc.UICC
	fci          []byte // what SELECT answers with
	eid          []byte // what GET DATA answers with

	// RAM: gone with the power.
	channels [maxChannels]channel
	chain    *chain // under way; nil for none
	auth     authState
	failed   int // EXTERNAL AUTHENTICATE, since reset
	toolkit  toolkit

	euicc euicc

	powered   bool
	resets    int // times that RAM was lost
	removal   removal
	faults    fault.Set
	armed     []Fault // by WithFaults, until New is done
	observers []Observer
	cut       *Fault // the power went during the command under way
}

// removal says whether the card is in its reader.
type removal struct {
	out   bool
	until time.Time // it comes back by itself then; zero: it does not
	count int
	next  chan struct{} // closed when it leaves
}

// An Option changes what New makes.
type Option func(*Card)

// WithStore has every persistent write go through s.
func WithStore(s Store) Option { return func(c *Card) { c.store = s } }

// WithRand has the card take its random bytes from r: RC, and then what its
// envelope needs. The default is crypto/rand.
func WithRand(r io.Reader) Option { return func(c *Card) { c.rand = r } }

// WithKeys has the card use these private keys, wherever they are kept, in
// place of the image's. Their public halves must be the same.
func WithKeys(k cryptogram.PrivateKeys) Option { return func(c *Card) { c.material.keys = k } }

// WithoutExtendedLength makes a card that announces command chaining alone and
// answers 6700 to extended length.
func WithoutExtendedLength() Option { return func(c *Card) { c.extended = false } }

// New makes a card, powered on. The image is copied. The error matches
// ErrImage.
func New(image *Image, opts ...Option) (*Card, error) {
	m, err := image.load()
	if err != nil {
		return nil, err
	}
	c := &Card{
		line:         make(chan struct{}, 1),
		image:        image.clone(),
		material:     m,
		rand:         rand.Reader,
		extended:     true,
		applications: applications,
		fci:          selectAnswer(image),
		eid:          eidObject(image),
		powered:      true,
		removal:      removal{next: make(chan struct{})},
	}
	c.faults.OnStrike = c.struck
	for _, o := range opts {
		o(c)
	}
	if err := samePublic(c.material.keys, m.keys); err != nil {
		return nil, err
	}
	if c.image.about().Plain {
		c.applications = slices.DeleteFunc(slices.Clone(c.applications), func(a *application) bool { return a == managementApplet })
	}
	c.euicc = newEUICC(c)
	c.files = uicc.New(c.saveUSIM, c.rand)
	c.loseRAM()
	if err := c.arm(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return c, nil
}

func samePublic(a, b cryptogram.PrivateKeys) error {
	if a.Enc == nil || len(a.Auth) != len(b.Auth) {
		return fmt.Errorf("%w: the injected keys are not the image's", ErrImage)
	}
	x, y := a.Public(), b.Public()
	same := x.Enc.Equal(y.Enc)
	for i := range x.Auth {
		same = same && x.Auth[i].Equal(y.Auth[i])
	}
	if !same {
		return fmt.Errorf("%w: the injected keys are not the image's", ErrImage)
	}
	return nil
}

// ATR is the answer to reset.
func (c *Card) ATR() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if atr := c.faults.ATR(); atr != nil {
		return atr
	}
	return answerToReset(c.extended)
}

// Image is a copy of what the persistent memory holds now.
func (c *Card) Image() *Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.image.clone()
}

// Restore has the memory hold im, an image of this very card with its keys, as
// Image gave it, and puts the card back into its reader, powered on. No fault
// strikes at it. The error matches ErrImage, or is the Store's.
func (c *Card) Restore(im *Image) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, next := c.image, im.clone()
	same := was.EID == im.EID && slices.Equal(was.Suites, im.Suites) && sameKeys(was.Keys, im.Keys) &&
		slices.EqualFunc(was.ServerKeySets, im.ServerKeySets, func(a, b cryptogram.KeySetPEM) bool {
			return a.ID == b.ID && sameKeys(a.KeysPEM, b.KeysPEM)
		}) && reflect.DeepEqual(was.about(), im.about())
	if !same {
		return fmt.Errorf("%w: it is another card's", ErrImage)
	}
	if err := next.checkMemory(c.material.servers); err != nil {
		return err
	}
	if err := c.save(next); err != nil {
		return err
	}
	c.image, c.powered, c.removal.out = next, true, false
	c.reset()
	return nil
}

func sameKeys(a, b cryptogram.KeysPEM) bool { return a.Enc == b.Enc && slices.Equal(a.Auth, b.Auth) }

// Power turns the card on or off. Either way what it keeps in RAM is gone:
// channels, authentication state, the failures since reset.
func (c *Card) Power(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on {
		c.faults.Reset()
	}
	c.powered = on
	c.loseRAM()
}

// Reset is a warm reset.
func (c *Card) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset()
}

func (c *Card) reset() {
	c.faults.Reset()
	c.loseRAM()
}

func (c *Card) loseRAM() {
	for n := range c.channels {
		c.setChannel(n, channel{open: n == 0})
	}
	c.changed() // what the memory holds, whatever a command cut short made of it
	c.chain = nil
	c.auth = authState{}
	c.failed = 0
	c.restarted()
	c.toolkit = toolkit{}
	c.euicc.domain.Reset()
	c.resets++
}

// Process carries out a command APDU and gives the response APDU, after the time
// that a fault has it take. It is nil where there is none: the card is out of its
// reader, has no power, is mute, or left while it carried out the command.
func (c *Card) Process(capdu []byte) []byte {
	rapdu, _ := c.transmit(context.Background(), capdu, func() error { return nil }, 0)
	return rapdu
}

// Remove takes the card out of its reader until Insert. Process gives nil, and
// every Conn fails with apdu.ErrCardRemoved from now on.
func (c *Card) Remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(0)
}

// RemoveFor takes the card out of its reader, and has it come back after away, or
// by Insert before.
func (c *Card) RemoveFor(away time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(away)
}

// remove takes the card out for away, or until Insert where away is 0.
func (c *Card) remove(away time.Duration) {
	c.removal.out = true
	c.removal.count++
	close(c.removal.next)
	c.removal.next = make(chan struct{})
	c.removal.until = time.Time{}
	if away > 0 {
		c.removal.until = time.Now().Add(away)
	}
	c.loseRAM()
}

// Insert puts the card back.
func (c *Card) Insert() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removal.out {
		c.back()
	}
}

// back is the card's way back into its reader.
func (c *Card) back() {
	c.removal.out = false
	if c.powered {
		c.faults.Reset()
	}
}

// Away reports whether the card is out of its reader, and for how long still;
// 0 where it comes back by Insert alone.
func (c *Card) Away() (left time.Duration, away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away()
}

func (c *Card) away() (left time.Duration, away bool) {
	if !c.removal.out || c.removal.until.IsZero() {
		return 0, c.removal.out
	}
	left = time.Until(c.removal.until)
	if left <= 0 {
		c.back()
		return 0, false
	}
	return left, true
}

// persist makes next the persistent memory, wholly or not at all. Where it
// fails nothing changed. Every change of the memory goes through here, and is
// one call.
func (c *Card) persist(next *Image) error {
	if c.cut != nil {
		return errWrite // the power is gone, the command does not know it yet
	}
	held, err := c.write(next)
	if err != nil {
		return err
	}
	was := c.image
	c.image = held
	if was.enabledICCID() != held.enabledICCID() {
		c.changed()
	}
	return nil
}

// changed tells the applications what the enabled profile is.
func (c *Card) changed() {
	for _, app := range c.applications {
		if app.changed != nil {
			app.changed(c)
		}
	}
}

func (c *Card) save(next *Image) error {
	if c.store == nil {
		return nil
	}
	b, err := next.Marshal()
	switch {
	case err != nil:
		return err
	case len(b) > maxImage:
		return errWrite // the memory is full: ParseImage would not take it
	}
	return c.store.Save(b)
}

// Close releases the Store, where it has something to release.
func (c *Card) Close() error {
	if s, ok := c.store.(io.Closer); ok {
		return s.Close()
	}
	return nil
}

// status is a response APDU without data.
func status(sw apdu.StatusWord) []byte { return sw.Append(nil) }

// answer is a response APDU.
func answer(data []byte, sw apdu.StatusWord) []byte {
	return sw.Append(bytes.Clone(data))
}
