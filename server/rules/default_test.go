package rules

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// allowed is a request that the shipped set lets in: of four profiles one is
// enabled, none is a fallback.
func allowed(t testing.TB) *Input {
	mine, other, foreign, gone := iccid(t, "89860000000000000018"), iccid(t, "89860000000000000026"), iccid(t, "89860000000000000034"), iccid(t, "89860000000000000042")
	a, b := plmn(t, "46011"), plmn(t, "26201")
	return &Input{
		Operator: &Operator{"op", a}, ICCID: &mine, Reason: 1, User: "kim", Now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), // a Monday
		Card: &Card{Registered: true, Groups: []string{"meters"}, Profiles: []Profile{
			{ICCID: mine, Owner: a, Enabled: true, DisableAllowed: true, EnabledAt: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)},
			{ICCID: other, Owner: a, DisableAllowed: true},
			{ICCID: foreign, Owner: b, DisableAllowed: true},
			{ICCID: gone, Owner: a, Absent: true, DisableAllowed: true},
		}},
	}
}

// changed is the shipped file with lines of it changed.
func changed(t testing.TB, lines ...string) *Set {
	text := string(DefaultYAML)
	for i := 0; i < len(lines); i += 2 {
		require.Contains(t, text, lines[i])
		text = strings.Replace(text, lines[i], lines[i+1], 1)
	}
	set, err := Parse("changed.yaml", []byte(text))
	require.NoError(t, err)
	return set
}

// of is what a set said of one rule.
func resultOf(d Decision, rule string) Result {
	i := slices.IndexFunc(d.Ran, func(r Result) bool { return r.Rule == rule })
	if i < 0 {
		return Result{}
	}
	return d.Ran[i]
}

// What operators can turn on in the shipped set.
func TestPolicies(t *testing.T) {
	group := func(g string) func(*Input) { return func(in *Input) { in.Card.Groups = append(in.Card.Groups, g) } }
	fallback := func(i int) func(*Input) { return func(in *Input) { in.Card.Profiles[i].Fallback = true } }
	at := func(s string) func(*Input) {
		now, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		return func(in *Input) { in.Now = now }
	}
	set := changed(t, "reason_required: false", "reason_required: true", "min_enabled: 0s", "min_enabled: 24h",
		"maintenance_windows: []", `maintenance_windows: ["Mon-Fri 12:00-13:00 UTC", "Sat 22:00-04:00 Europe/Berlin"]`,
		"critical_groups: [critical]", "critical_groups: [critical, hospitals]")
	for _, tt := range []struct {
		name    string
		set     *Set
		change  []func(*Input)
		rule    string
		outcome Outcome
	}{
		{"no reason, by default", Default(), []func(*Input){func(in *Input) { in.Reason = 0 }}, ReasonRequired, DoesNotApply},
		{"no reason", set, []func(*Input){func(in *Input) { in.Reason = 0 }}, ReasonRequired, Refuses},
		{"a reason", set, nil, ReasonRequired, Holds},

		{"in no group", set, nil, LastWorkingProfile, DoesNotApply},
		{"lifeline", Default(), []func(*Input){group("lifeline")}, LastWorkingProfile, Refuses},
		{"lifeline, a fallback", Default(), []func(*Input){group("lifeline"), fallback(1)}, LastWorkingProfile, Holds},
		{"lifeline, the fallback is another operator's", Default(), []func(*Input){group("lifeline"), fallback(2)}, LastWorkingProfile, Holds},
		{"lifeline, the fallback has left the card", Default(), []func(*Input){group("lifeline"), fallback(3)}, LastWorkingProfile, Refuses},
		{"lifeline, the fallback itself", Default(), []func(*Input){group("lifeline"), fallback(0)}, LastWorkingProfile, Refuses},
		{"lifeline, meant so", Default(), []func(*Input){group("lifeline"), func(in *Input) { in.LeaveUnconnected = true }}, LastWorkingProfile, Holds},
		{"lifeline, no profile named", Default(), []func(*Input){group("lifeline"), func(in *Input) { in.ICCID = nil }}, LastWorkingProfile, Refuses},

		{"enabled since yesterday", set, nil, MinimumTimeEnabled, Holds},
		{"a second too early", set, []func(*Input){at("2026-03-02T11:59:59Z")}, MinimumTimeEnabled, Refuses},
		{"a clock that went back", set, []func(*Input){at("2026-01-05T12:00:00Z")}, MinimumTimeEnabled, Refuses},
		{"enabled nobody knows when", set, []func(*Input){func(in *Input) { in.Card.Profiles[0].EnabledAt = time.Time{} }}, MinimumTimeEnabled, Holds},
		{"any time, by default", Default(), nil, MinimumTimeEnabled, DoesNotApply},

		{"in the window", set, nil, MaintenanceWindow, Holds},
		{"beyond it", set, []func(*Input){at("2026-03-02T13:00:00Z")}, MaintenanceWindow, Refuses},
		{"in the other one, past midnight", set, []func(*Input){at("2026-03-08T02:59:59Z")}, MaintenanceWindow, Holds},
		{"beyond it", set, []func(*Input){at("2026-03-08T03:00:00Z")}, MaintenanceWindow, Refuses},
		{"at any time, by default", Default(), nil, MaintenanceWindow, DoesNotApply},

		{"critical", set, []func(*Input){group("critical")}, CriticalGroup, NeedsApproval},
		{"critical to this operator", set, []func(*Input){group("hospitals")}, CriticalGroup, NeedsApproval},
		{"not critical", Default(), []func(*Input){group("hospitals")}, CriticalGroup, Holds},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := allowed(t)
			for _, f := range tt.change {
				f(in)
			}
			d := tt.set.Evaluate(in)
			res := resultOf(d, tt.rule)
			require.Equal(t, tt.outcome, res.Outcome, "%+v", d.Ran)
			switch tt.outcome {
			case Refuses:
				require.NotNil(t, d.Refusal)
				assert.Equal(t, tt.rule, d.Refusal.Rule)
				assert.Equal(t, d.Refusal, d.Face)
				assert.Equal(t, res, d.Ran[len(d.Ran)-1])
				assert.NotEmpty(t, res.Text)
				assert.Nil(t, d.Approval)
			case NeedsApproval:
				require.NotNil(t, d.Approval)
				assert.Equal(t, tt.rule, d.Approval.Rule)
				assert.Nil(t, d.Refusal)
				assert.Nil(t, d.Face)
			default:
				assert.Nil(t, d.Refusal)
				assert.Nil(t, d.Approval)
				assert.Empty(t, res.Text)
			}
			assert.Equal(t, &in.Card.Profiles[0].ICCID, d.ICCID, "it is theirs")
		})
	}
}

// A refusal leaves nothing to approve, whichever rule comes first.
func TestApproveAndRefuse(t *testing.T) {
	approve := func(name, require string) string {
		return strings.Replace(another(name, "    effect: approve\n"), "require: true", "require: "+require, 1)
	}
	refuse := strings.Replace(another("refuse", ""), "require: true", "require: request.reason == 0", 1)
	set, err := Parse("r.yaml", []byte(head+"rules:\n"+approve("a", "operator.known")+approve("b", "false")+approve("c", "false")+refuse))
	require.NoError(t, err)
	d := set.Evaluate(&Input{})
	require.NotNil(t, d.Approval)
	assert.Equal(t, "a", d.Approval.Rule, "the first")
	assert.Len(t, d.Ran, 4)
	d = set.Evaluate(&Input{Reason: 1})
	assert.Nil(t, d.Approval)
	require.NotNil(t, d.Refusal)
	assert.Equal(t, "refuse", d.Refusal.Rule)
}

// What cannot be evaluated is refused; why is for the audit trail alone.
func TestFailClosed(t *testing.T) {
	many := func(in *Input) {
		in.Card = &Card{Registered: true, Profiles: make([]Profile, 5000)}
	}
	for _, tt := range []struct {
		name, rule string
		change     func(*Input)
		why        string
	}{
		{"division by zero", "    require: 1 / request.reason == 1\n", nil, "require: division by zero"},
		{"no such key", "    require: history.groups[\"none\"].asked == 0\n", nil, "require: no such key: none"},
		{"no such index", "    require: card.groups[0] == \"\"\n", nil, "require: index out of bounds: 0"},
		{"when fails", "    when: 1 / request.reason == 1\n    require: true\n", nil, "when: division by zero"},
		{"case fails", "    require: false\n    cases: [{when: 1 / request.reason == 1}]\n", nil, "cases: division by zero"},
		{"bad text for a number", "    require: int(request.user) == 1\n", nil, "require: "},
		{"overflow", "    require: history.operator.asked + 9223372036854775807 > 0\n", func(in *Input) { in.History.Operator.Asked = 1 }, "require: integer overflow"},
		{"more profiles than a card has", "    require: card.profiles.all(p, p.name == \"\" && p.provider == \"\" && p.class == \"\")\n", many, "cost limit exceeded"},
		{"approval", "    effect: approve\n    require: 1 / request.reason == 1\n", nil, "require: division by zero"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set, err := Parse("r.yaml", []byte(head+ruleHead+tt.rule+ruleText))
			require.NoError(t, err)
			in := &Input{EID: [16]byte{1}}
			if tt.change != nil {
				tt.change(in)
			}
			d := set.Evaluate(in)
			require.NotNil(t, d.Refusal)
			assert.Contains(t, d.Refusal.Text, tt.why)
			assert.Equal(t, []Result{{"first", Failed, d.Refusal.Text}}, d.Ran)
			assert.Equal(t, &Refusal{"first", "8.2.1", "1.2", "the rule could not be evaluated"}, d.Face)
			assert.Nil(t, d.Approval)
		})
	}
}

// That a rule failed is no more told than that it refused, where it is shown as
// another.
func TestFailureIsNoOracle(t *testing.T) {
	set, err := Parse("r.yaml", []byte(head+ruleHead+"    require: 1 / request.reason == 1\n    shown_as: second\n"+ruleText+another("second", "")))
	require.NoError(t, err)
	failed, refused := set.Evaluate(&Input{}), set.Evaluate(&Input{Reason: 2})
	assert.Equal(t, Failed, failed.Ran[0].Outcome)
	assert.Equal(t, Refuses, refused.Ran[0].Outcome)
	assert.Equal(t, refused.Face, failed.Face)
	assert.Equal(t, &Refusal{"second", "1", "1", "no"}, failed.Face)
}

// Objects are what they are called, wherever they stand.
func TestObjects(t *testing.T) {
	in := allowed(t)
	in.History = History{Operator: Counts{1, 2, 3, 4, 5, 6}, Groups: map[string]Counts{"meters": {Asked: 7}}}
	in.Card.EventCounter, in.Card.Profiles[1].Name = 9, "spare"
	for _, expression := range []string{
		"card.profiles[0] == profile && card.profiles[1] != profile",
		"profile in card.profiles",
		"card == card && request == request && history == history && operator == operator && vars == vars",
		"card.profiles.filter(p, p.mccmnc == operator.mccmnc).map(p, p.state) == ['enabled', 'disabled', 'absent']",
		"card.profiles.exists_one(p, p.name == 'spare')",
		"[card, card].all(c, c.event_counter == 9 && c.profiles.size() == 4)",
		"has(request.iccid) && !has(request.id) && has(card.registered) && !has(card.unsettled)",
		"history.operator.asked == 1 && history.operator.sent == 2 && history.operator.pending == 3",
		"history.operator.fleet == 4 && history.operator.max == 5 && history.operator.ceiling == 6",
		"history.groups['meters'].asked == 7 && !('x' in history.groups) && history.groups.all(g, history.groups[g].sent == 0)",
		"type(card) != type(profile)",
		"now == timestamp('2026-03-02T12:00:00Z') && now.getDayOfWeek() == 1 && now.getHours('Europe/Berlin') == 13",
		"card.registered_at == timestamp(0) && now - card.registered_at > duration('1h')",
		"request.eid == card.eid && request.eid.size() == 32 && request.id == ''",
		"request.user == 'kim' && request.reason == 1 && !request.leave_unconnected && operator.name == 'op'",
		"profile.known && profile.iccid == request.iccid && !profile.ppr1 && !profile.ppr2 && profile.class == '' && profile.provider == ''",
	} {
		quoted, err := json.Marshal(expression)
		require.NoError(t, err)
		set, err := Parse("r.yaml", []byte(requiring(string(quoted))))
		if assert.NoError(t, err, expression) {
			d := set.Evaluate(in)
			assert.Nil(t, d.Refusal, "%s: %+v", expression, d.Ran)
		}
	}
}

// Nothing of a card, profile or operator that is not there is an error.
func TestNothingKnown(t *testing.T) {
	set, err := Parse("r.yaml", []byte(requiring(`"!operator.known && operator.name == '' && operator.mccmnc == '' && !card.known && !card.registered && card.groups == [] && card.profiles == [] && !profile.known && profile.iccid == '' && profile.mccmnc == '' && profile.state == 'absent' && profile.enabled_at == timestamp(0) && request.iccid == '' && history.groups == {} && now > timestamp(0)"`)))
	require.NoError(t, err)
	assert.Nil(t, set.Evaluate(&Input{}).Refusal)
}

func TestDigest(t *testing.T) {
	assert.Len(t, Default().Digest(), 64)
	assert.NotEqual(t, Default().Digest(), changed(t, "min_enabled: 0s", "min_enabled: 1s").Digest())
	assert.Same(t, Default(), Default().Current())
}
