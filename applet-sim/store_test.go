package appletsim

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
)

const saverEnv = "APPLETSIM_TEST_SAVER"

func TestMain(m *testing.M) {
	if path := os.Getenv(saverEnv); path != "" {
		saveForGood(path)
	}
	os.Exit(m.Run())
}

func writeImage(t *testing.T, im *Image) (path string) {
	b, err := im.Marshal()
	require.NoError(t, err)
	path = filepath.Join(t.TempDir(), "card.json")
	require.NoError(t, os.WriteFile(path, b, 0o644))
	return path
}

func open(t *testing.T, path string) *Card {
	c, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestOpen: what the card did outlives it, and so does everything else that
// the file holds.
func TestOpen(t *testing.T) {
	im := testImage(t)
	path := writeImage(t, im)
	link := filepath.Join(filepath.Dir(path), "link.json")
	require.NoError(t, os.Symlink("card.json", link))

	c := open(t, link)
	assert.Equal(t, im, c.Image())
	m := newTerminal(t, c)
	m.internal(1)
	require.Equal(t, apdu.SWAuthenticationFailed, m.external(make([]byte, 352)))
	data := order{1, eleven, nil, 0x100}.data()
	m.authenticate(3, insDeactivate, data)
	first, sw := m.secured(insDeactivate, data)
	require.Equal(t, apdu.SWSuccess, sw)
	done := c.Image()
	require.NoError(t, c.Close())

	info, err := os.Lstat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode(), "the file itself was replaced, readable by its owner")
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, left, 3, "the file, its lock, and the link")

	c = open(t, path)
	assert.Equal(t, done, c.Image())
	assert.EqualValues(t, 1, done.failures(1))
	assert.EqualValues(t, 0x101, done.EventCounter)
	assert.Equal(t, Disabled, done.Profiles[0].State)
	m = newTerminal(t, c)
	m.authenticate(1, insDeactivate, data)
	again, sw := m.secured(insDeactivate, data)
	assert.Equal(t, apdu.SWSuccess, sw)
	assert.Equal(t, first, again)
}

func TestOpenErrors(t *testing.T) {
	_, err := Open(filepath.Join(t.TempDir(), "none.json"))
	assert.ErrorIs(t, err, os.ErrNotExist)

	path := writeImage(t, testImage(t))
	c := open(t, path)
	_, err = Open(path)
	assert.ErrorIs(t, err, ErrInUse)
	require.NoError(t, c.Close())
	open(t, path).Close()

	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o600))
	for range 2 { // the lock is free again after the first
		_, err = Open(path)
		assert.ErrorIs(t, err, ErrImage)
	}
	require.NoError(t, os.WriteFile(path, make([]byte, maxImage+2), 0o600))
	_, err = Open(path)
	assert.ErrorIs(t, err, ErrImage)
}

// TestWriteFailsOnDisk: where the file cannot be replaced nothing changes.
func TestWriteFailsOnDisk(t *testing.T) {
	path := writeImage(t, testImage(t))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	c := open(t, path)
	// A directory that is not empty stands where the new file would be written.
	require.NoError(t, os.MkdirAll(filepath.Join(path+".new", "x"), 0o700))
	m := newTerminal(t, c)
	got, sw := m.do(1, insDeactivate, order{1, eleven, nil, 0x100}.data())
	assert.Equal(t, "90017F"+everydayOn+at100+suite01, got)
	assert.Equal(t, apdu.SWMemoryFailure, sw)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
}

// TestKilled kills a process that does nothing but persistent writes: the file
// is always one of the two images.
func TestKilled(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	path := writeImage(t, testImage(t))
	for round := range 6 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), saverEnv+"="+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for range 3 + 5*round {
			require.True(t, lines.Scan())
		}
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		c, err := Open(path)
		require.NoError(t, err, "round %d", round)
		n := c.Image().EventCounter
		assert.Contains(t, []uint32{0x100, 0x101}, n)
		require.NoError(t, c.Close())
	}
}

// saveForGood writes two images by turns until it is killed.
func saveForGood(path string) {
	c, err := Open(path)
	if err != nil {
		panic(err)
	}
	for {
		next := c.Image()
		next.EventCounter ^= 1
		if err := c.persist(next); err != nil {
			panic(err)
		}
		fmt.Println(next.EventCounter)
	}
}
