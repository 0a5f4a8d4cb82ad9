package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where the machine's loader looks for libraries without a cache, and where the
// host's are, as Debian has them.
const guestLibs = "/usr/lib/x86_64-linux-gnu"

var hostLibs = []string{guestLibs, "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/local/lib", "/usr/local/lib/x86_64-linux-gnu", "/usr/lib", "/lib"}

// program adds an executable or a library of the host's, and what it is linked
// with.
func (a archive) program(name, from string) error {
	a.copy(name, from, 0o755)
	return a.linked(from)
}

// linked adds the libraries that an ELF file needs, and theirs; none for any
// other file.
func (a archive) linked(from string) error {
	if is, err := isELF(from); !is {
		return err
	}
	f, err := elf.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, min(p.Filesz, 4096))
			if _, err := p.ReadAt(b, 0); err != nil {
				return fmt.Errorf("%s: interpreter: %w", from, err)
			}
			loader := strings.TrimRight(string(b), "\x00")
			a.copy(unmerge(loader), loader, 0o755)
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: libraries: %w", from, err)
	}
	runPath, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return fmt.Errorf("%s: run path: %w", from, err)
	}
	var dirs []string
	for _, p := range runPath {
		dirs = append(dirs, filepath.SplitList(strings.ReplaceAll(p, "$ORIGIN", filepath.Dir(from)))...)
	}
	for _, lib := range needed {
		if err := a.addLibrary(lib, append(dirs, hostLibs...)); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	return nil
}

func isELF(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var magic [len(elf.ELFMAG)]byte
	switch _, err := io.ReadFull(f, magic[:]); {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return false, nil
	case err != nil:
		return false, err
	}
	return string(magic[:]) == elf.ELFMAG, nil
}

// addLibrary adds a library by its name, once.
func (a archive) addLibrary(name string, dirs []string) error {
	at := filepath.Join(guestLibs, name)
	if _, ok := a[at]; ok {
		return nil
	}
	i := slices.IndexFunc(dirs, func(d string) bool {
		_, err := os.Stat(filepath.Join(d, name))
		return err == nil
	})
	if i < 0 {
		return fmt.Errorf("library %s not found: install the package that has it", name)
	}
	return a.program(at, filepath.Join(dirs[i], name))
}

// unmerge is a path without the links from / into /usr that the machine has.
func unmerge(name string) string {
	for _, dir := range merged {
		if strings.HasPrefix(name, "/"+dir+"/") {
			return "/usr" + name
		}
	}
	return name
}

var merged = []string{"bin", "sbin", "lib", "lib64"}
