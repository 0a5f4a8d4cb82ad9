package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
	"github.com/cardbridge/cardbridge/card/keyfile"
	"github.com/cardbridge/cardbridge/card/pkcs11"
)

// readFile reads a small file and bounds it.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, keyfile.MaxSize+1))
	if err == nil && len(b) > keyfile.MaxSize {
		err = fmt.Errorf("%s: more than %d bytes", path, keyfile.MaxSize)
	}
	return b, err
}

func indent(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// warnOfTestKeys tells on w where a file's keys are public test keys.
func warnOfTestKeys(w io.Writer, file string, k cryptogram.PublicKeys) {
	if testkeys.Known(k) {
		fmt.Fprintf(w, "warning: %s: %s\n", file, testkeys.Warning)
	}
}

func newKeysCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "The server's key sets"}
	cmd.AddCommand(newKeysNewCmd(), newKeysPublicCmd(), newKeysShowCmd(), newKeysEncryptCmd())
	return cmd
}

func newKeysNewCmd() *cobra.Command {
	var kid uint8
	var bits int
	var single, encrypt bool
	var token string
	passphrases, hsm := newPassphrases("passphrase-file"), newTokens()
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make a server key set with new keys",
		Long: `Makes a key set of three auth keys (suites 01 and 03; one with --single, suite
01 only) and an enc key, and writes it to FILE, mode 0600. The file must not
exist yet. Cards get its public half: cardbridge keys public, card new.

With --encrypt each key is encrypted under a passphrase (PKCS#8, PBES2), which
openssl pkcs8 reads too. With --pkcs11 the keys are made in a token, an HSM, and do
not leave it; FILE names them by PKCS#11 URIs (RFC 7512):
  cardbridge keys new --pkcs11 'pkcs11:token=bench' --pkcs11-module MODULE FILE
docs/keys.md has more of both, and how keys are rotated.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPrinter(cmd)
			if kid < 1 || kid > 15 {
				return fmt.Errorf("key set id %d, 1 to 15 wanted", kid)
			}
			auth := 3
			if single {
				auth = 1
			}
			if err := missing(args[0]); err != nil {
				return err
			}
			var passphrase []byte
			if encrypt {
				var err error
				if passphrase, err = passphrases.fresh(cmd.Context(), args[0]); err != nil {
					return err
				}
			} else if cmd.Flags().Changed(passphrases.flag) {
				return fmt.Errorf("--%s without --encrypt: the keys would stand in the clear", passphrases.flag)
			}
			set := cryptogram.KeySetPEM{ID: kid}
			private := cryptogram.ServerKeys{KID: kid}
			var err error
			switch {
			case token != "" && encrypt:
				return errors.New("--pkcs11 and --encrypt: keys in a token are protected by the token")
			case token != "":
				defer hsm.Close()
				set.KeysPEM, private.PrivateKeys, err = hsm.generate(cmd.Context(), token, kid, auth, bits)
			default:
				if set.KeysPEM, err = cryptogram.Generate(auth, bits); err == nil {
					private, err = set.Private()
				}
			}
			if err == nil && encrypt {
				set.KeysPEM, err = encrypted(set.KeysPEM, passphrase)
			}
			if err != nil {
				return err
			}
			if err := writeKeySet(args[0], set); err != nil {
				if token != "" {
					err = errors.Join(err, hsm.destroyed(cmd.Context(), private.PrivateKeys))
				}
				return err
			}
			sid := fmt.Sprintf("%X", private.SID())
			if p.json {
				return p.object(map[string]any{"file": args[0], "id": kid, "sid": sid, "bits": bits, "auth_keys": auth, "encrypted": encrypt, "pkcs11": token != ""})
			}
			p.field("key set", args[0])
			p.field("id (kid)", fmt.Sprint(kid))
			p.field("keys", fmt.Sprintf("%d auth, 1 enc, RSA-%d%s", auth, bits, map[bool]string{true: ", encrypted"}[encrypt]+map[bool]string{true: ", in the token"}[token != ""]))
			p.field("SID", sid)
			return nil
		},
	}
	cmd.Flags().Uint8Var(&kid, "id", 1, "key set id (kid), 1 to 15, under which cards hold it")
	cmd.Flags().IntVar(&bits, "bits", 2048, "`BITS` of each modulus: 2048, 3072 or 4096")
	cmd.Flags().BoolVar(&single, "single", false, "one auth key only: suite 01")
	cmd.Flags().BoolVar(&encrypt, "encrypt", false, "encrypt the keys under a passphrase")
	cmd.Flags().StringVar(&token, "pkcs11", "", "make the keys in the token that this PKCS#11 `URI` names, such as pkcs11:token=bench")
	passphrases.addFlag(cmd.Flags(), "the new keys")
	hsm.addFlags(cmd.Flags())
	addJSONFlag(cmd)
	return cmd
}

// missing says that a file must not exist yet.
func missing(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: keys are not overwritten", path)
	}
	return nil
}

func writeKeySet(path string, set cryptogram.KeySetPEM) error {
	b, err := indent(set)
	if err != nil {
		return err
	}
	return keyfile.Write(path, 0o600, b)
}

// encrypted is a set with each key encrypted.
func encrypted(set cryptogram.KeysPEM, passphrase []byte) (cryptogram.KeysPEM, error) {
	return eachKey(set, func(s string) (string, error) { return keyfile.Encrypt(s, passphrase) })
}

// eachKey is a set with what fn makes of each key.
func eachKey(set cryptogram.KeysPEM, fn func(string) (string, error)) (out cryptogram.KeysPEM, err error) {
	out.Auth = make([]string, len(set.Auth))
	for i, s := range set.Auth {
		if out.Auth[i], err = fn(s); err != nil {
			return out, fmt.Errorf("auth key %d: %w", i+1, err)
		}
	}
	if out.Enc, err = fn(set.Enc); err != nil {
		return out, fmt.Errorf("enc key: %w", err)
	}
	return out, nil
}

func newKeysEncryptCmd() *cobra.Command {
	fresh, old := newPassphrases("passphrase-file"), newPassphrases("old-passphrase-file")
	old.env, old.credential = "CARDBRIDGE_OLD_PASSPHRASE", "cardbridge-old-passphrase"
	cmd := &cobra.Command{
		Use:   "encrypt FILE NEWFILE",
		Short: "Encrypt the keys of a key set under a passphrase",
		Long: `Writes the key set of FILE to NEWFILE, mode 0600, with each private key encrypted
under a passphrase (PKCS#8, PBES2). Keys that are encrypted already get the new
passphrase. NEWFILE must not exist yet; FILE stays as it is, and should be removed
once the new one has been tried (cardbridge keys show NEWFILE).`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, ctx := newPrinter(cmd), cmd.Context()
			if err := missing(args[1]); err != nil {
				return err
			}
			set, err := parseKeySet(args[0], true)
			if err != nil {
				return err
			}
			plain, err := eachKey(set.KeysPEM, func(s string) (string, error) {
				switch {
				case keyfile.IsEncrypted(s):
					return old.decrypt(ctx, args[0], s)
				case pkcs11.IsURI(s):
					return "", errors.New("it is in a token, which protects it; there is nothing to encrypt")
				}
				return s, nil
			})
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if _, err := (cryptogram.KeySetPEM{ID: set.ID, KeysPEM: plain}).Private(); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			passphrase, err := fresh.fresh(ctx, args[1])
			if err != nil {
				return err
			}
			if set.KeysPEM, err = encrypted(plain, passphrase); err != nil {
				return err
			}
			if err := writeKeySet(args[1], set); err != nil {
				return err
			}
			if p.json {
				return p.object(map[string]any{"file": args[1], "id": set.ID, "encrypted": true})
			}
			p.field("key set", args[1])
			p.field("id (kid)", fmt.Sprint(set.ID))
			p.field("keys", "encrypted")
			return nil
		},
	}
	fresh.addFlag(cmd.Flags(), "NEWFILE's keys")
	old.addFlag(cmd.Flags(), "FILE's keys, where they are encrypted")
	addJSONFlag(cmd)
	return cmd
}

func newKeysPublicCmd() *cobra.Command {
	source := newKeySource()
	cmd := &cobra.Command{
		Use:   "public FILE",
		Short: "Print the public half of a key set",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPrinter(cmd)
			defer source.Close()
			set, err := source.public(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if p.json {
				return p.object(set)
			}
			b, err := indent(set)
			if err != nil {
				return err
			}
			_, err = p.out.Write(b)
			return err
		},
	}
	source.addFlags(cmd.Flags())
	addJSONFlag(cmd)
	return cmd
}

// shownKey is one key of a set, without what is private.
type shownKey struct {
	Role        string `json:"role"` // auth 1, …, enc
	Bits        int    `json:"bits"`
	Where       string `json:"where"`      // file, encrypted, public, or a PKCS#11 URI
	Fingerprint string `json:"sha256"`     // of the public key as PKIX DER (SPKI)
	Public      string `json:"public_key"` // PEM
}

func newKeysShowCmd() *cobra.Command {
	source := newKeySource()
	cmd := &cobra.Command{
		Use:   "show FILE…",
		Short: "Say what is in key sets: id, SID, and of each key its size, where it is and its public half",
		Long: `Says what is in key set files, and tries to get at every key on the way: what show
opens, serve does. Nothing private is printed. With --json one object, its member
key_sets, has the public keys too.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPrinter(cmd)
			type shownSet struct {
				File     string     `json:"file"`
				ID       byte       `json:"id"`
				SID      string     `json:"sid"`
				TestKeys bool       `json:"test_keys"`
				Keys     []shownKey `json:"keys"`
			}
			defer source.Close()
			var all []shownSet
			for _, file := range args {
				set, err := parseKeySet(file, false)
				if err != nil {
					return err
				}
				public, err := source.public(cmd.Context(), file)
				if err != nil {
					return err
				}
				keys, err := public.Public()
				if err != nil {
					return err
				}
				warnOfTestKeys(p.err, file, keys)
				shown := shownSet{File: file, ID: set.ID, SID: fmt.Sprintf("%X", cryptogram.ServerID(set.ID, keys)), TestKeys: testkeys.Known(keys)}
				for i, k := range append(keys.Auth[:len(keys.Auth):len(keys.Auth)], keys.Enc) {
					one := shownKey{Role: fmt.Sprintf("auth %d", i+1), Bits: k.N.BitLen()}
					in := set.Enc
					if one.Public = public.Enc; i < len(keys.Auth) {
						in, one.Public = set.Auth[i], public.Auth[i]
					} else {
						one.Role = "enc"
					}
					one.Where = where(in)
					der, err := x509.MarshalPKIXPublicKey(k)
					if err != nil {
						return err
					}
					one.Fingerprint = fmt.Sprintf("%x", sha256.Sum256(der))
					shown.Keys = append(shown.Keys, one)
				}
				all = append(all, shown)
			}
			if p.json {
				return p.object(map[string]any{"key_sets": all})
			}
			for _, s := range all {
				p.field("key set", s.File)
				p.field("id (kid)", fmt.Sprint(s.ID))
				p.field("SID", s.SID)
				var rows [][]string
				for _, k := range s.Keys {
					rows = append(rows, []string{k.Role, fmt.Sprintf("RSA-%d", k.Bits), k.Fingerprint[:16], k.Where})
				}
				p.table("KEY|SIZE|SHA-256|WHERE", rows)
			}
			return nil
		},
	}
	source.addFlags(cmd.Flags())
	addJSONFlag(cmd)
	return cmd
}

// where says in a word where the private key is that stands in a key set file as
// s.
func where(s string) string {
	switch {
	case keyfile.IsEncrypted(s):
		return "file, encrypted"
	case pkcs11.IsURI(s):
		return s
	case strings.HasPrefix(s, "-----BEGIN PUBLIC KEY-----"):
		return "public half only"
	}
	return "file"
}
