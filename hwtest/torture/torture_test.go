package torture

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func FuzzParseTrial(f *testing.F) {
	for _, s := range []string{
		"server/extended/7/", "operation/short/1/4:pulled:after,2:mute:before", "server/triple/0/1:killed:before",
		"server/extended/x/", "server/extended/1/0:pulled:after", "x/extended/1/", "server/x/1/", "server/extended/1/1:x:after",
		"server/extended/1/1:pulled:x", "server/extended/1/,", "///", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		trial, err := ParseTrial(s)
		if err != nil {
			return
		}
		again, err := ParseTrial(trial.String())
		require.NoError(t, err)
		assert.Equal(t, trial, again)
	})
}

func TestParseTrialRefuses(t *testing.T) {
	for _, s := range []string{
		"", "server/extended/1", "server/extended/-1/", "bridge/extended/1/", "server/wide/1/", "server/extended/1/1:pulled",
		"server/extended/1/0:pulled:after", "server/extended/1/1:stolen:after", "server/extended/1/1:pulled:during",
	} {
		_, err := ParseTrial(s)
		assert.ErrorContains(t, err, "driver/kind/seed/step:fault:moment", s)
	}
}

func TestStepNames(t *testing.T) {
	commands := [][]byte{
		{0x00, 0xA4}, {0x00, 0xC0}, {0x00, 0x88}, {0x00, 0xC0}, {0x00, 0xC0},
		{0x10, 0x82}, {0x10, 0x82}, {0x00, 0x82}, {0x8C, 0x04}, {0x8C, 0x04}, {0x80, 0x55}, {0x80},
	}
	assert.Equal(t, []string{
		"SELECT", "SELECT: GET RESPONSE", "INTERNAL AUTHENTICATE", "INTERNAL AUTHENTICATE: GET RESPONSE 1/2", "INTERNAL AUTHENTICATE: GET RESPONSE 2/2",
		"EXTERNAL AUTHENTICATE 1/3", "EXTERNAL AUTHENTICATE 2/3", "EXTERNAL AUTHENTICATE 3/3", "DEACTIVATE", "DEACTIVATE", "INS 55", "80",
	}, StepNames(commands))
	assert.Empty(t, StepNames(nil))
}

func FuzzParseLine(f *testing.F) {
	f.Add(Result{Stack: "calls", Trial: Trial{Driver: Server, Kind: Short, Injections: []Injection{{1, Mute, After}}}, Mismatches: []string{"x"}}.Line())
	f.Add("torture {}")
	f.Add("torture")
	f.Fuzz(func(t *testing.T, line string) {
		if r, ok := ParseLine(line); ok {
			again, ok := ParseLine(r.Line())
			assert.True(t, ok)
			assert.Equal(t, r.Line(), again.Line())
			assert.NotEmpty(t, Table([]Result{r}))
		}
	})
}
