package pcsc

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// lifeline is the connection of a PC/SC context to pcscd, held by a descriptor of
// our own. libpcsclite waits for each answer on it, however long that takes, and
// offers no way to stop but for one kind of call; when the line is cut it finds
// that the service has hung up.
type lifeline struct {
	fd       int
	timer    *time.Timer   // cuts at deadline; stopped but during a call
	deadline atomic.Int64  // Unix time, ns
	call     atomic.Uint64 // the call's number, times 2; and 1 once its line is cut
	calls    uint64
}

// pcscdSocket is what pcscd's socket is called, wherever it is.
const pcscdSocket = "pcscd.comm"

// How often an abandoned line is looked at, at first and later on.
const (
	minAwait = 10 * time.Millisecond
	maxAwait = 160 * time.Millisecond
)

// serviceSockets are this process's connections to pcscd: a descriptor of each,
// by inode.
func serviceSockets() map[uint64]int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	found := map[uint64]int{}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if inode, ok := serviceSocket(fd); ok {
			found[inode] = fd
		}
	}
	return found
}

// serviceSocket reports whether fd is a connection to pcscd, and its inode.
func serviceSocket(fd int) (inode uint64, ok bool) {
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return 0, false
	}
	at, ok := peer.(*unix.SockaddrUnix)
	if !ok || filepath.Base(at.Name) != pcscdSocket && at.Name != os.Getenv("PCSCLITE_CSOCK_NAME") || at.Name == "" {
		return 0, false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, false
	}
	return st.Ino, true
}

// newLifeline takes hold of the one connection to pcscd that was not there
// before. It gives nil where that is not just one.
func newLifeline(before map[uint64]int) *lifeline {
	if before == nil {
		return nil
	}
	inode, fd, added := uint64(0), -1, 0
	for i, f := range serviceSockets() {
		if _, was := before[i]; !was {
			inode, fd = i, f
			added++
		}
	}
	if added != 1 {
		return nil
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	if i, ok := serviceSocket(own); !ok || i != inode { // fd has come to mean another
		unix.Close(own)
		return nil
	}
	l := &lifeline{fd: own}
	l.timer = time.AfterFunc(time.Hour, l.expire)
	l.timer.Stop()
	return l
}

// guard makes call and cuts the line if ctx ends before it returns, or limit is
// over; why says which then. One call at a time.
func (l *lifeline) guard(ctx context.Context, limit time.Duration, call func() error) (err, why error) {
	l.calls++
	running := l.calls * 2
	l.deadline.Store(time.Now().Add(limit).UnixNano())
	l.call.Store(running)
	l.timer.Reset(limit)
	stop := func() bool { return true }
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() { l.cut(running) })
	}
	err = call()
	stop()
	l.timer.Stop()
	if l.call.CompareAndSwap(running, 0) {
		return err, nil
	}
	if why = ctx.Err(); why == nil {
		why = context.DeadlineExceeded
	}
	return err, why
}

// expire cuts the line of a call whose time is over; the timer of an earlier one
// may come late.
func (l *lifeline) expire() {
	running := l.call.Load()
	if running != 0 && time.Now().UnixNano() >= l.deadline.Load() {
		l.cut(running)
	}
}

// cut has the call that is running fail: what it waits for will not come. The way
// to the service stays open, so that its end can be seen.
func (l *lifeline) cut(running uint64) {
	if running%2 == 0 && l.call.CompareAndSwap(running, running+1) {
		_ = unix.Shutdown(l.fd, unix.SHUT_RD)
	}
}

// await waits until the service has closed its end, and closes this one. All
// other descriptors of it are closed.
func (l *lifeline) await() {
	defer l.close()
	for pause := minAwait; ; pause = min(2*pause, maxAwait) {
		poll := []unix.PollFd{{Fd: int32(l.fd)}}
		if _, err := unix.Poll(poll, 0); err != nil && err != unix.EINTR || poll[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
			return
		}
		time.Sleep(pause)
	}
}

func (l *lifeline) close() {
	l.timer.Stop()
	_ = unix.Close(l.fd)
}
