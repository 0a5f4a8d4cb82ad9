package hwtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/hwtest/report"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/atr"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
)

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// factIf notes what is not empty.
func factIf(t *testing.T, name, value string) {
	if value != "" {
		report.Fact(t, name, "%s", value)
	}
}

func checkInfo(t *testing.T, s *station) {
	report.Fact(t, "identity", "%s", s.reader.ID)
	info, err := s.source.Info(t.Context(), s.reader.Name)
	switch {
	case errors.Is(err, apdu.ErrCardBusy):
		t.Errorf("another program holds the reader: end it: %v", err)
	case err != nil:
		t.Error(err)
	}
	factIf(t, "vendor", info.Vendor)
	factIf(t, "type", info.Type)
	factIf(t, "version", info.Version)
	factIf(t, "serial", info.Serial)
	var features []string
	for _, f := range info.Features {
		features = append(features, f.Tag.String())
	}
	factIf(t, "features", strings.Join(features, ", "))
	switch {
	case !info.Card:
		report.Fact(t, "card", "none")
		return
	case info.Mute:
		t.Error("the card does not answer to reset: is it the right way round?")
		return
	}
	report.Fact(t, "answer to reset", "%X", info.ATR)
	parsed, err := atr.Parse(info.ATR)
	if !assert.NoError(t, err, "the answer to reset is not what ISO/IEC 7816-3 has") {
		return
	}
	for _, l := range parsed.Lines(int(info.DefaultClock)) {
		t.Log(l)
	}
}

// shortest is SELECT of the master file, without a response wanted (ISO/IEC
// 7816-4 §11.1.1): whatever a card answers, it does it no harm.
var shortest = apdu.Command{INS: 0xA4, P2: 0x0C, Data: []byte{0x3F, 0x00}}

func checkRoundTrip(t *testing.T, s *station) {
	conn := s.conn(t)
	if conn == nil {
		return
	}
	capdu, err := shortest.AppendBinary(nil)
	require.NoError(t, err)
	once := func() []byte {
		rapdu, err := conn.Transmit(t.Context(), capdu)
		require.NoError(t, err)
		return rapdu
	}
	report.Fact(t, "command", "%X, answered by %X, %s", capdu, once(), conn.Protocol())
	took := make([]float64, s.config.Limits.RoundTrips)
	for i := range took {
		start := time.Now()
		once()
		took[i] = millis(time.Since(start))
	}
	report.Measure(t, report.Measurement{Name: "round trip", Unit: "ms", Plot: report.Distribution, Values: took})
}

// probe is a connection that is made anew after each exchange that failed: a
// command that a reader does not carry may cost the card its session.
type probe struct {
	t    *testing.T
	s    *station
	conn *pcsc.Conn
	slow time.Duration // the longest exchange that was carried
}

func newProbe(t *testing.T, s *station) *probe {
	conn := s.conn(t)
	if conn == nil {
		return nil
	}
	return &probe{t: t, s: s, conn: conn}
}

// carried reports whether an exchange brought an answer, and the answer.
func (p *probe) carried(cmd apdu.Command) (rapdu []byte, ok bool) {
	p.t.Helper()
	capdu, err := cmd.AppendBinary(nil)
	require.NoError(p.t, err)
	start := time.Now()
	rapdu, err = p.conn.Transmit(p.t.Context(), capdu)
	if err == nil {
		p.slow = max(p.slow, time.Since(start))
		_, _, err = apdu.ParseResponse(rapdu)
	}
	if err == nil {
		return rapdu, true
	}
	p.t.Logf("command of %d bytes, Ne %d: %v", len(capdu), cmd.Ne, err)
	_ = p.conn.Close()
	p.conn, err = p.s.connect(p.t)
	require.NoError(p.t, err, "the reader is not usable again after a command that it did not carry")
	p.t.Cleanup(func() { _ = p.conn.Close() })
	return nil, false
}

// extended reports whether card and transport carry extended length.
func (p *probe) extended() bool { return apdu.BasicChannel(p.conn).Extended() }

// tooSlow reports whether twice as much might take longer than the card has for
// an answer.
func (p *probe) tooSlow() bool { return p.slow > p.s.config.Limits.Answer/4 }

// largest is largestOf for this connection.
func (p *probe) largest(limit int, carried func(n int) bool) (n int, whole bool) {
	return largestOf(limit, p.tooSlow, carried)
}

// largestOf is the largest n up to limit that is carried, 0 for none: twice as
// much each time, and between the last two by halves. It ends early, with whole
// false, where exchanges take too long.
func largestOf(limit int, tooSlow func() bool, carried func(n int) bool) (n int, whole bool) {
	if limit == 0 {
		return 0, true
	}
	var lo, hi int // carried, not carried
	for n := min(255, limit); hi == 0; n = min(2*n+1, limit) {
		switch {
		case !carried(n):
			hi = n
		case n == limit:
			return limit, true
		case tooSlow():
			return n, false
		default:
			lo = n
		}
	}
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; carried(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo, true
}

func checkLargestCommand(t *testing.T, s *station) {
	p := newProbe(t, s)
	if p == nil {
		return
	}
	limit, why := s.config.Limits.Data, "what the bench file allows"
	if !p.extended() {
		limit, why = min(limit, apdu.MaxShortData), "short length: the card or the transport has no other"
	}
	got, whole := p.largest(limit, func(n int) bool {
		// SELECT by a name that no application has.
		_, ok := p.carried(apdu.Command{INS: 0xA4, P1: 0x04, Data: bytes.Repeat([]byte{0xF0}, n)})
		return ok
	})
	if !whole {
		why = fmt.Sprintf("an exchange took %s", p.slow.Round(time.Millisecond))
	}
	if got == limit || !whole {
		report.Fact(t, "ended at", "%s", why)
	}
	report.Measure(t, report.Measurement{Name: "largest command data", Unit: "bytes", Values: []float64{float64(got)}})
	promised, by := promisedData(t, s, p)
	report.Fact(t, "promised", "%d bytes of data, by %s", promised, by)
	if whole {
		assert.GreaterOrEqual(t, got, min(promised, limit), "the reader carries less command data than %s promises", by)
	}
}

// promisedData is how many bytes of command data reader and card say that they
// carry.
func promisedData(t *testing.T, s *station, p *probe) (n int, by string) {
	t.Helper()
	if !p.extended() {
		return apdu.MaxShortData, "ISO/IEC 7816-3 (short length)"
	}
	info, err := s.source.Info(t.Context(), s.reader.Name)
	if err == nil && info.Properties != nil && info.Properties.MaxAPDUData != nil {
		if max := int(*info.Properties.MaxAPDUData); max > 0 {
			return max, "the reader (dwMaxAPDUDataSize)"
		}
	}
	if devices, reason := s.devices(t); reason == "" {
		if d := deviceOf(devices, s.reader.ID); d != nil && d.Descriptor.Features.Level() == ccid.ExtendedAPDU {
			const headers = 10 + 4 + 3 + 2 // of the CCID message and of the command, and Le
			return max(d.Descriptor.MaxMessage()-headers, apdu.MaxShortData), "the reader (dwMaxCCIDMessageLength)"
		}
	}
	return apdu.MaxShortData, "every reader; this one says no more"
}

// question is a command whose answer may be long; it leaves what the card stores
// as it is.
type question struct {
	name string
	ask  func(ne int) (rapdu []byte, carried bool)
}

func (p *probe) questions() []question {
	plain := func(cmd apdu.Command) func(int) ([]byte, bool) {
		return func(ne int) ([]byte, bool) {
			cmd.Ne = min(ne, apdu.MaxShortNe)
			return p.carried(cmd)
		}
	}
	return []question{
		{"SELECT the master file", plain(apdu.Command{INS: 0xA4, P2: 0x04, Data: []byte{0x3F, 0x00}})},
		{"SELECT the management applet", plain(apdu.Command{INS: 0xA4, P1: 0x04, Data: []byte(card.AID)})},
		{"INTERNAL AUTHENTICATE", p.authenticate},
		{"GetProfilesInfo", p.listProfiles},
	}
}

// authenticate asks the management applet for its longest answer in the clear,
// which it forgets at the next reset.
func (p *probe) authenticate(ne int) ([]byte, bool) {
	ctx, ch := p.t.Context(), apdu.BasicChannel(p.conn)
	if _, err := card.Select(ctx, ch); err != nil {
		return nil, refused(err)
	}
	info, err := card.ReadInfo(ctx, ch)
	if err != nil || len(info.Failures) == 0 {
		return nil, err == nil
	}
	rs := make([]byte, 16)
	rand.Read(rs)
	return p.carried(apdu.Command{INS: 0x88, P1: 0x01, P2: info.Failures[0].KID, Data: rs, Ne: ne})
}

// listProfiles gives the longest response APDU by which an eUICC lists its
// profiles.
func (p *probe) listProfiles(int) ([]byte, bool) {
	noted := &longest{Conn: p.conn}
	e, err := es10.Open(p.t.Context(), noted, es10.Options{})
	if err == nil {
		_, err = e.Profiles(p.t.Context())
	}
	return noted.rapdu, err == nil || errors.Is(err, es10.ErrNoISDR) || refused(err)
}

// longest notes the longest response APDU.
type longest struct {
	apdu.Conn
	rapdu []byte
}

func (l *longest) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	rapdu, err := l.Conn.Transmit(ctx, capdu)
	if len(rapdu) > len(l.rapdu) {
		l.rapdu = rapdu
	}
	return rapdu, err
}

func checkLargestResponse(t *testing.T, s *station) {
	p := newProbe(t, s)
	if p == nil {
		return
	}
	ne, promised := apdu.MaxShortNe, apdu.MaxShortNe
	if p.extended() {
		ne = apdu.MaxExtendedNe
		promised, _ = promisedData(t, s, p)
	}
	got, by, whole := 0, "none", true
	for _, q := range p.questions() {
		rapdu, ok := q.ask(ne)
		if !ok { // the card has more to say than the reader carries
			whole = false
			n, _ := p.largest(ne, func(n int) bool {
				answer, ok := q.ask(n)
				if ok {
					rapdu = answer
				}
				return ok
			})
			assert.GreaterOrEqual(t, n, promised, "%s: the reader carries shorter responses than are promised", q.name)
		}
		if n := len(rapdu) - 2; n > got {
			got, by = n, q.name
		}
	}
	report.Fact(t, "longest answer to", "%s", by)
	report.Measure(t, report.Measurement{Name: "largest response data", Unit: "bytes", Values: []float64{float64(got)}})
	if whole {
		report.Fact(t, "ended at", "the card: it has no longer answer")
	}
}

func checkPowerCycles(t *testing.T, s *station) {
	conn := s.conn(t)
	if conn == nil {
		return
	}
	require.NoError(t, conn.ColdReset(t.Context()))
	first := conn.ATR()
	report.Fact(t, "answer to reset", "%X", first)
	var took []float64
	defer func() { // what was measured tells even where it fails
		if len(took) > 0 {
			report.Measure(t, report.Measurement{Name: "power cycle", Unit: "ms", Plot: report.Series, Values: took})
		}
	}()
	for i := range s.config.Limits.PowerCycles {
		start := time.Now()
		require.NoError(t, conn.ColdReset(t.Context()), "power cycle %d", i+1)
		took = append(took, millis(time.Since(start)))
		require.Equal(t, first, conn.ATR(), "the answer to reset of power cycle %d is another", i+1)
	}
	capdu, err := shortest.AppendBinary(nil)
	require.NoError(t, err)
	_, err = conn.Transmit(t.Context(), capdu)
	require.NoError(t, err, "the card answers after all of them")
}

func TestLargestOf(t *testing.T) {
	never := func() bool { return false }
	for _, limit := range []int{1, 2, 254, 255, 256, 1000, 65535} {
		for _, most := range []int{0, 1, 254, 255, 256, 511, 512, 65526, 65535} {
			tries := 0
			n, whole := largestOf(limit, never, func(n int) bool {
				tries++
				require.Positive(t, n)
				require.LessOrEqual(t, n, limit)
				return n <= most
			})
			assert.Equal(t, min(limit, most), n, "limit %d, most %d", limit, most)
			assert.True(t, whole)
			assert.LessOrEqual(t, tries, 26)
		}
	}
	n, whole := largestOf(65535, func() bool { return true }, func(int) bool { return true })
	assert.Equal(t, 255, n)
	assert.False(t, whole)
	n, whole = largestOf(0, never, func(int) bool { return true })
	assert.Zero(t, n)
	assert.True(t, whole)
}
