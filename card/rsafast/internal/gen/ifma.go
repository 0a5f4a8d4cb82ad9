package main

import "fmt"

// ifma is AVX-512 with IFMA: limbs are integers, eight lanes. The high halves of
// a column's products are kept apart from the low ones, which halves the chains
// of dependent instructions.
type ifma struct{ w writer }

func newIFMA() *ifma { return &ifma{} }

const (
	ifmaA     = "Z15" // limb of the first factor
	ifmaT     = "Z16"
	ifmaMask  = "Z17"
	ifmaRound = "Z18"
	ifmaFifth = "Z19"
	ifmaCarry = "Z20"
)

func ifmaLo(c int) string  { return fmt.Sprintf("Z%d", c) }
func ifmaHi(c int) string  { return fmt.Sprintf("Z%d", 5+c) } // of the products of column c: for column c+1
func ifmaWin(c int) string { return fmt.Sprintf("Z%d", 10+(c%5+5)%5) }

func (f *ifma) asm() *writer   { return &f.w }
func (f *ifma) prefix() string { return "ifma" }
func (f *ifma) vector() int    { return 64 }

func (f *ifma) constants(n int) {
	if n == sizes[0] {
		f.w.data("ifmaMask", []uint64{mask52})
		f.w.data("ifmaRound", []uint64{roundUp})
	}
}

func (f *ifma) product(a, b string, c int) {
	f.w.ins("VPMADD52LUQ", a, b, ifmaLo(c))
	f.w.ins("VPMADD52HUQ", a, b, ifmaHi(c))
}

func (f *ifma) load(mem, reg string) { f.w.ins("VMOVDQU64", mem, reg) }

func (f *ifma) advance() {
	f.w.ins("ADDQ", "$320", row)
	f.w.ins("SUBQ", "$320", col)
	f.w.ins("RET")
}

func (f *ifma) routines() {
	f.w.routine("ifmaFull")
	for s := range block {
		f.load(at(row, 64*s), ifmaA)
		f.load(at(col, -64*s), ifmaWin(-s))
		for _, c := range []int{4, 0, 1, 2, 3} {
			f.product(ifmaA, ifmaWin(c-s), c)
		}
	}
	f.advance()

	f.w.routine("ifmaLower")
	f.load(at(col, 0), ifmaWin(0))
	for s := range block {
		f.load(at(row, 64*s), ifmaA)
		for c := s; c < block; c++ {
			f.product(ifmaA, ifmaWin(c-s), c)
		}
	}
	f.w.ins("RET")

	f.w.routine("ifmaUpper")
	for s := 1; s < block; s++ {
		f.load(at(row, 64*s), ifmaA)
		f.load(at(col, -64*s), ifmaWin(-s))
		for c := range s {
			f.product(ifmaA, ifmaWin(c-s), c)
		}
	}
	f.advance()

	f.w.routine("ifmaEven")
	f.load(at(row, 0), ifmaWin(0))
	for c := 1; c < block; c++ {
		f.product(ifmaWin(0), ifmaWin(c), c)
	}
	f.product(ifmaWin(1), ifmaWin(2), 3)
	f.product(ifmaWin(1), ifmaWin(3), 4)
	f.double()
	for s := range 3 {
		f.product(ifmaWin(s), ifmaWin(s), 2*s)
	}
	f.w.ins("RET")

	f.w.routine("ifmaOdd")
	for c := 1; c < block; c++ {
		f.load(at(row, 64*c), ifmaWin(c))
	}
	f.product(ifmaWin(1), ifmaWin(4), 0)
	f.product(ifmaWin(2), ifmaWin(3), 0)
	f.product(ifmaWin(2), ifmaWin(4), 1)
	f.product(ifmaWin(3), ifmaWin(4), 2)
	f.double()
	f.product(ifmaWin(3), ifmaWin(3), 1)
	f.product(ifmaWin(4), ifmaWin(4), 3)
	f.w.ins("RET")

	selectRoutine(&f.w, "ifma", 8)
}

func (f *ifma) double() {
	for c := range block {
		f.w.ins("VPADDQ", ifmaLo(c), ifmaLo(c), ifmaLo(c))
		f.w.ins("VPADDQ", ifmaHi(c), ifmaHi(c), ifmaHi(c))
	}
}

func (f *ifma) begin() {
	f.w.ins("VPBROADCASTQ", "ifmaMask<>(SB)", ifmaMask)
	f.w.ins("VPBROADCASTQ", "ifmaRound<>(SB)", ifmaRound)
}

func (f *ifma) end() { f.w.ins("VZEROUPPER") }

func (f *ifma) start(int, int, kind) { f.clear() }

func (f *ifma) clear() {
	for c := range block {
		f.w.ins("VPXORQ", ifmaLo(c), ifmaLo(c), ifmaLo(c))
		f.w.ins("VPXORQ", ifmaHi(c), ifmaHi(c), ifmaHi(c))
	}
}

func (f *ifma) window() {
	for c := 1; c < block; c++ {
		f.load(at(col, 64*c), ifmaWin(c))
	}
}

func (f *ifma) add(mem string) { f.w.ins("VPADDQ", mem, ifmaLo(0), ifmaLo(0)) }

// gather leaves the sums in ifmaLo, and what belongs to the next block in the
// last ifmaHi.
func (f *ifma) gather() {
	for c := 1; c < block; c++ {
		f.w.ins("VPADDQ", ifmaHi(c-1), ifmaLo(c), ifmaLo(c))
	}
}

// split turns the columns' sums into digits; the carry of the last is in ifmaT.
func (f *ifma) split(each func(c int)) {
	for c := range block {
		if c > 0 {
			f.w.ins("VPADDQ", ifmaT, ifmaLo(c), ifmaLo(c))
		}
		f.w.ins("VPSRLQ", "$52", ifmaLo(c), ifmaT)
		f.w.ins("VPANDQ", ifmaMask, ifmaLo(c), ifmaLo(c))
		each(c)
	}
}

func (f *ifma) saveCarry(carry string) {
	f.w.ins("VPADDQ", ifmaT, ifmaHi(block-1), ifmaHi(block-1))
	f.load(ifmaHi(block-1), carry)
}

func (f *ifma) digits(mem func(c int) string, carry string) {
	f.split(func(c int) { f.load(ifmaLo(c), mem(c)) })
	f.saveCarry(carry)
}

func (f *ifma) last(n int) {
	carry := at(tmp, 64*n)
	f.split(func(int) {})
	f.w.ins("VPADDQ", ifmaT, ifmaHi(4), ifmaCarry)
	f.w.ins("VPADDQ", ifmaRound, ifmaLo(4), ifmaFifth)
	for c := range block {
		f.load(ifmaLo(c), ifmaWin(c))
	}
	f.clear()
	for s := range block {
		f.load(at(ctx, 64*(2*n+s)), ifmaA)
		for c := s; c < block; c++ {
			f.product(ifmaA, ifmaWin(c-s), c)
		}
	}
	f.gather()
	f.split(func(c int) { f.load(ifmaLo(c), at(tmp, 64*(n-block+c))) })
	f.w.ins("VPXORQ", ifmaT, ifmaT, ifmaT)
	for s := range block {
		f.w.ins("VPMADD52LUQ", at(ctx, 64*(n+4-s)), ifmaLo(s), ifmaFifth)
		f.w.ins("VPMADD52HUQ", at(ctx, 64*(n+4-s)), ifmaLo(s), ifmaCarry)
		if s < block-1 {
			f.w.ins("VPMADD52HUQ", at(ctx, 64*(n+3-s)), ifmaLo(s), ifmaT)
		}
	}
	f.w.ins("VPADDQ", ifmaT, ifmaFifth, ifmaFifth)
	f.w.ins("VPSRLQ", "$52", ifmaFifth, ifmaFifth)
	f.w.ins("VPADDQ", ifmaFifth, ifmaCarry, ifmaCarry)
	f.load(ifmaCarry, carry)
}
