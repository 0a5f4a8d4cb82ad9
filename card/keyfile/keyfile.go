// Package keyfile reads and writes files of private keys: who may read them is
// checked on the file that was opened, and a key may be encrypted PKCS#8.
package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// MaxSize is the longest file that is read, in bytes.
const MaxSize = 1 << 20

// ErrExposed is matched by every error that says a file of secrets is one that
// others than its owner can read or replace.
var ErrExposed = errors.New("exposed secrets")

// Read reads a file of secrets; what says of which, for errors. Symbolic links
// are followed. What is opened must be a regular file, or a pipe, of mode 0600 or
// less, that belongs to this process's user or to root; else the error matches
// ErrExposed and says what to do. In the directory that systemd passes
// credentials in ($CREDENTIALS_DIRECTORY), which is the service's alone, root's
// files may be readable by the group too: systemd lets the service read them by
// an access control list, which shows as the group's bits. On Windows files have
// no such mode, and nothing of it is checked.
func Read(path, what string) ([]byte, error) {
	return read(path, what, func([]byte) bool { return true })
}

// ReadKeys is Read of a file that may have private keys, in PEM, or may not: a key
// set, a card image, a card record. Where it has none, anybody may read it.
func ReadKeys(path string) ([]byte, error) {
	return read(path, "private keys", func(b []byte) bool { return bytes.Contains(b, []byte("PRIVATE KEY-----")) })
}

func read(path, what string, secret func([]byte) bool) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The file that is open, not what the name stands for by now.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() && mode&fs.ModeNamedPipe == 0 {
		return nil, fmt.Errorf("%s: neither a file nor a pipe", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > MaxSize:
		return nil, fmt.Errorf("%s: more than %d bytes", path, MaxSize)
	case !secret(b):
		return b, nil
	}
	if err := check(path, what, info); err != nil {
		return nil, err
	}
	return b, nil
}

// isCredential reports whether path is in the directory that systemd passes
// credentials in.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return false
	}
	abs, err := filepath.Abs(path)
	return err == nil && filepath.Dir(abs) == filepath.Clean(dir)
}

// Credential is the path of the credential that systemd passes under a name
// (LoadCredential=, LoadCredentialEncrypted=); ok reports whether there is one.
func Credential(name string) (path string, ok bool) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", false
	}
	path = filepath.Join(dir, name)
	_, err := os.Stat(path)
	return path, err == nil
}

// Write makes a file with that mode, which must not exist yet: keys are never
// overwritten. Missing directories are made, for this user alone.
func Write(path string, mode fs.FileMode, b []byte) error {
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
