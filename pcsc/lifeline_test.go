//go:build linux

package pcsc

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// listen is a service; dial connects to it as libpcsclite does, and
// gives both ends.
func listen(t *testing.T) (dial func() (client, server *net.UnixConn)) {
	path := filepath.Join(t.TempDir(), pcscdSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return func() (client, server *net.UnixConn) {
		c, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
		require.NoError(t, err)
		s, err := l.AcceptUnix()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close(); s.Close() })
		return c, s
	}
}

func TestLifeline(t *testing.T) {
	dial := listen(t)
	dial() // one that was there before
	before := serviceSockets()
	assert.Nil(t, newLifeline(before), "none is new")
	client, server := dial()
	line := newLifeline(before)
	require.NotNil(t, line)
	read := func() error {
		_, err := client.Read(make([]byte, 1))
		return err
	}

	t.Run("a call that returns", func(t *testing.T) {
		failed := errors.New("failed")
		for _, want := range []error{nil, failed} {
			err, why := line.guard(t.Context(), time.Minute, func() error { return want })
			assert.Equal(t, want, err)
			assert.NoError(t, why)
		}
	})
	t.Run("what comes late from an earlier call does nothing", func(t *testing.T) {
		earlier := line.calls * 2
		_, why := line.guard(t.Context(), time.Minute, func() error {
			line.cut(earlier)
			line.expire() // the timer of an earlier call
			_, err := server.Write([]byte{1})
			assert.NoError(t, err)
			return read()
		})
		assert.NoError(t, why)
	})
	t.Run("one that does not", func(t *testing.T) {
		err, why := line.guard(t.Context(), time.Millisecond, read)
		assert.Error(t, err)
		assert.ErrorIs(t, why, context.DeadlineExceeded)
		ended := make(chan struct{})
		go func() {
			line.await()
			close(ended)
		}()
		assert.NoError(t, client.Close())
		select {
		case <-ended:
			assert.Fail(t, "the service still has its end")
		case <-time.After(3 * minAwait):
		}
		assert.NoError(t, server.Close())
		<-ended
	})
	t.Run("cancelled", func(t *testing.T) {
		before := serviceSockets()
		client, _ := dial()
		line := newLifeline(before)
		require.NotNil(t, line)
		defer line.close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		err, why := line.guard(ctx, time.Minute, func() error {
			_, err := client.Read(make([]byte, 1))
			return err
		})
		assert.Error(t, err)
		assert.ErrorIs(t, why, context.Canceled)
	})
	t.Run("two are new", func(t *testing.T) {
		before := serviceSockets()
		dial()
		dial()
		assert.Nil(t, newLifeline(before), "none can be told")
		assert.Nil(t, newLifeline(nil))
	})
	t.Run("other sockets are none", func(t *testing.T) {
		before := serviceSockets()
		path := filepath.Join(t.TempDir(), "other")
		l, err := net.Listen("unix", path)
		require.NoError(t, err)
		defer l.Close()
		c, err := net.Dial("unix", path)
		require.NoError(t, err)
		defer c.Close()
		assert.Equal(t, before, serviceSockets())
		t.Setenv("PCSCLITE_CSOCK_NAME", path)
		assert.Len(t, serviceSockets(), len(before)+1)
	})
}

// Where there is no lifeline, calls are left alone instead.
func TestWithoutLifeline(t *testing.T) {
	svc := &hung{free: make(chan struct{}), interrupted: make(chan struct{})}
	src := New()
	ses := &session{source: src, reader: "R", max: time.Minute, svc: svc}
	assert.NoError(t, ses.do(t.Context(), "x", func(service) error { return nil }))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := ses.do(ctx, "x", func(s service) error { <-svc.free; return nil })
	assert.ErrorIs(t, err, CodeTimeout)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.True(t, src.stuck("R"))
	assert.ErrorIs(t, ses.do(t.Context(), "x", func(service) error { return nil }), CodeTimeout)
	<-svc.interrupted
	close(svc.free)
	for src.stuck("R") {
		time.Sleep(time.Millisecond)
	}
	assert.NoError(t, ses.close(LeaveCard))
	assert.ErrorIs(t, ses.do(t.Context(), "x", func(service) error { return nil }), os.ErrClosed)
}

// hung is a service that is told to end.
type hung struct {
	service
	free, interrupted chan struct{}
}

func (h *hung) interrupt()                   { close(h.interrupted) }
func (h *hung) disconnect(Disposition) error { return nil }
func (h *hung) release()                     {}
