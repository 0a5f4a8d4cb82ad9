package usbip

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
)

const (
	noneFree = `hub port sta spd dev      sockfd local_busid
hs  0000 006 003 00010001 000005 1-1
hs  0001 006 003 00010002 000007 1-2
ss  0008 004 000 00000000 000000 0-0
`
	secondFree = `hub port sta spd dev      sockfd local_busid
hs  0000 006 003 00010001 000005 1-1
hs  0001 004 000 00000000 000000 0-0
`
)

// files is a directory that looks like vhci_hcd's.
func files(t *testing.T, status string) string {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "attach"), nil, 0o600))
	return dir
}

func TestPlugFindsThePort(t *testing.T) {
	for _, number := range []int{1, AnyPort} {
		dir := files(t, secondFree)
		p, err := plug(dir, number, ccidsim.New(ccidsim.Config{}))
		require.NoError(t, err)
		assert.Equal(t, 1, p.Number())
		written, err := os.ReadFile(filepath.Join(dir, "attach"))
		require.NoError(t, err)
		words := strings.Fields(string(written))
		require.Len(t, words, 4)
		assert.Equal(t, []string{"1", strconv.Itoa(1<<16 | 2), "3"}, []string{words[0], words[2], words[3]})
		<-p.Done() // no kernel holds the other end
		assert.NoError(t, p.Close())
	}
}

func TestPlugWaitsForThePort(t *testing.T) {
	dir := files(t, noneFree)
	_, err := plug(dir, AnyPort, ccidsim.New(ccidsim.Config{}))
	assert.ErrorIs(t, err, ErrNoPort)
	time.AfterFunc(10*time.Millisecond, func() {
		whole := filepath.Join(dir, "next")
		assert.NoError(t, os.WriteFile(whole, []byte(secondFree), 0o600))
		assert.NoError(t, os.Rename(whole, filepath.Join(dir, "status")))
	})
	p, err := plug(dir, 1, ccidsim.New(ccidsim.Config{FullSpeed: true}))
	require.NoError(t, err)
	assert.NoError(t, p.Close())
}

func TestPlugWaitsForTheKernel(t *testing.T) {
	dir := files(t, secondFree)
	held := filepath.Join(dir, "usb1", "1-2")
	require.NoError(t, os.MkdirAll(held, 0o700))
	time.AfterFunc(10*time.Millisecond, func() { assert.NoError(t, os.Remove(held)) })
	p, err := plug(dir, AnyPort, ccidsim.New(ccidsim.Config{}))
	require.NoError(t, err)
	assert.NoDirExists(t, held)
	assert.NoError(t, p.Close())
}

func TestPlugWithoutAController(t *testing.T) {
	_, err := plug(t.TempDir(), AnyPort, ccidsim.New(ccidsim.Config{}))
	assert.ErrorIs(t, err, ErrNoController)
	dir := files(t, secondFree)
	require.NoError(t, os.Remove(filepath.Join(dir, "attach")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "attach"), 0o700))
	_, err = plug(dir, AnyPort, ccidsim.New(ccidsim.Config{}))
	assert.ErrorContains(t, err, "port 1")
}
