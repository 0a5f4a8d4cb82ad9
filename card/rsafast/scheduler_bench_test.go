package rsafast

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
)

// immediate is a scheduler whose operations cost nothing, to see its own cost.
func immediate(t testing.TB) *Scheduler {
	s := NewScheduler(Config{})
	t.Cleanup(s.Close)
	s.private = func(ops ...*Op) {
		for _, op := range ops {
			op.M, op.Err = append(op.M[:0], op.C...), nil
		}
	}
	s.public = func(ops ...*PublicOp) {
		for _, op := range ops {
			op.Y, op.Err = append(op.Y[:0], op.X...), nil
		}
	}
	return s
}

func TestSchedulerAllocates(t *testing.T) {
	k := immediate(t).Key(fastKey(t, "card-auth-1"))
	x := operand(256, 1)
	got := testing.AllocsPerRun(100, func() {
		if k.PrivateTo(context.Background(), x, x) != nil {
			panic("failed")
		}
	})
	assert.LessOrEqual(t, got, allowed)
}

func BenchmarkSchedulerAlone(b *testing.B) {
	s := immediate(b)
	k := s.Key(fastKey(b, "card-auth-1"))
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d callers", callers), func(b *testing.B) {
			b.ReportAllocs()
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					x := operand(256, 1)
					for range b.N / callers {
						if err := k.PrivateTo(context.Background(), x, x); err != nil {
							panic(err)
						}
					}
				})
			}
			all.Wait()
		})
	}
}
