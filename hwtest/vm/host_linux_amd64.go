package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	qemu    = "qemu-system-x86_64"
	quitFor = 5 * time.Second // for a program to show its goroutines

	mib         = 1 << 20
	spareMemory = 512 // MiB beyond what the file system takes
	maxConsole  = 4 * mib
)

// errNoExit says that the machine ended without the program's exit status.
var errNoExit = errors.New("vm: the machine ended before the program in it did")

// run runs the machine and gives the program's exit status.
func (c Config) run() (int, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "cardbridge-vm-")
	if err != nil {
		return 0, fmt.Errorf("vm: %w", err)
	}
	defer os.RemoveAll(dir)

	kernelDir, err := parts(ctx)
	if err != nil {
		return 0, err
	}
	made := filepath.Join(dir, "made")
	if err := os.Mkdir(made, 0o755); err != nil {
		return 0, fmt.Errorf("vm: %w", err)
	}
	if c.Make != nil {
		if err := c.Make(ctx, made); err != nil {
			return 0, fmt.Errorf("vm: %w", err)
		}
	}
	initrd, size, err := c.build(kernelDir, made)
	if err != nil {
		return 0, fmt.Errorf("vm: the machine's file system: %w", err)
	}
	defer initrd.Close()
	args := c.machine(filepath.Join(kernelDir, kernelName), size)
	finish := func() error { return nil }
	if c.Host != nil {
		more, done, err := c.Host(ctx, dir)
		if err != nil {
			return 0, fmt.Errorf("vm: the host's part: %w", err)
		}
		args = append(args, more...)
		if done != nil {
			finish = done
		}
	}
	status, console, err := boot(args, initrd, timeout)
	cancel()
	err = errors.Join(err, finish())
	if status != 0 || err != nil {
		fmt.Fprintf(os.Stderr, "--- the machine's console:\n%s\n--- end of the console\n", console)
	}
	return status, err
}

// Files that QEMU inherits, by number.
const (
	lineFile   = 3
	initrdFile = 4
)

// machine are the arguments for QEMU.
func (c Config) machine(kernel string, size int64) []string {
	return []string{
		"-M", "q35", "-accel", "tcg", "-cpu", cpu, "-smp", strconv.Itoa(max(c.CPUs, 1)),
		// The archive and what is unpacked from it are there at once.
		"-m", strconv.FormatInt(spareMemory+2*size/mib, 10),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-serial", "stdio", "-chardev", fmt.Sprintf("socket,id=line,fd=%d", lineFile), "-serial", "chardev:line",
		"-kernel", kernel, "-initrd", fmt.Sprintf("/dev/fd/%d", initrdFile),
		"-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on " + stageVar + "=" + stageInit,
	}
}

// cpu has instructions that make random numbers, which a kernel waits for.
const cpu = "qemu64,+rdrand"

// boot runs QEMU until the program in the machine has ended, time is up, or a
// signal ends it all.
func boot(args []string, initrd *os.File, timeout time.Duration) (status int, console string, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", fmt.Errorf("vm: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "line")
	ours := os.NewFile(uintptr(pair[0]), "line")
	line, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return 0, "", errors.Join(err, theirs.Close())
	}
	defer line.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	defer signal.Stop(signals)

	var said tail
	cmd := exec.Command(qemu, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.ExtraFiles = []*os.File{theirs, initrd} // lineFile, initrdFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	theirs.Close()
	if errors.Is(err, exec.ErrNotFound) {
		return 0, "", fmt.Errorf("vm: no %s: install the package qemu-system-x86", qemu)
	}
	if err != nil {
		return 0, "", fmt.Errorf("vm: %w", err)
	}
	type end struct {
		status int
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		status, err := listen(line)
		ended <- end{status, err}
	}()
	var e end
	select {
	case e = <-ended:
	case s := <-signals:
		if s == syscall.SIGQUIT {
			quit(line)
		} else {
			_ = line.SetReadDeadline(time.Now())
		}
		e = <-ended
		e.err = errors.Join(fmt.Errorf("vm: ended by a signal: %v", s), e.err)
	case <-time.After(timeout):
		quit(line)
		e = <-ended
		e.err = errors.Join(fmt.Errorf("vm: not done after %v", timeout), e.err)
	}
	_ = cmd.Process.Kill() // its work is done
	_ = cmd.Wait()
	return e.status, said.String(), e.err
}

// quit has the program in the machine show its goroutines and end, soon.
func quit(line net.Conn) {
	_, _ = (&frameWriter{mu: new(sync.Mutex), line: line, kind: frameQuit}).Write([]byte{0})
	_ = line.SetReadDeadline(time.Now().Add(quitFor))
}

// listen copies what the program in the machine writes, until it has ended.
func listen(line io.Reader) (status int, err error) {
	var buf [maxFrame]byte
	for {
		kind, data, err := readFrame(line, &buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return 0, errNoExit
		case err != nil:
			return 0, fmt.Errorf("vm: %w", err)
		case kind == frameStdout:
			_, err = os.Stdout.Write(data)
		case kind == frameStderr:
			_, err = os.Stderr.Write(data)
		case kind == frameExit && len(data) == 1:
			return int(data[0]), nil
		default:
			err = fmt.Errorf("vm: the machine sends a frame of kind %q, %d bytes", byte(kind), len(data))
		}
		if err != nil {
			return 0, err
		}
	}
}

// tail keeps the last maxConsole bytes of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-maxConsole):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ReplaceAll(t.b, []byte("\r"), nil))
}

// What the first process is told in the machine's file system.
const (
	startFile  = "/etc/cardbridge-vm.json"
	moduleDir  = "/usr/lib/modules"
	initFile   = "/init"
	udevd      = "/usr/lib/systemd/systemd-udevd"
	ccidDriver = "ifd-ccid.bundle"
)

// start is the program that the machine runs.
type start struct {
	Args    []string `json:"args"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Modules []string `json:"modules"`
	Systemd bool     `json:"systemd"`
}

// The program as a service of systemd's.
const (
	programUnit = "/etc/systemd/system/cardbridge-vm.service"
	unit        = `[Unit]
After=dbus.socket

[Service]
Environment=` + stageVar + "=" + stageService + `
ExecStart=` + initFile + `
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
`
)

// build makes the machine's file system, in memory.
func (c Config) build(kernelDir, made string) (initrd *os.File, size int64, err error) {
	a, err := c.files(kernelDir, made)
	if err != nil {
		return nil, 0, err
	}
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, 0, err
	}
	initrd = os.NewFile(uintptr(fd), "initrd")
	err = a.write(initrd)
	if err == nil {
		size, err = initrd.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		return nil, 0, errors.Join(err, initrd.Close())
	}
	return initrd, size, nil
}

// files are what is in the machine's file system.
func (c Config) files(kernelDir, made string) (archive, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	a := archive{}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run/pcscd", "/tmp", "/root", "/etc/udev", "/usr/lib/udev/rules.d", wd} {
		a.dir(dir)
	}
	for _, dir := range merged {
		a.dir("/usr/" + dir)
		a.link("/"+dir, "usr/"+dir)
	}
	a.put("/dev/console", entry{mode: cpioCharDev | 0o600, major: 5, minor: 1})
	a.file("/etc/passwd", []byte("root:x:0:0:root:/root:/bin/false\n"))
	a.file("/etc/group", []byte("root:x:0:\n"))

	if err := a.program(initFile, self); err != nil {
		return nil, err
	}
	if err := a.program(udevd, filepath.Join(kernelDir, udevName)); err != nil {
		return nil, err
	}
	if err := a.pcscd(); err != nil {
		return nil, err
	}
	if c.Systemd {
		c.Packages = append(slices.Clone(c.Packages), "systemd", "dbus")
		a.link("/etc/systemd/system/default.target", "multi-user.target")
		a.link("/etc/systemd/system/multi-user.target.wants/"+filepath.Base(programUnit), programUnit)
		a.file(programUnit, []byte(unit))
		a.file("/etc/tmpfiles.d/tmp.conf", []byte("d /tmp 1777\nd /var/tmp 1777\n")) // not emptied: the working directory may be there
		a.dir("/proc")
	}
	if len(c.Packages) > 0 {
		if err := a.packages(c.Packages); err != nil {
			return nil, err
		}
	}
	files := c.Files
	if data := filepath.Join(wd, "testdata"); exists(data) {
		files = append(slices.Clone(files), data)
	}
	for _, name := range files {
		if name, err = filepath.Abs(name); err == nil {
			err = a.tree(name)
		}
		if err != nil {
			return nil, err
		}
	}
	err = filepath.WalkDir(made, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			a.copy(Made+strings.TrimPrefix(name, made), name, info.Mode())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	job := start{Args: arguments(os.Args), Env: c.environ(), Dir: wd, Systemd: c.Systemd}
	order, err := loadOrder(filepath.Join(kernelDir, modulesName), modules)
	if err != nil {
		return nil, err
	}
	for _, m := range order {
		name := filepath.Join(moduleDir, filepath.Base(m))
		a.copy(name, m, 0o644)
		job.Modules = append(job.Modules, name)
	}
	b, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	a.file(startFile, b)
	return a, nil
}

// pcscd adds the PC/SC service and its driver for USB readers.
func (a archive) pcscd() error {
	const daemon, drivers = "/usr/sbin/pcscd", "/usr/lib/pcsc/drivers"
	for name, pkg := range map[string]string{daemon: "pcscd", filepath.Join(drivers, ccidDriver): "libccid"} {
		if !exists(name) {
			return fmt.Errorf("no %s: install the package %s", name, pkg)
		}
	}
	if err := a.program(daemon, daemon); err != nil {
		return err
	}
	if err := a.tree(filepath.Join(drivers, ccidDriver)); err != nil {
		return err
	}
	// Loaded by name: at the end of a thread, and by newer libpcsclite.
	if err := a.addLibrary("libgcc_s.so.1", hostLibs); err != nil {
		return err
	}
	if real := filepath.Join(guestLibs, "libpcsclite_real.so.1"); exists(real) {
		return a.program(real, real)
	}
	return nil
}

// tree adds a file or a directory of the host's; for links, what they lead to.
func (a archive) tree(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
		a.copy(name, name, info.Mode())
		return a.linked(name)
	}
	a.dir(name)
	entries, err := os.ReadDir(name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := a.tree(filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// arguments are the program's, but for those of the go command's own files.
func arguments(args []string) []string {
	return slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile=") || strings.HasPrefix(a, "-test.gocoverdir=")
	})
}

// environ is the program's environment.
func (c Config) environ() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin", "HOME=/root", "TMPDIR=/tmp", stageVar + "=" + stageGuest}
	for _, name := range append([]string{"GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GORACE", "GOTRACEBACK"}, c.Env...) {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}
