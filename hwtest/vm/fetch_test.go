//go:build linux && amd64

package vm

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// archiveOf plays Debian's programs and archive: packages are tar files, and the
// system's lists of packages are there or not.
func archiveOf(t *testing.T, lists string, packages map[string][]byte) (cache string) {
	dir := t.TempDir()
	bin, debs := filepath.Join(dir, "bin"), filepath.Join(dir, "debs")
	require.NoError(t, os.Mkdir(bin, 0o755))
	require.NoError(t, os.Mkdir(debs, 0o755))
	for name, b := range packages {
		require.NoError(t, os.WriteFile(filepath.Join(debs, name), b, 0o644))
	}
	for name, script := range map[string]string{
		"apt-cache": `case "$*" in *Dir::State=*|` + lists + `) echo "Depends: linux-image-1 (= 1), other";; *) echo no lists >&2; exit 100;; esac`,
		"apt-get": `case "$*" in *offline*) exit 100;; *update) echo updated >> ` + dir + `/log;;
			*"download linux-image-1 udev") /bin/cp ` + debs + `/* .;; *) echo no package >&2; exit 100;; esac`,
		"dpkg-deb": `exec /bin/cat "$2"`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	t.Setenv("PATH", bin)
	cache = filepath.Join(dir, "cache")
	t.Setenv("XDG_CACHE_HOME", cache)
	return dir
}

func tarOf(t *testing.T, files map[string][]byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}))
		_, err := w.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// module is an ELF file that says what modules it depends on, as the assembler
// makes it.
func module(t *testing.T, depends string) []byte {
	out := filepath.Join(t.TempDir(), "module.o")
	as := exec.Command("as", "-o", out, "-")
	as.Stdin = bytes.NewBufferString(`.section .modinfo,"a"` + "\n.asciz \"license=GPL\"\n.asciz \"depends=" + depends + "\"\n")
	said, err := as.CombinedOutput()
	require.NoError(t, err, "%s", said)
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	return b
}

func TestFetch(t *testing.T) {
	kernel := []byte("\x7fELF kernel")
	const usb = "./lib/modules/1/kernel/drivers/usb/"
	whole := map[string][]byte{
		"linux.deb": tarOf(t, map[string][]byte{
			"./boot/vmlinuz-1":           bzImage(t, kernel),
			usb + "usbip/vhci-hcd.ko":    module(t, "usbcore,usb-common"),
			usb + "core/usbcore.ko":      module(t, "usb-common"),
			usb + "common/usb-common.ko": module(t, ""),
			usb + "host/xhci-pci.ko":     module(t, "usbcore"),
			usb + "storage/big.ko":       nil,
		}),
		"udev.deb": tarOf(t, map[string][]byte{"./bin/udevadm": []byte("udevadm")}),
	}
	for lists, updates := range map[string]string{"*": "", "none": "updated\n"} {
		dir := archiveOf(t, lists, whole)
		for range 2 {
			require.NoError(t, Fetch(t.Context()))
		}
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		assert.Equal(t, updates, string(log))
		kept, err := parts(t.Context())
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(kept, kernelName))
		require.NoError(t, err)
		assert.Equal(t, kernel, b)
		order, err := loadOrder(filepath.Join(kept, modulesName), modules)
		require.NoError(t, err)
		var names []string
		for _, m := range order {
			names = append(names, moduleName(m))
		}
		assert.Equal(t, []string{"usb_common", "usbcore", "vhci_hcd", "xhci_pci"}, names)
	}
}

func TestFetchFails(t *testing.T) {
	for want, packages := range map[string]map[string][]byte{
		"not in the packages":                   {"udev.deb": tarOf(t, map[string][]byte{"./bin/udevadm": nil})},
		"linux.deb: ./boot/vmlinuz-1: not an x": {"linux.deb": tarOf(t, map[string][]byte{"./boot/vmlinuz-1": nil})},
		io.ErrUnexpectedEOF.Error():             {"linux.deb": tarOf(t, map[string][]byte{"./bin/udevadm": []byte("udevadm")})[:514]},
		"has no module vhci_hcd": {"all.deb": tarOf(t, map[string][]byte{
			"./bin/udevadm": nil, "./boot/vmlinuz-1": bzImage(t, []byte("\x7fELF")),
		})},
	} {
		dir := archiveOf(t, "*", packages)
		assert.ErrorContains(t, Fetch(t.Context()), want)
		left, err := filepath.Glob(filepath.Join(dir, "cache", "cardbridge", "*"))
		require.NoError(t, err)
		assert.Len(t, left, 1, "the lock alone")
	}
}
