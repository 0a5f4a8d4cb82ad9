package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

//go:embed peer/peer.c
var peerSource []byte

// buildPeer compiles OpenSSL's side.
func buildPeer(ctx context.Context, cc, path string) error {
	source := filepath.Join(filepath.Dir(path), "peer.c")
	if err := os.WriteFile(source, peerSource, 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, cc, "-O2", "-o", path, source, "-lcrypto").CombinedOutput()
	if err != nil {
		return fmt.Errorf("OpenSSL's side does not build (a C compiler and libssl-dev are needed): %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// peer is OpenSSL's side, under way.
type peer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startPeer(ctx context.Context, path string) (*peer, error) {
	p := &peer{cmd: exec.CommandContext(ctx, path)}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

// Close ends it, once.
func (p *peer) Close() error {
	if p.cmd.ProcessState != nil {
		return nil
	}
	return errors.Join(p.in.Close(), p.cmd.Wait())
}

// ask sends a command and reads its answer into v.
func (p *peer) ask(command string, v ...any) error {
	line, err := p.line(command)
	if err != nil {
		return err
	}
	if _, err = fmt.Sscan(line, v...); err != nil {
		return fmt.Errorf("OpenSSL's side answers %q: %w", line, err)
	}
	return nil
}

func (p *peer) line(command string) (string, error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return "", fmt.Errorf("OpenSSL's side: %w", err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("OpenSSL's side: %w", err)
	}
	return line[:len(line)-1], nil
}

func (p *peer) load(k *rsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	var ok string
	var bits int
	return p.ask(fmt.Sprintf("key %x", der), &ok, &bits)
}

// contestant is the peer's operations of a kind, "private" or "public".
func (p *peer) contestant(kind string, bits int) contestant {
	return func(d time.Duration) (result, error) {
		var r result
		return r, p.ask(fmt.Sprintf("%s %d %d", kind, bits, d.Nanoseconds()), &r.count, &r.spent)
	}
}
