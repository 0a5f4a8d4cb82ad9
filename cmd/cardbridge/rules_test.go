package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/rules"
)

// rulesFiles are the built-in rules and the request of the help, with texts of
// them replaced.
func rulesFiles(t *testing.T, inRules, inRequest []string) (file, request string) {
	dir := t.TempDir()
	file, request = filepath.Join(dir, "rules.yaml"), filepath.Join(dir, "r.json")
	for _, f := range []struct {
		path, text string
		replace    []string
	}{{file, string(rules.DefaultYAML), inRules}, {request, rulesRequest, inRequest}} {
		for i := 0; i < len(f.replace); i += 2 {
			require.Contains(t, f.text, f.replace[i])
		}
		require.NoError(t, os.WriteFile(f.path, []byte(strings.NewReplacer(f.replace...).Replace(f.text)), 0o600))
	}
	return file, request
}

func TestRulesShow(t *testing.T) {
	stdout, stderr, status := cli(t, "rules", "show")
	assert.Zero(t, status, stderr)
	assert.Equal(t, string(rules.DefaultYAML), stdout)
	out, status := object(t, "rules", "show")
	assert.Zero(t, status)
	assert.Equal(t, string(rules.DefaultYAML), out["yaml"])

	copied := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(copied, []byte(stdout), 0o600))
	stdout, stderr, status = cli(t, "rules", "check", "--rules", copied)
	assert.Zero(t, status, stderr)
	assert.Contains(t, stdout, copied)
	assert.Contains(t, stdout, rules.Default().Digest())
	assert.Contains(t, stdout, "operator-known, card-registered,")
}

func TestRulesCheckFaults(t *testing.T) {
	file, request := rulesFiles(t, []string{"operator.known", "operator.knwn", "window: 1h", "window: soon"}, nil)
	for _, args := range [][]string{{}, {"--request", request}} {
		args := append([]string{"rules", "check", "--rules", file}, args...)
		stdout, stderr, status := cli(t, args...)
		assert.Equal(t, exitError, status)
		assert.Empty(t, stdout)
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		require.Len(t, lines, 2, stderr)
		assert.Regexp(t, `^\S+rules\.yaml:\d+:11: window "soon"`, lines[0])
		assert.Regexp(t, `^\S+rules\.yaml:\d+:22: undefined field 'knwn'`, lines[1])

		out, status := object(t, args...)
		assert.Equal(t, exitError, status)
		assert.Equal(t, "failed", out["outcome"])
		faults := out["faults"].([]any)
		require.Len(t, faults, 2)
		assert.Equal(t, float64(22), faults[1].(map[string]any)["column"])
		assert.Contains(t, out["error"], "rules.yaml:")
	}
	_, stderr, status := cli(t, "rules", "check", "--rules", file+".none")
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "no such file")
}

func TestRulesCheckRequest(t *testing.T) {
	for _, tt := range []struct {
		name              string
		inRules, inReq    []string
		status            int
		decision, said    string
		reads             string
		refusal, approval any
	}{
		{"allowed", nil, nil, 0, "allowed", "last-working-profile  does not apply\n", "", nil, nil},
		{"refused", nil, []string{`"enabled"`, `"disabled"`}, exitRuleRefused, "refused", "profile-enabled  refuses: no profile of the operator is enabled in the card\n",
			"no profile of the operator is enabled in the card (rule profile-enabled, 8.2.1/1.2)", "profile-enabled", nil},
		{"another's", nil, []string{`{"name": "Lab operator", "mccmnc": "46011"}`, `{"mccmnc": "26201"}`}, exitRuleRefused, "refused",
			"profile-owned    refuses: the operator owns no profile of the card\n", "no such card is registered (rule card-registered, 8.1.1/1.1)", "profile-owned", nil},
		{"approval", nil, []string{"meters", "critical"}, exitRuleRefused, "needs approval", "critical-group        needs approval: the card is in a critical group",
			"a second user has to approve (rule critical-group, 8.2.3/3.8)", nil, "critical-group"},
		{"budgets", []string{"require: request.reason != 0", "require: history.operator.max == 10 && history.operator.ceiling == 1000 && history.groups.meters.max > 1000000", "reason_required: false", "reason_required: true"},
			nil, 0, "allowed", "reason-required       holds\n", "", nil, nil},
		{"error", []string{"require: request.reason != 0", "require: 1 / (request.reason - 1) == 0", "reason_required: false", "reason_required: true"},
			nil, exitRuleRefused, "refused", "reason-required       error: require: division by zero\n", "the rule could not be evaluated", "reason-required", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, request := rulesFiles(t, tt.inRules, tt.inReq)
			args := []string{"rules", "check", "--rules", file, "--request", request}
			stdout, stderr, status := cli(t, args...)
			assert.Equal(t, tt.status, status)
			assert.Empty(t, stderr)
			assert.Contains(t, stdout, tt.said)
			assert.Regexp(t, `\ndecision +`+tt.decision+`\n`, stdout)
			if tt.reads != "" {
				assert.Contains(t, stdout, "operator reads")
				assert.Contains(t, stdout, tt.reads)
			}

			out, status := object(t, args...)
			assert.Equal(t, tt.status, status)
			assert.Equal(t, tt.decision, out["decision"])
			assert.NotEmpty(t, out["rules"])
			for member, want := range map[string]any{"refusal": tt.refusal, "approval": tt.approval} {
				if want == nil {
					assert.NotContains(t, out, member)
				} else {
					assert.Equal(t, want, out[member].(map[string]any)["rule"])
				}
			}
		})
	}
}

func TestRulesCheckBadRequest(t *testing.T) {
	_, request := rulesFiles(t, nil, []string{`"reason": 1`, `"raeson": 1`})
	_, stderr, status := cli(t, "rules", "check", "--request", request)
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, "r.json: request.raeson: no such member")
	out, status := object(t, "rules", "check", "--request", request)
	assert.Equal(t, exitError, status)
	assert.Contains(t, out["error"], "request.raeson")
}

// The example of the help is the page's, and does what it says.
func TestRulesExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/rules.md")
	require.NoError(t, err)
	assert.Contains(t, string(page), "```json\n"+rulesRequest+"```")

	cmd := program(t.Context(), "rules", "check", "--request", "-")
	cmd.Stdin = strings.NewReader(rulesRequest)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	require.NoError(t, err, "%s", &stderr)
	assert.Contains(t, string(stdout), "allowed")
	assert.Contains(t, string(stdout), "profile          89860000000000000018\n")

	cmd = program(t.Context(), "rules", "check", "--request", "-")
	cmd.Stdin = strings.NewReader(strings.Repeat(" ", rules.MaxInput+10))
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "standard input: 1048577 bytes, at most 1048576")
}
