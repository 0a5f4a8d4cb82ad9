// Package tooltest has tools that others wrote meet the emulated card through a
// real pcscd.
package tooltest
