package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/pkcs11"
)

// tokens gets at keys behind PKCS#11 modules.
type tokens struct {
	module string
	pin    secret

	provider *pkcs11.Provider
	asked    *sync.Map // PINs that a person typed, by the token's URI
}

func newTokens() tokens {
	return tokens{pin: secret{name: "PIN", flag: "pkcs11-pin-file", env: "CARDBRIDGE_PKCS11_PIN", credential: "cardbridge-pkcs11-pin"}}
}

func (t *tokens) addFlags(f *pflag.FlagSet) {
	f.StringVar(&t.module, "pkcs11-module", "", "`FILE` of the PKCS#11 module of keys whose URI names none by module-path, such as /usr/lib/softhsm/libsofthsm2.so")
	f.StringArrayVar(&t.pin.files, t.pin.flag, nil, "`FILE`, mode 0600, whose first line is the PIN of tokens whose URI names none by pin-source (or: "+t.pin.env+", systemd's credential "+t.pin.credential+", a terminal)")
}

// open gives the provider of keys, which is made when it is needed.
func (t *tokens) open() *pkcs11.Provider {
	if t.provider == nil {
		t.provider = pkcs11.New(pkcs11.Config{Module: t.module, PIN: t.readPIN})
		t.asked = &sync.Map{}
	}
	return t.provider
}

func (t *tokens) key(ctx context.Context, u pkcs11.URI) (cryptogram.PrivateKey, error) {
	k, err := t.open().Key(ctx, u)
	if err != nil {
		return nil, err // no typed nil
	}
	return k, nil
}

// readPIN reads the PIN each time that it is wanted: who corrects the file is
// heard. What a person typed is kept, for when the token was away.
func (t *tokens) readPIN(ctx context.Context, u pkcs11.URI, label string) (string, error) {
	from := t.pin
	if u.PINSource != "" {
		from.files = []string{u.PINSource}
	}
	given, err := from.given()
	switch {
	case err != nil:
		return "", err
	case len(given) > 1:
		return "", fmt.Errorf("--%s is given %d times; tokens with PINs of their own name them by pin-source in their URIs", t.pin.flag, len(given))
	case len(given) == 1:
		return string(given[0]), nil
	}
	if typed, ok := t.asked.Load(u.String()); ok {
		return typed.(string), nil
	}
	typed, err := from.ask(ctx, fmt.Sprintf("token %q", label))
	if err != nil {
		return "", err
	}
	t.asked.Store(u.String(), string(typed))
	return string(typed), nil
}

// Close ends the sessions with tokens.
func (t *tokens) Close() error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Close()
}

// generate makes a key set's keys in the token that a URI names, and gives them as
// they stand in the file. On an error none is left there.
func (t *tokens) generate(ctx context.Context, where string, kid byte, auth, bits int) (set cryptogram.KeysPEM, private cryptogram.PrivateKeys, err error) {
	u, err := pkcs11.ParseURI(where)
	if err != nil {
		return set, private, err
	}
	if u.Object != "" || len(u.ID) > 0 {
		return set, private, fmt.Errorf("--pkcs11 %s: name a token by it; keys get names of their own", where)
	}
	var made []pkcs11.URI
	defer func() {
		if err != nil {
			err = errors.Join(err, t.destroy(ctx, made))
		}
	}()
	one := func(label string, use pkcs11.Use) (*pkcs11.Key, error) {
		u, err := t.open().Generate(ctx, u, label, bits, use)
		if err != nil {
			return nil, err
		}
		made = append(made, u)
		return t.provider.Key(ctx, u)
	}
	keys := make([]*pkcs11.Key, auth)
	for i := range keys {
		if keys[i], err = one(fmt.Sprintf("cardbridge-%02X-auth", kid), pkcs11.Sign); err != nil {
			return set, private, err
		}
	}
	slices.SortFunc(keys, func(a, b *pkcs11.Key) int { return a.Public().N.Cmp(b.Public().N) })
	for _, k := range keys {
		set.Auth, private.Auth = append(set.Auth, k.String()), append(private.Auth, k)
	}
	enc, err := one(fmt.Sprintf("cardbridge-%02X-enc", kid), pkcs11.Decrypt)
	if err != nil {
		return set, private, err
	}
	set.Enc, private.Enc = enc.String(), enc
	return set, private, private.Public().Validate()
}

// destroyed takes a set's keys out of their token again.
func (t *tokens) destroyed(ctx context.Context, keys cryptogram.PrivateKeys) error {
	var made []pkcs11.URI
	for _, k := range append(keys.Auth[:len(keys.Auth):len(keys.Auth)], keys.Enc) {
		made = append(made, k.(*pkcs11.Key).URI())
	}
	return t.destroy(ctx, made)
}

// destroy takes keys that were made in vain out of their token.
func (t *tokens) destroy(ctx context.Context, made []pkcs11.URI) (err error) {
	for _, u := range made {
		err = errors.Join(err, t.provider.Destroy(context.WithoutCancel(ctx), u))
	}
	return err
}
