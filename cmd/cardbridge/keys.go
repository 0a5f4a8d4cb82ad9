package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/testkeys"
)

const maxFile = 1 << 20 // bytes of a key set, card image or record file

// readFile reads a small file and bounds it.
func readFile(path string) ([]byte, error) { return read(path, nil) }

// readPrivate is readFile for a file that its owner alone may read; what says
// what it holds.
func readPrivate(path, what string) ([]byte, error) {
	return read(path, func(info os.FileInfo) error {
		if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
			return fmt.Errorf("%s holds %s and has mode %04o; run: chmod 600 %s", path, what, mode, path)
		}
		return nil
	})
}

// read reads a small file that passes a check.
func read(path string, check func(os.FileInfo) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if check != nil {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if err := check(info); err != nil {
			return nil, err
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return b, err
}

// writeFile makes a file that must not exist yet: keys are never overwritten.
func writeFile(path string, mode os.FileMode, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path) // half a file is none
	}
	return err
}

func indent(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}

// readKeySet loads a server's key set with its private keys.
func readKeySet(path string) (cryptogram.ServerKeys, error) {
	if path == "" {
		return cryptogram.ServerKeys{}, fmt.Errorf("say which key set is the server's by --keyset; cardbridge keys new makes one")
	}
	b, err := readFile(path)
	if err != nil {
		return cryptogram.ServerKeys{}, err
	}
	set, err := cryptogram.ParseKeySet(b)
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", path, err)
	}
	keys, err := set.Private()
	if err != nil {
		return cryptogram.ServerKeys{}, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// publicKeySet is the public half of a key set file that holds either half.
func publicKeySet(path string) (cryptogram.KeySetPEM, error) {
	b, err := readFile(path)
	if err != nil {
		return cryptogram.KeySetPEM{}, err
	}
	set, err := cryptogram.ParseKeySet(b)
	if err != nil {
		return cryptogram.KeySetPEM{}, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := set.Public(); err == nil {
		return set, nil
	}
	keys, err := set.Private()
	if err != nil {
		return cryptogram.KeySetPEM{}, fmt.Errorf("%s: %w", path, err)
	}
	pub, err := cryptogram.EncodePublic(keys.Public())
	return cryptogram.KeySetPEM{ID: set.ID, KeysPEM: pub}, err
}

// warnOfTestKeys tells on w where a file's keys are public test keys.
func warnOfTestKeys(w io.Writer, file string, k cryptogram.PublicKeys) {
	if testkeys.Known(k) {
		fmt.Fprintf(w, "warning: %s: %s\n", file, testkeys.Warning)
	}
}

func newKeysCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "The server's key sets"}
	cmd.AddCommand(newKeysNewCmd(), newKeysPublicCmd())
	return cmd
}

func newKeysNewCmd() *cobra.Command {
	var kid uint8
	var bits int
	var single bool
	cmd := &cobra.Command{
		Use:   "new FILE",
		Short: "Make a server key set with new keys",
		Long: `Makes a key set of three auth keys (suites 01 and 03; one with --single, suite
01 only) and an enc key, and writes it to FILE, mode 0600. The file must not
exist yet. Cards get its public half: cardbridge keys public, card new.`,
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
			if _, err := os.Lstat(args[0]); err == nil {
				return fmt.Errorf("%s exists: keys are not overwritten", args[0])
			}
			keys, err := cryptogram.Generate(auth, bits)
			if err != nil {
				return err
			}
			set := cryptogram.KeySetPEM{ID: kid, KeysPEM: keys}
			b, err := indent(set)
			if err != nil {
				return err
			}
			if err := writeFile(args[0], 0o600, b); err != nil {
				return err
			}
			private, err := set.Private()
			if err != nil {
				return err
			}
			sid := fmt.Sprintf("%X", private.SID())
			if p.json {
				return p.object(map[string]any{"file": args[0], "id": kid, "sid": sid, "bits": bits, "auth_keys": auth})
			}
			p.field("key set", args[0])
			p.field("id (kid)", fmt.Sprint(kid))
			p.field("keys", fmt.Sprintf("%d auth, 1 enc, RSA-%d", auth, bits))
			p.field("SID", sid)
			return nil
		},
	}
	cmd.Flags().Uint8Var(&kid, "id", 1, "key set id (kid), 1 to 15, under which cards hold it")
	cmd.Flags().IntVar(&bits, "bits", 2048, "bits of each modulus: 2048, 3072 or 4096")
	cmd.Flags().BoolVar(&single, "single", false, "one auth key only: suite 01")
	addJSONFlag(cmd)
	return cmd
}

func newKeysPublicCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "public FILE",
		Short: "Print the public half of a key set",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPrinter(cmd)
			set, err := publicKeySet(args[0])
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
	addJSONFlag(cmd)
	return cmd
}
