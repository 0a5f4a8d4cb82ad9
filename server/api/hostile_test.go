package api_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// patience is how long a test waits for what must come; no test needs it.
const patience = time.Minute

// exposed is the interface as in service, on a listener of its own, with less
// patience.
type exposed struct {
	*fixture
	addr string
	tls  bool
	open atomic.Int64 // connections
	seen atomic.Int64 // of them, ever
}

func expose(t *testing.T, secure bool, change func(*http.Server)) *exposed {
	e := &exposed{fixture: newFixture(t), tls: secure}
	require.Eventually(t, func() bool { // the last that is recorded by nobody's request
		list, err := e.store.Events(t.Context(), 0, 100)
		require.NoError(t, err)
		return slices.ContainsFunc(list, func(e store.Event) bool { return e.Kind == "server started" })
	}, patience, time.Millisecond)
	srv := api.NewServer(e.api)
	if change != nil {
		change(srv)
	}
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			e.open.Add(1)
			e.seen.Add(1)
		case http.StateClosed:
			e.open.Add(-1)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	e.addr = ln.Addr().String()
	ended := make(chan error, 1)
	if secure {
		cert, _, err := api.Certificate(t.TempDir(), time.Now())
		require.NoError(t, err)
		srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
		go func() { ended <- srv.ServeTLS(ln, "", "") }()
	} else {
		go func() { ended <- srv.Serve(ln) }()
	}
	t.Cleanup(func() {
		assert.NoError(t, srv.Close())
		assert.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return e
}

// impatient has the server wait for nobody for long.
func impatient(srv *http.Server) {
	srv.ReadHeaderTimeout, srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout = 200*time.Millisecond, 400*time.Millisecond, 400*time.Millisecond, 400*time.Millisecond
}

func (e *exposed) dial(protocols ...string) net.Conn {
	d := &net.Dialer{Timeout: patience}
	var c net.Conn
	var err error
	if e.tls && protocols != nil {
		c, err = tls.DialWithDialer(d, "tcp", e.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	} else {
		c, err = d.Dial("tcp", e.addr)
	}
	require.NoError(e, err)
	e.Cleanup(func() { c.Close() })
	require.NoError(e, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// rest is all that a server says until it ends the connection, which it must.
func rest(t testing.TB, c net.Conn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	assert.False(t, errors.Is(err, os.ErrDeadlineExceeded), "the server keeps the connection")
	return b
}

// statuses are those of all replies in what a server said.
func statuses(t testing.TB, said []byte) (out []int) {
	in := bufio.NewReader(bytes.NewReader(said))
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			assert.True(t, errors.Is(err, io.ErrUnexpectedEOF), "%v: %q", err, said)
			return out
		}
		_, err = io.Copy(io.Discard, res.Body)
		assert.NoError(t, err)
		out = append(out, res.StatusCode)
	}
}

// serves checks that others are served.
func (e *exposed) serves() {
	e.Helper()
	protocols := []string(nil)
	if e.tls {
		protocols = []string{"http/1.1"}
	}
	c := e.dial(protocols...)
	fmt.Fprintf(c, "GET /v1/cards HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n\r\n", e.token)
	assert.Equal(e, []int{200}, statuses(e, rest(e, c)))
}

// Clients that send slowly, or nothing, or that read nothing, are ended, and the
// others served meanwhile.
func TestSlowClients(t *testing.T) {
	drip := func(c net.Conn) {
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	request := func(token string) string {
		return "POST /v1/deactivations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer " + token + "\r\n"
	}
	for name, begin := range map[string]func(token string) string{
		"nothing":            func(string) string { return "" },
		"headers, drop-wise": func(string) string { return "GET /v1/cards HTTP/1.1\r\nHost: x\r\nX-Slow: " },
		"a body, drop-wise":  func(token string) string { return request(token) + "Content-Length: 200000\r\n\r\n{" },
		"half a body":        func(token string) string { return request(token) + "Content-Length: 200000\r\n\r\n{" },
		"chunks, drop-wise":  func(token string) string { return request(token) + "Transfer-Encoding: chunked\r\n\r\n30000\r\n{" },
		"half a chunk size":  func(token string) string { return request(token) + "Transfer-Encoding: chunked\r\n\r\n3" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := expose(t, false, impatient)
			before := e.count()
			c := e.dial()
			_, err := io.WriteString(c, begin(e.token))
			require.NoError(t, err)
			if strings.Contains(name, "drop-wise") {
				go drip(c)
			}
			e.serves()
			for _, status := range statuses(t, rest(t, c)) {
				assert.True(t, status >= 400 && status < 500, "%d", status)
			}
			assert.Equal(t, before, e.count(), "nothing is recorded")
		})
	}
	t.Run("half of a TLS handshake", func(t *testing.T) {
		t.Parallel()
		e := expose(t, true, impatient)
		silent, half := e.dial(), e.dial()
		_, err := half.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xFC})
		require.NoError(t, err)
		e.serves()
		assert.Empty(t, rest(t, silent))
		rest(t, half)
	})
	t.Run("never reads", func(t *testing.T) {
		t.Parallel()
		e := expose(t, false, impatient)
		c := e.dial()
		require.NoError(t, c.(*net.TCPConn).SetReadBuffer(1<<10))
		many := strings.Repeat("GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
		go func() { _, _ = io.WriteString(c, many) }()
		require.Eventually(t, func() bool { return e.seen.Load() == 1 }, patience, time.Millisecond)
		e.serves()
		assert.Eventually(t, func() bool { return e.open.Load() == 0 }, patience, time.Millisecond)
	})
}

// What proxies and servers have read in two ways is read in one: there is one
// reply, and no second request in a first one's body.
func TestSmuggling(t *testing.T) {
	e := expose(t, false, nil)
	before := e.count()
	const inner = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	// One that is not there is refreshed: the reply is 404, and a body is of no
	// meaning.
	head := "POST /v1/cards/" + servertest.EID(9).String() + "/refresh HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + e.token + "\r\n"
	// This one's body is read.
	post := "POST /v1/deactivations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + e.token + "\r\n"
	chunked := "0\r\n\r\n" + inner
	length := fmt.Sprintf("Content-Length: %d\r\n", len(chunked))
	const te = "Transfer-Encoding: chunked\r\n"
	get := "GET /v1/cards HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + e.token + "\r\n"
	for name, tt := range map[string]struct {
		sent string
		want []int
	}{
		"one after the other":          {head + "\r\n" + strings.Replace(inner, "Host: x", "Host: x\r\nConnection: close", 1), []int{404, 200}},
		"a length":                     {head + "Connection: close\r\n" + length + "\r\n" + chunked, []int{404}},
		"length and chunks":            {head + length + te + "\r\n" + chunked, []int{404}},
		"chunks and length":            {head + te + length + "\r\n" + chunked, []int{404}},
		"chunks and length 0":          {head + te + "Content-Length: 0\r\n\r\n" + chunked, []int{404}},
		"two lengths":                  {head + length + "Content-Length: 5\r\n\r\n" + chunked, []int{400}},
		"two lengths, 0 first":         {head + "Content-Length: 0\r\n" + length + "\r\n" + chunked, []int{400}},
		"lengths in a list":            {head + "Content-Length: 5, 6\r\n\r\n" + chunked, []int{400}},
		"length +5":                    {head + "Content-Length: +5\r\n\r\n" + chunked, []int{400}},
		"length -1":                    {head + "Content-Length: -1\r\n\r\n" + chunked, []int{400}},
		"length 0x5":                   {head + "Content-Length: 0x5\r\n\r\n" + chunked, []int{400}},
		"length 5 5":                   {head + "Content-Length: 5 5\r\n\r\n" + chunked, []int{400}},
		"length of 2^64 + 5":           {head + "Content-Length: 18446744073709551621\r\n\r\n" + chunked, []int{400}},
		"length, a space before :":     {head + "Content-Length : 5\r\n\r\n" + chunked, []int{400}},
		"xchunked":                     {head + "Transfer-Encoding: xchunked\r\n\r\n" + chunked, []int{501}},
		"chunked, identity":            {head + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunked, []int{501}},
		"identity, chunked":            {head + "Transfer-Encoding: identity, chunked\r\n\r\n" + chunked, []int{501}},
		"chunked twice":                {head + te + te + "\r\n" + chunked, []int{501}},
		"chunked and nonsense":         {head + te + "Transfer-Encoding: x\r\n\r\n" + chunked, []int{501}},
		"chunked in quotes":            {head + "Transfer-Encoding: \"chunked\"\r\n\r\n" + chunked, []int{501}},
		"chunked with a VT":            {head + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunked, []int{400}},
		"chunked with a NUL":           {head + "Transfer-Encoding: chunked\x00\r\n\r\n" + chunked, []int{400}},
		"chunked, a space before :":    {head + "Transfer-Encoding : chunked\r\n\r\n" + chunked, []int{400}},
		"chunked after a tab":          {head + "Transfer-Encoding:\tchunked\r\n\r\n" + chunked, []int{404}},
		"chunked behind CR":            {head + "X: a\rTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", []int{400}},
		"chunked, HTTP/1.0":            {strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + te + "\r\n" + chunked, []int{404}},
		"chunks with bare LF":          {post + te + "\r\n0\n\n" + inner, []int{400}},
		"chunk extension, LF in it":    {post + te + "\r\n1;a\nb\r\nx\r\n" + chunked, []int{400}},
		"chunk extensions without end": {post + te + "\r\n1;" + strings.Repeat("a", 64<<10) + "\r\nx\r\n" + chunked, []int{400}},
		"many chunk extensions":        {post + te + "\r\n" + strings.Repeat("1;"+strings.Repeat("a", 1000)+"\r\nx\r\n", 200) + chunked, []int{400}},
		"chunk of 2^64":                {post + te + "\r\n10000000000000000\r\nx\r\n" + chunked, []int{400}},
		"chunk of -1":                  {post + te + "\r\n-1\r\nx\r\n" + chunked, []int{400}},
		"chunk of 0x1":                 {post + te + "\r\n0x1\r\nx\r\n" + chunked, []int{400}},
		"chunk longer than it says":    {post + te + "\r\n1\r\nxy\r\n" + chunked, []int{400}},
		"bare LF":                      {strings.ReplaceAll(get+"\r\n", "\r\n", "\n"), []int{200}},
		"folded line":                  {get + "X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n" + chunked, []int{200}},
		"first line folded":            {"GET /v1/cards HTTP/1.1\r\n Host: x\r\n\r\n", []int{400}},
		"absolute form":                {strings.Replace(get, "GET /v1", "GET http://elsewhere/v1", 1) + "\r\n", []int{200}},
		"absolute form, of nothing":    {strings.Replace(get, "GET /v1/cards", "GET http://elsewhere/", 1) + "\r\n", []int{404}},
		"authority form":               {strings.Replace(get, "GET /v1/cards", "CONNECT elsewhere:443", 1) + "\r\n", []int{404}},
		"asterisk form":                {strings.Replace(get, "GET /v1/cards", "OPTIONS *", 1) + "\r\n", []int{200}},
		"no host":                      {"GET /v1/cards HTTP/1.1\r\n\r\n" + inner, []int{400}},
		"two hosts":                    {get + "Host: y\r\n\r\n" + inner, []int{400}},
		"a space in a name":            {get + "X Y: z\r\n\r\n" + inner, []int{400}},
		"no name":                      {get + ": z\r\n\r\n" + inner, []int{400}},
		"HTTP/0.9":                     {"GET /v1/cards\r\n\r\n" + inner, []int{400}},
		"HTTP/1.2":                     {strings.Replace(get, "HTTP/1.1", "HTTP/1.10", 1) + "\r\n" + inner, []int{400}},
		"HTTP/2 without being asked":   {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400}},
		"a header without end":         {get + "X: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", []int{431}},
		"headers without end":          {get + strings.Repeat("X: x\r\n", 16<<10) + "\r\n", []int{431}},
		"a path without end":           {"GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", []int{431}},
	} {
		t.Run(name, func(t *testing.T) {
			c := e.dial()
			go func() { _, _ = io.WriteString(c, tt.sent) }() // it may not all be read
			assert.Equal(t, tt.want, statuses(t, rest(t, c)), "%.300q", tt.sent)
		})
	}
	assert.Equal(t, before, e.count(), "nothing is recorded")
	e.serves()
}

// session is a client of HTTP/2 that writes what it likes.
type session struct {
	*http2.Framer
	t    testing.TB
	conn net.Conn
	b    bytes.Buffer
	enc  *hpack.Encoder
}

func (e *exposed) session(t testing.TB) *session {
	c := e.dial("h2")
	require.Equal(t, "h2", c.(*tls.Conn).ConnectionState().NegotiatedProtocol)
	_, err := io.WriteString(c, http2.ClientPreface)
	require.NoError(t, err)
	s := &session{Framer: http2.NewFramer(c, c), t: t, conn: c}
	s.enc = hpack.NewEncoder(&s.b)
	s.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, s.WriteSettings())
	return s
}

// headers writes a request of names and values.
func (s *session) headers(stream uint32, end bool, fields ...string) error {
	s.b.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		require.NoError(s.t, s.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: s.b.Bytes(), EndStream: end, EndHeaders: true})
}

// reply is what becomes of a stream: its status, or why it was reset.
func (s *session) reply(stream uint32) string {
	for {
		f, err := s.ReadFrame()
		if err != nil {
			assert.False(s.t, errors.Is(err, os.ErrDeadlineExceeded))
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return f.ErrCode.String()
			}
		}
	}
}

// Requests that HTTP/2 does not allow, and that would be two in HTTP/1.1, are not
// answered as if they were good.
func TestSmugglingHTTP2(t *testing.T) {
	e := expose(t, true, nil)
	before := e.count()
	path := []string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/v1/cards"}
	request := append(path, "authorization", "Bearer "+e.token)
	with := func(more ...string) []string { return append(append([]string{}, request...), more...) }
	posted := func(more ...string) []string {
		return append([]string{":method", "POST", ":scheme", "https", ":authority", "x", ":path", "/v1/deactivations", "authorization", "Bearer " + e.token}, more...)
	}
	for name, tt := range map[string]struct {
		fields []string
		body   string
		want   string
	}{
		"good":                 {request, "", "200"},
		"connection":           {with("connection", "close"), "", "400"},
		"transfer-encoding":    {with("transfer-encoding", "chunked"), "", "400"},
		"upgrade":              {with("upgrade", "h2c"), "", "400"},
		"keep-alive":           {with("keep-alive", "1"), "", "400"},
		"proxy-connection":     {with("proxy-connection", "close"), "", "400"},
		"te":                   {with("te", "gzip"), "", "400"},
		"upper case":           {with("X-Up", "y"), "", "PROTOCOL_ERROR"},
		"CR and LF in a value": {with("x", "a\r\ntransfer-encoding: chunked"), "", "PROTOCOL_ERROR"},
		"space in a name":      {with("x y", "z"), "", "PROTOCOL_ERROR"},
		"pseudo at the end":    {with(":path", "/healthz"), "", "PROTOCOL_ERROR"},
		"two paths":            {append([]string{":path", "/healthz"}, request...), "", "PROTOCOL_ERROR"},
		"no path":              {[]string{":method", "GET", ":scheme", "https", ":authority", "x"}, "", "PROTOCOL_ERROR"},
		"unknown pseudo":       {append([]string{":x", "y"}, request...), "", "PROTOCOL_ERROR"},
		"two lengths":          {posted("content-length", "1", "content-length", "2"), "x", "400"},
		"shorter than it says": {posted("content-length", "9"), "x", "400"},
		"longer than it says":  {posted("content-length", "1"), "xyz", "PROTOCOL_ERROR"},
		"headers without end":  {with("x", strings.Repeat("x", 12<<10), "y", strings.Repeat("y", 3<<10), "z", strings.Repeat("z", 1<<10)), "", "431"},
	} {
		t.Run(name, func(t *testing.T) {
			s := e.session(t)
			require.NoError(t, s.headers(1, tt.body == "", tt.fields...))
			if tt.body != "" {
				require.NoError(t, s.WriteData(1, true, []byte(tt.body)))
			}
			assert.Equal(t, tt.want, s.reply(1))
		})
	}
	assert.Equal(t, before, e.count(), "nothing is recorded")
}

// Floods that cost the one who sends them less than the one who answers are ended,
// or carried, and the others served.
func TestFloodsHTTP2(t *testing.T) {
	e := expose(t, true, nil)
	request := []string{":method", "GET", ":scheme", "https", ":authority", "x", ":path", "/v1/cards", "authorization", "Bearer " + e.token}
	t.Run("rapid reset", func(t *testing.T) { // CVE-2023-44487
		const n = 20_000
		s := e.session(t)
		go func() {
			for i := range uint32(n) {
				if s.headers(2*i+1, true, request...) != nil || s.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
					return
				}
			}
			_ = s.headers(2*n+1, true, request...) // a server that keeps up with it answers the next one
		}()
		assert.Contains(t, []string{"ENHANCE_YOUR_CALM", "closed", "200", "429"}, s.reply(2*n+1))
		e.serves()
	})
	t.Run("more streams than allowed", func(t *testing.T) {
		s := e.session(t)
		for n := range uint32(200) {
			fields := append([]string{}, request...)
			fields[1] = "POST"
			require.NoError(t, s.headers(2*n+1, false, fields...))
		}
		assert.Equal(t, "REFUSED_STREAM", s.reply(2*199+1))
		e.serves()
	})
	for name, write := range map[string]func(*session) error{
		"PING":     func(s *session) error { return s.WritePing(false, [8]byte{}) },
		"SETTINGS": func(s *session) error { return s.WriteSettings() },
	} {
		t.Run(name+", and never reads", func(t *testing.T) { // CVE-2019-9512, CVE-2019-9515
			e := expose(t, true, func(srv *http.Server) { srv.WriteTimeout = time.Second })
			s := e.session(t)
			go func() {
				for write(s) == nil {
				}
			}()
			require.Eventually(t, func() bool { return e.seen.Load() == 1 }, patience, time.Millisecond)
			e.serves()
			if name == "PING" { // of the answers to SETTINGS net/http keeps one, and so the connection, for as long as its client does
				assert.Eventually(t, func() bool { return e.open.Load() == 0 }, patience, time.Millisecond, "the server keeps the connection")
			}
			_ = s.conn.Close()
		})
	}
	t.Run("CONTINUATION", func(t *testing.T) { // CVE-2023-45288
		s := e.session(t)
		require.NoError(t, s.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}}))
		var err error
		block := append([]byte{0x00, 0x01, 'x', 0x7F, 0x81, 0x7E}, bytes.Repeat([]byte("y"), 16<<10-7)...)
		for n := 0; err == nil && n < 100_000; n++ {
			err = s.WriteContinuation(1, false, block[:16<<10-7])
		}
		require.Error(t, err, "it goes on")
		e.serves()
	})
}
