package rsafast

// Op is one private-key operation of a batch.
type Op struct {
	Key *Key
	// C is the operand: a value below n in exactly the modulus's length.
	C []byte
	// M is the result while Err is nil, else nil. Its capacity is used where it
	// suffices, and is written only with a result that has passed its check. It
	// may be C; it must not share memory with another operation.
	M []byte
	// Err is nil, matches ErrOperand or is ErrFault.
	Err error
}

// Run does operations, any number, under any keys. Those of one size share the
// calls of the engine, in order; see Width. It returns when all are done.
func Run(ops ...*Op) {
	for _, op := range ops {
		op.Err = op.Key.check(op.C)
		if op.Err == nil && op.Key.engine == nil {
			op.M, op.Err = op.Key.plain.private(op.M, op.C)
		}
	}
	for _, size := range [...]int{2048 / 8, 3072 / 8, 4096 / 8} {
		runSize(ops, size)
	}
	for _, op := range ops {
		if op.Err != nil {
			op.M = nil
		}
	}
}

// runSize does the operations of one size that an engine can do.
func runSize(ops []*Op, size int) {
	var batch [maxLanes / 2]*Op
	n := 0
	for _, op := range ops {
		if op.Err != nil || op.Key.engine == nil || len(op.Key.n) != size {
			continue
		}
		if n > 0 && (op.Key.engine != batch[0].Key.engine || n == op.Key.engine.width()) {
			batch[0].Key.engine.private(batch[:n])
			n = 0
		}
		batch[n] = op
		n++
	}
	if n > 0 {
		batch[0].Key.engine.private(batch[:n])
	}
}

// Width is how many private-key operations of one size fill a call of the
// engine: fewer take as long as that many.
func Width() int {
	if best == nil {
		return 1
	}
	return best.width()
}

// Engine names the code that computes here: "ifma512", "fma52" or "portable".
func Engine() string {
	if best == nil {
		return "portable"
	}
	return best.name
}
