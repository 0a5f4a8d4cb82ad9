package vpcd

import "syscall"

// quickACK sets TCP_QUICKACK. Failing costs time only.
func quickACK(conn syscall.RawConn) {
	_ = conn.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}
