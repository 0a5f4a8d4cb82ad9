package main

import "fmt"

// Biases of the double-precision products: rounded toward zero, the sum of a
// product and 2^104 has the product's high 52 bits as its fraction, that of the
// low half and 2^52 the low ones. Both sums, and (2^104 + 2^52) less the first,
// are exact for factors that are whole and below 2^52: then a b < 2^104, so the
// exponents are those of the biases. With a factor of 2^52 they need not be.
const (
	bias52  = 0x4330000000000000 // 2^52
	bias104 = 0x4670000000000000 // 2^104
	mask52  = 1<<52 - 1
)

// fma is AVX2 with fused multiply-add: limbs are doubles, four lanes. Sums of
// the columns are of the products' bit patterns, as integers modulo 2^64; they
// start from the negative sum of all the exponents that will come in. What
// remains is the sum of the halves alone (see bounds), whatever wrapped between.
type fma struct {
	w       writer
	pending string // the low half of the last product, not yet written
}

func newFMA() *fma { return &fma{} }

const (
	fmaA  = "Y11" // limb of the first factor
	fmaC2 = "Y12" // 2^104 + 2^52
	fmaHi = "Y13"
	fmaLo = "Y14"
	fmaC1 = "Y15" // 2^104
)

func fmaAcc(c int) string { return fmt.Sprintf("Y%d", c) }           // column c, 0 to 5
func fmaWin(c int) string { return fmt.Sprintf("Y%d", 6+(c%5+5)%5) } // limb c of the window

func (f *fma) asm() *writer   { return &f.w }
func (f *fma) prefix() string { return "fma" }
func (f *fma) vector() int    { return 32 }

// biases counts what the products of i and j put into the columns.
func biases(columns []uint64, i, j int) {
	columns[i+j] += bias52
	columns[i+j+1] += bias104
}

func quad(x uint64) []uint64 { return []uint64{x, x, x, x} }

func (f *fma) constants(n int) {
	if n == sizes[0] {
		f.common()
	}
	blocks := n / block
	sums := make([]uint64, 2*n+block)
	for i := range n {
		for j := range n {
			biases(sums, i, j)
		}
	}
	for b := range blocks - 1 { // the reduction with M, one block higher
		for s := range block {
			for j := range n {
				biases(sums, block*(b+1)+s, j)
			}
		}
	}
	for s := range block { // with N; what falls below column 5 is in fmaCarry
		for j := range n {
			i := block*(blocks-1) + s
			if s+j >= block {
				sums[i+j] += bias52
			}
			if s+j+1 >= block {
				sums[i+j+1] += bias104
			}
		}
	}
	whole, half := make([]uint64, 2*n), make([]uint64, 2*n)
	for c := range whole {
		whole[c] = -sums[c]
		half[c] = -(sums[c] / 2) // a square's sums are doubled once; sums are even
	}
	f.w.data(fmt.Sprintf("fmaMul%d", n), whole)
	f.w.data(fmt.Sprintf("fmaSqr%d", n), half)
}

func (f *fma) common() {
	f.w.data("fmaC1", quad(bias104))
	f.w.data("fmaC2", quad(bias104+1))
	f.w.data("fmaMask", quad(mask52))
	f.w.data("fmaBias", quad(bias52))
	low := make([]uint64, block+1) // the products s+t < 5 of two blocks
	for s := range block {
		for t := range block - s {
			biases(low, s, t)
		}
	}
	var words []uint64
	for _, x := range low[:block] {
		words = append(words, quad(-x)...)
	}
	f.w.data("fmaFactor", words)
	fifth := uint64(roundUp)
	for range block {
		fifth -= bias52
	}
	for range block - 1 {
		fifth -= bias104
	}
	f.w.data("fmaCarry", quad(fifth))
}

// product adds a b to columns c and c+1.
func (f *fma) product(a, b string, c int) { f.productTo(a, b, fmaAcc(c), fmaAcc(c+1), a) }

// productTo adds the halves of a b to lo and hi. The low half is computed after
// the next product's high one; a stands in again by then, where its register is
// about to be overwritten.
func (f *fma) productTo(a, b, lo, hi, again string) {
	f.high(a, b)
	f.w.ins("VSUBPD", fmaHi, fmaC2, fmaLo)
	f.w.ins("VPADDQ", fmaHi, hi, hi)
	f.pending = fmt.Sprintf("\tVFMADD231PD %s, %s, %s\n\tVPADDQ %s, %s, %s\n", again, b, fmaLo, fmaLo, lo, lo)
}

// high computes the high half of a b.
func (f *fma) high(a, b string) {
	f.w.ins("VMOVAPD", fmaC1, fmaHi)
	f.w.ins("VFMADD231PD", a, b, fmaHi)
	f.flush()
}

func (f *fma) flush() {
	f.w.WriteString(f.pending)
	f.pending = ""
}

func (f *fma) load(mem, reg string) { f.w.ins("VMOVAPD", mem, reg) }

func (f *fma) advance() {
	f.flush()
	f.w.ins("ADDQ", "$160", row)
	f.w.ins("SUBQ", "$160", col)
	f.w.ins("RET")
}

func (f *fma) routines() {
	f.w.routine("fmaFull")
	for s := range block {
		f.load(at(col, -32*s), fmaWin(-s))
		f.load(at(row, 32*s), fmaA)
		for _, c := range []int{4, 0, 1, 2} {
			f.product(fmaA, fmaWin(c-s), c)
		}
		f.productTo(fmaA, fmaWin(3-s), fmaAcc(3), fmaAcc(4), at(row, 32*s))
	}
	f.advance()

	f.w.routine("fmaLower")
	f.load(at(col, 0), fmaWin(0))
	for s := range block {
		f.flush()
		f.load(at(row, 32*s), fmaA)
		for c := s; c < block; c++ {
			f.product(fmaA, fmaWin(c-s), c)
		}
	}
	f.flush()
	f.w.ins("RET")

	f.w.routine("fmaUpper")
	for s := 1; s < block; s++ {
		f.flush()
		f.load(at(col, -32*s), fmaWin(-s))
		f.load(at(row, 32*s), fmaA)
		for c := range s {
			f.product(fmaA, fmaWin(c-s), c)
		}
	}
	f.advance()

	f.w.routine("fmaEven")
	f.load(at(row, 0), fmaA)
	for c := 1; c < block; c++ {
		f.product(fmaA, fmaWin(c), c)
	}
	f.flush()
	f.load(at(row, 32), fmaA)
	f.product(fmaA, fmaWin(2), 3)
	f.product(fmaA, fmaWin(3), 4)
	f.double()
	f.load(at(row, 0), fmaA)
	f.product(fmaA, fmaA, 0)
	f.flush()
	f.load(at(row, 32), fmaA)
	f.product(fmaA, fmaA, 2)
	f.product(fmaWin(2), fmaWin(2), 4)
	f.flush()
	f.w.ins("RET")

	f.w.routine("fmaOdd")
	f.load(at(row, 32), fmaA)
	for c := 2; c < block; c++ {
		f.load(at(row, 32*c), fmaWin(c))
	}
	f.product(fmaA, fmaWin(4), 0)
	f.product(fmaWin(2), fmaWin(3), 0)
	f.product(fmaWin(2), fmaWin(4), 1)
	f.product(fmaWin(3), fmaWin(4), 2)
	f.double()
	f.product(fmaWin(3), fmaWin(3), 1)
	f.product(fmaWin(4), fmaWin(4), 3)
	f.flush()
	f.w.ins("RET")

	selectRoutine(&f.w, "fma", 4)
}

func (f *fma) double() {
	f.flush()
	for c := range block + 1 {
		f.w.ins("VPADDQ", fmaAcc(c), fmaAcc(c), fmaAcc(c))
	}
}

// begin sets rounding toward zero with every exception masked, until end: a
// function has one way out, and nothing in it can panic. The scheduler does not
// preempt assembly. Signal handlers start with the system's rounding on Linux,
// and a context switch keeps ours; where a handler should see it all the same, no
// harm is done: Go's computes nothing in floating point.
func (f *fma) begin() {
	f.w.ins("STMXCSR", "0(SP)")
	f.w.ins("MOVL", "$0x7f80", "4(SP)")
	f.w.ins("LDMXCSR", "4(SP)")
	f.load("fmaC1<>(SB)", fmaC1)
	f.load("fmaC2<>(SB)", fmaC2)
}

func (f *fma) end() {
	f.w.ins("LDMXCSR", "0(SP)")
	f.w.ins("VZEROUPPER")
}

func (f *fma) start(n, k int, kind kind) {
	name := map[bool]string{true: "fmaSqr", false: "fmaMul"}[kind == sqr]
	f.w.ins("LEAQ", fmt.Sprintf("%s%d<>+%d(SB)", name, n, 8*block*k), table)
	for c := range block {
		f.w.ins("VBROADCASTSD", at(table, 8*c), fmaAcc(c))
	}
	f.w.ins("VPXOR", fmaAcc(block), fmaAcc(block), fmaAcc(block))
}

func (f *fma) window() {
	for c := 1; c < block; c++ {
		f.load(at(col, 32*c), fmaWin(c))
	}
}

func (f *fma) add(mem string) { f.w.ins("VPADDQ", mem, fmaAcc(0), fmaAcc(0)) }
func (f *fma) gather()        {}

// split turns the columns' sums into digits, integers below 2^52; the carry of
// the last is in fmaHi.
func (f *fma) split(each func(c int)) {
	for c := range block {
		if c > 0 {
			f.w.ins("VPADDQ", fmaHi, fmaAcc(c), fmaAcc(c))
		}
		f.w.ins("VPSRLQ", "$52", fmaAcc(c), fmaHi)
		f.w.ins("VPAND", "fmaMask<>(SB)", fmaAcc(c), fmaAcc(c))
		each(c)
	}
}

// double-precision value of the digit in r.
func (f *fma) float(r, to string) {
	f.w.ins("VPOR", "fmaBias<>(SB)", r, to)
	f.w.ins("VSUBPD", "fmaBias<>(SB)", to, to)
}

func (f *fma) saveCarry(carry string) {
	f.w.ins("VPADDQ", fmaHi, fmaAcc(block), fmaAcc(block))
	f.w.ins("VMOVDQA", fmaAcc(block), carry)
}

func (f *fma) digits(mem func(c int) string, carry string) {
	f.split(func(c int) {
		f.float(fmaAcc(c), fmaAcc(c))
		f.load(fmaAcc(c), mem(c))
	})
	f.saveCarry(carry)
}

func (f *fma) last(n int) {
	carry, fifth := at(tmp, 32*n), at(tmp, 32*(n+1))
	f.split(func(int) {})
	f.saveCarry(carry)
	f.w.ins("VPADDQ", "fmaCarry<>(SB)", fmaAcc(4), fmaHi)
	f.w.ins("VMOVDQA", fmaHi, fifth)
	for c := range block {
		f.float(fmaAcc(c), fmaWin(c))
	}
	for c := range block {
		f.w.ins("VMOVDQA", fmt.Sprintf("fmaFactor<>+%d(SB)", 32*c), fmaAcc(c))
	}
	for s := range block {
		f.flush()
		f.load(at(ctx, 32*(2*n+s)), fmaA)
		for c := s; c < block; c++ {
			f.product(fmaA, fmaWin(c-s), c)
		}
	}
	f.flush()
	for c := range block {
		f.load(at(ctx, 32*(n+c)), fmaWin(c)) // N
	}
	f.split(func(c int) {
		f.float(fmaAcc(c), fmaAcc(c))
		f.load(fmaAcc(c), at(tmp, 32*(n-block+c)))
	})
	f.load(carry, fmaAcc(block))
	f.load(fifth, fmaA)
	for s := range block {
		f.productTo(fmaAcc(s), fmaWin(4-s), fmaA, fmaAcc(block), fmaAcc(s))
	}
	for s := range block - 1 {
		f.high(fmaAcc(s), fmaWin(3-s))
		f.w.ins("VPADDQ", fmaHi, fmaA, fmaA)
	}
	f.w.ins("VPSRLQ", "$52", fmaA, fmaHi)
	f.saveCarry(carry)
}
