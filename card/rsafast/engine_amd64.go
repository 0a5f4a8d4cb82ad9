package rsafast

import "golang.org/x/sys/cpu"

// fma52 needs AVX2 and fused multiply-add: four lanes of doubles, a product of
// 52-bit limbs from two multiply-adds.
var fma52 = &engine{
	name: "fma52", lanes: 4, float: true, choose: fmaSelect,
	kernels: []*kernel{
		{limbs: 20, power: fma20, window: 5}, {limbs: 30, power: fma30, window: 5}, {limbs: 40, power: fma40, window: 5},
		{limbs: 60, power: fma60}, {limbs: 80, power: fma80},
	},
}

// ifma512 needs AVX-512 with its 52-bit integer multiply-add: eight lanes.
var ifma512 = &engine{
	name: "ifma512", lanes: 8, choose: ifmaSelect,
	kernels: []*kernel{
		{limbs: 20, power: ifma20, window: 4}, {limbs: 30, power: ifma30, window: 4}, {limbs: 40, power: ifma40, window: 4},
		{limbs: 60, power: ifma60}, {limbs: 80, power: ifma80},
	},
}

// engines are those that this processor and its system have, the fastest first.
var engines = detect()

func detect() []*engine {
	// x/sys/cpu says yes only where the system saves the registers, and no where
	// GODEBUG says so.
	if !cpu.X86.HasAVX2 {
		return nil
	}
	var found []*engine
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512IFMA {
		found = append(found, ifma512)
	}
	if cpu.X86.HasFMA {
		found = append(found, fma52)
	}
	return found
}

// best is the engine for this processor; nil where there is none.
var best = func() *engine {
	if len(engines) == 0 {
		return nil
	}
	return engines[0]
}()
