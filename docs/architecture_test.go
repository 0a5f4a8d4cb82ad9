// Package docs_test checks the pages beside it against the code.
package docs_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/cardbridge/cardbridge/"

// rows reads the table of architecture.md: what each folder may import, nil
// where it may import any.
func rows(t *testing.T) map[string][]string {
	page, err := os.ReadFile("architecture.md")
	require.NoError(t, err)
	quoted := regexp.MustCompile("`([^`]+)`")
	out := map[string][]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 5 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		folder := quoted.FindStringSubmatch(cells[1])[1]
		allowed := []string{}
		for _, m := range quoted.FindAllStringSubmatch(cells[3], -1) {
			allowed = append(allowed, m[1])
		}
		if strings.TrimSpace(cells[3]) == "any" {
			allowed = nil
		}
		require.NotContains(t, out, folder)
		out[folder] = allowed
	}
	require.Greater(t, len(out), 10, "the table is not where it was")
	return out
}

// imports lists our packages and what of ours each imports, tests excepted.
func imports(t *testing.T) map[string][]string {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "../...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	found := map[string][]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		var ours []string
		for _, i := range p.Imports {
			if folder, ok := strings.CutPrefix(i, module); ok {
				ours = append(ours, folder)
			}
		}
		found[strings.TrimPrefix(p.ImportPath, module)] = ours
	}
	require.NotEmpty(t, found)
	return found
}

func TestImportsFollowTheTable(t *testing.T) {
	table := rows(t)
	for folder, ours := range imports(t) {
		allowed, ok := table[folder]
		if !assert.True(t, ok, "package %s has no row in architecture.md", folder) || allowed == nil {
			continue
		}
		for _, i := range ours {
			assert.True(t, slices.Contains(allowed, i), "package %s imports %s, which its row does not allow", folder, i)
		}
	}
}

// Only these link C; everything else builds without cgo.
func TestCgoStaysInItsFile(t *testing.T) {
	out, err := exec.Command("git", "grep", "-l", "--untracked", "-E", `"github.com/(ebfe/scard|google/gousb|miekg/pkcs11)"|^import "C"`, "--", "../*.go", ":!*architecture_test.go").Output()
	require.NoError(t, err)
	assert.Equal(t, []string{"../card/pkcs11/module_cgo.go", "../pcsc/ccid/usb_gousb.go", "../pcsc/service_scard.go"}, strings.Fields(string(out)))
}
