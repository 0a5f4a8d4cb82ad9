// Package ccidsim is a USB CCID reader in Go, with cards in its slots: the
// device's side of USB CCID rev 1.1 and the card's side of ISO/IEC 7816-3,
// written from those alone. It is the second reading that the CCID driver is
// tested against, and shares no code with it.
//
// A Device is one USB device. A host reaches it in the same process by Open,
// which gives its pipes, or as a device of the kernel's by package usbip. What
// happens to it is decided by the test: cards come and go, hooks bend single
// messages, faults strike at the n-th command.
package ccidsim
