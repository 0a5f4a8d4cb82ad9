package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Names in the cache directory. A change of what is kept needs another
// cacheVersion.
const (
	cacheVersion = "1"
	kernelName   = "vmlinux"
	modulesName  = "modules"
	udevName     = "udevadm"
)

const (
	kernelPackage = "linux-image-amd64" // depends on the one that has the kernel
	udevPackage   = "udev"
)

// Fetch gets what the machine is made of and the host has not installed, 75 MB
// of Debian packages, unless the user's cache directory has it already. It needs
// no root. Enter does it too, if it must.
func Fetch(ctx context.Context) error {
	_, err := parts(ctx)
	return err
}

// parts gives the directory with the kernel, its modules and udevadm.
func parts(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("vm: %w: set XDG_CACHE_HOME", err)
	}
	base := filepath.Join(cache, "cardbridge")
	dir := filepath.Join(base, "vm-"+cacheVersion+"-"+codename())
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	work, err := os.MkdirTemp(base, "fetch-")
	if err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	defer os.RemoveAll(work)
	whole := filepath.Join(work, "whole")
	if err := fetch(ctx, work, whole); err != nil {
		return "", fmt.Errorf("vm: get the machine's kernel: %w", err)
	}
	if err := os.Rename(whole, dir); err != nil {
		return "", fmt.Errorf("vm: %w", err)
	}
	return dir, nil
}

// codename names the host's distribution: udevadm and the host's libraries must
// be of one.
func codename() string {
	b, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return filepath.Base(strings.Trim(name, `"`))
		}
	}
	return "unknown"
}

// lock makes other processes wait that fetch too.
func lock(name string) (unlock func() error, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f.Close, nil
}

// fetch downloads the packages into work and unpacks them into whole.
func fetch(ctx context.Context, work, whole string) error {
	if err := os.MkdirAll(filepath.Join(whole, modulesName), 0o755); err != nil {
		return err
	}
	get := apt{dir: work}
	kernel, err := get.dependency(ctx, kernelPackage)
	if err != nil {
		return err
	}
	if err := get.download(ctx, kernel, udevPackage); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := unpack(ctx, deb, whole); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	for _, name := range []string{kernelName, udevName} {
		if _, err := os.Stat(filepath.Join(whole, name)); err != nil {
			return fmt.Errorf("not in the packages: %w", err)
		}
	}
	_, err = loadOrder(filepath.Join(whole, modulesName), modules)
	return err
}

// apt is Debian's package manager, as anybody may use it.
type apt struct {
	dir     string
	options []string
}

// withLists does what needs the lists of packages. Where the system's are not
// there, or too old for what the archive has now, apt gets some for itself.
func (a *apt) withLists(ctx context.Context, do func() error) error {
	err := do()
	if err == nil || errors.Is(err, exec.ErrNotFound) || a.options != nil {
		return err
	}
	a.options = []string{"-o", "Dir::State=" + a.dir + "/state", "-o", "Dir::Cache=" + a.dir + "/cache", "-o", "Dir::State::status=/var/lib/dpkg/status"}
	for _, dir := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	if _, again := a.run(ctx, "apt-get", "-o", "APT::Update::Error-Mode=any", "update"); again != nil {
		return errors.Join(err, again)
	}
	return do()
}

// dependency gives the first package that another depends on.
func (a *apt) dependency(ctx context.Context, pkg string) (name string, err error) {
	err = a.withLists(ctx, func() error {
		out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", pkg)
		for line := range strings.Lines(string(out)) {
			if list, ok := strings.CutPrefix(line, "Depends: "); ok && err == nil {
				name = list[:strings.IndexAny(list, " ,(\n")]
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("apt knows no package %s", pkg))
	})
	return name, err
}

// download gets packages into the directory; apt checks their signatures.
func (a *apt) download(ctx context.Context, pkgs ...string) error {
	return a.withLists(ctx, func() error {
		_, err := a.run(ctx, "apt-get", append([]string{"download"}, pkgs...)...)
		return err
	})
}

func (a *apt) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	options := append([]string{"-q", "-o", "APT::Sandbox::User="}, a.options...)
	cmd := exec.CommandContext(ctx, program, append(options, args...)...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: the kernel is a package of Debian's", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// unpack takes what the machine needs out of a package.
func unpack(ctx context.Context, deb, whole string) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_, copyErr := io.Copy(io.Discard, out)
		if waitErr := cmd.Wait(); waitErr != nil {
			err = errors.Join(err, fmt.Errorf("dpkg-deb: %w: %s", waitErr, bytes.TrimSpace(said.Bytes())))
		}
		err = errors.Join(err, copyErr)
	}()
	for files := tar.NewReader(out); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, mode := wanted(path.Clean("/" + h.Name))
		if name == "" || h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		if name == kernelName {
			if b, err = payload(b); err == nil {
				b, err = decompress(ctx, b, true)
			}
		} else if strings.HasPrefix(name, modulesName) {
			b, err = decompress(ctx, b, false)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if err := os.WriteFile(filepath.Join(whole, name), b, mode); err != nil {
			return err
		}
	}
}

// wanted says under what name a file of a package is kept, "" for not at all.
func wanted(name string) (string, os.FileMode) {
	name = strings.TrimPrefix(name, "/usr")
	switch {
	case strings.HasPrefix(name, "/boot/vmlinuz-"), strings.HasPrefix(name, "/lib/modules/") && path.Base(name) == "vmlinuz":
		return kernelName, 0o644
	case name == "/bin/udevadm":
		return udevName, 0o755
	case !strings.HasPrefix(name, "/lib/modules/"):
		return "", 0
	}
	for _, family := range []string{"common", "core", "host", "usbip"} {
		if strings.Contains(name, "/kernel/drivers/usb/"+family+"/") {
			base, _, _ := strings.Cut(path.Base(name), ".")
			return modulesName + "/" + base + ".ko", 0o644
		}
	}
	return "", 0
}
