package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/cardbridge/cardbridge/card/keyfile"
)

// secret is where a passphrase or PIN comes from.
type secret struct {
	name       string // in words
	flag       string // names a file, in whose first line it is
	env        string
	credential string // systemd's (LoadCredential=)

	files []string
}

var errNoSecret = errors.New("is wanted")

// given gives the secrets that are given without asking anybody: those of files,
// where there are some, else the environment's, else the credential's.
func (s *secret) given() ([][]byte, error) {
	files := s.files
	if len(files) == 0 {
		if value := os.Getenv(s.env); value != "" {
			return [][]byte{[]byte(value)}, nil
		}
		if path, ok := keyfile.Credential(s.credential); ok {
			files = []string{path}
		}
	}
	var all [][]byte
	for _, f := range files {
		b, err := keyfile.Read(f, "a "+s.name)
		if err != nil {
			return nil, err
		}
		b, _, _ = bytes.Cut(b, []byte("\n"))
		if b = bytes.TrimSuffix(b, []byte("\r")); len(b) == 0 {
			return nil, fmt.Errorf("%s: its first line is no %s, but empty", f, s.name)
		}
		all = append(all, b)
	}
	return all, nil
}

// ask asks a person at the terminal; what says what for. Where there is no
// terminal the error says where else it may come from.
func (s *secret) ask(ctx context.Context, what string) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return nil, fmt.Errorf("%s: a %s %w: by --%s, in the environment (%s), as systemd's credential %s, or at a terminal", what, s.name, errNoSecret, s.flag, s.env, s.credential)
	}
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%s of %s: ", s.name, what)
	defer fmt.Fprintln(os.Stderr)
	type typed struct {
		b   []byte
		err error
	}
	done := make(chan typed, 1)
	go func() {
		b, err := term.ReadPassword(fd)
		done <- typed{b, err}
	}()
	select {
	case t := <-done:
		return t.b, t.err
	case <-ctx.Done(): // the program ends; nobody may be left without an echo
		return nil, errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

// passphrases opens encrypted keys.
type passphrases struct {
	secret
	read  bool
	known [][]byte
}

func newPassphrases(flag string) passphrases {
	return passphrases{secret: secret{name: "passphrase", flag: flag, env: "CARDBRIDGE_PASSPHRASE", credential: "cardbridge-passphrase"}}
}

func (p *passphrases) addFlag(f *pflag.FlagSet, of string) {
	f.StringArrayVar(&p.files, p.flag, nil, "`FILE`, mode 0600, whose first line is the passphrase of "+of+"; may be given more than once (or: "+p.env+", systemd's credential "+p.credential+", a terminal)")
}

// prompts is how often a person may try.
const prompts = 3

// decrypt opens one key of a file, with a passphrase that is given or opened
// another key before, or else asks for one.
func (p *passphrases) decrypt(ctx context.Context, file, sealed string) (string, error) {
	if !p.read {
		var err error
		if p.known, err = p.given(); err != nil {
			return "", err
		}
		p.read = true
	}
	for i, known := range p.known {
		plain, err := keyfile.Decrypt(sealed, known)
		if err == nil {
			p.known[0], p.known[i] = p.known[i], p.known[0] // it opens the next one too
		}
		if !errors.Is(err, keyfile.ErrPassphrase) {
			return plain, err
		}
	}
	err := error(keyfile.ErrPassphrase)
	for range prompts {
		typed, aerr := p.ask(ctx, file)
		switch {
		case errors.Is(aerr, errNoSecret) && len(p.known) > 0:
			return "", err
		case aerr != nil:
			return "", aerr
		}
		plain, derr := keyfile.Decrypt(sealed, typed)
		if derr == nil {
			p.known = append(p.known, typed)
		}
		if !errors.Is(derr, keyfile.ErrPassphrase) {
			return plain, derr
		}
		fmt.Fprintln(os.Stderr, "wrong passphrase")
	}
	return "", err
}

// fresh gives the passphrase for keys that are about to be encrypted; who types it
// types it twice.
func (p *passphrases) fresh(ctx context.Context, file string) ([]byte, error) {
	given, err := p.given()
	switch {
	case err != nil:
		return nil, err
	case len(given) > 1:
		return nil, fmt.Errorf("--%s is given %d times; keys are encrypted under one passphrase", p.flag, len(given))
	case len(given) == 1:
		return given[0], nil
	}
	typed, err := p.ask(ctx, file)
	if err != nil {
		return nil, err
	}
	again, err := p.ask(ctx, file+", again")
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(typed, again):
		return nil, errors.New("the two passphrases differ; nothing is written")
	case len(typed) == 0:
		return nil, errors.New("an empty passphrase protects nothing")
	}
	return typed, nil
}
