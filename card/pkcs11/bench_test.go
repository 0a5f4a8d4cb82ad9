//go:build cgo && unix

package pkcs11

import (
	"context"
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
)

// BenchmarkPrivate is one RSA-2048 private operation: in SoftHSM, by the plain key
// and by the scheduler of a key from a PEM file; alone, and by many goroutines. It
// ends in ratios of operations a second.
func BenchmarkPrivate(b *testing.B) {
	h := newHSM(b)
	plain := h.put("server-enc", "a1")
	soft, err := cryptogram.NewKey(plain)
	require.NoError(b, err)
	scheduler := rsafast.NewScheduler(rsafast.Config{})
	defer scheduler.Close()
	scheduled, err := scheduler.Load(plain)
	require.NoError(b, err)
	keys := []struct {
		name string
		key  cryptogram.PrivateKey
	}{{"pkcs11", h.key(h.provider(), someKey)}, {"pem-plain", soft}, {"pem-scheduler", scheduled}}
	rate := map[string]float64{}
	for _, k := range keys {
		measured := func(name string, run func(b *testing.B)) {
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				before := processorTime(b)
				run(b)
				rate[name] = float64(b.N) / (processorTime(b) - before)
				b.ReportMetric(rate[name], "ops/cpu-s")
			})
		}
		measured(k.name+"/alone", func(b *testing.B) {
			for b.Loop() {
				if _, err := k.key.Private(context.Background(), operand()); err != nil {
					b.Fatal(err)
				}
			}
		})
		measured(k.name+"/many", func(b *testing.B) {
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := k.key.Private(context.Background(), operand()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	for _, how := range []string{"alone", "many"} {
		if pkcs11, ok := rate["pkcs11/"+how]; ok {
			fmt.Printf("ratio pkcs11/pem-plain-%s %.2f\n", how, pkcs11/rate["pem-plain/"+how])
			fmt.Printf("ratio pkcs11/pem-scheduler-%s %.2f\n", how, pkcs11/rate["pem-scheduler/"+how])
		}
	}
}

// processorTime is what this process has taken so far, in seconds.
func processorTime(b *testing.B) float64 {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
