// Command benchrsa measures package rsafast against OpenSSL and against Go's
// crypto/rsa, and the server's side of a handshake on it against the same code
// on crypto/rsa. All sides run on one core, in slices that take turns, so that
// whatever else the machine does meets all of them; a ratio is the median of
// those of neighbouring slices. The last lines are `ratio NAME VALUE`, for
// machines to read; docs/rsa.md says what each compares.
//
// OpenSSL is never linked: it runs in a C program of its own (peer/peer.c),
// built here, that is told over a pipe what to do.
package main
