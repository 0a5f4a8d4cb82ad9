package audit

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"

	"github.com/cardbridge/cardbridge/applet-sim/simtest"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// writer writes a trail as a server does.
type writer struct {
	testing.TB
	key     *Key
	seq     int64
	digest  Digest
	covered Checkpoint
	last    string
	lines   []Line
}

func newKey(t testing.TB, name string) *Key {
	secret, err := NewKey(name)
	require.NoError(t, err)
	key, err := ParseKey(secret + "\n")
	require.NoError(t, err)
	return key
}

func newWriter(t testing.TB) *writer { return &writer{TB: t, key: newKey(t, "one.example"), seq: 1} }

func (w *writer) add(h *Head, e Entry) {
	e.Seq, e.At = w.seq, 1_800_000_000_000+w.seq
	w.seq++
	if e.Detail == "" {
		e.Detail = `{}`
	}
	h.Extend(&e, nil)
	w.covered.Add(&w.digest, &e)
	w.lines = append(w.lines, Line{Entry: &e})
}

func (w *writer) sign(by *Key) {
	c := w.covered
	c.Digest, c.Through, c.Time = w.digest.Sum, w.seq-1, 1_800_000_100_000+w.seq
	c.Number = w.covered.Number + 1
	if w.last != "" {
		c.Before = HashNote(w.last)
	}
	text, err := c.Sign(by)
	require.NoError(w, err)
	w.covered.Number, w.last = c.Number, text
	w.lines = append(w.lines, Line{Note: text})
}

func export(t testing.TB, lines []Line) []byte {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, l := range lines {
		require.NoError(t, w.Write(l))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

const request = "3b241101-e2bb-4255-8caf-4136c566a962"

// answered is a deactivation on an emulated card: the details of its card's
// registration and of its outcome, and the card's EID.
func answered(t testing.TB, n int) (eid, registered, done string) {
	sim := simtest.New(t, simtest.Number(n))
	op := sim.Deactivation()
	require.NoError(t, op.RequestID.UnmarshalText([]byte(request)))
	target := sim.Target()
	cmd, report, err := sim.Terminal().Run(t.Context(), target, op)
	require.NoError(t, err)
	keys, err := (&card.Record{EID: target.EID, Keys: target.Keys, Suites: []cryptogram.Suite{target.Suite}, Profiles: []card.Profile{}}).MarshalJSON()
	require.NoError(t, err)
	reg, err := json.Marshal(Registration{PublicKeys: keys})
	require.NoError(t, err)
	a := report.Answer
	out, err := json.Marshal(Answer{
		By: "card", Result: a.Result.Hex(), StatusWord: a.SW.Hex(), Command: hex.EncodeToString(cmd.Data()),
		Response: hex.EncodeToString(a.Data), Receipt: hex.EncodeToString(a.Receipt),
	})
	require.NoError(t, err)
	return target.EID.String(), string(reg), string(out)
}

// sample is a small trail with all there is in one: what was before chains, two
// chains that interleave, a card's outcome, checkpoints.
func sample(t testing.TB) *writer {
	w := newWriter(t)
	old := Entry{Seq: w.seq, At: 1, Kind: "operator added", Internal: true, Detail: `{"name":"é\u0000"}`}
	w.seq++
	w.lines = append(w.lines, Line{Entry: &old})
	var earlier Digest
	earlier.AddUnchained(&old)
	a, b := Head{Chain: ChainID{1}}, Head{Chain: ChainID{2}}
	w.add(&a, Entry{Kind: Began, Internal: true, Detail: `{"earlier":{"events":1,"digest":"` + hex.EncodeToString(earlier.Sum[:]) + `"}}`})
	eid, registered, done := answered(t, 1)
	w.add(&a, Entry{Kind: Registered, EID: eid, Operator: 1, Internal: true, Detail: registered})
	w.sign(w.key)
	w.add(&b, Entry{Kind: Began, Internal: true})
	w.add(&a, Entry{Kind: "accepted", Request: request, EID: eid, Operator: 1})
	w.add(&b, Entry{Kind: "done", Request: request, EID: eid, Detail: done})
	w.add(&a, Entry{Kind: "user removed", Operator: 1, Internal: true})
	w.sign(w.key)
	return w
}

// verify is the report of an export.
func verify(t testing.TB, text []byte, key *Key, kept ...string) Report {
	trusted, err := Trust(key.Verifier(), key.Verifier())
	require.NoError(t, err)
	v, err := NewVerifier(trusted, kept...)
	require.NoError(t, err)
	defer v.Close()
	for r := NewReader(bytes.NewReader(text)); ; {
		l, err := r.Next()
		var syntax *SyntaxError
		switch {
		case errors.Is(err, io.EOF):
			return v.End()
		case errors.As(err, &syntax):
			return v.Fail(syntax)
		}
		require.NoError(t, err)
		require.NoError(t, v.Add(l))
		if v.report.Found > 0 {
			return v.End()
		}
	}
}

// found checks that a trail is not taken for whole, and why.
func found(t *testing.T, r Report, why string) {
	t.Helper()
	require.NotZero(t, r.Found)
	assert.Contains(t, r.Problems[0].Text, why)
}

func TestWholeTrail(t *testing.T) {
	w := sample(t)
	r := verify(t, export(t, w.lines), w.key)
	assert.Empty(t, r.Problems)
	assert.Equal(t, int64(7), r.Events)
	assert.Equal(t, int64(1), r.Earlier)
	assert.Equal(t, int64(2), r.Chains)
	assert.Equal(t, int64(2), r.Checkpoints)
	assert.Equal(t, int64(1), r.Receipts)
	assert.Zero(t, r.Unproven)
	h := Head{Chain: ChainID{3}}
	w.add(&h, Entry{Kind: Began})
	r = verify(t, export(t, w.lines), w.key)
	assert.Empty(t, r.Problems)
	assert.Equal(t, int64(1), r.Unproven)
}

// Every byte of an export counts, whatever becomes of it.
func TestEveryChangedByteIsFound(t *testing.T) {
	w := sample(t)
	text := export(t, w.lines)
	at := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			changed := bytes.Clone(text)
			for i := range at {
				for _, to := range []byte{text[i] ^ 1, text[i] ^ 0x20, text[i] ^ 0x80, '0', '\n'} {
					if to == text[i] {
						continue
					}
					changed[i] = to
					if verify(t, changed, w.key).Found == 0 {
						assert.Fail(t, "not found", "byte %d, %q to %q, in %.40q", i, text[i], to, text[max(i-20, 0):])
					}
				}
				changed[i] = text[i]
			}
		})
	}
	for i := range text {
		at <- i
	}
	close(at)
	wg.Wait()
}

// Any line that is gone, twice there, or behind the one after it; and any place
// at which the text ends.
func TestLinesRemovedDoubledSwapped(t *testing.T) {
	w := sample(t)
	lines := bytes.SplitAfter(export(t, w.lines), []byte("\n"))
	lines = lines[:len(lines)-1]
	for i := range lines {
		without := append(append([][]byte{}, lines[:i]...), lines[i+1:]...)
		assert.NotZero(t, verify(t, bytes.Join(without, nil), w.key).Found, "without line %d", i+1)
		twice := append(append([][]byte{}, lines[:i+1]...), lines[i:]...)
		assert.NotZero(t, verify(t, bytes.Join(twice, nil), w.key).Found, "line %d twice", i+1)
		if i+1 < len(lines) {
			swapped := append([][]byte{}, lines...)
			swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
			assert.NotZero(t, verify(t, bytes.Join(swapped, nil), w.key).Found, "lines %d and %d swapped", i+1, i+2)
		}
		assert.NotZero(t, verify(t, bytes.Join(lines[:i], nil), w.key).Found, "cut off before line %d", i+1)
	}
	// Also where whoever does it writes the last line anew.
	for i := range w.lines {
		without := append(append([]Line{}, w.lines[:i]...), w.lines[i+1:]...)
		if r := verify(t, export(t, without), w.key); i < len(w.lines)-1 {
			assert.NotZero(t, r.Found, "without entry %d", i+1)
		}
	}
}

// A trail whose end is gone, checkpoints and all, is whole by itself; one that
// was kept shows it.
func TestEndCutOff(t *testing.T) {
	w := sample(t)
	cut := export(t, w.lines[:4])
	assert.Empty(t, verify(t, cut, w.key).Problems)
	found(t, verify(t, cut, w.key, w.last), "cut off")
	assert.Empty(t, verify(t, export(t, w.lines), w.key, w.last, w.lines[3].Note).Problems)
	found(t, verify(t, export(t, w.lines[:1]), w.key), "no checkpoint")
}

// What is signed by somebody else, or anew by the server after a change, is not
// what was kept.
func TestForgedCheckpoints(t *testing.T) {
	forger := newKey(t, "one.example")
	w := sample(t)
	forged := newWriter(t)
	forged.key = forger
	h := Head{Chain: ChainID{9}}
	forged.add(&h, Entry{Kind: Began})
	forged.sign(forger)
	found(t, verify(t, export(t, forged.lines), w.key), "signed by none of the keys")
	other := newWriter(t)
	other.key = w.key
	g := Head{Chain: ChainID{1}}
	other.add(&g, Entry{Kind: Began})
	other.sign(w.key)
	other.add(&g, Entry{Kind: "x"})
	other.sign(w.key)
	assert.Empty(t, verify(t, export(t, other.lines), w.key).Problems)
	found(t, verify(t, export(t, other.lines), w.key, w.last), "another than the one that was kept")
	// Two signatures, or one coded otherwise, is not what a server signs.
	n, err := note.Open([]byte(w.last), note.VerifierList(must(note.NewVerifier(w.key.Verifier()))))
	require.NoError(t, err)
	twice, err := note.Sign(n, forger)
	require.NoError(t, err)
	lines := append([]Line{}, w.lines...)
	lines[len(lines)-1].Note = string(twice)
	found(t, verify(t, export(t, lines), w.key), "more signatures")
	raw := strings.TrimSuffix(w.last, "=\n")
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		loose := raw[:len(raw)-1] + string(c) + "=\n"
		if loose == w.last {
			continue
		}
		lines[len(lines)-1].Note = loose
		assert.NotZero(t, verify(t, export(t, lines), w.key).Found, "last digit %c", c)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// An outcome that its card did not sign is found, however well it is chained and
// signed by the server.
func TestOutcomesThatCardsDidNotSign(t *testing.T) {
	eid, registered, done := answered(t, 1)
	eid2, registered2, done2 := answered(t, 2)
	var a Answer
	require.NoError(t, json.Unmarshal([]byte(done), &a))
	change := func(f func(*Answer)) string {
		out := a
		f(&out)
		return string(must(json.Marshal(out)))
	}
	for name, c := range map[string]struct {
		outcome Entry
		why     string
	}{
		"another card's":    {Entry{Kind: "done", EID: eid, Detail: done2}, "does not prove"},
		"of another card":   {Entry{Kind: "done", EID: eid2, Detail: done}, "does not prove"},
		"another request's": {Entry{Kind: "done", EID: eid, Request: "3b241101-e2bb-4255-8caf-4136c566a963", Detail: done}, "the command is of request"},
		"none":              {Entry{Kind: "done", EID: eid, Detail: `{}`}, "does not prove"},
		"refused, and done": {Entry{Kind: "refused", EID: eid, Detail: done}, "the card signed"},
		"other result":      {Entry{Kind: "done", EID: eid, Detail: change(func(a *Answer) { a.Result = "03" })}, "the card signed"},
		"other status":      {Entry{Kind: "done", EID: eid, Detail: change(func(a *Answer) { a.StatusWord = "6985" })}, "does not prove"},
		"other response":    {Entry{Kind: "done", EID: eid, Detail: change(func(a *Answer) { a.Response = strings.Replace(a.Response, "900100", "900103", 1) })}, "does not prove"},
		"unknown, and done": {Entry{Kind: "unknown", EID: eid, Detail: done}, "the card signed"},
		"unregistered":      {Entry{Kind: "done", EID: "89049032000000000000000000000000", Detail: done}, "not registered"},
		"no digits":         {Entry{Kind: "done", EID: eid, Detail: change(func(a *Answer) { a.Receipt = "zz" })}, "does not prove"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWriter(t)
			h := Head{Chain: ChainID{1}}
			w.add(&h, Entry{Kind: Began})
			w.add(&h, Entry{Kind: Registered, EID: eid, Detail: registered})
			w.add(&h, Entry{Kind: Registered, EID: eid2, Detail: registered2})
			if c.outcome.Request == "" {
				c.outcome.Request = request
			}
			w.add(&h, c.outcome)
			w.sign(w.key)
			found(t, verify(t, export(t, w.lines), w.key), c.why)
		})
	}
}

// A plain eUICC signs nothing, and says so when it is registered.
func TestPlainCard(t *testing.T) {
	w := newWriter(t)
	h := Head{Chain: ChainID{1}}
	w.add(&h, Entry{Kind: Began})
	w.add(&h, Entry{Kind: Registered, EID: "1", Detail: `{"management":"es10c"}`})
	w.add(&h, Entry{Kind: "done", Request: request, EID: "1", Detail: `{"how":"es10c"}`})
	w.add(&h, Entry{Kind: "refused", Request: request, EID: "2", Detail: `{"by":"rule"}`})
	w.sign(w.key)
	r := verify(t, export(t, w.lines), w.key)
	assert.Empty(t, r.Problems)
	assert.Equal(t, int64(1), r.NoReceipts)
}

// A card's keys never change: what is said of them later does not count, and is
// found. Else whoever writes in the record lets a card prove less.
func TestRegisteredAgain(t *testing.T) {
	eid, registered, done := answered(t, 1)
	_, others, _ := answered(t, 2)
	for name, c := range map[string]struct {
		again, outcome string
		whole          bool
	}{
		"as plain":              {`{"management":"es10c"}`, `{"how":"es10c"}`, false},
		"with other keys":       {others, done, false},
		"by another operator":   {`{}`, done, true},
		"as it was":             {registered, done, true},
		"as plain, and signing": {`{"management":"es10c"}`, done, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWriter(t)
			h := Head{Chain: ChainID{1}}
			w.add(&h, Entry{Kind: Began})
			w.add(&h, Entry{Kind: Registered, EID: eid, Detail: registered})
			w.add(&h, Entry{Kind: Registered, EID: eid, Detail: c.again})
			w.add(&h, Entry{Kind: "done", Request: request, EID: eid, Detail: c.outcome})
			w.sign(w.key)
			r := verify(t, export(t, w.lines), w.key)
			if c.whole {
				assert.Empty(t, r.Problems)
				return
			}
			found(t, r, "was registered before")
		})
	}
}

// Requests of the record are held against the trail.
func TestRequestsOfTheRecord(t *testing.T) {
	steps := func(kinds ...string) (out []Entry) {
		for _, k := range kinds {
			kind, detail, _ := strings.Cut(k, " ")
			out = append(out, Entry{N: 1, Kind: kind, Detail: detail + "{}"[:2*btoi(detail == "")]})
		}
		return out
	}
	answer := `{"by":"card","command":"01","response":"02","receipt":"03"}`
	for name, c := range map[string]struct {
		r     Recorded
		whole bool
	}{
		"done":             {Recorded{State: "done", Finished: true, Command: []byte{1}, Response: []byte{2}, Receipt: []byte{3}, Steps: steps("accepted", "sending", "done "+answer)}, true},
		"other receipt":    {Recorded{State: "done", Finished: true, Command: []byte{1}, Response: []byte{2}, Receipt: []byte{4}, Steps: steps("done " + answer)}, false},
		"no receipt":       {Recorded{State: "done", Finished: true, Steps: steps("done " + answer)}, false},
		"receipt put in":   {Recorded{State: "failed", Finished: true, Receipt: []byte{3}, Steps: steps("failed")}, false},
		"other state":      {Recorded{State: "failed", Finished: true, Steps: steps("accepted", "done")}, false},
		"not ended":        {Recorded{State: "failed", Steps: steps("failed")}, false},
		"approved":         {Recorded{State: "accepted", Steps: steps("held", "approved")}, true},
		"sent again":       {Recorded{State: "unknown", Steps: steps("sending", "unknown", `sending {"again":true}`)}, true},
		"sent":             {Recorded{State: "sending", Steps: steps("waiting", "sending")}, true},
		"nothing known of": {Recorded{State: "accepted"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := NewVerifier(note.VerifierList())
			require.NoError(t, err)
			defer v.Close()
			c.r.Request = request
			v.Request(c.r)
			assert.Equal(t, c.whole, v.report.Found == 0, v.report.Problems)
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Entries that others hold back are covered later, and those that nobody waited
// for are found.
func TestMissingNumbers(t *testing.T) {
	w := newWriter(t)
	a, b := Head{Chain: ChainID{1}}, Head{Chain: ChainID{2}}
	w.add(&a, Entry{Kind: Began})
	late := Entry{Seq: w.seq, Kind: Began, Detail: "{}"}
	w.seq++
	b.Extend(&late, nil)
	w.add(&a, Entry{Kind: "x"})
	w.covered.Miss(late.Seq, late.Seq, 1_800_000_100_000)
	w.sign(w.key)
	first := append([]Line{}, w.lines...)
	w.covered.Missing = nil
	w.covered.Add(&w.digest, &late)
	w.lines = append(w.lines, Line{Entry: &late})
	w.add(&a, Entry{Kind: "y"})
	w.sign(w.key)
	assert.Empty(t, verify(t, export(t, w.lines), w.key).Problems)
	assert.Empty(t, verify(t, export(t, append(first, Line{Entry: &late})), w.key).Problems, "not covered yet")
	behind := Entry{Seq: 1, Kind: Began, Detail: "{}"}
	h := Head{Chain: ChainID{3}}
	h.Extend(&behind, nil)
	found(t, verify(t, export(t, append(w.lines, Line{Entry: &behind})), w.key), "put in later")
}

func TestCheckpointForm(t *testing.T) {
	w := sample(t)
	c, err := ParseCheckpoint(w.last)
	require.NoError(t, err)
	assert.Equal(t, int64(2), c.Number)
	for i := range 600 {
		c.Miss(int64(10*i), int64(10*i), c.Time-int64(i%2)*2*Patience.Milliseconds())
	}
	text, err := c.Sign(w.key)
	require.NoError(t, err)
	again, err := ParseCheckpoint(text)
	require.NoError(t, err)
	assert.Equal(t, c, again)
	assert.LessOrEqual(t, len(again.Missing), maxMissing)
	for _, bad := range []string{
		"", CheckpointTitle, strings.Replace(w.last, "number 2", "number 02", 1), strings.Replace(w.last, "number 2", "number -2", 1),
		strings.Replace(w.last, "missing\n", "missing  1-2@3\n", 1), strings.Replace(w.last, "missing\n", "missing 1-2\n", 1),
		strings.Replace(w.last, "Z\n", "\n", 1), strings.Replace(w.last, "chains", "chain", 1),
	} {
		_, err := ParseCheckpoint(bad)
		assert.Error(t, err, bad)
	}
}

func TestKeys(t *testing.T) {
	secret, err := NewKey("a host+é")
	require.NoError(t, err)
	key, err := ParseKey(secret)
	require.NoError(t, err)
	seed := secret[strings.LastIndex(secret, "+")+1:]
	for _, printed := range []string{key.String(), key.GoString(), key.Verifier()} {
		assert.NotContains(t, printed, seed)
		assert.NotContains(t, printed, "PRIVATE")
	}
	for _, bad := range []string{"", "PRIVATE+KEY", key.Verifier(), secret[:len(secret)-4], secret + "x", "PRIVATE+KEY+a+00000000+" + base64.StdEncoding.EncodeToString(make([]byte, 33))} {
		_, err := ParseKey(bad)
		assert.ErrorIs(t, err, ErrKey, bad)
	}
	_, err = Trust("x")
	assert.ErrorIs(t, err, ErrKey)
	_, err = NewVerifier(must(Trust(key.Verifier())), "no checkpoint")
	assert.Error(t, err)
}

// Whatever is read as an export ends in a report, and only what a server signed
// is whole.
func FuzzVerify(f *testing.F) {
	w := newWriter(f) // small: what is interesting is made smaller still, byte by byte
	h := Head{Chain: ChainID{1}}
	w.add(&h, Entry{Kind: Began})
	w.add(&h, Entry{Kind: Registered, EID: "1", Detail: `{"public_keys":{}}`})
	w.add(&h, Entry{Kind: "done", EID: "1", Request: request, Detail: `{"command":"82","receipt":"00"}`})
	w.sign(w.key)
	f.Add(export(f, w.lines))
	f.Add([]byte(firstLine + "\n" + `{"seq":1,"at":0,"kind":"x","detail":{}}` + "\n"))
	f.Add([]byte(firstLine + "\n" + `{"checkpoint":"\n\n— a b\n"}` + "\n" + `{"end":{"events":0,"checkpoints":1}}` + "\n"))
	key := newKey(f, "nobody")
	f.Fuzz(func(t *testing.T, b []byte) {
		assert.NotZero(t, verify(t, b, key).Found, "none of it is signed by a key that is trusted")
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(sample(f).last)
	f.Add(CheckpointTitle + "\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := ParseCheckpoint(text); err == nil {
			assert.True(t, strings.HasPrefix(text, c.text()+"\n"))
		}
	})
}

func BenchmarkExtend(b *testing.B) {
	b.ReportAllocs()
	e := Entry{Kind: "sending", Request: request, EID: "89049032000000000000000000000001", Operator: 1, Detail: strings.Repeat("x", 300)}
	var h Head
	var buf []byte
	for b.Loop() {
		buf = h.Extend(&e, buf)
	}
}

// BenchmarkVerify is one deactivation of an export: five entries, one with a
// receipt, and a share of a checkpoint.
func BenchmarkVerify(b *testing.B) {
	b.ReportAllocs()
	w := sample(b)
	text := export(b, w.lines)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		verify(b, text, w.key)
	}
}
