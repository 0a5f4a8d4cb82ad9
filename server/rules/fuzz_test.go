package rules

import (
	"math"
	"strings"
	"testing"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inputs are requests for a set to be held against.
func inputs(t testing.TB) []*Input {
	full := allowed(t)
	full.Card.Profiles = full.Card.Profiles[:1:1]
	for len(full.Card.Profiles) < maxProfiles {
		p := Profile{ICCID: full.Card.Profiles[0].ICCID, Owner: full.Operator.MCCMNC, Name: strings.Repeat("n", maxString), Class: strings.Repeat("c", maxString), Provider: strings.Repeat("p", maxString)}
		full.Card.Profiles = append(full.Card.Profiles, p)
	}
	full.Card.Groups, full.History.Groups = nil, map[string]Counts{}
	for i := range maxGroups {
		g := strings.Repeat(string(rune('0'+i)), maxString)
		full.Card.Groups = append(full.Card.Groups, g)
		full.History.Groups[g] = Counts{Asked: math.MaxInt64}
	}
	full.User, full.Operator.Name = strings.Repeat("u", maxString), strings.Repeat("o", maxString)
	return []*Input{{}, allowed(t), full}
}

func FuzzParse(f *testing.F) {
	f.Add(DefaultYAML)
	for _, s := range []string{
		"", head + oneRule, requiring("request.x"), requiring("|\n  a\n  b\n"), requiring(">-\n      now > now\n      && x"),
		requiring(`"\"\\\x41\n" == 'a'`), requiring("'''' == ''''"), version1 + "vars: {a: [b, c], d: 1h}\n" + budgets + oneRule,
		"a: &a [*a]", "? [a]\n: b", "---", "--- \n...", "version:", "rules:\n  -", guardWith("{default: {share: .5, at_least: 1}}"), head + oneRule + "    cases: [{when: true, shown_as: first}]\n",
	} {
		f.Add([]byte(s))
	}
	some := inputs(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := Parse("r.yaml", b)
		if err == nil {
			for _, in := range some {
				check(t, set, in)
			}
			return
		}
		faults := Faults(err)
		require.NotEmpty(t, faults)
		assert.LessOrEqual(t, len(faults), maxErrors+1)
		lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(string(b)), "\n")
		for _, e := range faults {
			require.LessOrEqual(t, e.Line, len(lines), "%v", e)
			if e.Line > 0 && e.Column > 0 {
				assert.LessOrEqual(t, e.Column, len([]rune(lines[e.Line-1]))+1, "%v", e)
			}
		}
	})
}

// check holds a set against a request and the parts of the decision against
// each other.
func check(t *testing.T, set *Set, in *Input) {
	d := set.Evaluate(in)
	require.NotEmpty(t, d.Ran)
	assert.Equal(t, d.Refusal == nil, d.Face == nil)
	assert.False(t, d.Refusal != nil && d.Approval != nil)
	for i, r := range d.Ran {
		assert.Equal(t, set.rules[i].name, r.Rule)
		no := r.Outcome == Refuses || r.Outcome == Failed
		assert.Equal(t, d.Refusal != nil && i == len(d.Ran)-1, no)
	}
	assert.True(t, d.Refusal != nil || len(d.Ran) == len(set.rules))
}

// An expression that is loaded keeps within its cost on every input within the
// bounds, and gives the same with and without the meter.
func FuzzExpression(f *testing.F) {
	for _, r := range strings.Split(string(DefaultYAML), "\n") {
		if _, expression, ok := strings.Cut(r, "require: "); ok {
			f.Add(strings.Trim(expression, `"`))
		}
		if _, expression, ok := strings.Cut(r, "when: "); ok {
			f.Add(strings.Trim(expression, `"`))
		}
	}
	for _, s := range []string{
		"card.profiles.all(p, card.profiles.exists(q, q.iccid == p.iccid))", "card.groups.map(g, g + g).exists(g, g in card.groups)",
		"history.groups.exists(g, history.groups[g].asked > 3 && g.contains('A'))", "operator.name.matches('(a|b)*c')", "card.groups == card.groups",
		"(card.groups + card.groups).size() > 3", "card.profiles.map(p, p.name + p.class).filter(x, x.startsWith('a')).size() == 0",
		"string(now) + request.user > 'a'", "within(now, '22:00-04:00 UTC')", "within(now, vars.list)", "now.getHours('Europe/Berlin') > 3", "size(operator.name + operator.name) > 2",
		"{'a': card.groups}['a'].exists(x, x == '')", "[[1], [2]].all(x, x[0] in [1, 2])", "type(card) == type(card)", "dyn(card) == card", "card.profiles == card.profiles",
		"[card.groups, card.groups] == [card.groups, card.groups]", "bytes(request.user).size() > 2", "timestamp('2026-01-01T00:00:00Z') < now", "vars.list == card.groups", "card.groups.exists(g, g in vars.list)",
		"cel.bind(x, card.groups, x == x)", "history == history ? card == card : false", "card.profiles.exists_one(p, p == profile)",
	} {
		f.Add(s)
	}
	p := &parser{file: "r.yaml", s: &Set{windows: windows{}}}
	p.vars = map[string]variable{"list": {t: stringList, value: types.NewRefValList(adapter{}, []ref.Val{types.String("a"), types.String("b")}), places: make([]place, 2)}}
	env, err := newEnv(p.vars, p.s.windows)
	require.NoError(f, err)
	p.env = env
	some := inputs(f)
	for _, in := range some {
		require.True(f, in.bounded())
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxExpression {
			return
		}
		p.errs = nil
		e, faults := p.compile(text)
		if e == nil {
			require.NotEmpty(t, faults)
			return
		}
		for _, in := range some {
			a := &activation{}
			a.reset(in)
			metered, _, err := e.metered.Eval(a)
			if err != nil {
				assert.NotContains(t, err.Error(), "cost limit", "%s", text)
				assert.NotContains(t, err.Error(), "internal error", "%s", text)
				continue
			}
			if e.unmetered != nil {
				plain, _, err := e.unmetered.Eval(a)
				require.NoError(t, err)
				assert.Equal(t, metered, plain, "%s", text)
			}
		}
	})
}

func FuzzParseInput(f *testing.F) {
	for _, s := range []string{
		`{` + aRequest + `}`,
		`{` + aRequest + `, "operator": {"mccmnc": "46011", "name": "n"}, "card": {"groups": ["a"], "profiles": [{"iccid": "89860000000000000018", "mccmnc": "46011", "state": "enabled", "enabled_at": "2026-01-05T08:00:00Z"}]}, "history": {"operator": {"asked": 1}, "groups": {"a": {"max": 2}}}, "now": "2026-03-02T23:30:00+01:00"}`,
		`{"request":{"eid":"8904903200000000000000000042424","reason":-1}}`, `{"card":null}`, `{"now":"9999-12-31T23:59:60Z"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseInput(b)
		if err != nil {
			assert.Less(t, len(err.Error()), 3000)
			return
		}
		check(t, Default(), in)
		again, err := in.MarshalJSON()
		require.NoError(t, err)
		back, err := ParseInput(again)
		require.NoError(t, err)
		twice, err := back.MarshalJSON()
		require.NoError(t, err)
		assert.JSONEq(t, string(again), string(twice))
	})
}
