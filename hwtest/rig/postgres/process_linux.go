package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// identity is whom PostgreSQL runs as: this process's user, or where that is
// root, which PostgreSQL refuses, the user postgres.
type identity struct {
	attr  syscall.SysProcAttr
	owner int // uid of its files; -1: this process's
}

func newIdentity() (identity, error) {
	if os.Geteuid() != 0 {
		return identity{owner: -1}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return identity{}, fmt.Errorf("PostgreSQL does not run as root: %w: install the package postgresql", err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return identity{}, err
	}
	if mapped("/proc/self/uid_map", uid) && mapped("/proc/self/gid_map", gid) {
		return identity{attr: syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, owner: uid}, nil
	}
	// Root of a user namespace that has no other user, as rig.Enter makes one:
	// in one more namespace root has postgres's number.
	return identity{attr: syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: 0, Size: 1}},
	}, owner: -1}, nil
}

// mapped reports whether this user namespace has the id, by one of /proc's maps.
func mapped(path string, id int) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		var inside, outside, count int
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && id >= inside && id-inside < count {
			return true
		}
	}
	return false
}

func (i identity) own(path string) error {
	if i.owner < 0 {
		return nil
	}
	return os.Chown(path, i.owner, -1)
}

// attributes are for a command of its own session: a terminal's signals are for
// this process, which ends the command itself.
func (i identity) attributes() *syscall.SysProcAttr {
	attr := i.attr
	attr.Setsid = true
	return &attr
}

// spawn starts cmd, which gets the signal when this process ends; the channel
// is closed once it has been waited for.
func (i identity) spawn(cmd *exec.Cmd, death syscall.Signal) (ended chan struct{}, err error) {
	cmd.SysProcAttr = i.attributes()
	cmd.SysProcAttr.Pdeathsig = death
	started := make(chan error)
	ended = make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its status is in cmd.ProcessState
		}
		close(ended)
	}()
	return ended, <-started
}

// killAll ends a postmaster and its children with SIGKILL and waits until they
// have ended: a server on the same data cannot start before.
func killAll(postmaster *os.Process, ended <-chan struct{}, data string) error {
	segment, haveSegment := sharedMemory(data)
	children, err := stopFamily(postmaster)
	defer func() {
		for _, c := range children {
			_ = unix.Close(c)
		}
	}()
	for _, c := range children {
		_ = unix.PidfdSendSignal(c, unix.SIGKILL, nil, 0) // one that has ended does no harm
	}
	_ = postmaster.Kill()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(stopTimeout)
	for _, c := range children {
		if err := awaitEnd(c, deadline); err != nil {
			return err
		}
	}
	select {
	case <-ended:
	case <-time.After(time.Until(deadline)):
		return fmt.Errorf("process %d survives SIGKILL", postmaster.Pid)
	}
	if haveSegment { // the postmaster would have removed it
		if _, err := unix.SysvShmCtl(segment, unix.IPC_RMID, nil); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("shared memory: %w", err)
		}
	}
	return nil
}

// stopFamily stops a postmaster, which makes no children then, and gives pidfds
// of those that it has.
func stopFamily(postmaster *os.Process) (children []int, err error) {
	proc := fmt.Sprintf("/proc/%d/", postmaster.Pid)
	if err := postmaster.Signal(unix.SIGSTOP); errors.Is(err, os.ErrProcessDone) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(stopTimeout); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(proc + "stat")
		if err != nil {
			return nil, err
		}
		state := stat[bytes.LastIndexByte(stat, ')')+2] // pid (name) state
		if state == 'T' {
			break
		}
		if state == 'Z' {
			return nil, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("process %d does not stop", postmaster.Pid)
		}
	}
	list, err := os.ReadFile(fmt.Sprintf("%stask/%d/children", proc, postmaster.Pid))
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Fields(string(list)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return children, err
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return children, fmt.Errorf("process %d: %w", pid, err)
		}
		children = append(children, fd)
	}
	return children, nil
}

func awaitEnd(pidfd int, deadline time.Time) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errors.New("a process survives SIGKILL")
		default:
			return nil
		}
	}
}
