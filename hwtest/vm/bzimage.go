package vm

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// errBzImage says that a file is not a kernel as a boot loader takes it.
var errBzImage = errors.New("not an x86 kernel image")

// payload gives the compressed kernel within a bzImage (the Linux x86 boot
// protocol, 2.08 and later).
func payload(image []byte) ([]byte, error) {
	const (
		setupSectors  = 0x1F1
		magic         = 0x202 // "HdrS"
		version       = 0x206
		payloadOffset = 0x248 // from the end of the set-up code
		payloadLength = 0x24C
		header        = 0x250
		sector        = 512
	)
	if len(image) < header || string(image[magic:magic+4]) != "HdrS" || binary.LittleEndian.Uint16(image[version:]) < 0x0208 {
		return nil, errBzImage
	}
	sectors := uint64(image[setupSectors])
	if sectors == 0 {
		sectors = 4 // of old
	}
	at := (sectors+1)*sector + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := at + uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if at > end || end > uint64(len(image)) {
		return nil, fmt.Errorf("%w: its payload is not in it", errBzImage)
	}
	return image[at:end], nil
}

// decompress unpacks a kernel or a module, as its first bytes say. sized says
// that the size follows the compressed data, as it does in a bzImage.
func decompress(ctx context.Context, b []byte, sized bool) ([]byte, error) {
	const sizeBytes = 4
	trimmed := b
	if sized {
		trimmed = b[:max(0, len(b)-sizeBytes)]
	}
	switch {
	case bytes.HasPrefix(b, []byte("\x7fELF")):
		return b, nil
	case bytes.HasPrefix(b, []byte("\x1f\x8b")):
		r, err := gzip.NewReader(bytes.NewReader(b)) // the size is gzip's own
		if err != nil {
			return nil, err
		}
		r.Multistream(false)
		return io.ReadAll(r)
	case bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")):
		return through(ctx, trimmed, "xz", "xz-utils")
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
		return through(ctx, trimmed, "zstd", "zstd")
	}
	return nil, fmt.Errorf("compressed in an unknown way: % x…", b[:min(len(b), 8)])
}

// through has a program decompress b.
func through(ctx context.Context, b []byte, program, pkg string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, "-d", "-c")
	cmd.Stdin = bytes.NewReader(b)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("no program %s: install the package %s", program, pkg)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}
