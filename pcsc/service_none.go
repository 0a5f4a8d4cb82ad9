//go:build !cgo && !windows

package pcsc

func establish() (service, error) { return nil, ErrNotBuilt }
