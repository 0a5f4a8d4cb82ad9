package main

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
	"github.com/cardbridge/cardbridge/card/keyfile"
	"github.com/cardbridge/cardbridge/card/pkcs11"
	"github.com/cardbridge/cardbridge/card/rsafast"
)

// keySource gets at the private keys that key set files have or name.
type keySource struct {
	passphrases passphrases
	tokens      tokens
}

func newKeySource() *keySource {
	return &keySource{passphrases: newPassphrases("passphrase-file"), tokens: newTokens()}
}

func (k *keySource) addFlags(f *pflag.FlagSet) {
	k.passphrases.addFlag(f, "encrypted keys")
	k.tokens.addFlags(f)
}

// Close ends the sessions with tokens.
func (k *keySource) Close() error { return k.tokens.Close() }

// software makes a key of one that is in memory.
type software func(*rsa.PrivateKey) (cryptogram.PrivateKey, error)

func plainSoftware(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return cryptogram.NewKey(k) }

// parseKeySet reads a key set file; one that is private must be its owner's alone,
// even where its keys are elsewhere: it says whose they are.
func parseKeySet(path string, private bool) (cryptogram.KeySetPEM, error) {
	if path == "" {
		return cryptogram.KeySetPEM{}, errors.New("say which key set is the server's by --keyset; cardbridge keys new makes one")
	}
	read := keyfile.ReadKeys
	if private {
		read = func(path string) ([]byte, error) { return keyfile.Read(path, "private keys") }
	}
	b, err := read(path)
	if err != nil {
		return cryptogram.KeySetPEM{}, err
	}
	set, err := cryptogram.ParseKeySet(b)
	if err != nil {
		return cryptogram.KeySetPEM{}, fmt.Errorf("%s: %w", path, err)
	}
	return set, nil
}

// open loads a server's key set with its private keys, those in memory made by
// soft.
func (k *keySource) open(ctx context.Context, path string, soft software) (cryptogram.ServerKeys, error) {
	set, err := parseKeySet(path, true)
	if err != nil {
		return cryptogram.ServerKeys{}, err
	}
	keys, err := set.LoadBy(func(s string) (cryptogram.PrivateKey, error) { return k.key(ctx, path, s, soft) })
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// terminals is the server under the key sets of files, in their order. A scheduler
// does the operations under the keys that are in memory, and those under the
// cards' keys.
func (k *keySource) terminals(ctx context.Context, paths []string, s *rsafast.Scheduler, log *slog.Logger) (card.Terminals, error) {
	var all card.Terminals
	for i, path := range paths {
		keys, err := k.open(ctx, path, func(r *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return s.Load(r) })
		if err != nil {
			return nil, err
		}
		keys.Ops = s
		if testkeys.Known(keys.Public()) {
			log.Warn(testkeys.Warning, "keyset", path)
		}
		for j, t := range all {
			if t.Keys.KID == keys.KID {
				return nil, fmt.Errorf("%s and %s both have the id (kid) %d, and a card can hold one of them only; cardbridge keys new --id gives a set another", paths[j], path, keys.KID)
			}
		}
		all = append(all, &card.Terminal{Keys: keys})
		log.Info("key set loaded", "keyset", path, "kid", keys.KID, "sid", fmt.Sprintf("%X", keys.SID()), "preferred", i == 0)
	}
	return all, nil
}

// key is the private key that stands in a key set file as s.
func (k *keySource) key(ctx context.Context, path, s string, soft software) (cryptogram.PrivateKey, error) {
	if pkcs11.IsURI(s) {
		u, err := pkcs11.ParseURI(s)
		if err != nil {
			return nil, err
		}
		return k.tokens.key(ctx, u)
	}
	if keyfile.IsEncrypted(s) {
		var err error
		if s, err = k.passphrases.decrypt(ctx, path, s); err != nil {
			return nil, err
		}
	}
	r, err := cryptogram.ParsePrivate(s)
	if err != nil {
		return nil, err
	}
	return soft(r)
}

// public is the public half of a key set file that holds either half.
func (k *keySource) public(ctx context.Context, path string) (cryptogram.KeySetPEM, error) {
	set, err := parseKeySet(path, false)
	if err != nil {
		return cryptogram.KeySetPEM{}, err
	}
	if _, err := set.Public(); err == nil {
		return set, nil
	}
	keys, err := k.open(ctx, path, plainSoftware)
	if err != nil {
		return cryptogram.KeySetPEM{}, err
	}
	pub, err := cryptogram.EncodePublic(keys.Public())
	return cryptogram.KeySetPEM{ID: set.ID, KeysPEM: pub}, err
}

// inTheClear reports whether the keys of a set are PEM that needs no keySource.
func inTheClear(set cryptogram.KeySetPEM) bool {
	return !slices.ContainsFunc(append(set.Auth[:len(set.Auth):len(set.Auth)], set.Enc), func(s string) bool { return keyfile.IsEncrypted(s) || pkcs11.IsURI(s) })
}
