//go:build !amd64

package rsafast

var engines []*engine
