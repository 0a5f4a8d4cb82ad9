// Package usbtest has the tests of both ways to a USB reader, package ccid and
// package pcsc over pcscd and its CCID driver, on a real USB stack: that of the
// virtual machine of package vm. The readers are ccidsim's, plugged into the
// machine's vhci_hcd, and QEMU's own.
package usbtest
