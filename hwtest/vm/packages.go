package vm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// dpkgDir is dpkg's database, here and in the machine.
const dpkgDir = "/var/lib/dpkg"

// unread are directories of packages that nothing in the machine reads.
var unread = []string{"/usr/share/doc", "/usr/share/info", "/usr/share/lintian", "/usr/share/locale", "/usr/share/man"}

// installed are the host's packages, by name: what dpkg's database has of them.
type installed map[string]stanza

type stanza struct {
	text      string
	arch      string
	essential bool     // all others count on it
	depends   []string // of alternatives the first that is installed counts
	is        []string // what else it provides
}

// readInstalled reads dpkg's status file (dpkg(1)).
func readInstalled(status []byte) installed {
	all := installed{}
	for text := range bytes.SplitSeq(status, []byte("\n\n")) {
		var name string
		s := stanza{text: strings.TrimSpace(string(text)) + "\n"}
		ok := false
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, len(text)+1)
		for lines.Scan() {
			key, value, _ := strings.Cut(lines.Text(), ": ")
			switch key {
			case "Package":
				name = value
			case "Status":
				ok = value == "install ok installed"
			case "Architecture":
				s.arch = value
			case "Essential":
				s.essential = value == "yes"
			case "Depends", "Pre-Depends":
				s.depends = append(s.depends, strings.Split(value, ",")...)
			case "Provides":
				s.is = strings.Split(value, ",")
			}
		}
		if ok {
			all[name] = s
		}
	}
	return all
}

// bare is a package's name without what follows it in a field.
func bare(dependency string) string {
	name := strings.TrimSpace(dependency)
	if i := strings.IndexAny(name, " (:["); i >= 0 {
		name = name[:i]
	}
	return name
}

// closure gives packages, all that they depend on and the essential ones, by
// name.
func (all installed) closure(names []string) ([]string, error) {
	for name, s := range all {
		if s.essential {
			names = append(names, name)
		}
	}
	provided := map[string]string{}
	for name, s := range all {
		for _, what := range s.is {
			provided[bare(what)] = name
		}
	}
	var out []string
	done := map[string]bool{}
	var visit func(alternatives string) error
	visit = func(alternatives string) error {
		for choice := range strings.SplitSeq(alternatives, "|") {
			name := bare(choice)
			if _, ok := all[name]; !ok {
				name = provided[name]
			}
			if name == "" {
				continue
			}
			if done[name] {
				return nil
			}
			done[name] = true
			out = append(out, name)
			for _, d := range all[name].depends {
				if err := visit(d); err != nil {
					return err
				}
			}
			return nil
		}
		return fmt.Errorf("the package %s is not installed", strings.TrimSpace(alternatives))
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	slices.Sort(out)
	return out, nil
}

// packages adds the files of the host's packages and of all that they depend on,
// and what dpkg knows of them.
func (a archive) packages(names []string) error {
	status, err := os.ReadFile(filepath.Join(dpkgDir, "status"))
	if err != nil {
		return fmt.Errorf("no Debian packages here: %w", err)
	}
	all := readInstalled(status)
	list, err := all.closure(names)
	if err != nil {
		return err
	}
	var kept strings.Builder
	for _, name := range list {
		s := all[name]
		kept.WriteString(s.text + "\n")
		if err := a.packaged(name, s.arch); err != nil {
			return fmt.Errorf("package %s: %w", name, err)
		}
	}
	a.file(filepath.Join(dpkgDir, "status"), []byte(kept.String()))
	for _, dir := range []string{"updates", "triggers", "parts", "alternatives"} {
		a.dir(filepath.Join(dpkgDir, dir))
	}
	a.dir("/var/log")
	a.dir("/var/tmp")
	for _, name := range []string{"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/os-release", "/etc/alternatives", "/etc/pam.d"} {
		if err := a.asIs(name); err != nil {
			return err
		}
	}
	a.file(filepath.Join(dpkgDir, "info", "format"), []byte("1\n"))
	a.file("/etc/machine-id", []byte(strings.Repeat("1", 32)+"\n")) // else systemd asks who we are
	return nil
}

// packaged adds one package's files, and what dpkg keeps of it.
func (a archive) packaged(name, arch string) error {
	base := filepath.Join(dpkgDir, "info", name)
	if _, err := os.Stat(base + ".list"); err != nil {
		base += ":" + arch // where it may be there for several
	}
	list, err := os.ReadFile(base + ".list")
	if err != nil {
		return err
	}
	infos, err := filepath.Glob(base + ".*")
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := a.asIs(info); err != nil {
			return err
		}
	}
	for line := range strings.Lines(string(list)) {
		file := strings.TrimSpace(line)
		if file == "/." || slices.ContainsFunc(unread, func(dir string) bool { return strings.HasPrefix(file, dir) }) {
			continue
		}
		info, err := os.Lstat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // dpkg is told on some machines to leave files out
		case err != nil:
			return err
		case info.IsDir():
			if at := unmerge(file + "/"); at == file+"/" && !slices.Contains(merged, file[1:]) {
				a.dir(file)
			}
			continue
		}
		if err := a.asIs(file); err != nil {
			return err
		}
	}
	return nil
}

// asIs adds a file, a link or a directory of links of the host's. What this user
// may not read the machine does not get.
func (a archive) asIs(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	at := unmerge(name)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		a.link(at, target)
	case info.IsDir():
		entries, err := os.ReadDir(name)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := a.asIs(filepath.Join(name, e.Name())); err != nil {
				return err
			}
		}
	case info.Mode().IsRegular():
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		a.copy(at, name, info.Mode())
		return f.Close()
	}
	return nil
}
