package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("document", false, "write the document that the client is generated from")

// The document in the repo is the one that is served, and the client in the repo
// is what is generated from it.
func TestDocument(t *testing.T) {
	const path = "client/openapi.json"
	f := newFixture(t)
	res := f.do(http.MethodGet, "/openapi.json", "", "")
	require.Equal(t, http.StatusOK, res.Code)
	var served bytes.Buffer
	require.NoError(t, json.Indent(&served, res.Body.Bytes(), "", "  "))
	if *update {
		require.NoError(t, os.WriteFile(path, served.Bytes(), 0o644))
		return
	}
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(kept), served.String(), "run: go generate ./server/api/client")

	again := filepath.Join(t.TempDir(), "generated.go")
	cmd := exec.Command("go", "tool", "oapi-codegen", "-config", "generate.yaml", "-o", again, "openapi.json")
	cmd.Dir = "client"
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	want, err := os.ReadFile(again)
	require.NoError(t, err)
	got, err := os.ReadFile("client/generated.go")
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), "run: go generate ./server/api/client")
}
