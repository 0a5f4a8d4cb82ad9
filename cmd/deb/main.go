// Command deb makes the Debian package cardbridge: the program, the emulator, a
// systemd unit, shell completions, man pages and the documentation. It needs Go
// and dpkg-deb, and no root.
package main

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

//go:embed files
var files embed.FS

// Where files go. All but the maintainer scripts, which are dpkg's.
var places = map[string]string{
	"cardbridge.service": "usr/lib/systemd/system/cardbridge.service",
	"sysusers.conf":      "usr/lib/sysusers.d/cardbridge.conf",
	"polkit.rules":       "usr/share/polkit-1/rules.d/cardbridge.rules",
	"config.yaml":        "etc/cardbridge/config.yaml",
	"lintian":            "usr/share/lintian/overrides/cardbridge",
	"postinst":           "DEBIAN/postinst",
	"prerm":              "DEBIAN/prerm",
	"postrm":             "DEBIAN/postrm",
}

// completions are where shells look for them, by the shell's name.
var completions = map[string]string{
	"bash": "usr/share/bash-completion/completions/%s",
	"zsh":  "usr/share/zsh/vendor-completions/_%s",
	"fish": "usr/share/fish/vendor_completions.d/%s.fish",
}

const (
	docs   = "usr/share/doc/cardbridge"
	manual = "usr/share/man/man1"
)

// maintainer is who dpkg is to name.
const maintainer = "cardbridge <cardbridge@users.noreply.github.com>"

func main() {
	source := pflag.String("source", ".", "the repository's `DIR`")
	out := pflag.String("out", "bin", "`DIR` for the package")
	pflag.Parse()
	name, err := build(*source, *out, "-trimpath")
	if err != nil {
		fmt.Fprintln(os.Stderr, "deb:", err)
		os.Exit(1)
	}
	fmt.Println(name)
}

// build makes the package of the sources in a directory, the programs with these
// flags of go build, and gives its file.
func build(source, out string, flags ...string) (name string, err error) {
	root, err := os.MkdirTemp("", "cardbridge-deb-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	p := &tree{source: source, root: root, flags: flags, date: date(source)}
	steps := []func() error{p.programs, p.files, p.completions, p.manual, p.documentation, p.control, p.modes}
	for _, step := range steps {
		if err := step(); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	name = filepath.Join(out, fmt.Sprintf("cardbridge_%s_%s.deb", p.version, p.arch))
	_, err = p.output("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, name)
	return name, err
}

// date is that of the last commit, or now where there is none: the same sources
// make the same package.
func date(source string) time.Time {
	cmd := exec.Command("git", "log", "-1", "--format=%ct")
	cmd.Dir = source
	if b, err := cmd.Output(); err == nil {
		if s, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			return time.Unix(s, 0)
		}
	}
	return time.Now()
}

// tree is the package's file system in the making.
type tree struct {
	source, root  string
	flags         []string
	date          time.Time
	version, arch string
}

func (p *tree) path(name string) string { return filepath.Join(p.root, name) }

// output runs a program to its end.
func (p *tree) output(program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), fmt.Sprint("SOURCE_DATE_EPOCH=", p.date.Unix()))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}

// put writes a file of the package.
func (p *tree) put(name string, b []byte, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(p.path(name)), 0o755); err != nil {
		return err
	}
	return os.WriteFile(p.path(name), b, perm)
}

// compressed writes a file as gzip, without a name or a time in it.
func (p *tree) compressed(name string, b []byte) error {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return p.put(name+".gz", z.Bytes(), 0o644)
}

var programs = []string{"cardbridge", "applet-sim"}

func (p *tree) programs() error {
	for _, name := range programs {
		args := append([]string{"build", "-buildvcs=auto", "-ldflags=-s -w", "-o", p.path("usr/bin") + "/"}, p.flags...)
		cmd := exec.Command("go", append(args, "./cmd/"+name)...)
		cmd.Dir, cmd.Env = p.source, append(os.Environ(), "CGO_ENABLED="+map[string]string{"cardbridge": "1", "applet-sim": "0"}[name])
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, bytes.TrimSpace(said))
		}
	}
	said, err := p.output(p.path("usr/bin/cardbridge"), "--version")
	if err != nil {
		return err
	}
	p.version = debianVersion(strings.TrimSpace(strings.TrimPrefix(string(said), "cardbridge version")))
	arch, err := p.output("dpkg", "--print-architecture")
	p.arch = strings.TrimSpace(string(arch))
	return err
}

var notInVersion = regexp.MustCompile(`[^A-Za-z0-9.+~]`)

// debianVersion is a Go module's version as Debian orders them (deb-version(7)):
// v1.2.0-rc1 is before v1.2.0, and what has none before all.
func debianVersion(v string) string {
	v, ok := strings.CutPrefix(v, "v")
	if !ok {
		return "0~devel"
	}
	return notInVersion.ReplaceAllString(v, "~")
}

func (p *tree) files() error {
	for from, to := range places {
		b, err := files.ReadFile("files/" + from)
		if err != nil {
			return err
		}
		perm := fs.FileMode(0o644)
		if strings.HasPrefix(to, "DEBIAN/") {
			perm = 0o755
		}
		if err := p.put(to, b, perm); err != nil {
			return err
		}
	}
	return p.put("DEBIAN/conffiles", []byte("/etc/cardbridge/config.yaml\n"), 0o644)
}

func (p *tree) completions() error {
	for _, program := range programs {
		for shell, place := range completions {
			b, err := p.output(p.path("usr/bin/"+program), "completion", shell)
			if err != nil {
				return err
			}
			if err := p.put(fmt.Sprintf(place, program), b, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *tree) manual() error {
	dir := p.path(manual)
	for _, program := range programs {
		if _, err := p.output(p.path("usr/bin/"+program), "man", dir); err != nil {
			return err
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		return err
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		if err := p.compressed(filepath.Join(manual, filepath.Base(page)), b); err != nil {
			return err
		}
		if err := os.Remove(page); err != nil {
			return err
		}
	}
	return nil
}

// documentation is the repository's, but for what is for those who work on it.
func (p *tree) documentation() error {
	pages, err := filepath.Glob(filepath.Join(p.source, "docs", "*.md"))
	if err != nil {
		return err
	}
	pages = append(pages, filepath.Join(p.source, "README.md"), filepath.Join(p.source, "SECURITY.md"))
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(p.source, filepath.Dir(page))
		if err != nil {
			return err
		}
		if err := p.put(filepath.Join(docs, filepath.Base(page)), relinked(b, filepath.ToSlash(dir)), 0o644); err != nil {
			return err
		}
	}
	if grafana := filepath.Join(p.source, "docs", "grafana"); exists(grafana) {
		if err := os.CopyFS(p.path(filepath.Join(docs, "grafana")), os.DirFS(grafana)); err != nil {
			return err
		}
	}
	log := fmt.Sprintf("cardbridge (%s) unstable; urgency=medium\n\n  * See the repository's history.\n\n -- %s  %s\n",
		p.version, maintainer, p.date.UTC().Format(time.RFC1123Z))
	if err := p.compressed(filepath.Join(docs, "changelog"), []byte(log)); err != nil {
		return err
	}
	return p.put(filepath.Join(docs, "copyright"), []byte(copyright), 0o644)
}

var (
	link     = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`) // in the tree
	packaged = regexp.MustCompile(`^(docs/([^/]+\.md|grafana/.*)|README\.md|SECURITY\.md)$`)
)

// relinked is a page of a folder of the repository with links that hold in the
// package, where all pages are in one folder; what is not in it is linked in the
// repository.
func relinked(page []byte, dir string) []byte {
	return link.ReplaceAllFunc(page, func(b []byte) []byte {
		m := link.FindSubmatch(b)
		to := path.Join(dir, string(m[1]))
		if packaged.MatchString(to) {
			to = strings.TrimPrefix(to, "docs/")
		} else {
			to = "https://github.com/cardbridge/cardbridge/blob/main/" + to
		}
		return fmt.Appendf(nil, "](%s%s)", to, m[2])
	})
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

const copyright = `Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: cardbridge
Source: https://github.com/cardbridge/cardbridge

Files: *
Copyright: 2026 the cardbridge authors
License: Apache-2.0
 On Debian systems the text of this license is in
 /usr/share/common-licenses/Apache-2.0.
`

const control = `Package: cardbridge
Version: %s
Architecture: %s
Maintainer: %s
Installed-Size: %d
Depends: libc6 (>= 2.34), libpcsclite1 (>= 1.9), libusb-1.0-0 (>= 2:1.0.22), procps, systemd | systemd-standalone-sysusers | systemd-sysusers
Recommends: pcscd, libccid, polkitd
Suggests: postgresql, vsmartcard-vpcd
Section: net
Priority: optional
Homepage: https://github.com/cardbridge/cardbridge
Description: smart-card APDU bridge and card management server
 Takes profiles of embedded SIMs (eSIM, eUICC, UICC) out of service: an
 operator asks, the server checks its management rules, server and card prove
 themselves to each other, and only then does the card, after its own policy
 rules, disable its active profile and sign what it did.
 .
 The package has the server with its operators' client and bench tools
 (cardbridge), and an emulator of such cards (applet-sim).
`

func (p *tree) control() error {
	size := int64(0)
	err := filepath.WalkDir(p.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	return p.put("DEBIAN/control", fmt.Appendf(nil, control, p.version, p.arch, maintainer, (size+1023)/1024), 0o644)
}

// modes are what all may read and run, whatever this process's umask is.
func (p *tree) modes() error {
	return filepath.WalkDir(p.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		perm := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			perm = 0o755
		}
		return os.Chmod(name, perm)
	})
}
