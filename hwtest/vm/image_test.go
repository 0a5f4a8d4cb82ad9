//go:build linux && amd64

package vm

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bzImage is a kernel as a package has it, with an ELF file in gzip.
func bzImage(t testing.TB, kernel []byte) []byte {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(kernel)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	b := make([]byte, 3*512, 3*512+packed.Len())
	b[0x1F1] = 1
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x020F)
	binary.LittleEndian.PutUint32(b[0x248:], 512)
	binary.LittleEndian.PutUint32(b[0x24C:], uint32(packed.Len()))
	return append(b, packed.Bytes()...)
}

func TestKernel(t *testing.T) {
	kernel := []byte("\x7fELF and more")
	p, err := payload(bzImage(t, kernel))
	require.NoError(t, err)
	b, err := decompress(t.Context(), p, true)
	require.NoError(t, err)
	assert.Equal(t, kernel, b)

	_, err = payload(kernel)
	assert.ErrorIs(t, err, errBzImage)
	cut := bzImage(t, kernel)
	_, err = payload(cut[:len(cut)-1])
	assert.ErrorIs(t, err, errBzImage)
	_, err = decompress(t.Context(), []byte("BZh9"), true)
	assert.ErrorContains(t, err, "unknown way: 42 5a 68 39")

	t.Setenv("PATH", t.TempDir())
	_, err = decompress(t.Context(), []byte("\xfd7zXZ\x00"), false)
	assert.ErrorContains(t, err, "install the package xz-utils")
}

func FuzzPayload(f *testing.F) {
	f.Add(bzImage(f, []byte("\x7fELF")))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := payload(b)
		if err != nil {
			assert.ErrorIs(t, err, errBzImage)
		}
		assert.LessOrEqual(t, len(p), len(b))
	})
}

// entries reads an archive back: names, modes and data.
func entries(t *testing.T, b []byte) map[string]entry {
	out := map[string]entry{}
	for {
		require.GreaterOrEqual(t, len(b), 110)
		require.Equal(t, "070701", string(b[:6]))
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			require.NoError(t, err)
			return int(n)
		}
		round := func(n int) int { return (n + 3) &^ 3 }
		mode, size, nameSize := field(1), field(6), field(11)
		major, minor := field(9), field(10)
		name := string(b[110 : 110+nameSize-1])
		b = b[round(110+nameSize):]
		if name == "TRAILER!!!" {
			assert.Empty(t, b)
			return out
		}
		out[name] = entry{mode: uint32(mode), data: bytes.Clone(b[:size]), major: uint32(major), minor: uint32(minor)}
		b = b[round(size):]
	}
}

func TestArchive(t *testing.T) {
	host := filepath.Join(t.TempDir(), "host")
	require.NoError(t, os.WriteFile(host, []byte("from the host"), 0o600))
	a := archive{}
	a.file("/etc/deep/file", []byte("12345"))
	a.copy("/host", host, 0o755)
	a.link("/bin", "usr/bin")
	a.put("/dev/console", entry{mode: cpioCharDev | 0o600, major: 5, minor: 1})
	var b bytes.Buffer
	require.NoError(t, a.write(&b))
	dir := entry{mode: cpioDir | 0o755, data: []byte{}}
	assert.Equal(t, map[string]entry{
		"etc": dir, "etc/deep": dir, "dev": dir,
		"etc/deep/file": {mode: cpioFile | 0o644, data: []byte("12345")},
		"host":          {mode: cpioFile | 0o755, data: []byte("from the host")},
		"bin":           {mode: cpioLink | 0o777, data: []byte("usr/bin")},
		"dev/console":   {mode: cpioCharDev | 0o600, data: []byte{}, major: 5, minor: 1},
	}, entries(t, b.Bytes()))

	a.copy("/gone", host+"-gone", 0o644)
	assert.ErrorIs(t, a.write(&b), os.ErrNotExist)
}

func TestLibraries(t *testing.T) {
	a := archive{}
	require.NoError(t, a.program("/usr/bin/sh", "/bin/sh"))
	assert.Contains(t, a, "/usr/lib/x86_64-linux-gnu/libc.so.6")
	assert.Contains(t, a, "/usr/lib64/ld-linux-x86-64.so.2")
	assert.ErrorContains(t, a.addLibrary("libnothing.so.1", hostLibs), "install the package that has it")
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("text"), 0o644))
	assert.NoError(t, a.linked(text))
}

func TestWanted(t *testing.T) {
	for name, want := range map[string]string{
		"/boot/vmlinuz-6.1.0-56-amd64": kernelName,
		"/bin/udevadm":                 udevName,
		"/usr/bin/udevadm":             udevName,
		"/lib/modules/6.1/kernel/drivers/usb/usbip/vhci-hcd.ko":            modulesName + "/vhci-hcd.ko",
		"/usr/lib/modules/6.12/kernel/drivers/usb/core/usbcore.ko.xz":      modulesName + "/usbcore.ko",
		"/lib/modules/6.1/kernel/drivers/usb/storage/usb-storage.ko":       "",
		"/usr/share/doc/linux-image-6.1.0-56-amd64/changelog.Debian.gz":    "",
		"/usr/share/bash-completion/completions/udevadm":                   "",
		"/lib/modules/6.1.0/kernel/drivers/net/usb/core/something-else.ko": "",
	} {
		got, _ := wanted(name)
		assert.Equal(t, want, got, name)
	}
}
