package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/trace"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/pcsc"
)

const twoProfiles = "iccid=89014100000000000434,mccmnc=46011,state=enabled"

func TestBench(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 2})
	keyset := newKeySet(t)
	c := newCard(t, keyset, pcscd.Slots()[0], "--profile", twoProfiles, "--profile", "iccid=8986030112345678901,mccmnc=310410")

	t.Run("reader list", func(t *testing.T) {
		require.Eventually(t, func() bool {
			out, status := object(t, "reader", "list")
			readers := out["readers"].([]any)
			return status == 0 && len(readers) == 2 && readers[0].(map[string]any)["card"] == true
		}, 10*time.Second, 100*time.Millisecond)
	})
	t.Run("info", func(t *testing.T) {
		out, status := object(t, "card", "info", "--reader", c.reader)
		require.Zero(t, status)
		assert.Equal(t, c.eid, out["eid"])
		assert.EqualValues(t, 0, out["event_counter"])
		assert.Equal(t, []any{1.0, 3.0}, out["suites"])
	})
	t.Run("authenticate in both suites and protocols", func(t *testing.T) {
		for _, suite := range []string{"1", "3"} {
			for _, protocol := range []string{"T=0", "T=1"} {
				out, status := c.run(t, "authenticate", "--suite", suite, "--protocol", protocol)
				assert.Zero(t, status, "%s %s: %v", suite, protocol, out)
				assert.Equal(t, map[string]any{"eid": c.eid, "authenticated": true, "sw": "9000", "outcome": "done"}, out)
			}
		}
	})
	t.Run("status", func(t *testing.T) {
		out, status := c.run(t, "status")
		require.Zero(t, status)
		profiles := out["profiles"].([]any)
		require.Len(t, profiles, 2)
		assert.Equal(t, "89014100000000000434", profiles[0].(map[string]any)["iccid"])
		assert.Equal(t, "enabled", profiles[0].(map[string]any)["state"])
	})
	t.Run("deactivate, refused again, activate", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "trace")
		out, status := c.run(t, "deactivate", "--trace", file, "--request-id", "00112233445566778899AABBCCDDEEFF")
		assert.Zero(t, status)
		assert.Equal(t, map[string]any{
			"eid": c.eid, "authenticated": true, "result": "00", "sw": "9000", "iccid": "89014100000000000434", "state": "disabled",
			"event_counter": 1.0, "request_id": "00112233445566778899AABBCCDDEEFF", "receipt_verified": true, "outcome": "done",
		}, out)
		b, err := os.Open(file)
		require.NoError(t, err)
		defer b.Close()
		parsed, err := trace.Parse(b)
		require.NoError(t, err)
		assert.Greater(t, len(parsed.Entries), 10)

		out, status = c.run(t, "deactivate", "--iccid", "89014100000000000434")
		assert.Equal(t, exitCardRefused, status)
		assert.Equal(t, "02", out["result"])
		assert.Equal(t, "6985", out["sw"])
		assert.Equal(t, "refused", out["outcome"])
		assert.Equal(t, true, out["receipt_verified"])

		out, status = c.run(t, "deactivate") // none is enabled
		assert.Equal(t, exitCardRefused, status)
		assert.Equal(t, "01", out["result"])

		out, status = c.run(t, "activate", "--iccid", "89014100000000000434", "--suite", "3", "--reason", "7")
		assert.Zero(t, status)
		assert.Equal(t, "enabled", out["state"])
		assert.EqualValues(t, 2, out["event_counter"])
	})
	t.Run("given counter, operator and profile", func(t *testing.T) {
		out, status := c.run(t, "deactivate", "--counter", "9", "--operator", "46011", "--iccid", "89014100000000000434")
		assert.Equal(t, exitCardRefused, status)
		assert.Equal(t, "14", out["result"])
		out, status = c.run(t, "deactivate", "--operator", "00101")
		assert.Equal(t, exitCardRefused, status)
		assert.Equal(t, "10", out["result"])
	})
	t.Run("answer lost, recovered", func(t *testing.T) {
		c.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: time.Second})
		out, status := c.run(t, "deactivate")
		assert.Zero(t, status, "%v", out)
		assert.Equal(t, "done", out["outcome"])
		assert.Equal(t, true, out["receipt_verified"])
		assert.EqualValues(t, 3, out["event_counter"])
		assert.EqualValues(t, 3, c.card.Image().EventCounter)
	})
	t.Run("answer lost, the card stays away", func(t *testing.T) {
		c.card.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter, Away: 6 * time.Second})
		stdout, stderr, status := cli(t, "card", "activate", "--reader", c.reader, "--keyset", c.keyset, "--card", c.record,
			"--iccid", "89014100000000000434", "--attempts", "2", "--wait", "2s", "--reason", "7", "--json")
		assert.Equal(t, exitUnknown, status, "%v", stdout)
		var out map[string]any
		require.NoError(t, json.Unmarshal([]byte(stdout), &out))
		assert.Equal(t, "unknown", out["outcome"])
		assert.Equal(t, false, out["receipt_verified"])
		assert.NotContains(t, out, "result")

		// The command line that it prints recovers the outcome.
		i := strings.Index(stderr, "cardbridge card activate --")
		require.GreaterOrEqual(t, i, 0, "%s", stderr)
		again, _, _ := strings.Cut(stderr[i:], "\n")
		sh := exec.Command("/bin/sh", "-c", `cardbridge() { "$TEST_BINARY" "$@"; }; `+strings.Replace(again, "--wait=2s", "--wait=20s", 1))
		self, err := os.Executable()
		require.NoError(t, err)
		sh.Env = append(os.Environ(), asProgram+"=1", "TEST_BINARY="+self)
		recovered, err := sh.Output()
		require.NoError(t, err, "%s: %s", again, recovered)
		require.NoError(t, json.Unmarshal(recovered, &out))
		assert.Equal(t, "done", out["outcome"])
		assert.EqualValues(t, 4, out["event_counter"])
		assert.EqualValues(t, 4, c.card.Image().EventCounter, "done once")
	})
	t.Run("another program's session is left alone", func(t *testing.T) {
		other, err := pcsc.New().Connect(t.Context(), c.reader, pcsc.Options{Protocol: pcsc.T0})
		require.NoError(t, err)
		defer other.Close()
		out, status := c.run(t, "status", "--protocol", "T=1", "--wait", "1s")
		assert.Equal(t, exitError, status)
		assert.Contains(t, out["error"], "another program uses the card")
		_, err = other.Transmit(t.Context(), []byte{0x80, 0xCA, 0x00, 0x5A, 0x00})
		assert.NoError(t, err)
	})
	t.Run("apdu", func(t *testing.T) {
		stdout, _, status := cli(t, "apdu", "--reader", c.reader, "00A404000BF063617264627269646765 00", "80CA005A00")
		require.Zero(t, status)
		assert.Contains(t, stdout, strings.ToUpper(c.eid))
	})
	t.Run("another card's record", func(t *testing.T) {
		other := newCard(t, keyset, pcscd.Slots()[1], "--single")
		out, status := object(t, "card", "status", "--reader", c.reader, "--keyset", keyset, "--card", other.record)
		assert.Equal(t, exitError, status)
		assert.Equal(t, false, out["authenticated"])
		assert.Equal(t, "failed", out["outcome"])

		out, status = other.run(t, "deactivate", "--suite", "3")
		assert.Equal(t, exitError, status)
		assert.Contains(t, out["error"], "suite 03")
		assert.Equal(t, other.eid, out["eid"])
		out, status = other.run(t, "deactivate")
		assert.Zero(t, status, "%v", out)
	})
}

// BenchmarkDeactivatePCSC is one authentication and one DEACTIVATE or ACTIVATE
// through pcscd and a virtual reader, in suite 01, RSA-2048.
func BenchmarkDeactivatePCSC(b *testing.B) {
	pcscd := rig.Start(b, rig.Options{Slots: 1})
	c := newCard(b, newKeySet(b), pcscd.Slots()[0], "--profile", twoProfiles)
	keys, err := newKeySource().open(b.Context(), c.keyset, plainSoftware)
	require.NoError(b, err)
	file, err := os.ReadFile(c.record)
	require.NoError(b, err)
	record, err := card.ParseRecord(file)
	require.NoError(b, err)
	conn, _, err := connect(b.Context(), c.reader, pcsc.Options{})
	require.NoError(b, err)
	defer conn.Close()
	terminal := &card.Terminal{Keys: keys}
	p := record.Profiles[0]
	cmd := card.Command{INS: card.INSDeactivate, Operator: p.Owner, ICCID: &p.ICCID}
	b.ReportAllocs()
	for b.Loop() {
		binary.BigEndian.PutUint32(cmd.RequestID[:], cmd.Counter)
		rep, err := terminal.Attempt(b.Context(), apdu.BasicChannel(conn), record.Target(), card.Attempt{Command: cmd, Recorded: cmd.Counter})
		require.NoError(b, err)
		require.Equal(b, card.OutcomeDone, rep.Outcome)
		cmd.Counter++
		cmd.INS ^= card.INSDeactivate ^ card.INSActivate
	}
}

// What is given wrongly is told before any card is touched.
func TestBadInput(t *testing.T) {
	keyset := newKeySet(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	record := filepath.Join(dir, "record.json")
	_, _, status := cli(t, "card", "new", "--keyset", keyset, "--image", filepath.Join(dir, "card.json"), "--record", record)
	require.Zero(t, status)
	base := []string{"card", "deactivate", "--reader", "none"}
	for name, args := range map[string][]string{
		"no key set":      {"--card", record},
		"no record":       {"--keyset", keyset},
		"garbage key set": {"--keyset", write("k", "garbage"), "--card", record},
		"garbage record":  {"--keyset", keyset, "--card", write("r", `{"eid": "89"}`)},
		"image as record": {"--keyset", keyset, "--card", filepath.Join(dir, "card.json")},
		"operator":        {"--keyset", keyset, "--card", record, "--operator", "4601"},
		"iccid":           {"--keyset", keyset, "--card", record, "--iccid", "89"},
		"request id":      {"--keyset", keyset, "--card", record, "--request-id", "zz"},
		"attempts":        {"--keyset", keyset, "--card", record, "--attempts", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := object(t, append(base, args...)...)
			assert.Equal(t, exitError, status)
			assert.Equal(t, "failed", out["outcome"])
			assert.NotEmpty(t, out["error"])
		})
	}
	out, status := object(t, append(base, "--keyset", keyset, "--card", record, "--suite", "2")...)
	assert.Equal(t, exitError, status)
	assert.Equal(t, "--suite 2: 1 or 3 wanted", out["error"])
	for name, args := range map[string][]string{
		"keys are not overwritten": {"keys", "new", keyset},
		"kid":                      {"keys", "new", "--id", "16", filepath.Join(dir, "x")},
		"bits":                     {"keys", "new", "--bits", "1024", filepath.Join(dir, "x")},
		"EID":                      {"card", "new", "--keyset", keyset, "--image", dir + "/i", "--record", dir + "/r2", "--eid", "89049032000000000000000000424248"},
		"two enabled":              {"card", "new", "--keyset", keyset, "--image", dir + "/i", "--record", dir + "/r2", "--profile", "mccmnc=00101,state=enabled", "--profile", "mccmnc=00101,state=enabled"},
		"profile":                  {"card", "new", "--keyset", keyset, "--image", dir + "/i", "--record", dir + "/r2", "--profile", "mccmnc=00101,colour=red"},
		"APDU":                     {"apdu", "--reader", "none", "00A4"},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr, status := cli(t, args...)
			assert.Equal(t, exitError, status)
			assert.True(t, strings.HasPrefix(stderr, "cardbridge: "), stderr)
		})
	}
	_, stderr, status := cli(t, "card", "new", "--keyset", keyset, "--image", dir+"/half", "--record", dir+"/half/record")
	assert.Equal(t, exitError, status)
	assert.NoFileExists(t, dir+"/half", "no card without its record: %s", stderr)
	out, status = object(t, "keys", "public", keyset)
	require.Zero(t, status)
	assert.NotContains(t, out["enc"], "PRIVATE")
}
