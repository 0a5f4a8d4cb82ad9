//go:build linux && amd64

package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// childVar has the test program enter the machine and do something else there.
const childVar = "VM_TEST_CHILD"

func TestMain(m *testing.M) {
	what := os.Getenv(childVar)
	if what == "" && os.Getenv(stageVar) == "" {
		os.Exit(m.Run())
	}
	c := Config{Env: []string{childVar}, Files: []string{"vm.go"}}
	switch what {
	case "hang":
		c.Timeout = 3 * time.Second // it may have started by then, or not
	case "crash":
		c.Host = func(context.Context, string) ([]string, func() error, error) {
			return nil, func() error { return errors.New("finish") }, nil
		}
	case "wrong":
		c.Host = func(_ context.Context, dir string) ([]string, func() error, error) {
			return []string{"-device", "nonsense"}, nil, nil
		}
	case "refuse":
		c.Host = func(context.Context, string) ([]string, func() error, error) {
			return nil, nil, errors.New("refused")
		}
	}
	Enter(c)
	os.Exit(child(what))
}

// child is what a program does in the machine.
func child(what string) int {
	switch what {
	case "look":
		return look()
	case "crash":
		fmt.Println("crashing")
		time.Sleep(100 * time.Millisecond) // for the line to get through
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		select {}
	case "hang", "wait":
		fmt.Println("ready")
		time.Sleep(time.Hour)
	}
	return 1
}

// look tells of the machine.
func look() int {
	fmt.Fprintln(os.Stderr, "to stderr")
	fmt.Println(os.Getuid(), os.Args[1:], os.Getppid())
	_, err := os.Stat("vm.go")
	fmt.Println("file", err)
	_, err = os.Stat("/sys/devices/platform/vhci_hcd.0")
	fmt.Println("vhci", err)
	in, err := io.ReadAll(os.Stdin)
	fmt.Println("input", len(in), err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 2 {
		p, err := rig.StartPCSCD(ctx, rig.Options{})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("pcscd", p.Restart(ctx), p.Stop())
	}
	fmt.Println(strings.Repeat("long ", 1<<16))
	// What a program leaves behind does not keep the machine.
	left := exec.Command(os.Args[0])
	left.Env = []string{stageVar + "=" + stageGuest, childVar + "=wait"}
	left.Stdout = os.Stdout
	if err := left.Start(); err != nil {
		fmt.Println(err)
	}
	return 3
}

// outside is this program as it is before it enters.
func outside(t *testing.T, what string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), childVar+"="+what)
	return cmd
}

// run runs it to its end.
func run(t *testing.T, cmd *exec.Cmd) (status int, stdout, stderr string) {
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil {
		require.ErrorAs(t, err, &exit)
	}
	return cmd.ProcessState.ExitCode(), out.String(), said.String()
}

func TestEnter(t *testing.T) {
	t.Parallel()
	cmd := outside(t, "look", "-a", "b c", "-test.testlogfile=x")
	cmd.Stdin = strings.NewReader("not for the machine")
	status, stdout, stderr := run(t, cmd)
	assert.Equal(t, 3, status, stderr)
	assert.Contains(t, stdout, "0 [-a b c] 1\nfile <nil>\nvhci <nil>\ninput 0 <nil>\npcscd <nil> <nil>\npcscd <nil> <nil>\nlong ")
	assert.Contains(t, stdout, strings.Repeat("long ", 1<<16)+"\n")
	assert.True(t, strings.HasPrefix(stderr, "to stderr\n"), stderr)
	assert.Contains(t, stderr, "the kernel's log", "it failed")
}

func TestKernelPanic(t *testing.T) {
	t.Parallel()
	status, stdout, stderr := run(t, outside(t, "crash"))
	assert.Equal(t, 1, status)
	assert.Equal(t, "crashing\n", stdout)
	assert.Contains(t, stderr, "Kernel panic")
	assert.Contains(t, stderr, errNoExit.Error()+"\nfinish\n")
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	status, _, stderr := run(t, outside(t, "hang"))
	assert.NotZero(t, status)
	assert.Contains(t, stderr, "vm: not done after 3s")
}

// ready starts it and waits for its first line.
func ready(t *testing.T, cmd *exec.Cmd) {
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for s, want := range map[os.Signal]string{syscall.SIGTERM: "terminated\n", syscall.SIGQUIT: "vm.child("} {
		cmd := outside(t, "wait")
		tmp := t.TempDir()
		cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
		var said bytes.Buffer
		cmd.Stderr = &said
		ready(t, cmd)
		require.NoError(t, cmd.Process.Signal(s))
		assert.Error(t, cmd.Wait())
		assert.Contains(t, said.String(), want)
		assert.Contains(t, said.String(), "ended by a signal")
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		assert.Empty(t, left)
	}
}

func TestHostKilled(t *testing.T) {
	t.Parallel()
	cmd := outside(t, "wait")
	ready(t, cmd)
	machines := children(t, cmd.Process.Pid)
	require.Len(t, machines, 1)
	require.NoError(t, cmd.Process.Kill())
	assert.Error(t, cmd.Wait())
	assert.Eventually(t, func() bool { return syscall.Kill(machines[0], 0) != nil || zombie(machines[0]) },
		10*time.Second, 10*time.Millisecond)
}

// children are the processes that one has started.
func children(t *testing.T, pid int) (out []int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		require.NoError(t, err)
		for f := range strings.FieldsSeq(string(b)) {
			var child int
			_, err := fmt.Sscan(f, &child)
			require.NoError(t, err)
			out = append(out, child)
		}
	}
	return out
}

// zombie says that a process has ended, though nobody has waited for it.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

func TestHostCannot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		what string
		env  []string
		want string
	}{
		"no QEMU":        {"look", []string{"PATH=" + t.TempDir()}, "install the package qemu-system-x86"},
		"no apt":         {"look", []string{"PATH=" + t.TempDir(), "XDG_CACHE_HOME=" + t.TempDir()}, "apt-cache"},
		"no cache":       {"look", []string{"XDG_CACHE_HOME=relative", "HOME="}, "set XDG_CACHE_HOME"},
		"wrong device":   {"wrong", nil, "'nonsense' is not a valid device model name"},
		"host's refusal": {"refuse", nil, "the host's part: refused"},
	} {
		cmd := outside(t, c.what)
		cmd.Env = append(cmd.Env, c.env...)
		status, stdout, stderr := run(t, cmd)
		assert.Equal(t, 1, status, name)
		assert.Empty(t, stdout, name)
		assert.Contains(t, stderr, c.want, name)
	}
}
