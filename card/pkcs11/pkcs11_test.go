//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
)

var _ cryptogram.PrivateKey = (*Key)(nil)

// faulty stands between a Provider and the real module: it fails, lies, hangs and
// counts.
type faulty struct {
	cryptoki
	logins atomic.Int32
	before func(op string) error                     // nil, or what fails
	result func(m []byte, err error) ([]byte, error) // what becomes of an operation's result
	info   func(tokenInfo) tokenInfo
	value  func(a attribute, v []byte) []byte
}

// through puts a faulty module in a provider's way.
func (h *hsm) through(p *Provider, f *faulty) *faulty {
	p.load = func(path string) (cryptoki, error) {
		lib, err := load(path)
		f.cryptoki = lib
		return f, err
	}
	return f
}

func (f *faulty) fails(op string) error {
	if f.before != nil {
		return f.before(op)
	}
	return nil
}

func (f *faulty) open(slot uint, write bool) (uint, error) {
	if err := f.fails("open"); err != nil {
		return 0, err
	}
	return f.cryptoki.open(slot, write)
}

func (f *faulty) login(s uint, pin string) error {
	f.logins.Add(1)
	if err := f.fails("login"); err != nil {
		return err
	}
	return f.cryptoki.login(s, pin)
}

func (f *faulty) find(s uint, c class, label string, id []byte, most int) ([]uint, error) {
	if err := f.fails("find"); err != nil {
		return nil, err
	}
	return f.cryptoki.find(s, c, label, id, most)
}

func (f *faulty) private(s, o uint, sign bool, c []byte) ([]byte, error) {
	if err := f.fails("private"); err != nil {
		return nil, err
	}
	m, err := f.cryptoki.private(s, o, sign, c)
	if f.result != nil {
		return f.result(m, err)
	}
	return m, err
}

func (f *faulty) generate(s uint, label string, id []byte, bits int, use Use) (uint, uint, error) {
	if err := f.fails("generate"); err != nil {
		return 0, 0, err
	}
	return f.cryptoki.generate(s, label, id, bits, use)
}

func (f *faulty) token(slot uint) (tokenInfo, error) {
	i, err := f.cryptoki.token(slot)
	if f.info != nil {
		i = f.info(i)
	}
	return i, err
}

func (f *faulty) attribute(s, o uint, a attribute) ([]byte, error) {
	v, err := f.cryptoki.attribute(s, o, a)
	if f.value != nil {
		v = f.value(a, v)
	}
	return v, err
}

const someKey = "pkcs11:token=bench;object=server-enc;type=private"

func operand() []byte { return bytes.Repeat([]byte{0x5A}, 256) }

func TestKeyInSoftHSM(t *testing.T) {
	h := newHSM(t)
	enc, auth := h.put("server-enc", "a1"), h.put("server-auth-1", "a2")
	p := h.provider()
	same(t, h.key(p, someKey), enc)
	same(t, h.key(p, "pkcs11:id=%A2"), auth)
	k := h.key(p, "pkcs11:token=bench;object=server-auth-1;id=%A2")
	same(t, k, auth)
	for _, c := range [][]byte{nil, make([]byte, 255), make([]byte, 257), enc.N.Bytes(), bytes.Repeat([]byte{0xFF}, 256)} {
		_, err := h.key(p, someKey).Private(t.Context(), c)
		assert.ErrorContains(t, err, "not below")
	}
}

// Keys that may do only one of the two are used by that one: those that Generate
// makes, and those of pkcs11-tool.
func TestUses(t *testing.T) {
	h := newHSM(t)
	p := h.provider()
	where, err := ParseURI("pkcs11:token=bench")
	require.NoError(t, err)
	for use, sign := range map[Use]bool{Sign: true, Decrypt: false} {
		u, err := p.Generate(t.Context(), where, "made", 2048, use)
		require.NoError(t, err)
		k := h.key(p, u.String())
		assert.Equal(t, sign, k.sign)
		assert.Equal(t, 2048, k.Public().N.BitLen())
		_, err = k.Private(t.Context(), operand())
		require.NoError(t, err)
	}
	for _, usage := range []string{"sign", "decrypt"} {
		h.tool("pkcs11-tool", "--module", softhsm, "--token-label", "bench", "--login", "--pin", pin, "--keypairgen",
			"--key-type", "RSA:2048", "--label", usage, "--usage-"+usage)
		k := h.key(p, "pkcs11:object="+usage)
		_, err := k.Private(t.Context(), operand())
		require.NoError(t, err)
	}
	listed := h.tool("pkcs11-tool", "--module", softhsm, "--token-label", "bench", "--login", "--pin", pin, "--list-objects", "--type", "privkey")
	assert.Equal(t, 4, strings.Count(listed, "sensitive, always sensitive, never extractable"), listed)

	gone := h.key(p, "pkcs11:object=sign")
	require.NoError(t, p.Destroy(t.Context(), gone.URI()))
	_, err = p.Key(t.Context(), gone.URI())
	assert.ErrorContains(t, err, "there is no such private RSA key")
	assert.NotContains(t, h.tool("pkcs11-tool", "--module", softhsm, "--token-label", "bench", "--list-objects", "--type", "pubkey"), "sign\n")
	assert.ErrorIs(t, p.Destroy(t.Context(), where), ErrURI, "a token is no key")
	assert.Equal(t, 3, strings.Count(h.tool("pkcs11-tool", "--module", softhsm, "--token-label", "bench", "--login", "--pin", pin, "--list-objects", "--type", "privkey"), "Private Key Object"))
}

// Whoever breaks off while a key is made knows of the key, and can take it out
// again.
func TestGenerateBrokenOff(t *testing.T) {
	h := newHSM(t)
	p := h.provider()
	ctx, cancel := context.WithCancel(t.Context())
	h.through(p, &faulty{before: func(op string) error {
		if op == "generate" {
			cancel()
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	}})
	where, err := ParseURI("pkcs11:token=bench")
	require.NoError(t, err)
	made, err := p.Generate(ctx, where, "made", 2048, Sign)
	require.NoError(t, err)
	require.NoError(t, p.Destroy(t.Context(), made))
	assert.Never(t, func() bool {
		_, err := p.Key(context.Background(), made)
		return err == nil
	}, 300*time.Millisecond, 100*time.Millisecond)
	_, err = p.Generate(ctx, where, "made", 2048, Sign)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestWhatIsNotThere(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	h.put("server-auth-1", "a2")
	h.init("other")
	p := h.provider()
	for uri, says := range map[string]string{
		"pkcs11:token=none;object=x":                      "CKR_TOKEN_NOT_PRESENT",
		"pkcs11:token=bench;object=none":                  "there is no such private RSA key",
		"pkcs11:object=server-enc":                        "2 tokens match",
		"pkcs11:token=bench":                              "neither object nor id",
		"pkcs11:object=x?module-path=/nowhere/lib.so":     "cannot be loaded",
		"pkcs11:object=x?module-path=/etc/hostname":       "cannot be loaded",
		"pkcs11:token=bench;serial=0000000000000000;id=a": "CKR_TOKEN_NOT_PRESENT",
	} {
		u, err := ParseURI(uri)
		require.NoError(t, err, uri)
		_, err = p.Key(t.Context(), u)
		var typed *Error
		assert.ErrorAs(t, err, &typed, uri)
		assert.ErrorContains(t, err, says, uri)
	}
	_, err := New(Config{}).Key(t.Context(), URI{Object: "x"})
	assert.ErrorContains(t, err, "--pkcs11-module")
	h.put("server-enc", "a3")
	u, err := ParseURI(someKey)
	require.NoError(t, err)
	_, err = p.Key(t.Context(), u)
	assert.ErrorContains(t, err, "more than one key matches")
}

// A wrong PIN is tried once. The right one, when it is there, is taken.
func TestWrongPIN(t *testing.T) {
	h := newHSM(t)
	plain := h.put("server-enc", "a1")
	now := "1111"
	p := h.providerWith(Config{PIN: func(context.Context, URI, string) (string, error) { return now, nil }})
	f := h.through(p, &faulty{})
	u, err := ParseURI(someKey)
	require.NoError(t, err)
	_, err = p.Key(t.Context(), u)
	assert.ErrorIs(t, err, CodePINIncorrect)
	assert.NotContains(t, err.Error(), now)
	for range 3 {
		_, err = p.Key(t.Context(), u)
		assert.ErrorIs(t, err, ErrPINRefused)
	}
	assert.EqualValues(t, 1, f.logins.Load())
	now = pin
	k, err := p.Key(t.Context(), u)
	require.NoError(t, err)
	same(t, k, plain)
	assert.EqualValues(t, 2, f.logins.Load())

	p = h.providerWith(Config{PIN: func(context.Context, URI, string) (string, error) { return "", os.ErrNotExist }})
	_, err = p.Key(t.Context(), u)
	assert.Error(t, err)
}

// A token that several URIs name is tried with a wrong PIN once, not once for each.
func TestWrongPINUnderSeveralURIs(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	p := h.providerWith(Config{PIN: fixedPIN("1111")})
	var serial string
	f := h.through(p, &faulty{info: func(i tokenInfo) tokenInfo {
		if i.initialized {
			serial = i.serial
		}
		return i
	}})
	_, err := p.Key(t.Context(), URI{Token: "bench", ID: []byte{0xA1}})
	assert.ErrorIs(t, err, CodePINIncorrect)
	for _, u := range []URI{{}, {Serial: serial}, {Token: "bench", Serial: serial}, {Model: "SoftHSM v2"}, {Token: "bench", PINSource: "/elsewhere"}} {
		u.ID = []byte{0xA1}
		_, err := p.Key(t.Context(), u)
		assert.ErrorIs(t, err, ErrPINRefused, u.String())
	}
	assert.EqualValues(t, 1, f.logins.Load())
}

// Who is logged in needs no trial: what somebody else did to the PIN since takes
// no session away.
func TestPINNearlyLockedByOthers(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	p := h.provider()
	var nearly atomic.Bool
	f := h.through(p, &faulty{info: func(i tokenInfo) tokenInfo { i.finalTry = nearly.Load(); return i }})
	k := h.key(p, someKey)
	nearly.Store(true)
	within, release := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	f.before = func(op string) error {
		if op == "private" && first.CompareAndSwap(false, true) {
			close(within)
			<-release
		}
		return nil
	}
	var busy sync.WaitGroup
	busy.Go(func() {
		_, err := k.Private(t.Context(), operand())
		assert.NoError(t, err)
	})
	<-within
	_, err := k.Private(t.Context(), operand())
	assert.NoError(t, err, "in a session that is new")
	close(release)
	busy.Wait()
	assert.EqualValues(t, 1, f.logins.Load())
}

// A module has one life in a process, under whatever names it is known.
func TestModuleUnderTwoNames(t *testing.T) {
	h := newHSM(t)
	plain := h.put("server-enc", "a1")
	real, err := filepath.EvalSymlinks(softhsm)
	require.NoError(t, err)
	link := filepath.Join(h.dir, "link.so")
	require.NoError(t, os.Symlink(real, link))
	p := h.provider()
	for _, module := range []string{"", real, link} {
		same(t, h.key(p, URI{Token: "bench", Object: "server-enc", Module: module}.String()), plain)
	}
}

// A PIN that is locked, or one wrong trial from it, is not tried.
func TestPINLockedOrNearly(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	u, err := ParseURI(someKey)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		info func(tokenInfo) tokenInfo
		fail error
		says string
		is   error
		n    int32
	}{
		"locked":         {info: func(i tokenInfo) tokenInfo { i.locked = true; return i }, says: "security officer", is: CodePINLocked},
		"the last trial": {info: func(i tokenInfo) tokenInfo { i.finalTry = true; return i }, says: "by hand"},
		"just locked":    {fail: CodePINLocked, says: "CKR_PIN_LOCKED", is: CodePINLocked, n: 1},
		"expired":        {fail: CodePINExpired, says: "CKR_PIN_EXPIRED", is: CodePINExpired, n: 1},
	} {
		p := h.provider()
		f := h.through(p, &faulty{info: c.info, before: func(op string) error {
			if op == "login" {
				return c.fail
			}
			return nil
		}})
		for range 2 {
			_, err = p.Key(t.Context(), u)
			require.Error(t, err, name)
			if c.is != nil && !errors.Is(err, ErrPINRefused) {
				assert.ErrorIs(t, err, c.is, name)
				assert.ErrorContains(t, err, c.says, name)
			}
		}
		assert.Equal(t, c.n, f.logins.Load(), name)
		require.NoError(t, p.Close())
	}
}

// What makes a session stale costs a new one, and the operation is done.
func TestStaleSessions(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	for _, code := range []Code{
		CodeSessionHandleInvalid, CodeSessionClosed, CodeDeviceRemoved, CodeUserNotLoggedIn, CodeTokenNotPresent, CodeObjectHandleInvalid,
		CodeKeyHandleInvalid, CodeDeviceError, CodeNotInitialized,
	} {
		p := h.provider()
		left := 0
		f := h.through(p, &faulty{})
		k := h.key(p, someKey)
		f.before = func(op string) error {
			if op == "private" && left > 0 {
				left--
				return code
			}
			return nil
		}
		left = 1
		_, err := k.Private(t.Context(), operand())
		require.NoError(t, err, "%v", code)
		left = 2
		_, err = k.Private(t.Context(), operand())
		assert.ErrorIs(t, err, code)
		var typed *Error
		require.ErrorAs(t, err, &typed)
		assert.Equal(t, code, typed.Code)
		assert.Contains(t, err.Error(), "CKR_")
		_, err = k.Private(t.Context(), operand())
		require.NoError(t, err, "%v", code)
		require.NoError(t, p.Close())
	}
}

// Somebody closes all sessions in the middle: the user is logged out with them.
func TestSessionsKilled(t *testing.T) {
	h := newHSM(t)
	plain := h.put("server-enc", "a1")
	p := h.provider()
	f := h.through(p, &faulty{})
	k := h.key(p, someKey)
	for range 3 {
		h.kill(p, f)
		same(t, k, plain)
	}
}

// kill closes all sessions, between two calls: SoftHSM itself crashes where a
// session is closed under an operation.
func (h *hsm) kill(p *Provider, f *faulty) {
	for _, m := range p.modules {
		m.idle.mu.Lock()
		defer m.idle.mu.Unlock()
	}
	slots, err := f.slots()
	require.NoError(h, err)
	for _, s := range slots {
		require.NoError(h, f.cryptoki.(library).ctx.CloseAllSessions(s))
	}
}

func TestTokenAway(t *testing.T) {
	h := newHSM(t)
	plain := h.put("server-enc", "a1")
	k := h.key(h.provider(), someKey)
	same(t, k, plain)
	h.remove()
	_, err := k.Private(t.Context(), operand())
	assert.ErrorIs(t, err, CodeTokenNotPresent)
	assert.ErrorContains(t, err, "put it in")
	h.restore()
	require.Eventually(t, func() bool {
		_, err = k.Private(context.Background(), operand())
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
	same(t, k, plain)
}

// Another token of that name, with another key of that name, is not taken for it.
func TestTokenReplaced(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	k := h.key(h.provider(), "pkcs11:token=bench;id=%A1")
	h.remove()
	h.init("bench")
	h.put("server-auth-1", "a1")
	require.Eventually(t, func() bool {
		_, err := k.Private(context.Background(), operand())
		return errors.Is(err, ErrMismatch)
	}, 20*time.Second, 50*time.Millisecond)
}

// No value that does not verify is let out, and no wrong key taken in.
func TestLyingModule(t *testing.T) {
	h := newHSM(t)
	h.put("server-enc", "a1")
	p := h.provider()
	f := h.through(p, &faulty{})
	k := h.key(p, someKey)
	for name, lie := range map[string]func([]byte) []byte{
		"short":             func(m []byte) []byte { return m[1:] },
		"long":              func(m []byte) []byte { return append(m, 0) },
		"empty":             func([]byte) []byte { return nil },
		"a bit":             func(m []byte) []byte { m[100] ^= 1; return m },
		"the operand":       func([]byte) []byte { return operand() },
		"zero":              func(m []byte) []byte { return make([]byte, len(m)) },
		"above the modulus": func(m []byte) []byte { return bytes.Repeat([]byte{0xFF}, len(m)) },
	} {
		f.result = func(m []byte, err error) ([]byte, error) { return lie(m), err }
		m, err := k.Private(t.Context(), operand())
		assert.ErrorIs(t, err, ErrFault, name)
		assert.Nil(t, m, name)
		u, perr := ParseURI(someKey)
		require.NoError(t, perr)
		_, err = p.Key(t.Context(), u)
		assert.ErrorIs(t, err, ErrFault, "%s: a key is tried before it is taken", name)
	}
	f.result = nil
	for name, c := range map[string]struct {
		value func(a attribute, v []byte) []byte
		is    error
		says  string
	}{
		"another modulus than the public object's": {value: once(modulus, func(v []byte) []byte { v[5] ^= 1; return v }), is: ErrMismatch},
		"an even modulus":                          {value: always(modulus, func(v []byte) []byte { v[len(v)-1] &^= 1; return v }), says: "odd"},
		"no modulus":                               {value: always(modulus, func([]byte) []byte { return nil }), says: "odd"},
		"a huge modulus":                           {value: always(modulus, func([]byte) []byte { return bytes.Repeat([]byte{0xFF}, 1<<16) }), says: "odd"},
		"exponent 3":                               {value: always(exponent, func([]byte) []byte { return []byte{3} }), says: "010001"},
		"a modulus of another key":                 {value: always(modulus, func(v []byte) []byte { v[5] ^= 1; return v }), is: ErrFault},
	} {
		f.value = c.value
		u, err := ParseURI(someKey)
		require.NoError(t, err)
		_, err = p.Key(t.Context(), u)
		require.Error(t, err, name)
		if c.is != nil {
			assert.ErrorIs(t, err, c.is, name)
		}
		assert.ErrorContains(t, err, c.says, name)
	}
}

func always(which attribute, fn func([]byte) []byte) func(attribute, []byte) []byte {
	return func(a attribute, v []byte) []byte {
		if a == which && len(v) > 0 {
			return fn(v)
		}
		return v
	}
}

func once(which attribute, fn func([]byte) []byte) func(attribute, []byte) []byte {
	done := false
	return always(which, func(v []byte) []byte {
		if done {
			return v
		}
		done = true
		return fn(v)
	})
}

// A call into the module cannot be broken off, but nobody waits for it longer than
// he wants to, and others go on.
func TestHungCall(t *testing.T) {
	h := newHSM(t)
	plain := h.put("server-enc", "a1")
	p := h.providerWith(Config{PIN: fixedPIN(pin), Sessions: 2})
	f := h.through(p, &faulty{})
	k := h.key(p, someKey)
	release := make(chan struct{})
	var hang atomic.Int32
	f.before = func(op string) error {
		if op == "private" && hang.Add(-1) >= 0 {
			<-release
		}
		return nil
	}
	short := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := k.Private(ctx, operand())
		return err
	}
	hang.Store(1)
	err := short()
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "the module has not answered")
	hang.Store(0)
	same(t, k, plain)
	hang.Store(1)
	assert.ErrorIs(t, short(), context.DeadlineExceeded)
	hang.Store(0)
	err = short()
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "all 2 sessions are in use")
	close(release)
	hang.Store(0)
	require.Eventually(t, func() bool { return short() == nil }, 10*time.Second, time.Millisecond)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = k.Private(cancelled, operand())
	assert.ErrorIs(t, err, context.Canceled)
}

func TestManyAtOnce(t *testing.T) {
	h := newHSM(t)
	enc, auth := h.put("server-enc", "a1"), h.put("server-auth-1", "a2")
	p := h.providerWith(Config{PIN: fixedPIN(pin), Sessions: 4})
	f := h.through(p, &faulty{})
	one, two := h.key(p, "pkcs11:id=%A1"), h.key(p, "pkcs11:id=%A2")
	var workers sync.WaitGroup
	var failed atomic.Int32
	for i := range 12 {
		k := one
		if i%2 == 1 {
			k = two
		}
		workers.Go(func() {
			for range 20 {
				m, err := k.Private(t.Context(), operand())
				if err != nil { // two sessions in a row were killed
					failed.Add(1)
					assert.True(t, stale(err), "%v", err)
					continue
				}
				assert.NoError(t, k.check(operand(), m))
			}
		})
	}
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		h.kill(p, f)
	}
	workers.Wait()
	assert.Less(t, failed.Load(), int32(120))
	same(t, one, enc)
	same(t, two, auth)
}

func TestModuleOfTwoProviders(t *testing.T) {
	h := newHSM(t)
	plain := h.put("server-enc", "a1")
	first := h.provider()
	k := h.key(first, someKey)
	require.NoError(t, first.Close())
	_, err := k.Private(t.Context(), operand())
	assert.ErrorIs(t, err, ErrClosed)
	same(t, h.key(h.provider(), someKey), plain)
	_, err = os.Stat(filepath.Join(h.dir, "tokens"))
	require.NoError(t, err)
}
