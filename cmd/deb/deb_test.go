//go:build linux && amd64

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/vm"
)

// The package is made on the host, and installed, run and removed in a machine
// with systemd, polkit and pcscd.
func TestMain(m *testing.M) {
	vm.Main(m, vm.Config{
		Systemd:  true,
		Timeout:  10 * time.Minute,
		Packages: []string{"pcscd", "libccid", "polkitd", "vsmartcard-vpcd", "libusb-1.0-0", "procps", "man-db"},
		Make: func(_ context.Context, dir string) error {
			defer syscall.Umask(syscall.Umask(0o077)) // whoever makes it may keep what they make to themselves
			_, err := build("../..", dir)
			return err
		},
	})
}

// sh runs a shell command that is to succeed, and gives what it printed.
func sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	command := fmt.Sprintf(format, args...)
	cmd := exec.Command("sh", "-c", command)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s%s", command, out, &said)
	return string(out)
}

// as is a command as the service's user, in its directory.
const as = "cd /var/lib/cardbridge && runuser -u cardbridge -- "

func TestPackage(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(vm.Made, "*.deb"))
	require.NoError(t, err)
	require.Len(t, names, 1)
	deb := names[0]

	sh(t, "dpkg -i %s", deb)
	assert.Contains(t, sh(t, "id cardbridge"), "(cardbridge)")
	assert.Equal(t, "700 cardbridge\n", sh(t, "stat -c '%%a %%U' /var/lib/cardbridge"))
	assert.Contains(t, sh(t, "systemctl show -p ActiveState,UnitFileState cardbridge"), "ActiveState=inactive\nUnitFileState=disabled", "nothing starts by itself")
	assert.Equal(t, "755\n755\n755\n644\n644\n", sh(t, "stat -c %%a /usr/bin/cardbridge /etc/cardbridge /usr/share/doc/cardbridge /etc/cardbridge/config.yaml /usr/lib/systemd/system/cardbridge.service"))
	assert.Equal(t, "TimeoutStartUSec=infinity\n", sh(t, "systemctl show -p TimeoutStartUSec cardbridge"), "a record's schema may take its time")
	sh(t, "systemd-analyze verify --man=no cardbridge.service")
	sh(t, "systemd-analyze security --no-pager --threshold=15 cardbridge.service") // of 100

	t.Run("programs", func(t *testing.T) {
		for _, program := range programs {
			assert.Contains(t, sh(t, "%s --version", program), program+" version")
			assert.Contains(t, sh(t, "zcat /usr/share/man/man1/%s.1.gz", program), program)
			completed := sh(t, `bash -c '. /usr/share/bash-completion/completions/%[1]s && complete -p %[1]s'`, program)
			assert.Contains(t, completed, "-F __start_"+program)
			assert.Contains(t, sh(t, "%s __complete '' 2>/dev/null", program), "completion")
		}
		page := sh(t, "zcat /usr/share/man/man1/cardbridge-serve.1.gz | man -l -")
		assert.Contains(t, page, "--keyset", "the flags of the help")
	})

	// As operations.md says.
	sh(t, as+"cardbridge keys new server.json")
	sh(t, as+"cardbridge card new --keyset server.json --image card.json --record record.json")
	sh(t, "systemd-run -q --uid=cardbridge --unit=emulator applet-sim --card /var/lib/cardbridge/card.json --vpcd 127.0.0.1:35963")
	sh(t, "systemctl start pcscd.socket") // which its own package enables
	sh(t, as+"cardbridge serve --check --config /etc/cardbridge/config.yaml")
	sh(t, "systemctl enable --now cardbridge")
	assert.Equal(t, "active\n", sh(t, "systemctl is-active cardbridge"))
	pin := ready(t)
	eid := readEID(t, "/var/lib/cardbridge/record.json")
	client := fmt.Sprintf("--server https://127.0.0.1:8443 --token-file token --pin %s", pin)

	t.Run("deactivation", func(t *testing.T) {
		sh(t, as+"cardbridge operator add --data . --mccmnc 00101 --token-file token Example")
		sh(t, as+"cardbridge card register %s --card record.json", client)
		said := sh(t, as+"cardbridge deactivate %s --eid %s --wait --json", client, eid)
		assert.Contains(t, said, `"state":"done"`)
	})

	t.Run("killed", func(t *testing.T) {
		before := sh(t, "systemctl show -p MainPID cardbridge")
		sh(t, "systemctl kill -s KILL --kill-who=main cardbridge")
		require.Eventually(t, func() bool {
			now := sh(t, "systemctl show -p MainPID,ActiveState cardbridge")
			return strings.Contains(now, "ActiveState=active") && !strings.Contains(now, strings.TrimSpace(before)+"\n")
		}, time.Minute, 200*time.Millisecond, "systemd starts it again")
		assert.Equal(t, pin, ready(t))
		sh(t, "systemctl reload cardbridge")
		assert.Equal(t, "active\n", sh(t, "systemctl is-active cardbridge"))
	})

	t.Run("upgraded", func(t *testing.T) {
		before := sh(t, "systemctl show -p MainPID cardbridge")
		require.NoError(t, os.WriteFile("/etc/cardbridge/config.yaml", append(read(t, "/etc/cardbridge/config.yaml"), "# mine\n"...), 0o644))
		sh(t, "dpkg -i %s", deb)
		assert.Contains(t, string(read(t, "/etc/cardbridge/config.yaml")), "# mine", "the administrator's file stays")
		assert.NotEqual(t, before, sh(t, "systemctl show -p MainPID cardbridge"))
		assert.Equal(t, "active\n", sh(t, "systemctl is-active cardbridge"))
		assert.Equal(t, pin, ready(t))
	})

	t.Run("removed", func(t *testing.T) {
		sh(t, "dpkg -r cardbridge")
		assert.NoFileExists(t, "/usr/bin/cardbridge")
		assert.NoFileExists(t, "/etc/systemd/system/multi-user.target.wants/cardbridge.service")
		assert.FileExists(t, "/etc/cardbridge/config.yaml")
		assert.Empty(t, sh(t, "pgrep -x cardbridge || true"))
		require.NoError(t, os.WriteFile("/etc/cardbridge/environment", []byte("CARDBRIDGE_STORE=postgres://kim:hunter2@db/x\n"), 0o600))
		sh(t, "dpkg -P cardbridge")
		assert.NoDirExists(t, "/etc/cardbridge", "no password of a database is left")
		assert.NoFileExists(t, "/etc/cardbridge/config.yaml")
		assert.FileExists(t, "/var/lib/cardbridge/record.db", "the record outlives the package")
		assert.Empty(t, sh(t, "find / -xdev -path /proc -prune -o -path /sys -prune -o -path /made -prune -o -path /var/lib/cardbridge -prune -o -path '*/journal/*' -prune -o -name '*cardbridge*' -print | grep -v -e cardbridge-vm || true"))
	})
}

// ready is the pin that the server of now prints.
func ready(t *testing.T) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(sh(t, "journalctl -u cardbridge -o cat --no-pager | grep '^ready at https://127.0.0.1:8443 pin '")), "\n")
	_, pin, _ := strings.Cut(lines[len(lines)-1], " pin ")
	require.Len(t, pin, 64)
	return pin
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	return b
}

func readEID(t *testing.T, record string) string {
	t.Helper()
	var v struct {
		EID string `json:"eid"`
	}
	require.NoError(t, json.Unmarshal(read(t, record), &v))
	require.NotEmpty(t, v.EID)
	return v.EID
}
