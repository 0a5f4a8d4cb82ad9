//go:build race

package rsafast

const allowed = 4.0 // allocations: the race detector drops pooled memory at random
