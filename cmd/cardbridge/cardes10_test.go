package main

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// es10 runs a command on the card by ES10c.
func (c *testCard) es10(t testing.TB, command string, args ...string) (map[string]any, int) {
	t.Helper()
	return object(t, append([]string{"card", command, "--es10", "--reader", c.reader}, args...)...)
}

func state(out map[string]any, n int) any {
	return out["profiles"].([]any)[n].(map[string]any)["state"]
}

// TestPlainEUICC is a plain eUICC in a real pcscd, on T=0, as its users have it.
func TestPlainEUICC(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 1})
	const first, second = "89014100000000000434", "898603011234567890" // 18 digits
	c := newCard(t, newKeySet(t), pcscd.Slots()[0], "--plain",
		"--profile", "iccid="+first+",mccmnc=46011,state=enabled,provider=Lab,name=Everyday", "--profile", "iccid="+second+",mccmnc=310410",
		"--profile", "iccid=8986030112345678901,mccmnc=310410,ppr1,ppr2")
	const t0 = "--protocol=T=0"
	want := map[string]any{"eid": c.eid, "how": es10.How, "isdr": es10.ISDRs[0], "authenticated": false, "outcome": "done"}

	t.Run("status", func(t *testing.T) {
		out, status := c.es10(t, "status", t0)
		require.Zero(t, status)
		assert.Equal(t, "enabled", state(out, 0))
		assert.Len(t, out["profiles"], 3)
		for k, v := range want {
			assert.Equal(t, v, out[k], k)
		}
		stdout, _, status := cli(t, "card", "status", "--es10", "--reader", c.reader, t0)
		require.Zero(t, status)
		assert.Contains(t, stdout, "how              ES10c, without mutual authentication and without a receipt\n")
		assert.Regexp(t, first+` +enabled +operational +Lab +Everyday`, stdout)
		assert.Contains(t, stdout, "PPR1 PPR2")
		_, stderr, status := cli(t, "card", "info", "--reader", c.reader)
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, "with --es10", "what to do next")
	})
	t.Run("deactivate, again, activate", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "trace")
		out, status := c.es10(t, "deactivate", t0, "--refresh", "--trace", file)
		require.Zero(t, status, "%v", out)
		assert.Equal(t, first, out["iccid"])
		assert.Equal(t, "disabled", out["state"])
		assert.Equal(t, "00", out["result"])
		assert.NotContains(t, out, "receipt_verified")
		for k, v := range want {
			assert.Equal(t, v, out[k], k)
		}
		assert.Equal(t, appletsim.Disabled, c.card.Image().Profiles[0].State)
		recorded, err := os.Open(file)
		require.NoError(t, err)
		defer recorded.Close()
		session, err := trace.Parse(recorded)
		require.NoError(t, err)
		assert.Contains(t, apdus(session), "BF3211A00C5A0A98101400000000004043")
		assert.Contains(t, apdus(session), "01C0000006", "GET RESPONSE of T=0")

		stdout, stderr, status := cli(t, "card", "deactivate", "--es10", "--reader", c.reader, t0, "--iccid", first)
		assert.Equal(t, exitCardRefused, status)
		assert.Regexp(t, `(?m)^outcome +refused$`, stdout)
		assert.Contains(t, stderr, "refuses, and does not sign it")
		assert.Contains(t, stderr, "not in the state")

		_, status = c.es10(t, "activate", t0)
		assert.Equal(t, exitError, status, "two would do")
		out, status = c.es10(t, "activate", t0, "--iccid", second, "--segment", "7", "--eid", c.eid, "--isdr", "A0000005591010000000008900000300", "--isdr", es10.ISDRs[0])
		require.Zero(t, status, "%v", out)
		assert.Equal(t, "enabled", state(out, 1))
		out, status = c.es10(t, "activate", "--protocol=T=1", "--iccid", first)
		require.Zero(t, status, "%v", out)
		assert.Equal(t, "disabled", state(out, 1))
	})
	t.Run("refused by a policy rule", func(t *testing.T) {
		_, status := c.es10(t, "activate", t0, "--iccid", "8986030112345678901")
		require.Zero(t, status)
		out, status := c.es10(t, "deactivate", t0)
		assert.Equal(t, exitCardRefused, status)
		assert.Equal(t, "03", out["result"])
		assert.Equal(t, "enabled", out["state"])
		assert.Contains(t, out["error"], "policy rule")
	})
	t.Run("another card, or none", func(t *testing.T) {
		out, status := c.es10(t, "deactivate", "--eid", "89049032000000000000000000000163")
		assert.Equal(t, exitError, status)
		assert.Contains(t, out["error"], "163 wanted")
		out, status = c.es10(t, "status", "--isdr", "A0000005591010000000008900000300")
		assert.Equal(t, exitError, status)
		_, stderr, _ := cli(t, "card", "status", "--es10", "--reader", c.reader, "--isdr", "A0000005591010000000008900000300")
		assert.Contains(t, stderr, "say which by --isdr", "%v", out)
		out, status = object(t, "card", "status", "--reader", c.reader, "--keyset", c.keyset, "--card", c.record)
		assert.Equal(t, exitError, status)
		assert.Contains(t, out["error"], "use --es10", "it has no management applet")
	})
}

// apdus is all that passed, in hexadecimal.
func apdus(session *trace.Trace) string {
	var all strings.Builder
	for _, e := range session.Entries {
		all.WriteString(strings.ToUpper(hex.EncodeToString(e.Data)) + "\n")
	}
	return all.String()
}

// TestPlainEUICCPulled: a card that is pulled after its write comes back and the
// outcome is read; one that stays away is unknown, and the command line that is
// printed then recovers it.
func TestPlainEUICCPulled(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 1})
	c := newCard(t, "", pcscd.Slots()[0], "--plain", "--profile", "mccmnc=46011,state=enabled", "--profile", "mccmnc=46011")
	iccid := c.card.Image().Profiles[0].ICCID.String()
	c.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: time.Second})
	out, status := c.es10(t, "deactivate")
	require.Zero(t, status, "%v", out)
	assert.Equal(t, "disabled", out["state"])
	assert.EqualValues(t, 1, c.card.Image().EventCounter)

	c.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
	_, stderr, status := cli(t, "card", "activate", "--es10", "--reader", c.reader, "--iccid", iccid, "--wait", "2s", "--attempts", "2")
	assert.Equal(t, exitUnknown, status)
	line := regexp.MustCompile(`(?m)^ +\S+ (card activate .*--sent=true.*)$`).FindStringSubmatch(stderr)
	require.NotNil(t, line, "%s", stderr)
	c.card.Insert()
	args := strings.Fields(strings.ReplaceAll(line[1], "'", ""))
	for i := 0; i < len(args); i++ { // the reader's name has blanks
		if strings.HasPrefix(args[i], "--reader=") {
			args[i] = "--reader=" + c.reader
			for i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") {
				args = append(args[:i+1], args[i+2:]...)
			}
		}
	}
	out, status = object(t, args...)
	require.Zero(t, status, "%v", out)
	assert.Equal(t, "enabled", out["state"])
	assert.EqualValues(t, 2, c.card.Image().EventCounter, "it was not sent again")
}

func TestES10Flags(t *testing.T) {
	for name, args := range map[string][]string{
		"keyset":           {"card", "status", "--es10", "--keyset", "x"},
		"operator":         {"card", "deactivate", "--es10", "--operator", "46011"},
		"without":          {"card", "deactivate", "--refresh"},
		"segment":          {"card", "status", "--es10", "--segment", "256", "--reader", "none"},
		"EID":              {"card", "status", "--es10", "--eid", "1", "--reader", "none"},
		"attempts":         {"card", "deactivate", "--es10", "--attempts", "0", "--reader", "none"},
		"ICCID":            {"card", "deactivate", "--es10", "--iccid", "1", "--reader", "none"},
		"sent, of which":   {"card", "deactivate", "--es10", "--sent", "--reader", "none"},
		"no reader":        {"card", "activate", "--es10"},
		"no such reader":   {"card", "deactivate", "--es10", "--reader", "none", "--wait", "100ms"},
		"no status reader": {"card", "status", "--es10", "--reader", "none", "--wait", "100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := object(t, args...)
			assert.Equal(t, exitError, status)
			assert.Equal(t, "failed", out["outcome"])
			assert.Equal(t, false, out["authenticated"])
			assert.NotEmpty(t, out["error"])
		})
	}
}
