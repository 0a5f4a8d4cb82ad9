package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// A plain eUICC is registered by its EID and what is known of its profiles, and
// everything that is told of it says that nothing is signed.
func TestPlainEUICCByCommand(t *testing.T) {
	s := serve(t, "--insecure-http", "--rules")
	im := servertest.Plain(servertest.Image(1))
	eid, iccid := im.EID.String(), im.Profiles[0].ICCID.String()
	for _, wrong := range [][]string{
		{}, {"--es10"}, {"--es10", "--eid", eid, "--card", "x"}, {"--es10", "--eid", eid, "--profile", "mccmnc=46011"},
		{"--es10", "--eid", "1", "--profile", "iccid=" + iccid + ",mccmnc=46011"}, {"--es10", "--eid", eid, "--profile", "iccid=" + iccid + ",mccmnc=26201"},
	} {
		_, _, err := s.ask(newCardRegisterCmd(), wrong...)
		assert.Error(t, err, "%q", wrong)
	}
	out, _, err := s.ask(newCardRegisterCmd(), "--es10", "--eid", eid, "--profile", "iccid="+iccid+",mccmnc=46011", "--json")
	require.NoError(t, err)
	assert.Contains(t, out, `"management":"es10c"`)
	c := servertest.Card(im)
	s.readers.Insert("reader", c, nil)
	require.Eventually(t, func() bool {
		out, _, err = s.ask(newCardShowCmd(), "--eid", eid)
		return err == nil && strings.Contains(out, "Profile 0") && strings.Contains(out, "Profile 1")
	}, 10*time.Second, 10*time.Millisecond, "what else there is was read")
	assert.Contains(t, out, "neither authenticated nor signed")
	assert.NotContains(t, out, "event counter")

	res, stderr, status := s.deactivate(1)
	assert.Equal(t, exitRuleRefused, status, "%s", stderr)
	assert.Equal(t, "plain-euicc 8.1.1/1.2", res.Rule+" "+res.SubjectCode+"/"+res.ReasonCode)
	require.NoError(t, s.stop())
	s.write("rules.yaml", servertest.PlainRulesFile("this-one", `card.eid == "`+eid+`"`))
	s.start("--insecure-http", "--rules")
	stdout, stderr, err := s.ask(newDeactivateCmd(), "--eid", eid, "--wait")
	require.NoError(t, err, "%s", stderr)
	assert.Regexp(t, `(?m)^outcome +done$`, stdout)
	assert.Regexp(t, `(?m)^how +ES10c: not authenticated, not signed; the server's word`, stdout)
	assert.NotContains(t, stdout, "receipt ")
	assert.Contains(t, stderr, "by ES10c, unauthenticated: DisableProfile for "+iccid)
	assert.Equal(t, appletsim.Disabled, c.Image().Profiles[0].State)
	out, _, err = s.ask(newRequestsCmd())
	require.NoError(t, err)
	assert.Regexp(t, `done +es10c +default`, out)
	audit, _, err := s.administer(newAuditCmd())
	require.NoError(t, err)
	assert.Contains(t, audit, "this-one")
}

// TestPlainEUICCServedOverPCSC is a plain eUICC beside a card with the applet in
// a real pcscd, and the server over both.
func TestPlainEUICCServedOverPCSC(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 4})
	h := &host{test: t, keyset: newKeySet(t), dir: t.TempDir()}
	added, status := object(t, "operator", "add", "--data", filepath.Join(h.dir, "data"), "--mccmnc", "46011", "Eleven")
	require.Zero(t, status)
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "token"), []byte(added["token"].(string)), 0o600))
	plain := []string{"--plain", "--profile", "mccmnc=46011,state=enabled", "--profile", "mccmnc=46011"}
	good := newCard(t, h.keyset, pcscd.Slots()[0], plain...)
	pulled := newCard(t, h.keyset, pcscd.Slots()[1], plain...)
	killed := newCard(t, h.keyset, pcscd.Slots()[2], plain...)
	applet := newCard(t, h.keyset, pcscd.Slots()[3], plain[1:]...)
	h.rules = filepath.Join(h.dir, "rules.yaml")
	list, err := json.Marshal([]string{good.eid, pulled.eid, killed.eid})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(h.rules, servertest.PlainRulesFile("bench", "card.eid in "+string(list)), 0o600))
	h.start(t)
	for _, c := range []*testCard{good, pulled, killed, applet} {
		_, status := h.ask(t, "card", "register", "--card", c.record)
		require.Zero(t, status)
	}
	first := func(c *testCard) appletsim.State { return c.card.Image().Profiles[0].State }
	agree := func(t *testing.T, c *testCard) {
		t.Helper()
		require.Eventually(t, func() bool {
			record, status := h.ask(t, "card", "refresh", "--eid", c.eid)
			return status == 0 && record["unsettled"] == nil && record["management"] == "es10c" &&
				state(record, 0) == string(first(c)) && state(record, 1) == string(c.card.Image().Profiles[1].State)
		}, 30*time.Second, 100*time.Millisecond)
	}

	t.Run("done", func(t *testing.T) {
		out, status := h.ask(t, "deactivate", "--eid", good.eid, "--wait")
		assert.Zero(t, status, "%v", out)
		assert.Equal(t, "es10c", out["how"])
		assert.NotContains(t, out, "receipt")
		assert.Equal(t, appletsim.Disabled, first(good))
		agree(t, good)
	})
	t.Run("beside a card with the applet", func(t *testing.T) {
		out, status := h.ask(t, "deactivate", "--eid", applet.eid, "--wait")
		assert.Zero(t, status, "%v", out)
		assert.Equal(t, "applet", out["how"])
		assert.Equal(t, true, out["receipt_verified"])
		h.agree(t, applet)
	})
	t.Run("enabled on the bench, and the server told", func(t *testing.T) {
		_, status := good.es10(t, "activate", "--iccid", good.card.Image().Profiles[0].ICCID.String())
		require.Zero(t, status)
		agree(t, good)
		_, status = h.ask(t, "deactivate", "--eid", good.eid, "--wait")
		assert.Zero(t, status)
		assert.Equal(t, appletsim.Disabled, first(good))
	})
	t.Run("pulled once it wrote", func(t *testing.T) {
		pulled.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: time.Second})
		out, status := h.ask(t, "deactivate", "--eid", pulled.eid, "--wait")
		assert.Zero(t, status, "%v", out)
		assert.Equal(t, "es10c", out["how"])
		assert.Equal(t, appletsim.Disabled, first(pulled))
		agree(t, pulled)
	})
	t.Run("server killed while the outcome is unknown", func(t *testing.T) {
		killed.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: 3 * time.Second})
		asked, status := h.ask(t, "deactivate", "--eid", killed.eid)
		require.Zero(t, status)
		require.Eventually(t, func() bool { return first(killed) == appletsim.Disabled }, 10*time.Second, 5*time.Millisecond)
		h.end(t, syscall.SIGKILL)
		h.start(t)
		agree(t, killed)
		out, _, status := cli(t, "requests", "--server", h.ready.URL, "--token-file", filepath.Join(h.dir, "token"), "--pin", h.ready.Pin)
		require.Zero(t, status)
		assert.Regexp(t, asked["request_id"].(string)+" +"+killed.eid+" +done +es10c", out)
	})
	h.end(t, syscall.SIGTERM)
}
