//go:build race

package requests

// many is how many trials a test run has: under the race detector a few.
const many = 80
