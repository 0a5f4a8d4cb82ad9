//go:build !linux

package rig

import (
	"fmt"
	"os"
	"syscall"
)

// Enter ends the program: the namespaces are Linux's.
func Enter() {
	fmt.Fprintln(os.Stderr, "rig: a private pcscd needs Linux namespaces")
	os.Exit(1)
}

func entered() bool { return false }

var terminate = os.Kill

func ownGroup() *syscall.SysProcAttr { return nil }
