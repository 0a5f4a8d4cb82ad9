//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/miekg/pkcs11"
)

// library is a module that is loaded. What the C side calls lengths is believed
// by the binding; an absurd one has it panic, which is an error here.
type library struct{ ctx *pkcs11.Ctx }

// load loads a module and initialises it.
func load(path string) (c cryptoki, err error) {
	defer guard(&err)
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, errors.New("no PKCS#11 module, or it cannot be loaded: check the path, and that it is of this machine's kind (" + runtime.GOARCH + ")")
	}
	if err := code(ctx.Initialize()); err != nil {
		ctx.Destroy()
		return nil, err
	}
	return library{ctx}, nil
}

func code(err error) error {
	var rv pkcs11.Error
	if errors.As(err, &rv) {
		return Code(rv)
	}
	return err
}

func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the module's answer makes no sense: %v", p)
	}
}

func (l library) finalize() (err error) {
	defer guard(&err)
	err = code(l.ctx.Finalize())
	l.ctx.Destroy()
	return err
}

// again is finalize and initialize: modules that do not look for tokens later see
// those of now.
func (l library) again() (err error) {
	defer guard(&err)
	_ = l.ctx.Finalize()
	return code(l.ctx.Initialize())
}

func (l library) slots() (slots []uint, err error) {
	defer guard(&err)
	slots, err = l.ctx.GetSlotList(true)
	return slots, code(err)
}

func (l library) token(slot uint) (t tokenInfo, err error) {
	defer guard(&err)
	i, err := l.ctx.GetTokenInfo(slot)
	if err != nil {
		return t, code(err)
	}
	return tokenInfo{
		label: i.Label, manufacturer: i.ManufacturerID, model: i.Model, serial: i.SerialNumber,
		finalTry: i.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0, locked: i.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0,
		initialized: i.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0,
		login:       i.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0,
	}, nil
}

func (l library) open(slot uint, write bool) (s uint, err error) {
	defer guard(&err)
	flags := uint(pkcs11.CKF_SERIAL_SESSION)
	if write {
		flags |= pkcs11.CKF_RW_SESSION
	}
	h, err := l.ctx.OpenSession(slot, flags)
	return uint(h), code(err)
}

func (l library) close(s uint) (err error) {
	defer guard(&err)
	return code(l.ctx.CloseSession(pkcs11.SessionHandle(s)))
}

// loggedIn says no where the module does not say.
func (l library) loggedIn(s uint) (is bool) {
	defer func() { _ = recover() }()
	i, err := l.ctx.GetSessionInfo(pkcs11.SessionHandle(s))
	return err == nil && (i.State == pkcs11.CKS_RO_USER_FUNCTIONS || i.State == pkcs11.CKS_RW_USER_FUNCTIONS)
}

func (l library) login(s uint, pin string) (err error) {
	defer guard(&err)
	return code(l.ctx.Login(pkcs11.SessionHandle(s), pkcs11.CKU_USER, pin))
}

func (l library) find(s uint, c class, label string, id []byte, most int) (objects []uint, err error) {
	defer guard(&err)
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, map[class]uint{privateKey: pkcs11.CKO_PRIVATE_KEY, publicKey: pkcs11.CKO_PUBLIC_KEY}[c]),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, uint(pkcs11.CKK_RSA)),
	}
	if label != "" {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	}
	if len(id) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	if err := l.ctx.FindObjectsInit(pkcs11.SessionHandle(s), template); err != nil {
		return nil, code(err)
	}
	found, _, err := l.ctx.FindObjects(pkcs11.SessionHandle(s), most)
	err = errors.Join(err, l.ctx.FindObjectsFinal(pkcs11.SessionHandle(s)))
	for _, o := range found {
		objects = append(objects, uint(o))
	}
	return objects, code(err)
}

func (l library) attribute(s, o uint, a attribute) (v []byte, err error) {
	defer guard(&err)
	types := map[attribute]uint{
		modulus: pkcs11.CKA_MODULUS, exponent: pkcs11.CKA_PUBLIC_EXPONENT, keyID: pkcs11.CKA_ID,
		maySign: pkcs11.CKA_SIGN, mayDecrypt: pkcs11.CKA_DECRYPT, extractable: pkcs11.CKA_EXTRACTABLE,
	}
	got, err := l.ctx.GetAttributeValue(pkcs11.SessionHandle(s), pkcs11.ObjectHandle(o), []*pkcs11.Attribute{pkcs11.NewAttribute(types[a], nil)})
	if err != nil {
		return nil, code(err)
	}
	return got[0].Value, nil
}

func (l library) private(s, o uint, sign bool, c []byte) (m []byte, err error) {
	defer guard(&err)
	h, raw := pkcs11.SessionHandle(s), []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_X_509, nil)}
	if sign {
		if err := l.ctx.SignInit(h, raw, pkcs11.ObjectHandle(o)); err != nil {
			return nil, code(err)
		}
		m, err = l.ctx.Sign(h, c)
		return m, code(err)
	}
	if err := l.ctx.DecryptInit(h, raw, pkcs11.ObjectHandle(o)); err != nil {
		return nil, code(err)
	}
	m, err = l.ctx.Decrypt(h, c)
	return m, code(err)
}

func (l library) generate(s uint, label string, id []byte, bits int, use Use) (public, private uint, err error) {
	defer guard(&err)
	sign, decrypt := use&Sign != 0, use&Decrypt != 0
	pub := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, bits),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, sign),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, decrypt),
	}
	priv := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, sign),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, decrypt),
	}
	p, q, err := l.ctx.GenerateKeyPair(pkcs11.SessionHandle(s),
		[]*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}, pub, priv)
	return uint(p), uint(q), code(err)
}

func (l library) destroy(s, o uint) (err error) {
	defer guard(&err)
	return code(l.ctx.DestroyObject(pkcs11.SessionHandle(s), pkcs11.ObjectHandle(o)))
}
