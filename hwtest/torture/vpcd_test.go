//go:build linux

package torture_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig"
	"github.com/cardbridge/cardbridge/hwtest/torture"
)

var flags = torture.NewFlags()

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

func TestVPCD(t *testing.T) {
	t.Parallel()
	s, err := torture.StartVPCD(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Stop())
		if t.Failed() {
			t.Logf("pcscd's log:\n%s", s.Log())
		}
	})
	flags.Test(t, s, torture.OnVPCD, 12, torture.Options{Wait: time.Second, Limit: 30 * time.Second}, "test ./hwtest/torture -run TestVPCD")
}
