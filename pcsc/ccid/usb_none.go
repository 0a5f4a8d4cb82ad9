//go:build !cgo

package ccid

import "context"

func listLibusb(context.Context) ([]Plugged, error) { return nil, ErrNotBuilt }

func openLibusb(context.Context, Plugged) (Endpoints, error) { return nil, ErrNotBuilt }
