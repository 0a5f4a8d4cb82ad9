package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	linePort  = "/dev/ttyS1"
	systemd   = "/usr/lib/systemd/systemd"
	udevStart = 20 * time.Second
)

// beInit is the machine's first process: it furnishes the machine, runs the
// program, and tells the host how that ended. Where systemd is to be the first
// process, it becomes that, and is a service of it again. What goes wrong here
// goes to the console, which the host shows.
func beInit(stage string) {
	var job start
	var line *os.File
	status := 1
	err := job.read()
	if err == nil && stage == stageInit {
		err = job.furnish()
	}
	if err == nil {
		line, err = openLine()
	}
	if err == nil {
		status, err = job.run(line)
	}
	if err != nil {
		fmt.Println("init:", err)
	}
	if err != nil || status != 0 {
		printKernelLog()
	}
	if line != nil {
		_, _ = (&frameWriter{mu: new(sync.Mutex), line: line, kind: frameExit}).Write([]byte{byte(status)})
		_ = ioctlDrain(line)
	}
	// The host ends the machine once it has the frame; without one, this does.
	if line != nil {
		time.Sleep(5 * time.Second)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func ioctlDrain(f *os.File) error { return unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) }

func mountAll() error {
	for _, m := range []struct{ what, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.what, m.at, m.what, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.Mkdir("/run/pcscd", 0o755)
}

// openLine opens the serial port to the host, for bytes as they are.
func openLine() (*os.File, error) {
	f, err := os.OpenFile(linePort, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", linePort, err)
	}
	return f, nil
}

// read reads what the host wrote.
func (job *start) read() error {
	b, err := os.ReadFile(startFile)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, job); err != nil {
		return fmt.Errorf("%s: %w", startFile, err)
	}
	return nil
}

// furnish makes the machine one that programs can run in. Where that is
// systemd's matter it does not return.
func (job *start) furnish() error {
	if job.Systemd {
		return unix.Exec(systemd, []string{systemd, "--show-status=false"}, []string{"PATH=/usr/sbin:/usr/bin"})
	}
	if err := mountAll(); err != nil {
		return err
	}
	if err := startUdevd(); err != nil {
		return err
	}
	for _, m := range job.Modules {
		if err := loadModule(m); err != nil {
			return fmt.Errorf("module %s: %w", m, err)
		}
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}

func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// startUdevd starts the service that tells programs of USB devices, and waits
// until it serves.
func startUdevd() error {
	cmd := exec.Command(udevd)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("udevd: %w", err)
	}
	for waited := time.Duration(0); waited < udevStart; waited += 5 * time.Millisecond {
		if _, err := os.Stat("/run/udev/control"); err == nil {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("udevd does not open its socket")
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

// run runs the program, and reaps whatever it leaves behind, until it has ended
// and all that it wrote has gone to the host.
func (job start) run(line *os.File) (status int, err error) {
	var mu sync.Mutex
	var copies sync.WaitGroup
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 1, err
	}
	files := []*os.File{null}
	for _, kind := range []frameKind{frameStdout, frameStderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return 1, err
		}
		files = append(files, w)
		copies.Go(func() { _, _ = io.Copy(&frameWriter{mu: &mu, line: line, kind: kind}, r) })
	}
	program, err := os.StartProcess(initFile, job.Args, &os.ProcAttr{Env: job.Env, Dir: job.Dir, Files: files})
	if err != nil {
		return 1, fmt.Errorf("start the program: %w", err)
	}
	for _, f := range files {
		f.Close()
	}
	go func() {
		var buf [maxFrame]byte
		for {
			kind, _, err := readFrame(line, &buf)
			if err != nil {
				return
			}
			if kind == frameQuit {
				_ = syscall.Kill(program.Pid, syscall.SIGQUIT)
			}
		}
	}()
	ended, err := reap(program.Pid)
	if err != nil {
		return 1, err
	}
	_ = syscall.Kill(-1, syscall.SIGKILL) // whoever still holds the pipes
	copies.Wait()
	if ended.Signaled() {
		return 128 + int(ended.Signal()), nil
	}
	return ended.ExitStatus(), nil
}

// reap waits for every process until that one has ended.
func reap(program int) (status syscall.WaitStatus, err error) {
	for {
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return status, fmt.Errorf("wait: %w", err)
		case pid == program && (status.Exited() || status.Signaled()):
			return status, nil
		}
	}
}

// printKernelLog prints what the kernel has kept quiet about.
func printKernelLog() {
	const readAll = 3 // syslog(2)
	b := make([]byte, 1<<20)
	if n, err := unix.Klogctl(readAll, b); err == nil {
		fmt.Printf("--- the kernel's log:\n%s", b[:n])
	}
}
