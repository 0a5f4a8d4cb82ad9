package rules

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docs/rules.md has every name that an expression may use, every shipped rule,
// and a file and a request that are good.
func TestDocs(t *testing.T) {
	b, err := os.ReadFile("../../docs/rules.md")
	require.NoError(t, err)
	page := string(b)
	table := regexp.MustCompile(`(?s)\| name \| type \|.*?\n\n`).FindString(page)
	for typ, fields := range objects {
		for name := range fields {
			if typ != countsType {
				name = typ.TypeName() + "." + name
			}
			assert.Contains(t, table, "`"+name+"`")
		}
	}
	for _, r := range Default().rules {
		assert.Contains(t, page, "| `"+r.name+"` | "+r.subject+"/"+r.reason+" |")
	}
	assert.Contains(t, page, "| `"+PlainEUICC+"` | 8.1.1/1.2 |")
	block := func(language string) []byte {
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(page)
		require.NotNil(t, m)
		return []byte(m[1])
	}
	set, err := Parse("rules.md", block("yaml"))
	require.NoError(t, err)
	in, err := ParseInput(block("json"))
	require.NoError(t, err)
	d := set.Evaluate(in)
	assert.Nil(t, d.Refusal)
	assert.Nil(t, d.Approval, "it is night")
	assert.Nil(t, Default().Evaluate(in).Refusal)
}
