package servertest

import (
	"bytes"
	"fmt"
	"regexp"
	"sync"

	"github.com/cardbridge/cardbridge/server/rules"
)

// Rules are the shipped rules without any budget: tests deactivate more of their
// few cards than anybody would.
var Rules = sync.OnceValue(func() *rules.Set { return RulesWith("{}") })

// RulesWith are the shipped rules with an operator's budget, as it stands in a
// rules file.
func RulesWith(budget string) *rules.Set {
	set, err := rules.Parse("servertest", RulesFile(budget))
	must(err)
	return set
}

// PlainRules are Rules with one allowance for plain eUICCs, by its name and its
// expression.
func PlainRules(name, allow string) *rules.Set {
	set, err := rules.Parse("servertest", PlainRulesFile(name, allow))
	must(err)
	return set
}

// PlainRulesFile is the file of PlainRules.
func PlainRulesFile(name, allow string) []byte {
	return bytes.Replace(RulesFile("{}"), []byte("es10c: []"), fmt.Appendf(nil, "es10c: [{name: %s, allow: '%s'}]", name, allow), 1)
}

// RulesFile is the file of RulesWith.
func RulesFile(budget string) []byte {
	return operatorBudget.ReplaceAll(rules.DefaultYAML, []byte("    default: "+budget))
}

var operatorBudget = regexp.MustCompile(`(?m)^    default: \{max.*$`)
