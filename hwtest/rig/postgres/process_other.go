//go:build !linux

package postgres

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

var errLinux = errors.New("a server that ends with its process needs Linux")

type identity struct{}

func newIdentity() (identity, error) { return identity{}, errLinux }

func (identity) own(string) error { return errLinux }

func (identity) attributes() *syscall.SysProcAttr { return nil }

func (identity) spawn(*exec.Cmd, syscall.Signal) (chan struct{}, error) { return nil, errLinux }

func killAll(*os.Process, <-chan struct{}, string) error { return errLinux }
