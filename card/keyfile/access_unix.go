//go:build unix

package keyfile

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// open opens a file without waiting for a pipe's writer to come.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func check(path, what string, info fs.FileInfo) error {
	var owner int
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		owner = int(st.Uid)
	}
	if self := os.Geteuid(); owner != 0 && owner != self {
		return fmt.Errorf("%w: %s holds %s and belongs to user %d, neither to root nor to this program's, %d; run: chown %d %s",
			ErrExposed, path, what, owner, self, self, path)
	}
	mode := info.Mode().Perm()
	forbidden := fs.FileMode(0o077)
	if isCredential(path) && owner == 0 {
		forbidden = 0o037
	}
	if mode&forbidden != 0 {
		return fmt.Errorf("%w: %s holds %s and has mode %04o; run: chmod 600 %s", ErrExposed, path, what, mode, path)
	}
	return nil
}
