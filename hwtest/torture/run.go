package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// Options bound a trial.
type Options struct {
	// Wait is how long a call to the card may take, so how long a mute card is
	// waited for.
	Wait time.Duration
	// Limit bounds the whole trial: what is not known by then is unknown.
	Limit time.Duration
}

// Result is how a trial ended.
type Result struct {
	Stack   string `json:"stack"`
	Trial   Trial  `json:"trial"`
	Outcome string `json:"outcome"` // done, refused, failed, unknown
	Why     string `json:"why,omitempty"`
	// Sessions is how often the card was opened to carry the operation out, and
	// Sendings how often a DEACTIVATE reached the card or was on its way to it.
	Sessions int `json:"sessions"`
	Sendings int `json:"sendings"`
	// Stored says that the answer that settled it is the one that the card had
	// stored when it carried out an earlier sending.
	Stored bool `json:"stored,omitempty"`
	// Helped says that the stack did not come back by itself: the reader had to be
	// plugged in anew.
	Helped bool `json:"helped,omitempty"`
	// Steps are the commands, where nothing went wrong.
	Steps []string `json:"steps,omitempty"`
	// Mismatches say where outcome, record and card disagree; none is good.
	Mismatches []string `json:"mismatches,omitempty"`
	// Broken says that the trial did not come to its end: the stack failed.
	Broken bool          `json:"broken,omitempty"`
	Took   time.Duration `json:"took"` // nanoseconds
	Log    string        `json:"-"`
}

// Run runs a trial.
func Run(ctx context.Context, s Stack, t Trial, o Options) Result {
	began := time.Now()
	res := Result{Stack: s.Name(), Trial: t}
	log := &logBuffer{}
	mismatch := func(format string, args ...any) {
		res.Mismatches = append(res.Mismatches, fmt.Sprintf(format, args...))
	}
	err := run(ctx, s, t, o, &res, log, mismatch)
	if h, ok := s.(interface{ Helped() bool }); ok {
		res.Helped = h.Helped()
	}
	if err != nil {
		res.Broken = true
		mismatch("the trial broke: %v", err)
	}
	res.Log = log.String()
	res.Took = time.Since(began).Round(time.Millisecond)
	return res
}

func run(ctx context.Context, s Stack, t Trial, o Options, res *Result, log *logBuffer, mismatch func(string, ...any)) error {
	all := ctx
	ctx, cancel := context.WithTimeout(all, o.Limit)
	defer cancel()
	c, before := newCard(t.Kind, int(t.hash()%cards))
	s.Put(c)
	if _, err := readCard(ctx, s, o, func(ctx context.Context, ch *apdu.Channel) (id.EID, error) {
		eid, err := card.ReadEID(ctx, ch)
		if err == nil && eid != before.EID {
			err = fmt.Errorf("%w: card %s is in the reader, not %s", apdu.ErrTransport, eid, before.EID)
		}
		return eid, err
	}); err != nil {
		return fmt.Errorf("before: %w", err)
	}

	m := &mender{ctx: ctx, stack: s, rand: rand.New(rand.NewPCG(t.Seed, t.hash()))}
	readers := &tap{Source: s.Source(o.Wait), failed: m.met}
	opened := 0
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	rep, err := drivers[t.Driver](ctx, bench{
		source: readers, reader: s.Reader(), image: before, seed: t.Seed, log: logger,
		arm: func() {
			opened = readers.opened()
			c.arm(t.Injections, func(i Injection) {
				logger.Info("strike", "injection", i.String())
				m.strike(i)
			})
		},
	})
	counted := c.disarm()
	if merr := m.finish(); err == nil {
		err = merr
	}
	if err != nil {
		return err
	}
	// A second fault may find nothing left to strike.
	if counted.left > 0 && counted.left == len(t.Injections) {
		return fmt.Errorf("%d faults did not strike: there were %d commands", counted.left, len(counted.steps))
	}
	res.Outcome, res.Why, res.Sessions = rep.outcome, rep.why, readers.opened()-opened
	res.Sendings, res.Stored = counted.sendings, counted.doneAt > 0 && counted.doneAt < counted.sendings
	if len(t.Injections) == 0 {
		res.Steps = StepNames(counted.steps)
	}
	ctx, cancel = context.WithTimeout(all, o.Limit)
	defer cancel()
	return compare(ctx, s, o, c, before.EventCounter, rep, mismatch)
}

// cards is how many cards there are (servertest.Image).
const cards = 100

// hash tells trials apart.
func (t Trial) hash() uint64 {
	h := fnv.New64a()
	h.Write([]byte(t.String()))
	return h.Sum64()
}

// compare holds outcome, record and proof against the card: what its memory
// holds, and what it says under authentication through the stack.
func compare(ctx context.Context, s Stack, o Options, c *Card, counter uint32, rep report, mismatch func(string, ...any)) error {
	now := c.image()
	truth := stateOfImage(now)
	same := func(what string, got state) {
		if got.Counter != truth.Counter || !maps.Equal(got.Profiles, truth.Profiles) {
			mismatch("%s has event counter %d and profiles %v, the card %d and %v", what, got.Counter, got.Profiles, truth.Counter, truth.Profiles)
		}
	}
	record, err := card.ParseRecord(servertest.Record(now))
	if err != nil {
		return err
	}
	target := record.Target()
	status, err := readCard(ctx, s, o, func(ctx context.Context, ch *apdu.Channel) (*card.Status, error) {
		status, _, err := servertest.Terminal().ReadStatus(ctx, ch, target)
		return status, err
	})
	if err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	same("GET STATUS", stateOfStatus(status))
	same("the record", rep.record)

	answers := 0
	if now.Runtime != nil {
		answers = len(now.Runtime.Answers)
	}
	done := uint32(0)
	switch rep.outcome {
	case card.OutcomeDone.String():
		done = 1
		if rep.proof == nil {
			mismatch("done without the card's answer")
		} else if err := card.Verify(target, rep.proof.command, rep.proof.data, rep.proof.receipt); err != nil {
			mismatch("the receipt does not verify: %v", err)
		}
	case card.OutcomeRefused.String(), card.OutcomeFailed.String():
	default:
		mismatch("the outcome is %s though the card is there: %s", rep.outcome, rep.why)
		done = truth.Counter - counter
	}
	if truth.Counter != counter+done || answers != int(done) {
		mismatch("outcome %s, and the card did it %d times (%d answers stored)", rep.outcome, truth.Counter-counter, answers)
	}
	return nil
}

// readCard opens the card as another program would and reads from it, as soon as
// it is there.
func readCard[T any](ctx context.Context, s Stack, o Options, read func(context.Context, *apdu.Channel) (T, error)) (T, error) {
	source := s.Source(o.Wait)
	var out T
	var last error
	err := until(ctx, func() bool {
		conn, err := source.Open(ctx, s.Reader(), reader.Exclusive)
		if err == nil {
			out, err = read(ctx, apdu.BasicChannel(conn))
			err = errors.Join(err, conn.Close())
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err == nil
	})
	if err != nil {
		return out, errors.Join(err, last)
	}
	return out, nil
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
