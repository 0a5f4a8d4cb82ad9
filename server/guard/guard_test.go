package guard

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var t0 = time.UnixMilli(1_800_000_000_000)

const hour = time.Hour

// Whatever is counted, no window that ends now or later misses any of it, and
// none keeps it for longer than a slot more than the window.
func TestCounts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var c Counts
	type one struct{ at time.Time }
	var all []one
	now := t0
	for range 5000 {
		now = now.Add(time.Duration(r.Int64N(int64(3 * time.Minute))))
		c.Asked(now, hour)
		if r.IntN(2) == 0 {
			c.Sent(now, hour)
		}
		all = append(all, one{now})
		least, most := int64(0), int64(0)
		for _, o := range all {
			if o.at.After(now.Add(-hour)) {
				least++
			}
			if o.at.After(now.Add(-hour - hour/slots)) {
				most++
			}
		}
		asked, sent := c.Sum(now, hour)
		require.GreaterOrEqual(t, asked, least)
		require.LessOrEqual(t, asked, most)
		require.LessOrEqual(t, sent, asked)
		require.LessOrEqual(t, len(c.slots), slots+2)
		if r.IntN(50) == 0 { // as the record keeps it
			back, err := ParseCounts(c.Append(nil))
			require.NoError(t, err)
			require.Equal(t, c, back)
			c = back
		}
	}
	asked, sent := c.Sum(now.Add(hour+hour/slots), hour)
	assert.Zero(t, asked)
	assert.Zero(t, sent)
}

func TestClockThatJumps(t *testing.T) {
	var c Counts
	for range 5 {
		c.Sent(t0.Add(1000*hour), hour) // the clock was wrong
	}
	_, sent := c.Sum(t0, hour)
	assert.Equal(t, int64(5), sent, "what is in the future counts")
	c.Sent(t0, hour)
	_, sent = c.Sum(t0.Add(hour-time.Minute), hour)
	assert.Equal(t, int64(6), sent)
	_, sent = c.Sum(t0.Add(hour+2*time.Minute), hour)
	assert.Zero(t, sent, "and leaves the window some time")
}

// A window of another length forgets nothing of what is in it.
func TestWindowChanges(t *testing.T) {
	for _, to := range []time.Duration{time.Minute, 10 * time.Minute, 24 * hour, 31 * 24 * hour} {
		var c Counts
		for i := range 60 {
			c.Sent(t0.Add(time.Duration(i)*time.Minute), hour)
		}
		now := t0.Add(59 * time.Minute)
		_, before := c.Sum(now, min(to, hour))
		c.Sent(now, to)
		_, after := c.Sum(now, to)
		assert.GreaterOrEqual(t, after, before+1, "%s", to)
	}
}

func scope(asked, sent int, pending int64) Scope {
	s := Scope{Pending: pending}
	for range asked {
		s.Counts.Asked(t0, hour)
	}
	for range sent {
		s.Counts.Sent(t0, hour)
	}
	return s
}

func TestAdmit(t *testing.T) {
	tripped := scope(0, 0, 0)
	tripped.TrippedAt, tripped.TrippedWhy = &t0, "too many"
	group := func(asked, sent int, pending int64) Scope {
		s := scope(asked, sent, pending)
		s.Group = "g"
		return s
	}
	none := Limits{NoLimit, NoLimit}
	for _, tt := range []struct {
		name   string
		scopes []Scope
		limits []Limits
		kind   Kind
		why    string
	}{
		{"first", []Scope{scope(0, 0, 0)}, []Limits{{1, 1}}, Pass, ""},
		{"no budget at all", []Scope{scope(0, 0, 0)}, []Limits{{0, NoLimit}}, Hold, "the operator has used its budget of 0 deactivations within 1 h"},
		{"last of the budget", []Scope{scope(9, 5, 4)}, []Limits{{10, NoLimit}}, Pass, ""},
		{"sent ones fill it", []Scope{scope(10, 10, 0)}, []Limits{{10, NoLimit}}, Hold, "budget of 10"},
		{"pending ones fill it", []Scope{scope(10, 0, 10)}, []Limits{{10, NoLimit}}, Hold, "budget of 10"},
		{"both fill it", []Scope{scope(10, 5, 5)}, []Limits{{10, NoLimit}}, Hold, "budget of 10"},
		{"the group is full", []Scope{scope(3, 3, 0), group(2, 2, 0)}, []Limits{none, {2, NoLimit}}, Hold, `card group "g"`},
		{"the ceiling is reached", []Scope{scope(20, 10, 0)}, []Limits{{10, 20}}, Trip, "more than 20"},
		{"a group's ceiling is reached", []Scope{scope(2, 0, 0), group(2, 0, 0)}, []Limits{none, {NoLimit, 2}}, Trip, `card group "g" asked for more than 2`},
		{"the ceiling goes before the budget", []Scope{scope(10, 10, 0)}, []Limits{{10, 10}}, Trip, "more than 10"},
		{"the breaker is open", []Scope{tripped}, []Limits{none}, Tripped, "too many"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Admit(tt.scopes, tt.limits, t0, hour)
			assert.Equal(t, tt.kind, d.Kind)
			assert.Contains(t, d.Why, tt.why)
			assert.Equal(t, tt.kind == Pass, d.Why == "")
		})
	}
}

func TestSend(t *testing.T) {
	open := scope(5, 5, 1)
	open.TrippedAt = &t0
	later := scope(5, 5, 1)
	later.Epoch = 2
	for _, tt := range []struct {
		name     string
		scope    Scope
		max      int64
		approved bool
		want     Kind
	}{
		{"within", scope(5, 4, 1), 5, false, Pass},
		{"the budget became less", scope(5, 5, 1), 5, false, Hold},
		{"approved beyond it", scope(5, 5, 1), 5, true, Pass},
		{"the breaker is open", open, NoLimit, true, Tripped},
		{"let in before it tripped", later, NoLimit, false, Hold},
		{"approved before it tripped", later, NoLimit, true, Hold},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Send([]Scope{tt.scope}, []Limits{{tt.max, NoLimit}}, 0, tt.approved, t0, hour)
			assert.Equal(t, tt.want, d.Kind)
		})
	}
}

// Requests come, wait for their cards and are sent, at random times: no window
// ever holds more than the budget.
func TestNoWindowHoldsMore(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		const budget = 7
		s := []Scope{{}}
		limits := []Limits{{budget, NoLimit}}
		now := t0
		var sent []time.Time
		for range 3000 {
			now = now.Add(time.Duration(r.Int64N(int64(10 * time.Minute))))
			if r.IntN(2) == 0 {
				if Admit(s, limits, now, hour).Kind == Pass {
					s[0].Counts.Asked(now, hour)
					s[0].Pending++
				}
			} else if s[0].Pending > 0 {
				if r.IntN(5) == 0 { // it expired
					s[0].Pending--
				} else if Send(s, limits, 0, false, now, hour).Kind == Pass {
					s[0].Pending--
					s[0].Counts.Sent(now, hour)
					sent = append(sent, now)
				}
			}
		}
		require.NotEmpty(t, sent)
		for i := budget; i < len(sent); i++ {
			require.GreaterOrEqual(t, sent[i].Sub(sent[i-budget]), hour, "seed %d", seed)
		}
	}
}

func FuzzParseCounts(f *testing.F) {
	var c Counts
	c.Asked(t0, hour)
	c.Sent(t0.Add(hour/2), hour)
	f.Add(c.Append(nil))
	f.Add([]byte{})
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCounts(b)
		if err != nil {
			assert.ErrorIs(t, err, errCounts)
			return
		}
		back, err := ParseCounts(c.Append(nil))
		require.NoError(t, err)
		assert.Equal(t, c.slots, back.slots)
		c.Sent(t0, hour)
		_, sent := c.Sum(t0, hour)
		assert.Positive(t, sent)
	})
}

func BenchmarkAdmitAndSend(b *testing.B) {
	b.ReportAllocs()
	s := []Scope{{}}
	limits := []Limits{{NoLimit, NoLimit}}
	buf := make([]byte, 0, 1024)
	for i := 0; b.Loop(); i++ {
		now := t0.Add(time.Duration(i) * time.Second)
		if d := Admit(s, limits, now, hour); d.Kind != Pass {
			b.Fatal(d)
		}
		s[0].Counts.Asked(now, hour)
		s[0].Counts.Sent(now, hour)
		buf = s[0].Counts.Append(buf[:0])
		var err error
		if s[0].Counts, err = ParseCounts(buf); err != nil {
			b.Fatal(err)
		}
	}
}
