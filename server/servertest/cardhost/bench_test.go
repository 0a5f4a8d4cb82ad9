package cardhost_test

import (
	"crypto/rsa"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/rsafast"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/servertest/cardhost"
)

// benchCards is more than the operations that are under way at once.
const benchCards = 64

// onBoth runs a benchmark on cards in this process and in another.
func onBoth(b *testing.B, run func(b *testing.B, readers reader.Source)) {
	b.Run("in process", func(b *testing.B) {
		scheduler := rsafast.NewScheduler(rsafast.Config{})
		b.Cleanup(scheduler.Close)
		keys, err := servertest.Image(0).Keys.PrivateBy(func(k *rsa.PrivateKey) (cryptogram.PrivateKey, error) { return scheduler.Load(k) })
		require.NoError(b, err)
		keys.Ops = scheduler
		readers := servertest.NewReaders()
		for n := range benchCards {
			readers.Insert(cardhost.Name(n), servertest.Card(servertest.Image(n), appletsim.WithKeys(keys)), nil)
		}
		run(b, readers)
	})
	b.Run("another process", func(b *testing.B) {
		host := start(b, cardhost.Config{Cards: benchCards})
		readers, control := client(b, host.Addr())
		require.NoError(b, control.Warm(b.Context()))
		run(b, readers)
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	onBoth(b, func(b *testing.B, readers reader.Source) {
		conn := open(b, readers, 0, reader.Exclusive)
		_, err := eid(b, conn)
		require.NoError(b, err)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := conn.Transmit(b.Context(), getEID); err != nil {
				b.Fatal(err)
			}
		}
		require.NoError(b, conn.Close())
	})
}

func BenchmarkOpen(b *testing.B) {
	onBoth(b, func(b *testing.B, readers reader.Source) {
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, open(b, readers, 0, reader.Exclusive).Close())
		}
	})
}

// Open, both authentications, and a DEACTIVATE or ACTIVATE: one at a time, and
// many, as a busy server has them.
func BenchmarkOperation(b *testing.B) {
	for _, parallel := range []int{1, 16} {
		b.Run(strconv.Itoa(parallel), func(b *testing.B) {
			onBoth(b, func(b *testing.B, readers reader.Source) {
				b.ReportAllocs()
				b.SetParallelism(max(1, parallel/runtime.GOMAXPROCS(0)))
				if parallel == 1 {
					counter := uint32(5)
					for b.Loop() {
						if _, err := operate(b.Context(), readers, 0, counter); err != nil {
							b.Fatal(err)
						}
						counter++
					}
					return
				}
				var card atomic.Int32
				b.ResetTimer() // the cards are made
				b.RunParallel(func(pb *testing.PB) {
					n, counter := int(card.Add(1)-1), uint32(5)
					for ; pb.Next(); counter++ {
						if _, err := operate(b.Context(), readers, n, counter); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		})
	}
}
