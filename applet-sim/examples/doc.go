// Package examples is programs that use the emulator, and the test that runs them.
package examples
