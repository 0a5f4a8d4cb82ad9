package main

import "fmt"

// selectRoutine writes the constant-time choice of a table's entry, another in
// each lane: every entry is read, whichever is wanted.
func selectRoutine(w *writer, prefix string, lanes int) {
	const group = 10 // limbs at a time
	v := 8 * lanes
	ones := make([]uint64, lanes)
	for i := range ones {
		ones[i] = 1
	}
	w.line("")
	w.data(prefix+"One", ones)
	r := map[int]string{4: "Y", 8: "Z"}[lanes]
	reg := func(i int) string { return fmt.Sprint(r, i) }
	wanted, counter := reg(15), reg(14)
	w.line("\n// func %sSelect(out, table *uint64, limbs, entries int, index *uint64)", prefix)
	w.line("TEXT ·%sSelect(SB), NOSPLIT, $0-40", prefix)
	w.ins("MOVQ", "out+0(FP)", "DI")
	w.ins("MOVQ", "table+8(FP)", "SI")
	w.ins("MOVQ", "limbs+16(FP)", "CX")
	w.ins("MOVQ", "index+32(FP)", "AX")
	move, xor := "VMOVDQU", "VPXOR"
	if lanes == 8 {
		move, xor = "VMOVDQU64", "VPXORQ"
	}
	w.ins(move, "(AX)", wanted)
	w.ins("MOVQ", "CX", "R8")
	w.ins("IMULQ", fmt.Sprintf("$%d", v), "R8")
	w.line("\ngroup:")
	w.ins("MOVQ", "entries+24(FP)", "R9")
	w.ins("MOVQ", "SI", "R10")
	for i := range group {
		w.ins(xor, reg(i), reg(i), reg(i))
	}
	w.ins(xor, counter, counter, counter)
	w.line("\nentry:")
	if lanes == 8 {
		w.ins("VPCMPEQQ", counter, wanted, "K1")
		w.ins("VPMOVM2Q", "K1", reg(13))
	} else {
		w.ins("VPCMPEQQ", counter, wanted, reg(13))
	}
	w.ins("VPADDQ", prefix+"One<>(SB)", counter, counter)
	for i := range group {
		if lanes == 8 {
			w.ins("VPTERNLOGQ", "$0xf8", at("R10", v*i), reg(13), reg(i)) // reg | mask & memory
			continue
		}
		w.ins("VBLENDVPD", reg(13), at("R10", v*i), reg(i), reg(i)) // memory where the mask is set
	}
	w.ins("ADDQ", "R8", "R10")
	w.ins("DECQ", "R9")
	w.ins("JNZ", "entry")
	for i := range group {
		w.ins(move, reg(i), at("DI", v*i))
	}
	w.ins("ADDQ", fmt.Sprintf("$%d", v*group), "DI")
	w.ins("ADDQ", fmt.Sprintf("$%d", v*group), "SI")
	w.ins("SUBQ", fmt.Sprintf("$%d", group), "CX")
	w.ins("JNZ", "group")
	w.ins("VZEROUPPER")
	w.ins("RET")
}
