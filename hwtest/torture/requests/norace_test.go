//go:build !race

package requests

// many is how many trials a test run has.
const many = 2000
