package vpcd

import (
	"context"
	"net"
	"syscall"
)

// dial connects to vpcd. Debian's writes length and data apart, and with a plain
// TCP client Nagle's algorithm on its side and delayed ACKs on this one make
// that 40 ms for each message; quickConn acknowledges at once.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr) // TCP_NODELAY is net's default
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &quickConn{Conn: conn, raw: raw}, nil
}

// quickConn asks for immediate acknowledgement around every read: the kernel
// forgets it again and again (tcp(7), TCP_QUICKACK).
type quickConn struct {
	net.Conn
	raw syscall.RawConn
}

func (c *quickConn) Read(b []byte) (int, error) {
	quickACK(c.raw)
	n, err := c.Conn.Read(b)
	quickACK(c.raw)
	return n, err
}
