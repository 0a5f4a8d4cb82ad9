//go:build linux

package usb_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/hwtest/torture/usb"
	"github.com/cardbridge/cardbridge/hwtest/vm"
)

var flags = torture.NewFlags()

func TestMain(m *testing.M) {
	vm.Main(m, vm.Config{
		CPUs:    2,
		Files:   []string{"../../../go.mod", "../../../card/cryptogram/testdata"}, // the keys of the test vectors
		Timeout: 14 * time.Minute,
	})
}

// options are for an emulated processor.
var options = torture.Options{Wait: 5 * time.Second, Limit: time.Minute}

// sample is small: an emulated processor takes 2 s and more for a trial.
const sample = 5

func TestGousb(t *testing.T) {
	s, err := usb.StartGousb()
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Stop()) })
	flags.Test(t, s, torture.OnGousb, sample, options, "test ./hwtest/torture/usb -run TestGousb")
}

func TestLibccid(t *testing.T) {
	s, err := usb.StartLibccid(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, s.Stop())
		if t.Failed() {
			t.Logf("pcscd's log:\n%s", s.Log())
		}
	})
	flags.Test(t, s, torture.OnLibccid, sample, options, "test ./hwtest/torture/usb -run TestLibccid")
}
