package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func (s *served) verify(args ...string) (report verifiedJSON, said string, err error) {
	out, _, err := s.execute(newAuditCmd(), append([]string{"verify", "--json"}, args...)...)
	if out != "" {
		require.NoError(s, json.Unmarshal([]byte(out), &report), "%s", out)
	}
	said, _, _ = s.execute(newAuditCmd(), append([]string{"verify"}, args...)...)
	return report, said, err
}

// The trail of a server that did its work verifies, its export too, anywhere,
// and neither does once it is changed or cut off.
func TestAuditVerify(t *testing.T) {
	s := serve(t)
	s.insert(1, nil, nil)
	_, stderr, status := s.deactivate(1)
	require.Zero(t, status, stderr)
	data := []string{"--data", s.record.data}
	report, _, err := s.verify(data...)
	require.NoError(t, err, "the server runs meanwhile")
	assert.True(t, report.Whole)
	require.NoError(t, s.stop())
	report, said, err := s.verify(data...)
	require.NoError(t, err)
	assert.True(t, report.Whole)
	assert.Equal(t, int64(1), report.Receipts)
	assert.Equal(t, int64(1), report.Requests)
	assert.Zero(t, report.Unproven, "a drained end signs all")
	assert.GreaterOrEqual(t, report.Checkpoints, int64(2))
	assert.Contains(t, said, "the audit trail is whole")

	info, err := os.Stat(filepath.Join(s.record.data, auditKeyFile))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	secret, err := os.ReadFile(filepath.Join(s.record.data, auditKeyFile))
	require.NoError(t, err)
	line, _, err := s.execute(newAuditCmd(), append([]string{"key"}, data...)...)
	require.NoError(t, err)
	log := s.write("server.log", []byte(s.log.String()))
	assert.Contains(t, s.log.String(), strings.TrimSpace(line))
	assert.NotContains(t, s.log.String()+line, strings.TrimSpace(string(secret)))

	trail := s.path("trail.jsonl")
	_, _, err = s.execute(newAuditCmd(), append([]string{"export", "--out", trail}, data...)...)
	require.NoError(t, err)
	_, _, err = s.execute(newAuditCmd(), append([]string{"export", "--out", trail}, data...)...)
	assert.ErrorIs(t, err, os.ErrExist, "an export is never overwritten")
	text, err := os.ReadFile(trail)
	require.NoError(t, err)
	out, _, err := s.execute(newAuditCmd(), append([]string{"export"}, data...)...)
	require.NoError(t, err)
	assert.Equal(t, string(text), out)
	keys := s.write("servers.keys", []byte(line+line))
	report, _, err = s.verify("--file", trail, "--key", keys, "--checkpoint", log)
	require.NoError(t, err)
	assert.True(t, report.Whole)
	assert.Equal(t, int64(1), report.Receipts)

	printed, _, err := s.execute(newAuditCmd(), data...)
	require.NoError(t, err)
	whole, _, err := s.execute(newAuditCmd(), append([]string{"--json"}, data...)...)
	require.NoError(t, err)
	receipt := regexp.MustCompile(`"receipt":"([0-9a-f]+)"`).FindStringSubmatch(whole)
	require.Len(t, receipt, 2)
	assert.NotContains(t, printed, receipt[1], "it is longer than a line")
	assert.Contains(t, printed, receipt[1][:64]+"…")

	changed := s.write("changed.jsonl", bytes.Replace(text, []byte(`"kind":"accepted"`), []byte(`"kind":"Accepted"`), 1))
	report, said, err = s.verify("--file", changed, "--key", strings.TrimSpace(line))
	assert.Equal(t, exitStatus(exitError), err)
	assert.False(t, report.Whole)
	require.NotEmpty(t, report.Problems)
	assert.NotZero(t, report.Problems[0].Line)
	assert.NotZero(t, report.Problems[0].Event)
	assert.Contains(t, said, "one of them was changed")
	_, _, err = s.execute(newAuditCmd(), "verify", "--file", changed, "--key", keys)
	assert.ErrorContains(t, err, "not whole")

	// The end cut off, as whoever has the record in hands can: everything after
	// the first checkpoint.
	lines := bytes.SplitAfter(text, []byte("\n"))
	at := 0
	for ; !bytes.HasPrefix(lines[at], []byte(`{"checkpoint"`)); at++ {
	}
	cut := append(bytes.Join(lines[:at+1], nil), `{"end":{"events":`+itoa(at-1)+`,"checkpoints":1}}`+"\n"...)
	file := s.write("cut.jsonl", cut)
	report, _, err = s.verify("--file", file, "--key", keys)
	require.NoError(t, err, "nothing in it says so")
	assert.True(t, report.Whole)
	report, said, err = s.verify("--file", file, "--key", keys, "--checkpoint", log)
	assert.Error(t, err)
	assert.False(t, report.Whole)
	assert.Contains(t, said, "the end of the trail was cut off")
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestAuditCommandsSayWhatToDo(t *testing.T) {
	s := &served{TB: t, dir: t.TempDir()}
	junk := s.write("junk", []byte("junk\n"))
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"key", "--data", s.dir}, "serve makes it"},
		{[]string{"verify", "--data", s.dir}, "Give --key"},
		{[]string{"verify", "--file", junk}, "Give --key"},
		{[]string{"verify", "--file", junk, "--data", s.dir}, "give one of them"},
		{[]string{"verify", "--file", junk, "--key", "a+b+c"}, "audit key prints"},
		{[]string{"verify", "--file", junk, "--key", s.path("none")}, "--key"},
	} {
		_, _, err := s.execute(newAuditCmd(), c.args...)
		assert.ErrorContains(t, err, c.says, c.args)
	}
	key, err := makeAuditKey(s.dir)
	require.NoError(t, err)
	again, err := makeAuditKey(s.dir)
	require.NoError(t, err)
	assert.Equal(t, key.Verifier(), again.Verifier())
	out, _, err := s.execute(newAuditCmd(), "verify", "--file", junk, "--key", key.Verifier())
	assert.Error(t, err)
	assert.Contains(t, out, "line 1: an export of the audit trail begins with")
	_, _, err = s.execute(newAuditCmd(), "verify", "--file", junk, "--key", key.Verifier(), "--checkpoint", junk)
	assert.ErrorContains(t, err, "no checkpoint is in it")
	require.NoError(t, os.Chmod(filepath.Join(s.dir, auditKeyFile), 0o644))
	_, err = makeAuditKey(s.dir)
	assert.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, auditKeyFile), []byte("x"), 0o600))
	require.NoError(t, os.Chmod(filepath.Join(s.dir, auditKeyFile), 0o600))
	_, err = makeAuditKey(s.dir)
	assert.ErrorContains(t, err, "not an Ed25519 key")
}
