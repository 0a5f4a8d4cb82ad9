// Package pkcs11 keeps the server's private keys in an HSM, or in any other token
// behind a PKCS#11 module. It has the token do raw RSA (CKM_RSA_X_509) and nothing
// else: padding is package cryptogram's.
//
// A module is code in this process, so it is trusted with the process's memory.
// Its answers are not trusted: each result is checked with the public exponent
// before it is returned, and a key that changes under its name is refused.
package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"math/big"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/bigmod"
)

// cryptoki is what is used of a module. Errors are Codes where the module gave
// one.
type cryptoki interface {
	slots() ([]uint, error) // with a token in them
	token(slot uint) (tokenInfo, error)
	open(slot uint, write bool) (session uint, err error)
	close(session uint) error
	loggedIn(session uint) bool
	login(session uint, pin string) error
	find(session uint, c class, label string, id []byte, most int) ([]uint, error)
	attribute(session, object uint, a attribute) ([]byte, error)
	private(session, object uint, sign bool, c []byte) ([]byte, error) // raw RSA
	generate(session uint, label string, id []byte, bits int, use Use) (public, private uint, err error)
	destroy(session, object uint) error
	again() error // initialises anew; sessions are gone
	finalize() error
}

type class byte

const (
	privateKey class = iota
	publicKey
)

type attribute byte

const (
	modulus attribute = iota
	exponent
	keyID
	maySign
	mayDecrypt
	extractable
)

type tokenInfo struct {
	label, manufacturer, model, serial string
	initialized, login                 bool
	finalTry, locked                   bool // of the user's PIN
}

// Config says where tokens are and how to log in to them.
type Config struct {
	// Module is the file of the module that URIs without a module-path mean.
	Module string
	// PIN gives the user PIN of the token that a URI names, whose label it is told:
	// that of PINSource, where the URI has one. It is asked at each log-in, so that
	// a PIN that was corrected is found.
	PIN func(ctx context.Context, u URI, label string) (string, error)
	// Sessions is how many operations a token does at once; 0: 8.
	Sessions int
}

// Provider opens keys in tokens. It is safe for concurrent use.
type Provider struct {
	config Config
	load   func(string) (cryptoki, error) // but in tests: load

	mu      sync.Mutex
	modules map[string]*module // by their files
	tokens  map[string]*token  // by the URI of the token
}

// New makes a Provider; modules are loaded when a key needs them.
func New(c Config) *Provider {
	if c.Sessions <= 0 {
		c.Sessions = 8
	}
	return &Provider{config: c, load: load, modules: map[string]*module{}, tokens: map[string]*token{}}
}

// Close ends all sessions and modules. Keys are of no use afterwards. A module in
// which a call does not return is left as it is.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, m := range p.modules {
		if !m.idle.tryClose(time.Second) {
			errs = append(errs, &Error{Op: "end", What: m.path, Err: errors.New("a call has not returned")})
			continue
		}
		m.ended = true
		if err := m.lib.finalize(); err != nil {
			errs = append(errs, m.fail("end", m.path, err))
		}
		m.idle.mu.Unlock()
	}
	clear(p.modules)
	clear(p.tokens)
	return errors.Join(errs...)
}

// module is a loaded module.
type module struct {
	path string
	lib  cryptoki
	idle gate // calls pass it; whoever closes it has the module alone
	// life counts initialisations, ended says that there is none any more; both are
	// changed within the closed gate alone.
	life  int
	ended bool

	mu   sync.Mutex
	last time.Time // it was initialised

	logins  sync.Mutex           // one at a time, for what follows
	refused map[tokenID][32]byte // hash of the PIN that a token refused last, whatever URIs name it
}

// tokenID is what tells tokens of a module apart.
type tokenID struct{ label, manufacturer, model, serial string }

func (m *module) fail(op, what string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	var c Code
	if errors.As(err, &c) {
		return &Error{Op: op, What: what, Code: c}
	}
	return &Error{Op: op, What: what, Err: err}
}

// gate lets many pass, or one close it.
type gate struct{ mu sync.RWMutex }

// tryClose closes the gate once nobody is within, for so long at most.
func (g *gate) tryClose(wait time.Duration) bool {
	for end := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if g.mu.TryLock() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// token is one token, wherever it is in now.
type token struct {
	p    *Provider
	m    *module
	uri  URI // of the token
	room chan struct{}

	mu    sync.Mutex // of what follows, and one log-in at a time
	spare []*session
}

type session struct {
	handle  uint
	life    int // of the module: in another the handle is another's
	objects map[*Key]uint
}

// at gives the token of a URI, and loads its module where that is new.
func (p *Provider) at(u URI) (*token, error) {
	u = u.ofToken()
	if u.Module == "" {
		u.Module = p.config.Module
	}
	if u.Module == "" {
		return nil, &Error{Op: "open", What: u.String(), Err: errors.New("no module is named: by module-path in the URI, or --pkcs11-module")}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := u.String()
	if t := p.tokens[name]; t != nil {
		return t, nil
	}
	file := u.Module // which can be initialised once, whatever its names
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	m := p.modules[file]
	if m == nil {
		lib, err := p.load(u.Module)
		m = &module{path: u.Module, lib: lib, last: time.Now(), refused: map[tokenID][32]byte{}}
		if err != nil {
			return nil, m.fail("load", u.Module, err)
		}
		p.modules[file] = m
	}
	t := &token{p: p, m: m, uri: u, room: make(chan struct{}, p.config.Sessions)}
	p.tokens[name] = t
	return t, nil
}

// do has fn work in a session. Where the session turns out to be stale, because
// the token was away or was reset, it is done once more in a new one: what is done
// here changes nothing. It returns when ctx ends, though fn's call into the module
// cannot be broken off: it goes on, and keeps its session, until it returns.
func (t *token) do(ctx context.Context, op, what string, fn func(*session) error) error {
	select {
	case t.room <- struct{}{}:
	case <-ctx.Done():
		return &Error{Op: op, What: what, Err: fmt.Errorf("%w: all %d sessions are in use", ctx.Err(), cap(t.room))}
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-t.room }()
		done <- t.within(ctx, fn)
	}()
	select {
	case err := <-done:
		if err != nil {
			return t.m.fail(op, what, err)
		}
		return nil
	case <-ctx.Done():
		return &Error{Op: op, What: what, Err: fmt.Errorf("%w, and the module has not answered", ctx.Err())}
	}
}

func (t *token) within(ctx context.Context, fn func(*session) error) error {
	for try := 0; ; try++ {
		err := t.once(ctx, fn)
		if err == nil || !stale(err) || try > 0 {
			return err
		}
		t.forget()
		if gone(err) {
			t.m.refresh()
		}
	}
}

func (t *token) once(ctx context.Context, fn func(*session) error) (err error) {
	t.m.idle.mu.RLock()
	defer t.m.idle.mu.RUnlock()
	if t.m.ended {
		return ErrClosed
	}
	s, err := t.session(ctx)
	if err != nil {
		return err
	}
	if err = fn(s); err != nil {
		_ = t.m.lib.close(s.handle) // what state it is in is not known
		return err
	}
	t.mu.Lock()
	t.spare = append(t.spare, s)
	t.mu.Unlock()
	return nil
}

// forget closes the sessions that are spare: what made one stale did so with all.
func (t *token) forget() {
	t.m.idle.mu.RLock()
	defer t.m.idle.mu.RUnlock()
	if t.m.ended {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.spare {
		if s.life == t.m.life {
			_ = t.m.lib.close(s.handle)
		}
	}
	t.spare = nil
}

// refreshEvery is the least time between two times that a module is initialised
// anew: it costs its other tokens their sessions too.
const refreshEvery = 3 * time.Second

// refresh initialises the module anew, if nobody is within it: many look for
// tokens then alone. Sessions of its other tokens become stale.
func (m *module) refresh() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.last) < refreshEvery || !m.idle.tryClose(time.Second) {
		return
	}
	defer m.idle.mu.Unlock()
	if m.ended {
		return
	}
	_ = m.lib.again() // where it fails the next call says so
	m.life++
	m.last = time.Now()
}

// session gives a spare session, or a new one that is logged in.
func (t *token) session(ctx context.Context) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := len(t.spare); n > 0; n = len(t.spare) {
		s := t.spare[n-1]
		t.spare = t.spare[:n-1]
		if s.life == t.m.life {
			return s, nil
		}
	}
	h, err := t.open(ctx, false)
	if err != nil {
		return nil, err
	}
	return &session{handle: h, life: t.m.life, objects: map[*Key]uint{}}, nil
}

// open opens a session and logs in; mu is held.
func (t *token) open(ctx context.Context, write bool) (uint, error) {
	slot, info, err := t.locate()
	if err != nil {
		return 0, err
	}
	h, err := t.m.lib.open(slot, write)
	if err != nil {
		return 0, t.m.fail("open a session with", t.uri.String(), err)
	}
	if err := t.login(ctx, h, info); err != nil {
		_ = t.m.lib.close(h)
		return 0, err
	}
	return h, nil
}

// maxSlots bounds the slots that are looked at.
const maxSlots = 1024

// locate finds the slot of the one token that the URI names.
func (t *token) locate() (slot uint, info tokenInfo, err error) {
	slots, err := t.m.lib.slots()
	if err != nil {
		return 0, info, t.m.fail("list slots of", t.m.path, err)
	}
	found := 0
	for _, s := range slots[:min(len(slots), maxSlots)] {
		i, err := t.m.lib.token(s)
		if err != nil || !i.initialized || !t.uri.matches(s, i) {
			continue // one that is there no more is none
		}
		slot, info = s, i
		found++
	}
	switch found {
	case 0:
		return 0, info, &Error{Op: "find token", What: t.uri.String(), Code: CodeTokenNotPresent}
	case 1:
		return slot, info, nil
	}
	return 0, info, &Error{Op: "find token", What: t.uri.String(), Err: fmt.Errorf("%d tokens match; say which by token or serial", found)}
}

func (u URI) matches(slot uint, i tokenInfo) bool {
	same := func(want, got string) bool { return want == "" || want == got }
	return same(u.Token, i.label) && same(u.Manufacturer, i.manufacturer) && same(u.Model, i.model) && same(u.Serial, i.serial) &&
		(u.Slot == nil || *u.Slot == slot)
}

// login logs the user in, once for all sessions. It never tries a PIN that was
// refused, nor spends the last trial.
func (t *token) login(ctx context.Context, h uint, info tokenInfo) error {
	if !info.login || t.m.lib.loggedIn(h) {
		return nil
	}
	fail := func(err error) error { return t.m.fail("log in to", t.uri.String(), err) }
	if info.locked {
		return fail(CodePINLocked)
	}
	if t.p.config.PIN == nil {
		return fail(CodeUserNotLoggedIn)
	}
	pin, err := t.p.config.PIN(ctx, t.uri, info.label)
	if err != nil {
		return fail(err)
	}
	t.m.logins.Lock()
	defer t.m.logins.Unlock()
	which, hash := tokenID{info.label, info.manufacturer, info.model, info.serial}, sha256.Sum256([]byte(pin))
	if before, ok := t.m.refused[which]; ok && hash == before {
		return fail(ErrPINRefused)
	}
	if info.finalTry {
		return fail(errLastTrial)
	}
	err = t.m.lib.login(h, pin)
	switch {
	case errors.Is(err, CodeUserAlreadyLoggedIn):
		err = nil
	case refusal(err):
		t.m.refused[which] = hash
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// Key is a private key in a token. It is safe for concurrent use. It satisfies
// cryptogram.PrivateKey, and is no CheckedKey.
type Key struct {
	t    *token
	uri  URI
	pub  *rsa.PublicKey
	n    *bigmod.Modulus
	sign bool // the operation is C_Sign, not C_Decrypt
}

// Key opens the one private key that a URI names, and tries it. The error is an
// *Error.
func (p *Provider) Key(ctx context.Context, u URI) (*Key, error) {
	fail := func(err error) (*Key, error) { return nil, &Error{Op: "open key", What: u.String(), Err: err} }
	if !u.isKey() {
		return fail(errNoKey)
	}
	t, err := p.at(u)
	if err != nil {
		return nil, err
	}
	k := &Key{t: t, uri: u}
	err = t.do(ctx, "open key", u.String(), func(s *session) error {
		object, err := k.find(s)
		if err != nil {
			return err
		}
		if k.pub, err = k.public(s, object); err != nil {
			return err
		}
		if k.n, err = bigmod.NewModulus(k.pub.N.Bytes()); err != nil {
			return err
		}
		return k.choose(s, object)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// find finds the key's object.
func (k *Key) find(s *session) (uint, error) {
	if o, ok := s.objects[k]; ok {
		return o, nil
	}
	found, err := k.t.m.lib.find(s.handle, privateKey, k.uri.Object, k.uri.ID, 2)
	switch {
	case err != nil:
		return 0, err
	case len(found) == 0:
		return 0, errors.New("there is no such private RSA key in the token (pkcs11-tool --login --list-objects --type privkey)")
	case len(found) > 1:
		return 0, errors.New("more than one key matches; say which by its id")
	}
	if k.pub != nil {
		again, err := k.public(s, found[0])
		if err != nil {
			return 0, err
		}
		if !again.Equal(k.pub) {
			return 0, fmt.Errorf("%w: the token has another one under this name now", ErrMismatch)
		}
	}
	s.objects[k] = found[0]
	return found[0], nil
}

// public reads the key's public half from its object, and compares it with the
// public key object of the same id, where there is one.
func (k *Key) public(s *session, object uint) (*rsa.PublicKey, error) {
	lib := k.t.m.lib
	pub, err := readPublic(lib, s.handle, object)
	id, _ := lib.attribute(s.handle, object, keyID)
	if len(id) == 0 {
		return pub, err
	}
	found, ferr := lib.find(s.handle, publicKey, "", id, 1)
	if ferr != nil || len(found) == 0 {
		return pub, err
	}
	beside, berr := readPublic(lib, s.handle, found[0])
	switch {
	case berr != nil:
		return pub, err
	case err != nil:
		return beside, nil // some tokens keep the exponent there alone
	case !beside.Equal(pub):
		return nil, fmt.Errorf("%w: the public key object of the same id has another modulus", ErrMismatch)
	}
	return pub, nil
}

const maxModulus = 4096 / 8 // bytes

func readPublic(lib cryptoki, s, object uint) (*rsa.PublicKey, error) {
	n, err := lib.attribute(s, object, modulus)
	if err != nil {
		return nil, err
	}
	e, err := lib.attribute(s, object, exponent)
	if err != nil {
		return nil, err
	}
	n, e = bytes.TrimLeft(n, "\x00"), bytes.TrimLeft(e, "\x00")
	if len(n) == 0 || len(n) > maxModulus || n[len(n)-1]&1 == 0 || !bytes.Equal(e, []byte{1, 0, 1}) {
		return nil, fmt.Errorf("modulus of %d bytes, exponent %X: an odd one of up to %d bytes, and 010001, are wanted", len(n), e[:min(len(e), 8)], maxModulus)
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}, nil
}

// choose finds out by which function the token does raw RSA with the key: tokens
// may give a key one only, by its attributes or by their policy.
func (k *Key) choose(s *session, object uint) error {
	c := make([]byte, k.pub.Size())
	if _, err := io.ReadFull(rand.Reader, c[1:]); err != nil {
		return err
	}
	var errs []error
	for _, way := range []struct {
		may  attribute
		sign bool
	}{{mayDecrypt, false}, {maySign, true}} {
		if may, err := k.t.m.lib.attribute(s.handle, object, way.may); err == nil && len(may) == 1 && may[0] == 0 {
			errs = append(errs, CodeKeyFunctionNotPermitted)
			continue
		}
		m, err := k.t.m.lib.private(s.handle, object, way.sign, c)
		if err == nil {
			if err = k.check(c, m); err == nil {
				k.sign = way.sign
				return nil
			}
			return err
		}
		if stale(err) {
			return err
		}
		errs = append(errs, err)
	}
	for _, err := range errs { // what tells more than that one of two is not allowed
		if !errors.Is(err, CodeKeyFunctionNotPermitted) {
			return err
		}
	}
	return errs[0]
}

// check verifies with the public exponent that m is the private-key operation on
// c.
func (k *Key) check(c, m []byte) error {
	if len(m) != k.pub.Size() {
		return fmt.Errorf("%w: %d bytes, %d wanted", ErrFault, len(m), k.pub.Size())
	}
	x, err := bigmod.NewNat().SetBytes(m, k.n)
	if err != nil || subtle.ConstantTimeCompare(bigmod.NewNat().ExpShortVarTime(x, 65537, k.n).Bytes(k.n), c) != 1 {
		return ErrFault
	}
	return nil
}

// Public is the public half, as it was when the key was opened.
func (k *Key) Public() *rsa.PublicKey { return k.pub }

// URI is the URI that the key was opened by.
func (k *Key) URI() URI { return k.uri }

// Private is RSASP1 = RSADP of RFC 8017 on c, a value below n in exactly the
// modulus's length, done by the token and checked with the public exponent. Where
// the token was away and is back, it is logged in to again. The error is an
// *Error; it matches ErrFault where the token's value was wrong.
func (k *Key) Private(ctx context.Context, c []byte) ([]byte, error) {
	if len(c) != k.pub.Size() || new(big.Int).SetBytes(c).Cmp(k.pub.N) >= 0 {
		return nil, &Error{Op: "use key", What: k.uri.String(), Err: fmt.Errorf("operand of %d bytes is not below a modulus of %d", len(c), k.pub.Size())}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c = bytes.Clone(c) // the call may outlive ctx
	result := make(chan []byte, 1)
	err := k.t.do(ctx, "use key", k.uri.String(), func(s *session) error {
		object, err := k.find(s)
		if err != nil {
			return err
		}
		m, err := k.t.m.lib.private(s.handle, object, k.sign, c)
		if err != nil {
			delete(s.objects, k)
			return err
		}
		if err := k.check(c, m); err != nil {
			return err
		}
		result <- m
		return nil
	})
	if err != nil {
		return nil, err
	}
	return <-result, nil
}

// String says where the key is.
func (k *Key) String() string { return k.uri.String() }

// Use is what a new key is for.
type Use byte

// The uses of a key: C_Sign, C_Decrypt.
const (
	Sign Use = 1 << iota
	Decrypt
)

// Generate makes a key pair in the token that a URI names: private, sensitive and
// not extractable, of bits, with e = 65537, under a label and an id that is new.
// It gives the private key's URI. The error is an *Error.
func (p *Provider) Generate(ctx context.Context, where URI, label string, bits int, use Use) (URI, error) {
	t, err := p.at(where)
	if err != nil {
		return URI{}, err
	}
	made := where.ofToken()
	made.Object, made.ID = label, make([]byte, 8)
	_, _ = rand.Read(made.ID) // never fails
	err = t.writing(ctx, "make key", made, func(h uint) error {
		_, _, err := t.m.lib.generate(h, label, made.ID, bits, use)
		return err
	})
	return made, err
}

// Destroy takes a key that Generate made out of its token, both halves. The error
// is an *Error.
func (p *Provider) Destroy(ctx context.Context, u URI) error {
	if !u.isKey() {
		return &Error{Op: "destroy key", What: u.String(), Err: errNoKey}
	}
	t, err := p.at(u)
	if err != nil {
		return err
	}
	return t.writing(ctx, "destroy key", u, func(h uint) error {
		var errs []error
		for _, c := range []class{privateKey, publicKey} {
			found, err := t.m.lib.find(h, c, u.Object, u.ID, 1)
			errs = append(errs, err)
			for _, o := range found {
				errs = append(errs, t.m.lib.destroy(h, o))
			}
		}
		return errors.Join(errs...)
	})
}

// writing has fn work in a session that may change the token. It does not return
// before fn does: what fn changes is not to come about unnoticed.
func (t *token) writing(ctx context.Context, op string, u URI, fn func(handle uint) error) error {
	t.m.idle.mu.RLock()
	defer t.m.idle.mu.RUnlock()
	if t.m.ended {
		return t.m.fail(op, u.String(), ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return t.m.fail(op, u.String(), err)
	}
	t.mu.Lock()
	h, err := t.open(ctx, true)
	t.mu.Unlock()
	if err == nil {
		err = fn(h)
		_ = t.m.lib.close(h)
	}
	if err != nil {
		return t.m.fail(op, u.String(), err)
	}
	return nil
}
