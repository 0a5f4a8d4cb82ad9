package explain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

var update = flag.Bool("update-words", false, "rewrite the golden texts in testdata")

// parse reads a trace's entries without a header, one a line.
func parse(t testing.TB, lines ...string) trace.Source {
	t.Helper()
	return trace.NewReader(strings.NewReader("# cardbridge trace 2\n" + strings.Join(lines, "\n") + "\n"))
}

// text explains a source as plain text.
func text(t testing.TB, src trace.Source, keys *Keys) string {
	t.Helper()
	var out bytes.Buffer
	r := NewText(&out, false)
	require.NoError(t, Show(src, keys, nil, r))
	require.NoError(t, r.Close())
	return out.String()
}

// explained explains lines and gives each entry, its fields kept.
func explained(t testing.TB, keys *Keys, lines ...string) []Explained {
	t.Helper()
	x := New(keys)
	src := parse(t, lines...)
	_, err := src.NextSession()
	require.NoError(t, err)
	var out []Explained
	for range lines {
		e, err := src.Next()
		require.NoError(t, err)
		r := x.Explain(e)
		r.Fields = append([]Field{}, r.Fields...)
		out = append(out, r)
	}
	return out
}

// value is the value of the first field of a name.
func value(e Explained, name string) string {
	for _, f := range e.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// golden compares with testdata/name, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

// vectorFiles is the files of both sides of a set: a server's key set, a card
// image and a card record.
func vectorFiles(t testing.TB, set *vectors.Set) (server, image, record []byte) {
	t.Helper()
	f := vectors.Load(t)
	keySet := cryptogram.KeySetPEM{ID: set.KID, KeysPEM: cryptogram.KeysPEM{Auth: f.PEM(set.Keys.ServerAuth...), Enc: f.Keys[set.Keys.ServerEnc]}}
	private, err := keySet.Private()
	require.NoError(t, err)
	public, err := cryptogram.EncodePublic(private.Public())
	require.NoError(t, err)
	cardPEM := cryptogram.KeysPEM{Auth: f.PEM(set.Keys.CardAuth...), Enc: f.Keys[set.Keys.CardEnc]}
	cardKeys, err := cardPEM.Private()
	require.NoError(t, err)
	cardPublic, err := cryptogram.EncodePublic(cardKeys.Public())
	require.NoError(t, err)
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return b
	}
	return marshal(keySet),
		marshal(map[string]any{"eid": set.EID, "keys": cardPEM, "server_keysets": []any{cryptogram.KeySetPEM{ID: set.KID, KeysPEM: public}}, "suites": []int{1, 3}}),
		marshal(map[string]any{"eid": set.EID, "keys": cardPublic, "suites": []int{1, 3}})
}

func keysOf(t testing.TB, files ...[]byte) *Keys {
	t.Helper()
	k := &Keys{}
	for _, f := range files {
		require.NoError(t, k.Add(f))
	}
	return k
}

func line(sign string, b []byte) string { return sign + " " + strings.ToUpper(hex.EncodeToString(b)) }

// vectorSession is a session of the vectors as the lines of a trace.
func vectorSession(s *vectors.Session) []string {
	f := []string{
		"! connected", "> 00A404000BF06361726462726964676500", "< 6F1A840BF063617264627269646765A50B800101810201038202" + "08009000",
	}
	ok := []byte{0x90, 0x00}
	f = append(f, line(">", s.InternalAuthenticate.Extended), line("<", append(bytes.Clone(s.M1.Envelope), ok...)))
	for _, part := range s.ExternalAuthenticate.Chained {
		f = append(f, line(">", part), "< 9000")
	}
	for _, e := range s.Exchanges {
		capdu := e.APDU.Short
		if capdu == nil {
			capdu = e.APDU.Extended
		}
		f = append(f, line(">", capdu), line("<", e.ResponseAPDU))
	}
	return append(f, "! closed")
}
