package vm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const someStatus = `Package: base
Essential: yes
Status: install ok installed
Architecture: amd64
Pre-Depends: libc6 (>= 2.34)

Package: libc6
Status: install ok installed
Architecture: amd64
Depends: libgcc-s1

Package: libgcc-s1
Status: install ok installed
Architecture: amd64
Depends: libc6 (>= 2.35)

Package: mawk
Status: install ok installed
Architecture: amd64
Provides: awk (= 1), other

Package: daemon
Status: install ok installed
Architecture: all
Depends: absent | libc6:any (>= 2), awk

Package: absent
Status: deinstall ok config-files
Architecture: amd64
`

func TestClosure(t *testing.T) {
	all := readInstalled([]byte(someStatus))
	got, err := all.closure([]string{"daemon"})
	require.NoError(t, err)
	assert.Equal(t, []string{"base", "daemon", "libc6", "libgcc-s1", "mawk"}, got)

	_, err = all.closure([]string{"absent"})
	assert.ErrorContains(t, err, "the package absent is not installed")

	got, err = all.closure([]string{"other"})
	require.NoError(t, err)
	assert.Contains(t, got, "mawk")
}
