package appletsim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Store is a card's persistent memory.
type Store interface {
	// Save makes image, in the form of a card image file, what the memory
	// holds. With an error the memory holds what it held before, unless the
	// error matches ErrInDoubt.
	Save(image []byte) error
}

// TornStore is a Store whose power can go during a write.
type TornStore interface {
	Store
	// Tear begins to save image, has the power go when n bytes of it are written,
	// and gives what the memory holds when the power is back: image, or what it
	// held before.
	Tear(image []byte, n int) (held []byte, err error)
}

var (
	// ErrInDoubt says that a write was done but may not outlive a crash. The
	// card does not answer such a command.
	ErrInDoubt = errors.New("appletsim: persistent write in doubt")
	// ErrInUse says that another emulator has the card image file.
	ErrInUse = errors.New("appletsim: card image is in use by another emulator")
)

// FileStore keeps a card's memory in a card image file. Each write is wholly
// done or not at all, whenever the process or the machine dies: a new file is
// written beside, synced, and renamed.
type FileStore struct {
	path string // with no symbolic links: it is the file itself that is replaced
	lock *os.File
}

// Open makes a card from a card image file and keeps its memory there. The
// file is locked (by a file named like it with .lock added) until Card.Close or
// the end of the process. The error matches ErrImage, ErrInUse, or is the
// system's.
func Open(path string, opts ...Option) (*Card, error) {
	store, err := openStore(path)
	if err != nil {
		return nil, err
	}
	card, err := openCard(store, opts)
	if err != nil {
		store.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return card, nil
}

func openStore(path string) (*FileStore, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &FileStore{path: path, lock: lock}, nil
}

func openCard(store *FileStore, opts []Option) (*Card, error) {
	b, err := store.load()
	if err != nil {
		return nil, err
	}
	image, err := ParseImage(b)
	if err != nil {
		return nil, err
	}
	return New(image, append(opts[:len(opts):len(opts)], WithStore(store))...)
}

// load reads the file, no more of it than shows that it is too long.
func (s *FileStore) load() ([]byte, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxImage+1))
}

// Save implements Store. The new file is readable by its owner alone.
func (s *FileStore) Save(image []byte) error {
	if err := s.write(image, true); err != nil {
		return err
	}
	if err := os.Rename(s.beside(), s.path); err != nil {
		os.Remove(s.beside())
		return err
	}
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return fmt.Errorf("%w: %w", ErrInDoubt, err)
	}
	return nil
}

// beside is the file that a write makes.
func (s *FileStore) beside() string { return s.path + ".new" }

// write writes the file beside, and syncs it where it is whole.
func (s *FileStore) write(b []byte, whole bool) error {
	os.Remove(s.beside()) // a crash may have left one
	f, err := os.OpenFile(s.beside(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && whole {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(s.beside())
	}
	return err
}

// Tear implements TornStore: it does what Save does up to byte n, and leaves all
// as it then is. The last byte is followed by the rename, which is done with one
// byte more.
func (s *FileStore) Tear(image []byte, n int) (held []byte, err error) {
	if n > len(image) {
		err = s.Save(image)
	} else {
		err = s.write(image[:n], false)
	}
	if err != nil {
		return nil, err
	}
	return s.load()
}

// Close gives the file free.
func (s *FileStore) Close() error { return s.lock.Close() }
