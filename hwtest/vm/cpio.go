package vm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Modes of a cpio archive (cpio(5)).
const (
	cpioDir     = 0o040000
	cpioFile    = 0o100000
	cpioLink    = 0o120000
	cpioCharDev = 0o020000
)

// archive is a file system in the making: entries by their name in it, which is
// absolute and clean.
type archive map[string]entry

type entry struct {
	mode         uint32
	data         []byte // of a file, or the target of a link
	from         string // a file of the host's that has the data, if not ""
	major, minor uint32
}

// put adds an entry and the directories that lead to it.
func (a archive) put(name string, e entry) {
	a[name] = e
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if _, ok := a[dir]; !ok {
			a[dir] = entry{mode: cpioDir | 0o755}
		}
	}
}

func (a archive) dir(name string) { a.put(name, entry{mode: cpioDir | 0o755}) }
func (a archive) link(name, target string) {
	a.put(name, entry{mode: cpioLink | 0o777, data: []byte(target)})
}
func (a archive) file(name string, b []byte) {
	a.put(name, entry{mode: cpioFile | 0o644, data: b})
}

// copy adds a file of the host's, which must not change until write has run.
func (a archive) copy(name, from string, perm fs.FileMode) {
	a.put(name, entry{mode: cpioFile | uint32(perm.Perm()), from: from})
}

// write writes the archive in the "new ASCII" format, which the kernel unpacks.
func (a archive) write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<20)
	names := slices.Sorted(maps.Keys(a)) // a directory comes before what is in it
	for ino, name := range names {
		if err := a[name].write(out, strings.TrimPrefix(name, "/"), ino+1); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := (entry{}).write(out, "TRAILER!!!", 0); err != nil {
		return err
	}
	return out.Flush()
}

func (e entry) write(out *bufio.Writer, name string, ino int) error {
	data, size := io.Reader(bytes.NewReader(e.data)), int64(len(e.data))
	if e.from != "" {
		f, err := os.Open(e.from)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		data, size = f, info.Size()
	}
	if size >= 1<<32 {
		return fmt.Errorf("%d bytes: too large", size)
	}
	const header = 110 // bytes
	// ino mode uid gid nlink mtime size, the device it is on, the device it is, length of name, checksum
	n, _ := fmt.Fprintf(out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		ino, e.mode, 0, 0, 1, 0, size, 0, 0, e.major, e.minor, len(name)+1, 0)
	if n != header {
		return fmt.Errorf("a header of %d bytes", n)
	}
	out.WriteString(name)
	out.WriteByte(0)
	pad(out, header+int64(len(name))+1)
	if _, err := io.CopyN(out, data, size); err != nil {
		return err
	}
	pad(out, size)
	return nil
}

// pad fills up to a multiple of four. Errors come back at Flush.
func pad(out *bufio.Writer, n int64) {
	for ; n%4 != 0; n++ {
		out.WriteByte(0)
	}
}
