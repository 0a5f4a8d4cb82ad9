//go:build !cgo

package pkcs11

func load(string) (cryptoki, error) { return nil, ErrNotBuilt }
