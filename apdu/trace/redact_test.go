package trace

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// redacted is lines of a trace, each redacted, in the form that Parse reads.
func redacted(t *testing.T, lines ...string) []string {
	t.Helper()
	tr, err := Parse(strings.NewReader(firstLine + "\n" + strings.Join(lines, "\n")))
	require.NoError(t, err)
	var r Redactor
	var out []string
	for _, e := range tr.Entries {
		before := hex.EncodeToString(e.Data)
		m := r.Redact(e)
		assert.Equal(t, before, hex.EncodeToString(e.Data), "the original is left alone")
		require.Len(t, m.Data, len(e.Data))
		for i := range m.Data {
			if m.Masked(i) {
				assert.Zero(t, m.Data[i])
			}
		}
		line, _, _ := strings.Cut(string(appendEntry(nil, m)), " #")
		out = append(out, line)
	}
	return out
}

func TestRedact(t *testing.T) {
	for name, c := range map[string]struct{ in, want []string }{
		"PINs": {
			[]string{"> 002000010831323334FFFFFFFF", "< 9000", "> A02C00010431323334", "< 9000", "> 002400010431323334", "> 012600010431323334", "> 002800010431323334", "> 00200001"},
			[]string{"> 0020000108****************", "< 9000", "> A02C000104********", "< 9000", "> 0024000104********", "> 0126000104********", "> 0028000104********", "> 00200001"},
		},
		"a PIN in a command of false length": {
			[]string{"> 00200001083132"}, []string{"> 0020000108****"},
		},
		"a PIN of extended length": {
			[]string{"> 00200001000004313233340000"}, []string{"> 00200001000004********0000"},
		},
		"AUTHENTICATE": {
			[]string{"> 0088008103AABBCC", "< DC0401029000", "> 80F20000", "< 9000", "> 0088008103AABBCC", "< 6105", "> 00C0000003", "< DB01029F00", "> 00C0000001", "< 019000", "> 00C0000001", "< 019000"},
			[]string{"> 0088008103AABBCC", "< DC******9000", "> 80F20000", "< 9000", "> 0088008103AABBCC", "< 6105", "> 00C0000003", "< DB****9F00", "> 00C0000001", "< **9000", "> 00C0000001", "< 019000"},
		},
		"AUTHENTICATE on two channels": {
			[]string{"> 80F20000", "< 9000", "> 0188008103AABBCC", "< 6103", "> 00C0000001", "< 019000", "> 01C0000003", "< 0102039000"},
			[]string{"> 80F20000", "< 9000", "> 0188008103AABBCC", "< 6103", "> 00C0000001", "< 019000", "> 01C0000003", "< ******9000"},
		},
		"our INTERNAL AUTHENTICATE": {
			[]string{"> 0088010103AABBCC00", "< 0102039000", "> 008803020100", "< 6101", "> 00C0000001", "< 019000"},
			[]string{"> 0088010103AABBCC00", "< 0102039000", "> 008803020100", "< 6101", "> 00C0000001", "< 019000"},
		},
		"RUN GSM ALGORITHM": {
			[]string{"> A088000002AABB", "< 9F03", "> A0C0000003", "< 0102039000"},
			[]string{"> A088000002AABB", "< 9F03", "> A0C0000003", "< ******9000"},
		},
		"EF.Keys by FID": {
			[]string{"> 00A4040002A000", "< 9000", "> 00A40004026F08", "< 6110", "> 00B0000003", "< 0711229000", "> 00D600000307AABB", "< 9000", "> 00A40004026F07", "< 9000", "> 00B0000003", "< 0711229000"},
			[]string{"> 00A4040002A000", "< 9000", "> 00A40004026F08", "< 6110", "> 00B0000003", "< ******9000", "> 00D6000003******", "< 9000", "> 00A40004026F07", "< 9000", "> 00B0000003", "< 0711229000"},
		},
		"a SELECT that fails leaves the file": {
			[]string{"> 00A40004026F08", "< 9000", "> 00A40004026F07", "< 6A82", "> 00B0000001", "< 079000"},
			[]string{"> 00A40004026F08", "< 9000", "> 00A40004026F07", "< 6A82", "> 00B0000001", "< **9000"},
		},
		"EF.Keys by short identifier, and then current": {
			[]string{"> 00A4040002A000", "< 9000", "> 00B0880001", "< 6C03", "> 00B0880003", "< 0102039000", "> 00B0000003", "< 0102039000", "> 00B0870001", "< 019000", "> 00B0000001", "< 019000"},
			[]string{"> 00A4040002A000", "< 9000", "> 00B0880001", "< 6C03", "> 00B0880003", "< ******9000", "> 00B0000003", "< ******9000", "> 00B0870001", "< 019000", "> 00B0000001", "< 019000"},
		},
		"short identifiers of other applications": {
			[]string{"> 00A4000C023F00", "< 9000", "> 00B0880001", "< 079000", "> 00A4040007A0000000871004", "< 9000", "> 00B2014C01", "< 079000"},
			[]string{"> 00A4000C023F00", "< 9000", "> 00B0880001", "< 079000", "> 00A4040007A0000000871004", "< 9000", "> 00B2014C01", "< 079000"},
		},
		"paths": {
			[]string{"> 00A4080C067FFF5FC04F05", "< 9000", "> 00B0000001", "< 079000", "> 00A4080C045F3B4F20", "< 9000", "> 00B2010401", "< 079000", "> 00A4080C047F204F20", "< 9000", "> 00B2010401", "< 079000"},
			[]string{"> 00A4080C067FFF5FC04F05", "< 9000", "> 00B0000001", "< **9000", "> 00A4080C045F3B4F20", "< 9000", "> 00B2010401", "< **9000", "> 00A4080C047F204F20", "< 9000", "> 00B2010401", "< 079000"},
		},
		"channels have files of their own": {
			[]string{"> 01A40004026F08", "< 9000", "> 00B0000001", "< 079000", "> 01B0000001", "< 079000", "> 00708001", "< 9000", "> 01B0000001", "< 079000"},
			[]string{"> 01A40004026F08", "< 9000", "> 00B0000001", "< 079000", "> 01B0000001", "< **9000", "> 00708001", "< 9000", "> 01B0000001", "< 079000"},
		},
		"a reset ends all": {
			[]string{"> 00A40004026F08", "< 9000", "! reset 3B00", "> 00B0000001", "< 079000"},
			[]string{"> 00A40004026F08", "< 9000", "! reset 3B00", "> 00B0000001", "< 079000"},
		},
		"READ BINARY with a file identifier": {
			[]string{"> 00B16F0803540100", "< 5301AA9000", "> 00B16F0703540100", "< 5301AA9000"},
			[]string{"> 00B16F0803******", "< ******9000", "> 00B16F0703540100", "< 5301AA9000"},
		},
		"keys on their way in": {
			[]string{"> 80D800810401020304", "< 9000", "> 00DB3FFF034D0102", "> 80E2880005000101AA80", "> 80E2880006800104010203", "> 80E288010204FF", "> 80E2880202" + "0102", "> 81E2910003BF2D00", "< 6103"},
			[]string{"> 80D8008104********", "< 9000", "> 00DB3FFF03******", "> 80E2880005000101AA80", "> 80E2880006800104******", "> 80E2880102****", "> 80E28802020102", "> 81E2910003BF2D00", "< 6103"},
		},
		"a PIN where its length should be": {
			[]string{"> 0020000131323334"}, []string{"> 00200001********"},
		},
		"the keys of a reader": {
			[]string{"> FF82000002A0A1", "< 9000", "> 0082010102A0A1", "< 9000"},
			[]string{"> FF82000002****", "< 9000", "> 0082010102A0A1", "< 9000"},
		},
		"a script, which has no answers": {
			[]string{"> 00A4000C02AF20", "> 00D600000307AABB", "> 00A4000C026F07", "> 00D600000307AABB"},
			[]string{"> 00A4000C02AF20", "> 00D6000003******", "> 00A4000C026F07", "> 00D600000307AABB"},
		},
		"a SELECT of which the answer failed": {
			[]string{"> 00A4000C02AF20", "! error timeout", "> 00B0000001", "< 079000"},
			[]string{"> 00A4000C02AF20", "! error timeout", "> 00B0000001", "< **9000"},
		},
		"an answer that is missing": {
			[]string{"> 0088008103AABBCC", "> 00C0000003", "< DB01029000"},
			[]string{"> 0088008103AABBCC", "> 00C0000003", "< DB****9000"},
		},
		"answers that are late, of two readers in one log": {
			[]string{"> 0088008103AABBCC", "> 80F20000", "< DB01029000", "< 019000", "> 80F20000", "< 019000"},
			[]string{"> 0088008103AABBCC", "> 80F20000", "< DB****9000", "< **9000", "> 80F20000", "< 019000"},
		},
		"an error is an answer": {
			[]string{"> 0088008103AABBCC", "! error timeout", "> 80F20000", "< 019000"},
			[]string{"> 0088008103AABBCC", "! error timeout", "> 80F20000", "< 019000"},
		},
		"a command that is missing": {
			[]string{"> 80F20000", "< 9000", "< 019000", "< 6101", "> 00C0000001", "< 019000", "> 80F20000", "< 6101", "> 00C0000001", "< 019000"},
			[]string{"> 80F20000", "< 9000", "< **9000", "< 6101", "> 00C0000001", "< **9000", "> 80F20000", "< 6101", "> 00C0000001", "< 019000"},
		},
		"a trace that begins too late": {
			[]string{"> 00C0000001", "< 019000"},
			[]string{"> 00C0000001", "< **9000"},
		},
		"PINs that are kept in files": {
			[]string{"> 00A4000402A515", "< 9000", "> 00A40004026F01", "< 9000", "> 00B0000001", "< 079000", "> 00A40804047F206F01", "< 9000", "> 00B0000001", "< 079000"},
			[]string{"> 00A4000402A515", "< 9000", "> 00A40004026F01", "< 9000", "> 00B0000001", "< **9000", "> 00A40804047F206F01", "< 9000", "> 00B0000001", "< 079000"},
		},
		"what a card deciphers": {
			[]string{"> 002A80860200AA00", "< 0102039000", "> 002A868002AABB00", "< 0102039000"},
			[]string{"> 002A80860200AA00", "< ******9000", "> 002A868002****00", "< 0102039000"},
		},
	} {
		assert.Equal(t, c.want, redacted(t, c.in...), name)
	}
}

// Masks that were there stay, and what is redacted twice is as it was.
func TestRedactAgain(t *testing.T) {
	lines := []string{"> 00A40004026F07", "< **9000", "> 00D6000004AA**BB**", "> 0020000104**313233", "! x"}
	once := redacted(t, lines...)
	assert.Equal(t, []string{"> 00A40004026F07", "< **9000", "> 00D6000004AA**BB**", "> 0020000104********", "! x"}, once[:5])
	assert.Equal(t, once, redacted(t, once...))
}

func TestRedactSink(t *testing.T) {
	in := firstLine + "\n> 00A40004026F08\n< 9000\n" + firstLine1 + "\n> 00B0000001\n< 079000\n> 00200001023132\n"
	var out bytes.Buffer
	require.NoError(t, Copy(Redact(NewWriter(&out)), NewReader(strings.NewReader(in))))
	all, err := ParseAll(&out)
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.True(t, all[0].Redacted && all[1].Redacted)
	assert.Equal(t, []Entry{
		{Kind: Command, Data: []byte{0, 0xB0, 0, 0, 1}, Line: 7},
		{Kind: Response, Data: []byte{7, 0x90, 0}, Line: 8},
		{Kind: Command, Data: []byte{0, 0x20, 0, 1, 2, 0, 0}, Mask: []Span{{5, 7}}, Line: 9},
	}, all[1].Entries, "a session knows nothing of the one before")
}

func FuzzRedact(f *testing.F) {
	seed, err := os.ReadFile("testdata/recorded.trace")
	require.NoError(f, err)
	f.Add(seed)
	f.Add([]byte(firstLine + "\n> 00A40004026F08\n< 9000\n> 00B0000001\n< 079000\n> 80E2880006800104010203\n< 6A80\n> 002A8680\n< **6C01"))
	f.Add([]byte(firstLine + "\n> 0088008103AABBCC\n< 6103\n> 00C0000003\n< DB0102039000\n> 00A40804067FFF5FC04F05\n< 9000\n> 00B28804\n< 9000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := ParseAll(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, tr := range all {
			var r Redactor
			for _, e := range tr.Entries {
				m := r.Redact(e)
				require.Len(t, m.Data, len(e.Data))
				for i := range m.Data {
					require.True(t, !e.Masked(i) || m.Masked(i), "a mask stays")
					if !m.Masked(i) {
						require.Equal(t, e.Data[i], m.Data[i])
					}
				}
				for i := 1; i < len(m.Mask); i++ {
					require.Less(t, m.Mask[i-1].To, m.Mask[i].From, "ascending, apart")
				}
			}
		}
	})
}
