//go:build !linux

package rig

import "errors"

func RealTime() error { return errors.ErrUnsupported }
