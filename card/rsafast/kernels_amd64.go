package rsafast

// The kernels are written by internal/gen. They have no preemption points; each
// call is bounded by its squarings.

//go:noescape
func fma20(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func fma30(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func fma40(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func fma60(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func fma80(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func fmaSelect(out, table *uint64, limbs, entries int, index *uint64)

//go:noescape
func ifma20(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func ifma30(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func ifma40(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func ifma60(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func ifma80(out, a, b *uint64, squarings int, ctx, tmp *uint64)

//go:noescape
func ifmaSelect(out, table *uint64, limbs, entries int, index *uint64)
