// Package rig runs a private pcscd with virtual readers in its own namespaces,
// so that tests and demonstrations meet the real PC/SC daemon and nothing of
// the machine's own: its readers, its pcscd, its network.
//
// A program calls Enter first of all and StartPCSCD (or Start, in a test) then:
//
//	func TestMain(m *testing.M) {
//		rig.Enter()
//		os.Exit(m.Run())
//	}
//
// It needs Linux with namespaces, and Debian's packages pcscd and
// vsmartcard-vpcd or their like.
package rig

import "errors"

// ErrNotEntered says that the program is not in the private namespaces, where
// alone a pcscd may be started: its socket and vpcd's ports, open to every
// network there is, would be the machine's.
var ErrNotEntered = errors.New("rig: not in private namespaces: call rig.Enter first")
