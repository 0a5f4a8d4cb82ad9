package testkeys

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

func TestKeys(t *testing.T) {
	server, err := Server().Private()
	require.NoError(t, err)
	assert.EqualValues(t, 1, server.KID)
	card, err := Card().Private()
	require.NoError(t, err)
	for _, k := range []cryptogram.PublicKeys{server.Public(), card.Public()} {
		assert.True(t, k.Supports(cryptogram.Suite03))
		assert.True(t, Known(k))
	}
	Server().Auth[0], Card().Auth[0] = "", ""
	assert.NotEmpty(t, Server().Auth[0])
	assert.NotEmpty(t, Card().Auth[0])
	assert.Contains(t, keys().About, "PUBLIC TEST KEYS")
}

// TestKnown: known.txt is the keys of keys.json and of the test vectors, and
// nothing else is known.
func TestKnown(t *testing.T) {
	private := append(append(Server().Auth, Server().Enc), append(Card().Auth, Card().Enc)...)
	for _, k := range vectors.Load(t).Keys {
		private = append(private, k)
	}
	var all [][]byte
	for _, k := range private {
		parsed, err := cryptogram.KeysPEM{Auth: []string{k}, Enc: k}.Private()
		require.NoError(t, err)
		all = append(all, fingerprint(parsed.Public().Enc))
		assert.True(t, Known(parsed.Public()))
	}
	slices.SortFunc(all, bytes.Compare)
	assert.Equal(t, string(bytes.Join(slices.CompactFunc(all, bytes.Equal), []byte("\n")))+"\n", string(known))

	fresh, err := cryptogram.Generate(1, 2048)
	require.NoError(t, err)
	parsed, err := fresh.Private()
	require.NoError(t, err)
	assert.False(t, Known(parsed.Public()))
	assert.False(t, Known(cryptogram.PublicKeys{}))
}
