//go:build unix

package keyfile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadChecksWhoMayRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k")
	require.NoError(t, Write(path, 0o600, []byte("secret")))
	for mode, ok := range map[os.FileMode]bool{
		0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o666: false, 0o610: false, 0o644: false,
	} {
		require.NoError(t, os.Chmod(path, mode))
		b, err := Read(path, "a secret")
		if ok {
			require.NoError(t, err, "%o", mode)
			assert.Equal(t, "secret", string(b))
			continue
		}
		assert.ErrorIs(t, err, ErrExposed, "%o", mode)
		assert.ErrorContains(t, err, "chmod 600 "+path)
		assert.Empty(t, b)
	}
}

func TestReadKeys(t *testing.T) {
	for text, exposed := range map[string]bool{
		"-----BEGIN PUBLIC KEY-----": false, "{}": false, `"-----BEGIN PRIVATE KEY-----\nMII`: true, "-----BEGIN ENCRYPTED PRIVATE KEY-----": true,
	} {
		path := filepath.Join(t.TempDir(), "k")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		_, err := ReadKeys(path)
		assert.Equal(t, exposed, errors.Is(err, ErrExposed), text)
		require.NoError(t, os.Chmod(path, 0o600))
		b, err := ReadKeys(path)
		require.NoError(t, err)
		assert.Equal(t, text, string(b))
	}
}

// A link says nothing of the file behind it.
func TestReadFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "k"), filepath.Join(dir, "link")
	require.NoError(t, Write(path, 0o600, []byte("secret")))
	require.NoError(t, os.Symlink(path, link))
	_, err := Read(link, "a secret")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o644))
	_, err = Read(link, "a secret")
	assert.ErrorIs(t, err, ErrExposed)
}

// The file that is checked is the one that is read, whatever the name stands for
// meanwhile.
func TestReadIsNotRaced(t *testing.T) {
	dir := t.TempDir()
	safe, exposed, name := filepath.Join(dir, "safe"), filepath.Join(dir, "exposed"), filepath.Join(dir, "name")
	require.NoError(t, Write(safe, 0o600, []byte("safe")))
	require.NoError(t, os.WriteFile(exposed, []byte("exposed"), 0o644))
	require.NoError(t, os.Symlink(safe, name))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		next := filepath.Join(dir, "next")
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			assert.NoError(t, os.Symlink([]string{exposed, safe}[i%2], next))
			assert.NoError(t, os.Rename(next, name))
		}
	}()
	for range 2000 {
		if b, err := Read(name, "a secret"); err == nil {
			assert.Equal(t, "safe", string(b))
		} else {
			assert.ErrorIs(t, err, ErrExposed)
		}
	}
	close(stop)
	<-done
}

func TestReadChecksTheOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	require.NoError(t, Write(path, 0o600, []byte("secret")))
	info, err := os.Stat(path)
	require.NoError(t, err)
	other := *info.Sys().(*syscall.Stat_t)
	other.Uid += 4711
	err = check(path, "a secret", owned{info, &other})
	assert.ErrorIs(t, err, ErrExposed)
	assert.ErrorContains(t, err, "belongs to user")
	other.Uid = 0
	assert.NoError(t, check(path, "a secret", owned{info, &other}), "root can read it anyway")
}

// owned is a file that somebody else owns.
type owned struct {
	os.FileInfo
	st *syscall.Stat_t
}

func (o owned) Sys() any { return o.st }

func TestReadWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	_, err := Read(dir, "a secret")
	assert.ErrorContains(t, err, "neither a file nor a pipe")
	_, err = Read("/dev/zero", "a secret")
	assert.ErrorContains(t, err, "neither a file nor a pipe")
	_, err = Read(filepath.Join(dir, "none"), "a secret")
	assert.ErrorIs(t, err, os.ErrNotExist)

	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	b, err := Read(pipe, "a secret")
	require.NoError(t, err, "nobody writes, and nobody waits")
	assert.Empty(t, b)

	long := filepath.Join(dir, "long")
	require.NoError(t, Write(long, 0o600, make([]byte, MaxSize+1)))
	_, err = Read(long, "a secret")
	assert.ErrorContains(t, err, "more than")
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	_, ok := Credential("k")
	require.False(t, ok)
	t.Setenv("CREDENTIALS_DIRECTORY", dir+"/")
	_, ok = Credential("k")
	assert.False(t, ok)
	path := filepath.Join(dir, "k")
	require.NoError(t, os.WriteFile(path, []byte("secret"), 0o440))
	got, ok := Credential("k")
	require.True(t, ok)
	assert.Equal(t, path, got)
	info, err := os.Stat(path)
	require.NoError(t, err)
	mine, roots := *info.Sys().(*syscall.Stat_t), *info.Sys().(*syscall.Stat_t)
	mine.Uid, roots.Uid = uint32(os.Geteuid()), 0
	assert.NoError(t, check(path, "a secret", owned{info, &roots}), "systemd's access control list shows as the group's bits")
	if os.Geteuid() != 0 {
		assert.ErrorIs(t, check(path, "a secret", owned{info, &mine}), ErrExposed)
	}
	elsewhere := filepath.Join(t.TempDir(), "k")
	assert.ErrorIs(t, check(elsewhere, "a secret", owned{info, &roots}), ErrExposed)
	assert.ErrorIs(t, check(filepath.Join(dir, "sub", "k"), "a secret", owned{info, &roots}), ErrExposed)
}

func TestWriteNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "k")
	require.NoError(t, Write(path, 0o600, []byte("one")))
	assert.ErrorIs(t, Write(path, 0o600, []byte("two")), os.ErrExist)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path+".new", link))
	assert.ErrorIs(t, Write(link, 0o600, []byte("two")), os.ErrExist, "a link that leads nowhere is not followed")
	_, err = os.Stat(path + ".new")
	assert.ErrorIs(t, err, os.ErrNotExist)
}
