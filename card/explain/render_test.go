package explain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu/trace"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
)

// long is a source of n exchanges without an end of its own.
type long struct {
	n, at int
	began bool
}

func (l *long) NextSession() (trace.Header, error) {
	if l.began {
		return trace.Header{}, io.EOF
	}
	l.began = true
	return trace.Header{Title: "long", Date: time.Unix(0, 0)}, nil
}

var longExchanges = [][2][]byte{
	{{0x00, 0xA4, 0x00, 0x04, 0x02, 0x2F, 0xE2}, {0x90, 0x00}},
	{{0x00, 0xB0, 0x00, 0x00, 0x0A}, {0x98, 0x68, 0x30, 0x0D, 0x1A, 0x2B, 0x3C, 0x4E, 0x00, 0x24, 0x90, 0x00}},
	{{0x80, 0xE2, 0x91, 0x00, 0x06, 0xBF, 0x3E, 0x03, 0x5C, 0x01, 0x5A}, {0xBF, 0x3E, 0x12, 0x5A, 0x10, 0x89, 0x04, 0x90, 0x32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42, 0x42, 0x47, 0x90, 0x00}},
	{{0x00, 0xA4, 0x04, 0x00, 0x07, 0xA0, 0, 0, 0, 0x87, 0x10, 0x02}, {0x6A, 0x82}},
}

func (l *long) Next() (trace.Entry, error) {
	if l.at == 2*l.n {
		return trace.Entry{}, io.EOF
	}
	i := l.at
	l.at++
	x := longExchanges[i/2%len(longExchanges)]
	at := time.Duration(i) * time.Millisecond
	if i%2 == 0 {
		return trace.Entry{Kind: trace.Command, Data: x[0], At: at, Line: i + 1}, nil
	}
	return trace.Entry{Kind: trace.Response, Data: x[1], At: at, Took: 800 * time.Microsecond, Line: i + 1}, nil
}

// TestMemoryIsFlat: what a trace costs does not grow with it.
func TestMemoryIsFlat(t *testing.T) {
	const least, most = 2_000, 60_000
	for name, make := range map[string]func(io.Writer) Renderer{
		"text": func(w io.Writer) Renderer { return NewText(w, true) },
		"JSON": func(w io.Writer) Renderer { return NewJSON(w) },
		"HTML": func(w io.Writer) Renderer { return NewHTML(w) },
	} {
		t.Run(name, func(t *testing.T) {
			r := make(io.Discard)
			x := New(nil)
			require.NoError(t, r.Session(trace.Header{}))
			src := &long{n: most}
			live := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			var before uint64
			for i := 0; ; i++ {
				e, err := src.Next()
				if err != nil {
					break
				}
				require.NoError(t, r.Entry(x.Explain(e)))
				if i == 2*least {
					before = live()
				}
			}
			after := live()
			runtime.KeepAlive(x)
			require.NoError(t, r.Close())
			assert.Less(t, int64(after)-int64(before), int64(1<<20))
		})
	}
}

func TestHTMLIsBounded(t *testing.T) {
	var page bytes.Buffer
	r := NewHTML(&page)
	require.NoError(t, Show(&long{n: 40_000}, nil, nil, r))
	require.NoError(t, r.Close())
	assert.Less(t, page.Len(), 8<<20)
	s := page.String()
	assert.Equal(t, maxRows+maxBadRows, strings.Count(s, "<details "))
	assert.Contains(t, s, "34000 more are in the timeline alone")
	assert.Contains(t, s, "40000 exchanges, 10000 refused or failed")
	assert.LessOrEqual(t, strings.Count(s, "<rect "), 3*maxBuckets)
}

func TestManySessionsOnAPage(t *testing.T) {
	var page bytes.Buffer
	r := NewHTML(&page)
	for range maxSections + 7 {
		require.NoError(t, r.Session(trace.Header{}))
	}
	require.NoError(t, r.Close())
	assert.Equal(t, maxSections, strings.Count(page.String(), "<section>"))
	assert.Contains(t, page.String(), "7 more sessions are not shown")
	assert.True(t, strings.HasSuffix(strings.TrimSpace(page.String()), "</html>"))
}

// TestHTMLNeedsNothingButItself and says nothing that the trace made up.
func TestHTMLNeedsNothingButItself(t *testing.T) {
	const evil = `<script>alert(1)</script>" onload="x" '&`
	h := trace.Header{Title: evil, Card: evil, Reader: evil, Tool: evil}
	var page bytes.Buffer
	r := NewHTML(&page)
	x := New(nil)
	require.NoError(t, r.Session(h))
	name := append([]byte{0x91, byte(len(evil))}, evil...)
	inner := append([]byte{0xE3, byte(len(name))}, name...)
	list := append([]byte{0xA0, byte(len(inner))}, inner...)
	answer := append(append([]byte{0xBF, 0x2D, byte(len(list))}, list...), 0x90, 0x00)
	for _, e := range []trace.Entry{
		{Kind: trace.Event, Name: evil, Text: evil},
		{Kind: trace.Command, Data: []byte{0x80, 0xE2, 0x91, 0, 3, 0xBF, 0x2D, 0}},
		{Kind: trace.Response, Data: answer, Took: time.Millisecond, At: time.Second},
	} {
		require.NoError(t, r.Entry(x.Explain(e)))
	}
	require.NoError(t, r.Close())
	s := page.String()
	assert.Equal(t, 2+3+2+1, strings.Count(s, "&lt;script&gt;alert(1)"), "the title twice, three fields of the header, the event's name and text, the provider")
	for _, never := range []string{"<script", `onload="`, "http:", "https:", "src=", "url(", "@import", "<link", "<iframe", "javascript:"} {
		assert.NotContains(t, strings.ToLower(s), never)
	}
	assert.Contains(t, s, "default-src 'none'")
	assert.Contains(t, s, "prefers-color-scheme: dark")
	assert.Contains(t, s, "<svg")
	for _, tag := range []string{"details", "section", "ul", "li", "svg", "a", "rect", "figure", "dl", "div"} {
		assert.Equal(t, strings.Count(s, "<"+tag+" ")+strings.Count(s, "<"+tag+">"), strings.Count(s, "</"+tag+">"), tag)
	}
}

// TestTerminalsAreNotCommanded: of control characters only our own colours come
// through.
func TestTerminalsAreNotCommanded(t *testing.T) {
	const evil = "a\x1b[2Jb\x07\r\n\u202ec\u009b"
	var plain, coloured, lines bytes.Buffer
	h := trace.Header{Title: evil, Card: evil, Reader: evil, Tool: evil, Origin: trace.Origin(evil)}
	x := New(nil)
	for _, r := range []Renderer{NewText(&plain, false), NewText(&coloured, true), NewJSON(&lines)} {
		require.NoError(t, r.Session(h))
		require.NoError(t, r.Entry(x.Explain(trace.Entry{Kind: trace.Event, Name: evil, Text: evil})))
		require.NoError(t, r.Close())
	}
	assert.Contains(t, coloured.String(), "\x1b["+bold+"m")
	for _, s := range []string{plain.String(), coloured.String(), lines.String()} {
		for _, colour := range []string{bold, faint, red, green, yellow, "0"} {
			s = strings.ReplaceAll(s, "\x1b["+colour+"m", "")
		}
		for _, never := range []string{"\x1b", "\x07", "\r", "\u202e", "\u009b"} {
			assert.NotContains(t, s, never)
		}
	}
	assert.Equal(t, 2, strings.Count(lines.String(), "\n"))
}

func TestJSONLines(t *testing.T) {
	var out bytes.Buffer
	r := NewJSON(&out)
	src := parse(t, "! connected 3B00", "> 01A4000C022FE2 # +1.000000s", "< 9000 # +1.002000s 2.000ms", "> 01200001021234", "< 63C1")
	require.NoError(t, Show(src, nil, nil, r))
	require.NoError(t, r.Close())
	var got []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		got = append(got, m)
	}
	require.Len(t, got, 6)
	assert.Equal(t, "session", got[0]["kind"])
	assert.Equal(t, map[string]any{"session": 1.0, "line": 3.0, "kind": "command", "at_us": 1e6, "channel": 1.0, "level": "plain",
		"title": "SELECT MF/EF.ICCID (card identity)", "data": "01A4000C022FE2"}, got[2])
	assert.Equal(t, 2000.0, got[3]["took_us"])
	assert.Equal(t, "good", got[3]["level"])
	assert.Equal(t, "0120000102****", got[4]["data"])
	assert.Equal(t, "bad", got[5]["level"])
}

func TestShowReadsOn(t *testing.T) {
	const two = "# cardbridge trace 2\n# origin: sky\n> 00B0000000\nnonsense\n< 9000\n# cardbridge trace 2\n# title: second\n> zz\n> 00A4000C023F00\n"
	var warned []string
	var out bytes.Buffer
	r := NewText(&out, false)
	require.NoError(t, Show(trace.NewReader(strings.NewReader(two)), nil, func(err error) { warned = append(warned, err.Error()) }, r))
	require.NoError(t, r.Close())
	assert.Len(t, warned, 3)
	assert.Contains(t, out.String(), "session 2: second")
	assert.Contains(t, out.String(), "SELECT MF")

	var syntax *trace.SyntaxError
	assert.ErrorAs(t, Show(trace.NewReader(strings.NewReader("hello\n")), nil, nil), &syntax)
	require.NoError(t, Show(trace.NewReader(strings.NewReader(two)), nil, nil, NewText(io.Discard, false)))
}

// broken is a renderer and a writer that fail.
type broken struct{}

var errBroken = errors.New("broken")

func (broken) Session(trace.Header) error  { return nil }
func (broken) Entry(Explained) error       { return errBroken }
func (broken) Close() error                { return errBroken }
func (broken) Write(p []byte) (int, error) { return 0, errBroken }

func TestShowStopsWhereItCannotWrite(t *testing.T) {
	assert.ErrorIs(t, Show(&long{n: 1}, nil, nil, broken{}), errBroken)
	for _, r := range []Renderer{NewText(broken{}, false), NewJSON(broken{}), NewHTML(broken{})} {
		assert.ErrorIs(t, errors.Join(Show(&long{n: 1000}, nil, nil, r), r.Close()), errBroken)
	}
}

func TestTimeline(t *testing.T) {
	few := newTimeline()
	for i := range 10 {
		few.add(point{at: time.Duration(i) * time.Second, took: time.Millisecond, channel: i % 2, title: fmt.Sprint(i)})
	}
	d := few.draw()
	assert.Len(t, d.Rects, 10)
	assert.Len(t, d.Lanes, 2)
	assert.Equal(t, "+9.001s", d.To)

	untimed := newTimeline()
	many := newTimeline()
	for i := range 100_000 {
		l := Good
		if i%10 == 0 {
			l = Bad
		}
		untimed.add(point{level: l})
		many.add(point{at: time.Duration(i) * time.Hour / 1000, level: l})
	}
	many.add(point{at: 1000 * time.Hour})
	for _, tl := range []*timeline{untimed, many} {
		for _, b := range []*buckets{&tl.byTime, &tl.byAge} {
			sum := counts{}
			for _, c := range b.counts {
				sum.n += c.n
				sum.bad += c.bad
			}
			assert.Equal(t, tl.n, sum.n)
			assert.Equal(t, tl.bad, sum.bad)
			assert.LessOrEqual(t, len(b.counts), maxBuckets)
		}
		assert.LessOrEqual(t, len(tl.draw().Rects), 3*maxBuckets)
	}
	assert.Equal(t, "exchange 1", untimed.draw().From)
	assert.NotEmpty(t, newTimeline().draw().Height)
}

func FuzzExplain(f *testing.F) {
	set := &vectors.Load(f).Sets[0]
	server, image, _ := vectorFiles(f, set)
	keys := keysOf(f, image, server)
	f.Add([]byte(strings.Join(vectorSession(&set.Sessions[0]), "\n")))
	for _, s := range []string{
		"> 00A4040010A0000005591010FFFFFFFF8900000100\n< 6121\n> 00C0000021\n< 6F009000",
		"> 80E2910006BF3E035C015A\n< BF3E125A10890490320000000000000000004242479000",
		"> 80E2110002BF2D\n< 9000\n> 80E291010100\n< BF2D03A001E39000",
		"> 00A40804047FFF6F07\n< 9000\n> 00B0000000\n< 0829541110325476989000",
		"> 00A40004026F40\n< 9000\n> 00B2010400\n< " + strings.Repeat("FF", 10) + "0791214365" + strings.Repeat("FF", 9) + "9000",
		"> 801200000B\n< D0098103010109820281829000\n> 801400000C810301010982028281830100\n< 9000",
		"> 8C0400000D970200008E080011223344556677\n< 99029000",
		"> 0020000108313233FFFFFFFFFF\n< 63C2\n! reset 3B00\n! removed x",
		"> A0A40000027F20\n< 9F16\n> A0C0000016\n< 00000000" + "7F2002" + "0000000000000000000000000000009000",
		"> 00A40004026F60\n< 9000\n> 00B0000000\n< 64F0114000FFFFFF00009000",
		"> 80E60400110AF06361726462726964670000000000\n< 9000\n> 80CA9F7F00\n< 9F7F00",
		"> FFB0\n<\n> FFFFFFFF\n< 6E00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		src := trace.NewReader(io.MultiReader(strings.NewReader("# cardbridge trace 2\n"), bytes.NewReader(in)))
		a, b, c := NewText(io.Discard, true), NewJSON(io.Discard), NewHTML(io.Discard)
		check := checker{t}
		require.NoError(t, Show(src, keys, nil, a, b, c, check))
		require.NoError(t, errors.Join(a.Close(), b.Close(), c.Close()))
	})
}

// checker holds what is explained against the bounds.
type checker struct{ t *testing.T }

func (checker) Session(trace.Header) error { return nil }
func (checker) Close() error               { return nil }
func (c checker) Entry(e Explained) error {
	require.LessOrEqual(c.t, len(e.Fields), maxFields+1)
	for _, f := range e.Fields {
		require.LessOrEqual(c.t, f.Depth, maxDepth)
		require.LessOrEqual(c.t, len(f.Value), 16*maxValue)
	}
	return nil
}

func BenchmarkShow(b *testing.B) {
	for name, make := range map[string]func(io.Writer) Renderer{
		"none": func(io.Writer) Renderer { return checker{} },
		"text": func(w io.Writer) Renderer { return NewText(w, false) },
		"json": func(w io.Writer) Renderer { return NewJSON(w) },
		"html": func(w io.Writer) Renderer { return NewHTML(w) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r := make(io.Discard)
			if name == "none" {
				x := New(nil)
				src := &long{n: b.N}
				for e, err := src.Next(); err == nil; e, err = src.Next() {
					x.Explain(e)
				}
			} else if err := errors.Join(Show(&long{n: b.N}, nil, nil, r), r.Close()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
		})
	}
}
