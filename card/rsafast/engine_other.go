//go:build !amd64

package rsafast

// best is the engine for this processor: none.
var best *engine
