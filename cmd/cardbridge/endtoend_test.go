package main

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// host is the server as a process of its own, over PC/SC.
type host struct {
	test        *testing.T // the one that the process lives as long as
	keyset, dir string
	rules       string // file; "": those that are built in
	insecure    bool
	ready       readyJSON
	cmd         *exec.Cmd
}

func (h *host) start(t *testing.T) {
	t.Helper()
	args := []string{"serve", "--data", filepath.Join(h.dir, "data"), "--keyset", h.keyset,
		"--listen", "127.0.0.1:0", "--trace", filepath.Join(h.dir, "traces"), "--json"}
	if h.rules != "" {
		args = append(args, "--rules", h.rules)
	}
	if h.insecure {
		args = append(args, "--insecure-http")
	}
	h.cmd = program(h.test.Context(), args...)
	h.cmd.Stderr = h.test.Output()
	out, err := h.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, h.cmd.Start())
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(line, &h.ready))
}

// end ends the process by a signal and waits for it.
func (h *host) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, h.cmd.Process.Signal(sig))
	err := h.cmd.Wait()
	if sig == syscall.SIGTERM {
		require.NoError(t, err)
	}
}

func (h *host) ask(t *testing.T, args ...string) (map[string]any, int) {
	t.Helper()
	return object(t, append(args, "--server", h.ready.URL, "--token-file", filepath.Join(h.dir, "token"), "--pin", h.ready.Pin)...)
}

// agree compares the server's record with the card's memory.
func (h *host) agree(t *testing.T, c *testCard) {
	t.Helper()
	record, status := h.ask(t, "card", "show", "--eid", c.eid)
	require.Zero(t, status)
	image := c.card.Image()
	assert.EqualValues(t, image.EventCounter, record["event_counter"])
	for i, p := range image.Profiles {
		recorded := record["profiles"].([]any)[i].(map[string]any)
		assert.Equal(t, p.ICCID.String(), recorded["iccid"])
		assert.Equal(t, string(p.State), recorded["state"])
	}
}

func TestServerOverPCSC(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 4})
	h := &host{test: t, keyset: newKeySet(t), dir: t.TempDir()}
	added, status := object(t, "operator", "add", "--data", filepath.Join(h.dir, "data"), "--mccmnc", "46011", "Eleven")
	require.Zero(t, status)
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "token"), []byte(added["token"].(string)), 0o600))
	enabled, other := "mccmnc=46011,state=enabled", "mccmnc=46011"
	good := newCard(t, h.keyset, pcscd.Slots()[0], "--profile", enabled, "--profile", other+",fallback")
	ppr1 := newCard(t, h.keyset, pcscd.Slots()[1], "--profile", enabled+",ppr1", "--require-triple")
	pulled := newCard(t, h.keyset, pcscd.Slots()[2], "--profile", enabled)
	killed := newCard(t, h.keyset, pcscd.Slots()[3], "--profile", enabled)
	h.start(t)
	for _, c := range []*testCard{good, ppr1, pulled, killed} {
		_, status := h.ask(t, "card", "register", "--card", c.record)
		require.Zero(t, status)
	}

	t.Run("done", func(t *testing.T) {
		out, status := h.ask(t, "deactivate", "--eid", good.eid, "--wait")
		assert.Zero(t, status)
		assert.Equal(t, true, out["receipt_verified"])
		h.agree(t, good)
	})
	t.Run("refused by a rule, no session with the card", func(t *testing.T) {
		before, err := os.ReadDir(filepath.Join(h.dir, "traces"))
		require.NoError(t, err)
		out, status := h.ask(t, "deactivate", "--eid", good.eid, "--iccid", good.card.Image().Profiles[0].ICCID.String(), "--wait")
		assert.Equal(t, exitRuleRefused, status)
		assert.Equal(t, "1.2", out["reason_code"])
		after, err := os.ReadDir(filepath.Join(h.dir, "traces"))
		require.NoError(t, err)
		assert.Len(t, after, len(before))
		h.agree(t, good)
	})
	t.Run("activated on the bench, and the server told", func(t *testing.T) {
		_, status := good.run(t, "activate", "--iccid", good.card.Image().Profiles[0].ICCID.String())
		require.Zero(t, status)
		_, status = h.ask(t, "deactivate", "--eid", good.eid, "--iccid", good.card.Image().Profiles[0].ICCID.String(), "--wait")
		require.Equal(t, exitRuleRefused, status)
		_, status = h.ask(t, "card", "refresh", "--eid", good.eid)
		require.Zero(t, status)
		h.agree(t, good)
		_, status = h.ask(t, "deactivate", "--eid", good.eid, "--wait")
		assert.Zero(t, status)
		h.agree(t, good)
	})
	t.Run("refused by the card in suite 03", func(t *testing.T) {
		out, status := h.ask(t, "deactivate", "--eid", ppr1.eid, "--wait")
		assert.Equal(t, exitCardRefused, status)
		assert.Equal(t, "03", out["result"])
		assert.Equal(t, true, out["receipt_verified"])
		h.agree(t, ppr1)
	})
	t.Run("pulled after the write", func(t *testing.T) {
		pulled.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: time.Second})
		out, status := h.ask(t, "deactivate", "--eid", pulled.eid, "--wait")
		assert.Zero(t, status, "%v", out)
		assert.EqualValues(t, 1, pulled.card.Image().EventCounter)
		h.agree(t, pulled)
	})
	t.Run("server killed while the outcome is unknown", func(t *testing.T) {
		killed.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: 3 * time.Second})
		asked, status := h.ask(t, "deactivate", "--eid", killed.eid)
		require.Zero(t, status)
		require.Eventually(t, func() bool { return killed.card.Image().EventCounter == 1 }, 10*time.Second, 5*time.Millisecond)
		h.end(t, syscall.SIGKILL)
		h.start(t)
		require.Eventually(t, func() bool {
			record, _ := h.ask(t, "card", "show", "--eid", killed.eid)
			return record["event_counter"] == 1.0
		}, 20*time.Second, 200*time.Millisecond)
		h.agree(t, killed)
		// The record refuses it now, so the first request was the one that ended
		// right; its own end is told by its steps.
		again, status := h.ask(t, "deactivate", "--eid", killed.eid, "--iccid", asked["iccid"].(string), "--wait")
		assert.Equal(t, exitRuleRefused, status, "%v", again)
		assert.EqualValues(t, 1, killed.card.Image().EventCounter)
	})
	h.end(t, syscall.SIGTERM)
}
