package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/applet-sim/vpcd"
	"github.com/cardbridge/cardbridge/hwtest/corpus"
	"github.com/cardbridge/cardbridge/hwtest/rig"
)

const emulatorImage = "../../applet-sim/testdata/card.json"

// traceOf writes a trace file of these lines.
func traceOf(t testing.TB, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.trace")
	require.NoError(t, os.WriteFile(file, []byte("# cardbridge trace 1\n"+strings.Join(lines, "\n")+"\n"), 0o600))
	return file
}

var (
	readEID = []string{"> 00A404000BF06361726462726964676500", "< 6F1A840BF063617264627269646765A50B80010181020103820208009000", "> 80CA005A00", "< 5A10890490320000000000000000004242479000"}
	withPIN = []string{"> 002000010431323334", "< 9000", "> 0084000004", "< 112233449000"}
)

func TestTraceDiff(t *testing.T) {
	a := traceOf(t, append(withPIN, readEID...)...)
	b := traceOf(t, "> 002000010431323334", "< 9000", "> 0084000004", "< 556677889000", readEID[0], readEID[1], readEID[2], "< 6A88")

	stdout, stderr, status := cli(t, "trace", "diff", a, a)
	assert.Zero(t, status, stderr)
	assert.Equal(t, "same: 4 same, 0 differ where they may, 0 different, 0 missing, 0 extra, 0 skipped\n", stdout)

	stdout, _, status = cli(t, "trace", "diff", a, b)
	assert.Equal(t, exitError, status)
	assert.Equal(t, `line 8, line 8: different
    > 80CA005A00
  - < 5A10890490320000000000000000004242479000
  + < 6A88
      response bytes 0-17: 5A1089049032000000000000000000424247, then none
      status word: 9000, then 6A88
different: 2 same, 1 differ where they may, 1 different, 0 missing, 0 extra, 0 skipped
`, stdout)

	stdout, _, status = cli(t, "trace", "diff", "--all", a, b)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stdout, "(may: GET CHALLENGE)")
	assert.Contains(t, stdout, "0020000104********", "redacted by default")
	stdout, _, _ = cli(t, "trace", "diff", "--all", "--unredacted", a, b)
	assert.Contains(t, stdout, "002000010431323334")
	stdout, _, _ = cli(t, "trace", "diff", "--all", "--limit", "1", a, b)
	assert.Contains(t, stdout, "… and 3 more\n")

	out, status := object(t, "trace", "diff", a, b, "--may")
	assert.Equal(t, exitError, status)
	assert.Equal(t, "different", out["outcome"])
	assert.EqualValues(t, 2, out["same"])
	list := out["differences"].([]any)
	require.Len(t, list, 2)
	assert.Equal(t, map[string]any{
		"verdict": "may differ",
		"a":       map[string]any{"session": 1.0, "line": 4.0, "command": "0084000004", "answer": "112233449000"},
		"b":       map[string]any{"session": 1.0, "line": 4.0, "command": "0084000004", "answer": "556677889000"},
		"fields": []any{map[string]any{
			"what": "response", "a": map[string]any{"from": 0.0, "to": 4.0}, "b": map[string]any{"from": 0.0, "to": 4.0}, "may_differ": true, "rule": "GET CHALLENGE",
		}},
	}, list[0])

	rules := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(rules, []byte("version: 1\nrules:\n- {name: EID, match: 80 CA 00 5A, response: [any, sw]}\n"), 0o600))
	out, status = object(t, "trace", "diff", a, b, "--rules", rules)
	assert.Zero(t, status)
	assert.Equal(t, "same", out["outcome"])
	assert.Equal(t, []any{}, out["differences"])
}

func TestTraceConvert(t *testing.T) {
	in := traceOf(t, append(withPIN, readEID...)...)
	dir := t.TempDir()
	for _, format := range []string{"jsonl", "pcapng", "scriptor"} {
		out := filepath.Join(dir, "x."+format)
		res, status := object(t, "trace", "convert", in, out)
		require.Zero(t, status, "%v", res)
		assert.Equal(t, "trace", res["from"])
		assert.Equal(t, format, res["to"])
		assert.Equal(t, true, res["redacted"])
		b, err := os.ReadFile(out)
		require.NoError(t, err)
		assert.NotContains(t, string(b), "31323334")
		assert.NotContains(t, string(b), "1234")
	}
	back := filepath.Join(dir, "back.trace")
	_, status := object(t, "trace", "convert", "--unredacted", filepath.Join(dir, "x.jsonl"), back)
	require.Zero(t, status)
	_, _, status = cli(t, "trace", "diff", in, back)
	assert.Zero(t, status, "what is redacted may differ")
	f, err := os.Open(back)
	require.NoError(t, err)
	defer f.Close()
	tr, err := trace.Parse(f)
	require.NoError(t, err)
	assert.True(t, tr.Redacted, "it was before")

	stdout, stderr, status := cli(t, "trace", "convert", "--unredacted", in, "-")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "31323334")
	assert.True(t, strings.HasPrefix(stdout, "# cardbridge trace "))

	// Over itself, where it ends well.
	_, _, status = cli(t, "trace", "convert", in, in)
	require.Zero(t, status)
	b, err := os.ReadFile(in)
	require.NoError(t, err)
	assert.Contains(t, string(b), "0020000104********")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(in), ".*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// TestTraceConvertDestinations: what is there and no file of its own is not
// replaced by one.
func TestTraceConvertDestinations(t *testing.T) {
	in := traceOf(t, readEID...)
	dir := t.TempDir()
	behind, link := filepath.Join(dir, "behind.trace"), filepath.Join(dir, "link.trace")
	require.NoError(t, os.WriteFile(behind, nil, 0o600))
	require.NoError(t, os.Symlink(behind, link))
	for _, args := range [][]string{{"convert", in, link}, {"replay", "--emulator", emulatorImage, in, "--record", link}} {
		require.NoError(t, os.Truncate(behind, 0))
		_, stderr, status := cli(t, append([]string{"trace"}, args...)...)
		require.Zero(t, status, stderr)
		info, err := os.Lstat(link)
		require.NoError(t, err)
		assert.Equal(t, os.ModeSymlink, info.Mode().Type(), "%v", args)
		b, err := os.ReadFile(behind)
		require.NoError(t, err)
		assert.Contains(t, string(b), readEID[2])
	}

	to, special, err := destination(os.DevNull)
	require.NoError(t, err)
	assert.Equal(t, os.DevNull, to)
	assert.True(t, special, "a device is written into")

	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a folder":              {[]string{"convert", in, dir}, "is a folder"},
		"an unwritable format":  {[]string{"convert", in, filepath.Join(dir, "x.pcap")}, "pcap is read, not written"},
		"a page over a trace":   {[]string{"show", "--html", in, in}, "written over while it is read"},
		"a trace over a script": {[]string{"record", "--reader", "none", "--script", in, in}, "written over while it is read"},
	} {
		_, stderr, status := cli(t, append([]string{"trace"}, c.args...)...)
		assert.Equal(t, exitError, status, name)
		assert.Contains(t, stderr, c.want, name)
	}
	upper := filepath.Join(dir, "X.JSONL")
	res, status := object(t, "trace", "convert", in, upper)
	require.Zero(t, status)
	assert.Equal(t, "jsonl", res["to"])
}

// TestTraceConvertsNothing: a file of which no line was understood is no trace
// without entries.
func TestTraceConvertsNothing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x.trace")
	_, stderr, status := cli(t, "trace", "convert", "--from", "jsonl", traceOf(t, readEID...), out)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "nothing of it was understood as jsonl")
	assert.NoFileExists(t, out)

	_, stderr, status = cli(t, "trace", "record", "--reader", "none", out, "--", "0020000104 3132333Z")
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "APDU 1")
	assert.NotContains(t, stderr, "3132")
}

// TestTraceNothingCompared: what has nothing to compare is not the same.
func TestTraceNothingCompared(t *testing.T) {
	empty, redacted := traceOf(t), traceOf(t, "> 0020000104********", "< 9000")
	for _, args := range [][]string{{"diff", empty, empty}, {"replay", "--emulator", emulatorImage, redacted}} {
		_, stderr, status := cli(t, append([]string{"trace"}, args...)...)
		assert.Equal(t, exitError, status)
		assert.Contains(t, stderr, "nothing was compared")
	}
}

func TestTraceReplayOnTheEmulator(t *testing.T) {
	good := traceOf(t, append([]string{"! connected 3B8580B1FE451FC780738021DF5A"}, readEID...)...)
	out, status := object(t, "trace", "replay", "--emulator", emulatorImage, good)
	assert.Zero(t, status, "%v", out)
	assert.EqualValues(t, 3, out["same"])

	bad := traceOf(t, append(readEID[:3:3], "< 6A88", "> 80CA00E100", "< 6A88")...)
	stdout, _, status := cli(t, "trace", "replay", "--emulator", emulatorImage, bad)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stdout, "line 4, now: different\n")
	assert.NotContains(t, stdout, "80CA00E100", "it ends with the first difference")
	out, status = object(t, "trace", "replay", "--emulator", emulatorImage, "--keep-going", bad)
	assert.Equal(t, exitError, status)
	assert.EqualValues(t, 2, out["different"])

	// What passes now becomes the golden file, in its place.
	out, status = object(t, "trace", "replay", "--emulator", emulatorImage, "--record", bad, bad)
	assert.Zero(t, status)
	assert.Equal(t, "different", out["outcome"])
	assert.Equal(t, bad, out["recorded"])
	out, status = object(t, "trace", "replay", "--emulator", emulatorImage, bad)
	assert.Zero(t, status, "%v", out)
	assert.EqualValues(t, 5, out["same"], "it has its connection, too")
}

func TestTraceOnAReader(t *testing.T) {
	pcscd := rig.Start(t, rig.Options{Slots: 1})
	c := newCard(t, newKeySet(t), pcscd.Slots()[0], "--profile", twoProfiles)
	file := filepath.Join(t.TempDir(), "read.trace")
	stdout, stderr, status := cli(t, "trace", "record", "--reader", c.reader, "--title", "what it is", file, "--", readEID[0][2:], "80 CA 00 5A 00")
	require.Zero(t, status, stderr)
	assert.Equal(t, 4, strings.Count(stdout, "\n"))
	assert.Contains(t, stdout, "< 5A10"+c.eid+"9000  # 9000 (success)\n")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(b), "# title: what it is\n")
	assert.Contains(t, string(b), "# origin: emulator\n")
	assert.Contains(t, string(b), "# redacted: yes\n")

	script := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(script, []byte("reset\n"+readEID[0][2:]+"\n80CA005A00\n"), 0o600))
	again := filepath.Join(t.TempDir(), "again.trace")
	out, status := object(t, "trace", "record", "--reader", c.reader, "--script", script, again)
	require.Zero(t, status, "%v", out)
	assert.Equal(t, map[string]any{"outcome": "done", "commands": 2.0, "trace": again}, out)
	out, status = object(t, "trace", "diff", file, again)
	assert.Equal(t, exitError, status)
	assert.EqualValues(t, 1, out["extra"], "the reset: %v", out)

	out, status = object(t, "trace", "replay", "--reader", c.reader, again)
	assert.Zero(t, status, "%v", out)

	secret := filepath.Join(t.TempDir(), "secret.trace")
	_, _, status = cli(t, "apdu", "--reader", c.reader, "--trace", secret, "002000010431323334")
	require.Zero(t, status)
	b, err = os.ReadFile(secret)
	require.NoError(t, err)
	assert.Contains(t, string(b), "0020000104********")
	_, _, status = cli(t, "apdu", "--reader", c.reader, "--trace", secret, "--unredacted", "002000010431323334")
	require.Zero(t, status)
	b, err = os.ReadFile(secret)
	require.NoError(t, err)
	assert.Contains(t, string(b), "002000010431323334")
}

// Hand-written traces are cards in a reader, through the real pcscd, on which
// they replay.
func TestTraceAsCardInAReader(t *testing.T) {
	names := []string{"lpac-profile-disable.apdu", "pysim-shell-start.apdu"}
	pcscd := rig.Start(t, rig.Options{Slots: len(names)})
	for i, name := range names {
		tr, err := corpus.Open(name)
		require.NoError(t, err)
		c := trace.NewCard(tr)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		slot := pcscd.Slots()[i]
		go func() { ended <- vpcd.Serve(ctx, slot.Addr, c) }()
		t.Cleanup(func() { cancel(); <-ended })
		for range 2 {
			out, status := object(t, "trace", "replay", "--reader", slot.Reader, filepath.Join("../../hwtest/corpus/testdata", name))
			assert.Zero(t, status, "%v", out)
			assert.Zero(t, out["skipped"], "%v", out)
		}
		assert.Zero(t, c.Misses())
	}
}

func TestTraceFails(t *testing.T) {
	good := traceOf(t, readEID...)
	none := filepath.Join(t.TempDir(), "none")
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("hello\n"), 0o600))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"diff", good}, "accepts 2 arg"},
		{[]string{"diff", good, none}, "no such file"},
		{[]string{"diff", text, good}, "text"},
		{[]string{"diff", "--rules", text, good, good}, "trace rules"},
		{[]string{"diff", "--rules", none, good, good}, "no such file"},
		{[]string{"convert", none, none}, "no such file"},
		{[]string{"convert", "--to", "morse", good, none}, "morse"},
		{[]string{"convert", "--from", "morse", good, none}, "morse"},
		{[]string{"replay", good}, "--reader"},
		{[]string{"replay", "--reader", "x", "--emulator", "y", good}, "--reader"},
		{[]string{"replay", "--emulator", text, good}, "bad card image"},
		{[]string{"record", "--reader", "x", none}, "nothing to send"},
		{[]string{"record", "--reader", "x", none, "--", "00"}, "4 or more"},
		{[]string{"record", "--reader", "x", none, "--", "XX"}, "APDU 1"},
		{[]string{"record", "--reader", "x", "--script", good, none, "--", "00A40000"}, "do not go together"},
		{[]string{"record", "--reader", "x", "--script", none, none}, "no such file"},
	} {
		stdout, stderr, status := cli(t, append([]string{"trace"}, c.args...)...)
		assert.Equal(t, exitError, status, "%v", c.args)
		assert.Contains(t, stderr, c.want, "%v", c.args)
		assert.Empty(t, stdout, "%v", c.args)
		assert.NoFileExists(t, none, "%v", c.args)

		out, status := failure(t, append([]string{"trace", c.args[0], "--json"}, c.args[1:]...)...)
		assert.Equal(t, exitError, status)
		assert.Equal(t, "failed", out["outcome"], "%v", c.args)
		assert.Contains(t, out["error"], c.want)
	}
}

// failure runs the program, --json among the arguments, and parses what it
// prints.
func failure(t testing.TB, args ...string) (out map[string]any, status int) {
	t.Helper()
	stdout, stderr, status := cli(t, args...)
	require.NoError(t, json.Unmarshal([]byte(stdout), &out), "%v: %s%s", args, stdout, stderr)
	return out, status
}
