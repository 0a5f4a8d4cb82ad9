package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVar tells a process of Enter's which one it is: stageInit, or
// stageInside and the network namespace that makes it true.
const (
	stageVar    = "CARDBRIDGE_TEST_RIG"
	stageInit   = "init"
	stageInside = "inside "
)

// self is this program even where its path is hidden by a mount.
const self = "/proc/self/exe"

const hint = `rig: private namespaces are needed for a private pcscd. Where the kernel refuses them, one of these helps:
  sysctl user.max_user_namespaces=10000
  sysctl kernel.unprivileged_userns_clone=1              (older Debian)
  sysctl kernel.apparmor_restrict_unprivileged_userns=0  (Ubuntu)
  docker run --privileged, or --security-opt seccomp=unconfined --security-opt apparmor=unconfined
or run as root.`

// forwarded are the signals that Enter hands on to the program inside.
var forwarded = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// Enter moves the program into mount, network and PID namespaces of its own
// (and, unless root can do without, a user namespace, where it is root). Call it
// first of all, before flags, files and goroutines: it starts the program again
// in there, as a child of a small init that reaps orphans, and ends this process
// as that one ends, with its exit status (128 + signal if one ended it).
// Arguments, environment, working directory, standard files and signals pass
// through. Whatever runs in there dies with it, also where this process is
// killed.
//
// Inside, /run is empty but for /run/pcscd, and the loopback interface is the
// only one. There Enter returns; so does it in a child of a program that is
// inside already. Where namespaces are impossible, it prints what to enable and
// ends the program with status 1.
func Enter() {
	if entered() {
		return
	}
	stage := outside
	if os.Getenv(stageVar) == stageInit && os.Getpid() == 1 {
		stage = beInit
	}
	// Not os.Exit: what the race detector and coverage do at an end is for the
	// program inside, and takes a second.
	syscall.Exit(report(stage()))
}

func report(status int, err error) int {
	if err == nil {
		return status
	}
	fmt.Fprintf(os.Stderr, "rig: %v\n", err)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL) {
		fmt.Fprintln(os.Stderr, hint)
	}
	return 1
}

func entered() bool {
	ns, inside := strings.CutPrefix(os.Getenv(stageVar), stageInside)
	return inside && ns == networkNamespace()
}

// HaveMachine stands in for Enter where the program has a machine to itself, as
// in a virtual one: it and its children may start pcscd there.
func HaveMachine() error { return os.Setenv(stageVar, stageInside+networkNamespace()) }

// networkNamespace names the namespace of this process; "" if it cannot be told.
func networkNamespace() string {
	name, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	return name
}

// outside starts the init in new namespaces and stands in for it.
func outside() (int, error) {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...)

	init, err := startInit(os.Geteuid() != 0)
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() == 0 {
		init, err = startInit(true)
	}
	if err != nil {
		return 0, fmt.Errorf("new namespaces: %w", err)
	}
	go func() {
		for s := range signals {
			_ = init.Process.Signal(s)
		}
	}()
	err = init.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return exitStatus(init.ProcessState.Sys().(syscall.WaitStatus)), nil
}

func startInit(userNamespace bool) (*exec.Cmd, error) {
	cmd := exec.Command(self)
	cmd.Args = os.Args
	cmd.Env = environ(stageInit)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // a terminal's signals reach only this process, which hands each on once
	}
	if userNamespace {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd, cmd.Start()
}

// environ is the environment for a stage. PC/SC clients and daemons inside keep
// to the private socket and see no USB reader.
func environ(stage string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, stageVar+"=") || strings.HasPrefix(v, "PCSCLITE_")
	})
	return append(env, stageVar+"="+stage)
}

// beInit is the first process inside: it furnishes the namespaces, starts the
// program, and reaps until that ends. Its own end ends all the others.
func beInit() (int, error) {
	if err := furnish(); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...)
	program, err := syscall.ForkExec(self, os.Args, &syscall.ProcAttr{
		Env:   environ(stageInside + networkNamespace()),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 0, fmt.Errorf("start inside: %w", err)
	}
	go func() {
		for s := range signals {
			_ = syscall.Kill(program, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == program && (status.Exited() || status.Signaled()):
			return exitStatus(status), nil
		}
	}
}

func exitStatus(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// furnish makes the namespaces fit to live in.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A container that masks parts of /proc refuses a new one; the old one still
	// answers for /proc/self, which is all that is needed.
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir(socketDir, 0o755); err != nil {
		return err
	}
	if err := hideUSBDrivers(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

// hideUSBDrivers keeps pcscd from taking the machine's USB readers: udev's list
// of devices is not in any namespace.
func hideUSBDrivers() error {
	for _, dir := range driverDirs {
		bundles, err := filepath.Glob(filepath.Join(dir, "*.bundle"))
		if err != nil {
			return err
		}
		for _, b := range bundles {
			if err := unix.Mount("tmpfs", b, "tmpfs", unix.MS_RDONLY, ""); err != nil {
				return fmt.Errorf("hide %s: %w", b, err)
			}
		}
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

const terminate = unix.SIGTERM

// ownGroup keeps signals for the caller's process group from a child.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
