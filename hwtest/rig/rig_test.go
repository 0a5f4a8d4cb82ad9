//go:build linux

package rig_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
)

// childVar has the test program do something else once it is inside.
const childVar = "RIG_TEST_CHILD"

func TestMain(m *testing.M) {
	rig.Enter()
	if what := os.Getenv(childVar); what != "" {
		os.Exit(child(what))
	}
	os.Exit(m.Run())
}

// child is what a program does that has entered.
func child(what string) int {
	switch what {
	case "echo":
		fmt.Println(os.Getuid(), os.Args[1:])
		_, _ = io.Copy(os.Stdout, os.Stdin)
		return 3
	case "signal":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		return 5
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case "orphan":
		out, err := exec.Command("sh", "-c", "sleep 0 >&2 & echo $!").Output()
		if err != nil {
			return 1
		}
		pid := strings.TrimSpace(string(out))
		for {
			if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
				return 0
			}
			time.Sleep(time.Millisecond)
		}
	case "wait":
		sleep := exec.Command("sleep", "1000")
		sleep.Stdout = os.Stdout
		if sleep.Start() != nil {
			return 1
		}
		fmt.Println("ready")
		time.Sleep(time.Minute)
	case "look":
		interfaces, _ := net.Interfaces()
		for _, i := range interfaces {
			fmt.Println(i.Name, i.Flags&net.FlagUp != 0)
		}
		run, _ := filepath.Glob("/run/*")
		fmt.Println(run)
		bundles, _ := filepath.Glob("/usr/lib/pcsc/drivers/*.bundle/*")
		fmt.Println(len(bundles))
		return 0
	}
	return 1
}

// outside is this program as it is before it enters.
func outside(t *testing.T, what string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), "CARDBRIDGE_TEST_RIG=", childVar+"="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

func exitCode(t *testing.T, err error) int {
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	return exit.ExitCode()
}

func TestEnterPassesThrough(t *testing.T) {
	cmd := outside(t, "echo", "-a", "b c")
	cmd.Stdin = strings.NewReader("input")
	out, err := cmd.Output()
	assert.Equal(t, 3, exitCode(t, err))
	assert.Equal(t, "0 [-a b c]\ninput", string(out))
}

func TestEnterWithoutRoot(t *testing.T) {
	cmd := outside(t, "echo")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.Output()
	assert.Equal(t, 3, exitCode(t, err))
	assert.Equal(t, "0 []\n", string(out))
}

func TestEnterHandsSignalsOn(t *testing.T) {
	cmd := outside(t, "signal")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, 5, exitCode(t, cmd.Wait()))
}

func TestEnterEndsAsTheProgramDoes(t *testing.T) {
	assert.Equal(t, 128+int(syscall.SIGKILL), exitCode(t, outside(t, "killed").Run()))
	assert.NoError(t, outside(t, "orphan").Run(), "orphans are reaped")
}

func TestEnterLeavesNothingBehind(t *testing.T) {
	cmd := outside(t, "wait")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	_, err = lines.ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	rest, err := io.ReadAll(lines) // until the last of those that hold it has gone
	assert.NoError(t, err)
	assert.Empty(t, rest)
	assert.Error(t, cmd.Wait())
}

func TestInside(t *testing.T) {
	out, err := outside(t, "look").Output()
	require.NoError(t, err)
	assert.Equal(t, "lo true\n[/run/pcscd]\n0\n", string(out))
}

func TestReaders(t *testing.T) {
	for _, n := range []int{0, 1, rig.MaxSlots} {
		p := rig.Start(t, rig.Options{Slots: n})
		readers, err := pcsc.New().Readers(t.Context())
		require.NoError(t, err)
		require.Len(t, readers, len(p.Slots()))
		assert.Len(t, p.Slots(), n+n%2)
		for i, r := range readers {
			assert.Equal(t, r.Name, p.Slots()[i].Reader)
		}
		require.NoError(t, p.Restart(t.Context()))
		again, err := pcsc.New().Readers(t.Context())
		require.NoError(t, err)
		assert.Equal(t, readers, again)
		require.NoError(t, p.Stop())
		require.NoError(t, p.Stop())
		assert.Contains(t, p.Log(), "daemon ready")
	}
}

func TestStartRefused(t *testing.T) {
	_, err := rig.StartPCSCD(t.Context(), rig.Options{Slots: rig.MaxSlots + 1})
	assert.ErrorContains(t, err, "17 virtual readers")

	p := rig.Start(t, rig.Options{})
	_, err = rig.StartPCSCD(t.Context(), rig.Options{})
	assert.ErrorContains(t, err, "running already")
	require.NoError(t, p.Stop())

	for hidden, missing := range map[string]string{
		"/usr/sbin":                    "install the package pcscd",
		"/usr/lib/pcsc/drivers/serial": "install the package vsmartcard-vpcd",
	} {
		require.NoError(t, unix.Mount("tmpfs", hidden, "tmpfs", 0, ""))
		_, err = rig.StartPCSCD(t.Context(), rig.Options{Slots: 1})
		assert.ErrorContains(t, err, missing)
		require.NoError(t, unix.Unmount(hidden, 0))
	}

	t.Setenv("CARDBRIDGE_TEST_RIG", "")
	_, err = rig.StartPCSCD(t.Context(), rig.Options{})
	assert.ErrorIs(t, err, rig.ErrNotEntered)
}

func ExampleStartPCSCD() {
	ctx := context.Background()
	p, err := rig.StartPCSCD(ctx, rig.Options{Slots: 2}) // rig.Enter has been called
	if err != nil {
		panic(err)
	}
	defer p.Stop()
	readers, err := pcsc.New().Readers(ctx)
	if err != nil {
		panic(err)
	}
	for i, r := range readers {
		fmt.Println(r.Name, "is", p.Slots()[i].Addr)
	}
	// Output:
	// Virtual PCD A 00 00 is 127.0.0.1:35963
	// Virtual PCD A 00 01 is 127.0.0.1:35964
}

func TestUSBReaders(t *testing.T) {
	p := rig.Start(t, rig.Options{Slots: 1, USB: []rig.USBReader{
		{Name: "One (1)", Slots: 1, Bus: 1, Address: 2}, {Name: "Two", Slots: 2, Bus: 1, Address: 3},
	}})
	names := func() (found []string) {
		readers, err := pcsc.New().Readers(t.Context())
		require.NoError(t, err)
		for _, r := range readers {
			found = append(found, r.Name)
		}
		return found
	}
	all := []string{"Virtual PCD A 00 00", "Virtual PCD A 00 01", "One (1) 00 00", "Two 00 00", "Two 00 01"}
	assert.Equal(t, all, names())
	for i, s := range p.Slots() {
		assert.Equal(t, all[i], s.Reader)
	}
	channel := func(reader string) uint32 {
		info, err := pcsc.New().Info(t.Context(), reader)
		require.NoError(t, err)
		return info.ChannelID
	}
	assert.Equal(t, uint32(0x00200102), channel("One (1) 00 00"))
	require.NoError(t, p.Plug(0, 3, 9))
	assert.Equal(t, uint32(0x00200309), channel("One (1) 00 00"))
	require.NoError(t, p.Unplug(0))
	require.NoError(t, p.Restart(t.Context()))
	assert.Equal(t, append(all[:2:2], all[3:]...), names())
	require.NoError(t, p.Plug(0, 1, 2))
	require.NoError(t, p.Restart(t.Context()))
	assert.Equal(t, all, names())

	_, err := rig.StartPCSCD(t.Context(), rig.Options{USB: []rig.USBReader{{Name: "x", Slots: 3}}})
	assert.ErrorContains(t, err, "3 slots")
}
