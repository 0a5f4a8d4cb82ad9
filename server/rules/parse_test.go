package rules

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	version1 = "version: 1\n"
	budgets  = "guard: {window: 1h, operators: {default: {max: 5}}}\n"
	head     = version1 + budgets
	// rule is the beginning of a rule; its require and text are to follow.
	ruleHead = "rules:\n  - name: first\n    subject_code: \"8.2.1\"\n    reason_code: \"1.2\"\n"
	ruleText = "    text: no\n"
	oneRule  = ruleHead + "    require: true\n" + ruleText
)

// requiring is a file of which the one rule has that for an expression.
func requiring(expression string) string {
	return head + ruleHead + "    require: " + expression + "\n" + ruleText
}

// mark stands in a test's text where the error is to be.
const mark = "§"

func TestFaults(t *testing.T) {
	for _, tt := range []struct{ name, text, msg string }{
		// the file
		{"empty", "", "empty"},
		{"a comment", "# nothing\n", "empty"},
		{"no document", "---", "empty"},
		{"no mapping", "§- 1\n", "the file is no mapping"},
		{"a word", "§rules", "the file is no mapping"},
		{"unknown key", head + oneRule + "§rule: []\n", `the file has no "rule"`},
		{"duplicate key", head + oneRule + "§version: 1\n", `the file has "version" twice`},
		{"no version", "§" + budgets + oneRule, "version is missing"},
		{"bad version", "version: §2\n" + budgets + oneRule, `version "2", 1 wanted`},
		{"no guard", "§version: 1\n" + oneRule, "guard is missing"},
		{"no rules", "§" + head, "rules is missing"},
		{"empty rules", head + "rules: §[]\n", "rules is no list"},
		{"rules no list", head + "rules: §{}\n", "rules is no list"},
		{"anchor", version1 + "vars: {a: §&x [b]}\n" + budgets + oneRule, "anchors and aliases"},
		{"alias", version1 + "vars: §&a {a: b}\nguard: *a\n", "anchors and aliases"},
		{"merge key", version1 + "vars: {a: b}\nguard:\n  §<<: {window: 1h}\n  window: 1h\n  operators: {default: {}}\n" + oneRule, `guard has no "<<"`},
		{"second document", head + oneRule + "§---\nversion: 1\n", "more than one document"},
		{"key of a list", head + oneRule + "§[a]: b\n", "a key that is no text"},

		// vars
		{"vars no mapping", version1 + "vars: §[a]\n" + budgets + oneRule, "vars is no mapping"},
		{"var's name", version1 + "vars: {§A-b: 1}\n" + budgets + oneRule, `"A-b"`},
		{"var twice", version1 + "vars: {a: 1, §a: 2}\n" + budgets + oneRule, `vars has "a" twice`},
		{"var of a mapping", version1 + "vars: {a: §{b: 1}}\n" + budgets + oneRule, "none of bool"},
		{"null var", version1 + "vars: {a: §~}\n" + budgets + oneRule, "none of bool"},
		{"int too large", version1 + "vars: {a: §9223372036854775808}\n" + budgets + oneRule, "none of bool"},
		{"NaN var", version1 + "vars: {a: §.nan}\n" + budgets + oneRule, "no finite number"},
		{"list of numbers", version1 + "vars: {a: [\"1\", §2]}\n" + budgets + oneRule, "a list is of texts"},
		{"list of lists", version1 + "vars: {a: [§[b]]}\n" + budgets + oneRule, "a list is of texts"},
		{"long list", version1 + "vars: {a: §[" + strings.Repeat("b,", maxList+1) + "]}\n" + budgets + oneRule, "201 texts"},
		{"long var", version1 + "vars: {a: §" + strings.Repeat("b", maxText+1) + "}\n" + budgets + oneRule, "501 bytes"},
		{"many vars", version1 + "vars: §{" + numbered("v%d: 1, ", maxVars+1) + "}\n" + budgets + oneRule, "201 vars"},

		// guard
		{"guard no mapping", version1 + "guard: §1h\n" + oneRule, "guard is no mapping"},
		{"guard's key", version1 + "guard: {§windw: 1h, window: 1h, operators: {default: {}}}\n" + oneRule, `guard has no "windw"`},
		{"no window", version1 + "guard: §{operators: {default: {}}}\n" + oneRule, "window is missing"},
		{"bad duration", version1 + "guard: {window: §1 hour, operators: {default: {}}}\n" + oneRule, `window "1 hour" is no duration`},
		{"short window", version1 + "guard: {window: §59s, operators: {default: {}}}\n" + oneRule, "window of 59s"},
		{"long window", version1 + "guard: {window: §745h, operators: {default: {}}}\n" + oneRule, "window of 745h"},
		{"negative window", version1 + "guard: {window: §-1h, operators: {default: {}}}\n" + oneRule, "window of -1h"},
		{"no operators", version1 + "guard: §{window: 1h}\n" + oneRule, "operators is missing"},
		{"no default", guardWith("§{\"46011\": {max: 1}}"), "default is missing"},
		{"bad MCCMNC", guardWith("{default: {}, §\"4601\": {max: 1}}"), `MCCMNC "4601"`},
		{"MCCMNC of letters", guardWith("{default: {}, §example: {max: 1}}"), "MCCMNC"},
		{"operator twice", guardWith("{default: {}, \"46011\": {}, §46011: {}}"), `operators has "46011" twice`},
		{"budget no mapping", guardWith("{default: §5}"), "a budget is no mapping"},
		{"budget's key", guardWith("{default: {§maxi: 5}}"), `a budget has no "maxi"`},
		{"negative", guardWith("{default: {max: §-1}}"), `max "-1"`},
		{"none", guardWith("{default: {max: §0}}"), `max "0"`},
		{"a half", guardWith("{default: {ceiling: §1.5}}"), `ceiling "1.5"`},
		{"too large", guardWith("{default: {ceiling: §99999999999999999999}}"), "ceiling"},
		{"in words", guardWith("{default: {at_least: §ten, share: 0.1}}"), `at_least "ten"`},
		{"ceiling below max", guardWith("{default: {max: 10, ceiling: §9}}"), "ceiling 9 is below max 10"},
		{"ceiling below at_least", guardWith("{default: {share: 0.1, at_least: 10, ceiling: §9}}"), "ceiling 9 is below at_least 10"},
		{"at_least above max", guardWith("{default: {share: 0.1, at_least: §10, max: 9}}"), "at_least 10 is above max 9"},
		{"at_least alone", guardWith("{default: {at_least: §10}}"), "at_least without share"},
		{"share above 1", guardWith("{default: {share: §1.01}}"), `share "1.01"`},
		{"share below 0", guardWith("{default: {share: §-0.1}}"), `share "-0.1"`},
		{"share 0", guardWith("{default: {share: §0}}"), `share "0"`},
		{"share NaN", guardWith("{default: {share: §.nan}}"), `share ".nan"`},
		{"share infinite", guardWith("{default: {share: §.inf}}"), `share ".inf"`},
		{"share in words", guardWith("{default: {share: §\"0.1\"}}"), "share"},
		{"group's budget", version1 + "guard:\n  window: 1h\n  operators: {default: {}}\n  groups:\n    default: {}\n    critical: {max: 2, ceiling: §1}\n" + oneRule, "ceiling 1 is below max 2"},
		{"group without a name", version1 + "guard: {window: 1h, operators: {default: {}}, groups: {default: {}, §\"\": {}}}\n" + oneRule, "the name of a group is empty"},

		// rules
		{"rule no mapping", head + "rules:\n  - §true\n", "a rule is no mapping"},
		{"es10c no list", head + oneRule + "es10c: §{name: a, allow: true}\n", "es10c is no list"},
		{"allowance's key", head + oneRule + "es10c: [{name: a, allow: 'true', §require: 'true'}]\n", `an allowance has no "require"`},
		{"allowance without allow", head + oneRule + "es10c: [§{name: a}]\n", "allow is missing"},
		{"allowance without a name", head + oneRule + "es10c: [§{allow: 'true'}]\n", "name is missing"},
		{"allowance named as a rule", head + oneRule + "es10c: [{name: §first, allow: 'true'}]\n", "rule first is there already"},
		{"allowance of no bool", head + oneRule + "es10c: [{name: a, allow: §card.eid}]\n", "bool wanted"},
		{"the server's own rule", head + oneRule + "es10c: [{name: §plain-euicc, allow: 'true'}]\n", "every file ends in"},
		{"rule's key", head + oneRule + "    §wen: true\n", `a rule has no "wen"`},
		{"rule's key twice", head + oneRule + "    §text: no\n", `a rule has "text" twice`},
		{"no name", head + "rules:\n  - §subject_code: \"1\"\n    reason_code: \"1\"\n    require: true\n    text: no\n", "name is missing"},
		{"bad name", head + "rules:\n  - name: §No Good\n    subject_code: \"1\"\n    reason_code: \"1\"\n    require: true\n    text: no\n", `name "No Good"`},
		{"name twice", head + oneRule + "  - name: §first\n    subject_code: \"1\"\n    reason_code: \"1\"\n    require: true\n    text: no\n", "rule first is there already, on line 4"},
		{"no require", head + strings.Replace(ruleHead, "name", "§name", 1) + ruleText, "require is missing"},
		{"no text", head + strings.Replace(ruleHead, "name", "§name", 1) + "    require: true\n", "text is missing"},
		{"empty text", head + ruleHead + "    require: true\n    text: §\"\"\n", "text is empty"},
		{"long text", head + ruleHead + "    require: true\n    text: §" + strings.Repeat("x", maxText+1) + "\n", "501 characters"},
		{"text of two lines", head + ruleHead + "    require: true\n    text: §\"a\\nb\"\n", "line break"},
		{"text with an escape", head + ruleHead + "    require: true\n    text: §\"\\e[31m\"\n", "control character"},
		{"text no text", head + ruleHead + "    require: true\n    text: §[a]\n", "text is no text"},
		{"subject code", head + strings.Replace(ruleHead, `"8.2.1"`, "§\"8.2.\"", 1) + "    require: true\n" + ruleText, `subject_code "8.2."`},
		{"reason code", head + strings.Replace(ruleHead, `"1.2"`, "§refused", 1) + "    require: true\n" + ruleText, `reason_code "refused"`},
		{"effect", head + oneRule + "    effect: §forbid\n", `effect "forbid"`},
		{"shown_as unknown", head + oneRule + "    shown_as: §second\n", `there is no rule "second"`},
		{"shown_as itself", head + oneRule + "    shown_as: §first\n", "the rule itself"},
		{"shown_as in a chain", head + oneRule + "    shown_as: §second\n" + another("second", "    shown_as: third\n") + another("third", ""), "rule second is itself shown as another"},
		{"cases no list", head + oneRule + "    cases: §{}\n", "cases is no list"},
		{"many cases", head + oneRule + "    cases: §[" + strings.Repeat("{when: true}, ", maxCases+1) + "]\n", "at most 20"},
		{"case's key", head + oneRule + "    cases: [{when: true, §requires: false}]\n", `a case has no "requires"`},
		{"case without when", head + oneRule + "    cases: [§{text: no}]\n", "when is missing"},
		{"case shown as unknown", head + oneRule + "    cases: [{when: true, shown_as: §x}]\n", `there is no rule "x"`},
		{"many rules", head + "rules:\n  §- " + strings.Repeat("{}\n  - ", maxRules) + "{}\n", "101 rules"},

		// expressions
		{"unknown variable", requiring("§requst.reason != 0"), "undeclared reference to 'requst'"},
		{"unknown field", requiring("request§.resaon != 0"), "undefined field 'resaon'"},
		{"unknown field of a profile", requiring("card.profiles.all(p, p§.owner == operator.mccmnc)"), "undefined field 'owner'"},
		{"unknown var", requiring("vars§.nothing"), "undefined field 'nothing'"},
		{"wrong type", requiring("request.reason §== \"1\""), "no matching overload for '_==_'"},
		{"no bool", requiring("§request.reason + 1"), "gives int, bool wanted"},
		{"no bool, a text", requiring("§request.user"), "gives string, bool wanted"},
		{"no bool, anything", requiring("§dyn(true)"), "gives dyn, bool wanted"},
		{"unknown function", requiring("operator.known && inside§(now)"), "undeclared reference to 'inside'"},
		{"syntax", requiring("request.reason != §!= 0"), "Syntax error"},
		{"syntax at the end", requiring("request.reason ==§"), "Syntax error"},
		{"an object made", requiring("'operator.known || card == card§{known: true}'"), "objects cannot be made"},
		{"empty expression", requiring("§\"\""), "an expression is empty"},
		{"null expression", requiring("§~"), "an expression is empty"},
		{"expression of a list", requiring("§[true]"), "an expression is no text"},
		{"long expression", requiring("§\"" + strings.Repeat("x", maxExpression+1) + "\""), "4097 characters"},
		{"deep", requiring("\"" + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + "§\""), "recursion limit"},
		{"always fails", requiring("§1 / 0 == 1"), "division by zero"},
		{"too expensive", requiring("§card.profiles.all(p, card.profiles.all(q, p.name != q.name))"), "may cost"},
		{"far too expensive", requiring("§card.profiles.all(a, card.profiles.all(b, card.profiles.all(c, card.profiles.all(d, card.profiles.all(e, card.profiles.all(f, card.profiles.all(g, card.profiles.all(h, true))))))))"), "without bound"},
		{"when", head + oneRule + "    when: vars§.x\n", "undefined field 'x'"},
		{"case's when", head + oneRule + "    cases:\n      - when: §nothing\n", "undeclared reference"},
		{"bad regular expression", requiring("§operator.name.matches(\"(\")"), "missing closing )"},

		// where an expression stands
		{"in single quotes", requiring("'operator.name == ''a'' || request§.x'"), "undefined field 'x'"},
		{"in double quotes", requiring(`"operator.name == \"ä\" || request§.x"`), "undefined field 'x'"},
		{"with other escapes", requiring(`§"operator.name == \"\xe4\" || request.x"`), "undefined field 'x'"},
		{"plain, on two lines", requiring("operator.known\n      && request§.x"), "undefined field 'x'"},
		{"quoted, on two lines", requiring("\"operator.known\n\n      && request§.x\""), "undefined field 'x'"},
		{"literal block", requiring("|\n      operator.known\n\n        && request§.x\n"), "undefined field 'x'"},
		{"literal block with a tag", requiring("!!str |- # why\n      operator.known &&\n      request§.x\n"), "undefined field 'x'"},
		{"folded block", requiring(">-\n      operator.known\n      && request§.x\n"), "undefined field 'x'"},
		{"folded block, syntax at the end", requiring(">-\n      operator.known\n      &&§\n"), "Syntax error"},
		{"indented block", requiring("|2\n        request§.x\n"), "undefined field 'x'"},
		{"CR LF", strings.ReplaceAll(requiring("|\n      operator.known &&\n      request§.x\n"), "\n", "\r\n"), "undefined field 'x'"},
		{"BOM", "\ufeff" + requiring("request§.x"), "undefined field 'x'"},
		{"beyond wide characters", requiring("operator.name == '日本語' || request§.x"), "undefined field 'x'"},
		{"in a flow mapping", head + "rules: [{name: a, subject_code: 1, reason_code: 1, text: no, require: request§.x}]\n", "undefined field 'x'"},

		// windows
		{"window's form", requiring("within(now, §\"always\")"), "wanted is such as"},
		{"window's day", requiring("within(now, §\"Mo-Fri 22:00-04:00 UTC\")"), `days "Mo-Fri"`},
		{"window's time", requiring("within(now, §\"22:00-24:01 UTC\")"), `times "22:00-24:01"`},
		{"window without end", requiring("within(now, §\"22:00 UTC\")"), `times "22:00"`},
		{"window of no time", requiring("within(now, §\"22:00-22:00 UTC\")"), `times "22:00-22:00"`},
		{"window's zone", requiring("within(now, §\"22:00-23:00 Europe/Brelin\")"), `time zone "Europe/Brelin" is not known`},
		{"window's zone by path", requiring("within(now, §\"22:00-23:00 ../../etc/passwd\")"), "is not known"},
		{"window in this machine's zone", requiring("within(now, §\"22:00-23:00 Local\")"), "name one"},
		{"window in a list", requiring("within(now, [\"Mon 01:00-02:00 UTC\", §\"\"])"), "wanted is such as"},
		{"window that is made", requiring("within(now, operator§.name)"), "written out"},
		{"window in a var", version1 + "vars: {w: §Mon}\n" + budgets + ruleHead + "    require: within(now, vars.w)\n" + ruleText, "wanted is such as"},
		{"window in a list in a var", version1 + "vars: {w: [\"Mon 01:00-02:00 UTC\", §Tue]}\n" + budgets + ruleHead + "    when: within(now, vars.w)\n    require: within(now, vars.w)\n" + ruleText, "wanted is such as"},
		{"window of another type", version1 + "vars: {w: 5}\n" + budgets + ruleHead + "    require: within§(now, vars.w)\n" + ruleText, "no matching overload"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, _, marked := strings.Cut(tt.text, mark)
			set, err := Parse("r.yaml", []byte(strings.Replace(tt.text, mark, "", 1)))
			require.Error(t, err)
			assert.Nil(t, set)
			faults := Faults(err)
			require.NotEmpty(t, faults)
			where := "r.yaml: "
			if marked {
				before = strings.ReplaceAll(strings.TrimPrefix(before, "\ufeff"), "\r\n", "\n")
				line := strings.Count(before, "\n") + 1
				column := len([]rune(before[strings.LastIndex(before, "\n")+1:])) + 1
				where = fmt.Sprintf("r.yaml:%d:%d: ", line, column)
			}
			assert.True(t, strings.HasPrefix(faults[0].Error(), where), "%s wanted\n%v", where, err)
			assert.Contains(t, faults[0].Msg, tt.msg)
			assert.Len(t, faults, 1, "%v", err)
		})
	}
}

func numbered(format string, n int) string {
	var sb strings.Builder
	for i := range n {
		fmt.Fprintf(&sb, format, i)
	}
	return sb.String()
}

func guardWith(operators string) string {
	return version1 + "guard:\n  window: 1h\n  operators: " + operators + "\n" + oneRule
}

func another(name, more string) string {
	return "  - name: " + name + "\n    subject_code: \"1\"\n    reason_code: \"1\"\n    require: true\n    text: no\n" + more
}

// What is no YAML has a line at most, or none.
func TestNotYAML(t *testing.T) {
	for _, tt := range []struct{ name, text, where, msg string }{
		{"not UTF-8", "version: 1\nvars: {a: \"\xff\"}\n", "r.yaml:2: ", "not UTF-8"},
		{"too big", strings.Repeat("#", MaxFile+1), "r.yaml: ", "262145 bytes"},
		{"tab", "version: 1\n\tx: 1\n", "r.yaml:2: ", "not YAML"},
		{"open bracket", "version: [1\n", "r.yaml:", "not YAML"},
		{"control character", "version: \x00\n", "r.yaml: ", "not YAML"},
		{"alias of nothing", "version: 1\nvars: *none\n", "r.yaml", "unknown anchor"},
		{"alias of itself", "a: &a [*a]\n", "r.yaml:1:4: ", "anchors"},
		{"a bomb", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n", "r.yaml:1:4: ", "anchors"},
		{"deep", strings.Repeat("[", 20000), "r.yaml", "not YAML"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("r.yaml", []byte(tt.text))
			require.Error(t, err)
			assert.True(t, strings.HasPrefix(err.Error(), tt.where), "%v", err)
			assert.Contains(t, err.Error(), tt.msg)
			assert.Less(t, time.Since(start), time.Minute)
		})
	}
}

// All that is wrong is told at once, in the order of the file, and bounded.
func TestEveryFault(t *testing.T) {
	text := strings.Replace(string(DefaultYAML), "operator.known", "operator.knwn", 1)
	text = strings.Replace(text, "version: 1", "version: 2", 1)
	text = strings.Replace(text, "request.reason != 0", "request.reason", 1)
	_, err := Parse("r.yaml", []byte(text))
	require.Error(t, err)
	faults := Faults(err)
	require.Len(t, faults, 3, "%v", err)
	assert.Contains(t, faults[0].Msg, "version")
	assert.Contains(t, faults[1].Msg, "knwn")
	assert.Contains(t, faults[2].Msg, "gives int")
	assert.Equal(t, 2, strings.Count(err.Error(), "\n"), "one on a line")

	_, err = Parse("r.yaml", []byte(head+"rules:\n"+strings.Repeat("  - {}\n", maxRules)))
	faults = Faults(err)
	require.Len(t, faults, maxErrors+1)
	assert.Equal(t, "r.yaml: 450 more errors", faults[maxErrors].Error())
}

func TestVariables(t *testing.T) {
	set, err := Parse("r.yaml", []byte(version1+`
vars: {yes: true, n: -3, half: 0.5, word: hello, quoted: "72h", plain: 1h30m, tagged: !!str 72h, number: "5", zero: "0", list: [a, "1"], none: []}
`+budgets+ruleHead+`
    require: >-
      vars.yes && vars.n == -3 && vars.half == 0.5 && vars.word == "hello" && vars.quoted == duration("72h")
      && vars.plain == duration("90m") && vars.tagged == "72h" && vars.number == "5" && vars.zero == "0" && "1" in vars.list
      && size(vars.list) == 2 && size(vars.none) == 0 && !has(vars.none) && has(vars.word) && type(vars) != type(vars.n)
`+ruleText))
	require.NoError(t, err)
	assert.Nil(t, set.Evaluate(&Input{}).Refusal)
}

func TestBudgets(t *testing.T) {
	set, err := Parse("r.yaml", []byte(version1+`
guard:
  window: 24h
  operators: {default: {max: 100, share: 0.1, at_least: 10, ceiling: 1000}, "46011": {max: 1000, ceiling: 5000}, 001010: {}}
  groups: {default: {}, critical: {max: 2, ceiling: 20}}
`+oneRule))
	require.NoError(t, err)
	assert.Equal(t, 24*time.Hour, set.Window())
	assert.Equal(t, Budget{Max: 100, Share: 0.1, AtLeast: 10, Ceiling: 1000}, set.OperatorBudget(plmn(t, "26201")))
	assert.Equal(t, Budget{Max: 1000, Ceiling: 5000}, set.OperatorBudget(plmn(t, "46011")), "its own replaces all of the default")
	assert.Equal(t, Budget{}, set.OperatorBudget(plmn(t, "001010")))
	assert.Equal(t, Budget{Max: 2, Ceiling: 20}, set.GroupBudget("critical"))
	assert.Equal(t, Budget{}, set.GroupBudget("meters"))
}

func TestAllowance(t *testing.T) {
	for _, tt := range []struct {
		b           Budget
		fleet, want int64
	}{
		{Budget{}, 5, math.MaxInt64},
		{Budget{Max: 3}, 0, 3},
		{Budget{Max: 100, Share: 0.1, AtLeast: 10}, 0, 10},
		{Budget{Max: 100, Share: 0.1, AtLeast: 10}, 100, 10},
		{Budget{Max: 100, Share: 0.1, AtLeast: 10}, 101, 11},
		{Budget{Max: 100, Share: 0.1, AtLeast: 10}, 1_000_000, 100},
		{Budget{Share: 0.1}, 30, 3}, // 0.1 is a little more than a tenth
		{Budget{Share: 0.07}, 100, 7},
		{Budget{Share: 0.29}, 100, 29},
		{Budget{Share: 0.001}, 1, 1},
		{Budget{Share: 0.1}, 0, 0},
		{Budget{Share: 0.1}, -5, 0},
		{Budget{Share: 1}, 7, 7},
		{Budget{Share: 1}, math.MaxInt64, math.MaxInt64},
		{Budget{Share: 1, AtLeast: 9}, 7, 9},
	} {
		assert.Equal(t, tt.want, tt.b.Allowance(tt.fleet), "%+v of %d", tt.b, tt.fleet)
	}
}
