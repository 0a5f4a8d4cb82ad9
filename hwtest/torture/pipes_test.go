//go:build linux

package torture_test

import (
	"testing"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
	"github.com/cardbridge/cardbridge/hwtest/torture/usb"
)

func TestPipes(t *testing.T) {
	t.Parallel()
	flags.Test(t, usb.NewPipes(), torture.OnPipes, 12, torture.Options{Wait: 2 * time.Second, Limit: 30 * time.Second},
		"test ./hwtest/torture -run TestPipes")
}
