package rules

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// Whatever way a text is written, each of its characters is found where it
// stands, or else the text's start is given: never another character's place.
// Every character stands once.
func TestLocate(t *testing.T) {
	styles := map[string]yaml.Style{
		"plain": 0, "single": yaml.SingleQuotedStyle, "double": yaml.DoubleQuotedStyle, "literal": yaml.LiteralStyle, "folded": yaml.FoldedStyle,
	}
	random := rand.New(rand.NewPCG(5, 1))
	for name, style := range styles {
		t.Run(name, func(t *testing.T) {
			found, all := 0, 0
			for range 2000 {
				once := []rune(`abcdefghijklm"'#:-[]{},&*!|>%@ñ日`)
				random.Shuffle(len(once), func(i, j int) { once[i], once[j] = once[j], once[i] })
				var text strings.Builder
				for _, r := range once[:1+random.IntN(len(once))] {
					text.WriteRune(r)
					text.WriteString(strings.Repeat(" ", max(0, random.IntN(6)-3)) + strings.Repeat("\n", max(0, random.IntN(8)-6)))
				}
				node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text.String(), Style: style}
				file, err := yaml.Marshal(map[string]any{"key": []*yaml.Node{{Kind: yaml.ScalarNode, Value: "1"}, node}})
				require.NoError(t, err)
				var doc yaml.Node
				require.NoError(t, yaml.Unmarshal(file, &doc), "%s", file)
				scalar := doc.Content[0].Content[1].Content[1]
				lines := strings.Split(string(file), "\n")
				at := place{1, 1}
				for _, r := range scalar.Value {
					if !unicode.IsSpace(r) {
						all++
						p := locate(lines, scalar, at)
						if p != placeOf(scalar) {
							found++
							there := string([]rune(lines[p.line-1])[p.column-1:])
							require.Equal(t, string(r), string([]rune(strings.TrimPrefix(there, `\`))[:1]), "%d:%d of\n%s", at.line, at.column, file)
						}
					}
					if at.column++; r == '\n' {
						at = place{at.line + 1, 1}
					}
				}
			}
			assert.Greater(t, found, all/4, "of %d", all)
			t.Logf("%d of %d", found, all)
		})
	}
}
