package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// tracing writes the APDUs of each session that the server has with a card, to
// carry out a request or to read its state, to a file of its own. Reading the
// EID of a card that appears is shared and is not traced. Cards go on where a
// trace cannot.
type tracing struct {
	reader.Source
	dir string
}

// Check implements reader.Checker where the source does.
func (s tracing) Check(ctx context.Context) error {
	if c, ok := s.Source.(reader.Checker); ok {
		return c.Check(ctx)
	}
	return nil
}

func (s tracing) Open(ctx context.Context, name string, mode reader.Mode) (apdu.Conn, error) {
	conn, err := s.Source.Open(ctx, name, mode)
	if err != nil || mode != reader.Exclusive {
		return conn, err
	}
	began := time.Now()
	file := filepath.Join(s.dir, began.UTC().Format("20060102T150405.000000Z")+" "+fileName(name)+".trace")
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		slog.Warn("a session with a card is not traced", "reader", name, "error", err)
		return conn, nil
	}
	rec := trace.NewRecorder(f, trace.Header{Reader: name, Origin: origin(name), Date: began})
	return &traced{Conn: rec.Wrap(conn), rec: rec, file: f}, nil
}

// fileName is a reader's name as a part of a file's.
func fileName(reader string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, reader)
}

// traced is a connection whose trace ends with it.
type traced struct {
	apdu.Conn
	rec  *trace.Recorder
	file *os.File
}

func (t *traced) Close() error {
	err := t.Conn.Close()
	if terr := errors.Join(t.rec.Err(), t.file.Close()); terr != nil {
		slog.Warn("the trace of a session with a card is cut off", "file", t.file.Name(), "error", terr)
	}
	return err
}

// ShortOnly is the connection's own.
func (t *traced) ShortOnly() bool {
	s, ok := t.Conn.(apdu.ShortOnly)
	return ok && s.ShortOnly()
}
