package card

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/id"
)

// player plays commands and responses as they are written down.
type player struct {
	t     testing.TB
	steps [][2][]byte
}

func (p *player) Transmit(_ context.Context, capdu []byte) ([]byte, error) {
	require.NotEmpty(p.t, p.steps, "command %X too many", capdu)
	step := p.steps[0]
	p.steps = p.steps[1:]
	require.Equal(p.t, append([]byte{}, step[0]...), capdu)
	return step[1], nil
}

func (p *player) ATR() []byte                 { return (&rogue{}).ATR() }
func (p *player) Reset(context.Context) error { return nil }
func (p *player) Close() error                { return nil }

// short is a player whose transport has no extended length.
type short struct{ player }

func (*short) ShortOnly() bool { return true }

// inBubble runs a subtest in virtual time: nobody waits for a card that is away.
func inBubble(t *testing.T, name string, fn func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, fn) })
}

// operation is op on an emulated card that is put back whenever it is away.
func operation(t *testing.T, c *appletsim.Card, op Operation) (Operation, *[]string) {
	steps := &[]string{}
	op.RequestID = id.RequestID{0xD0, 2}
	if op.INS == 0 {
		op.INS = INSDeactivate
	}
	if op.Attempts == 0 {
		op.Attempts = 4
	}
	op.Wait = time.Minute
	op.Open = func(ctx context.Context) (apdu.Conn, error) {
		_, ok := ctx.Deadline()
		assert.True(t, ok, "an Open is bounded")
		c.Insert()
		return c.Connect(), nil
	}
	op.Step = func(format string, args ...any) { *steps = append(*steps, fmt.Sprintf(format, args...)) }
	return op, steps
}

func TestRun(t *testing.T) {
	w := newWorld(t, 0)
	c := w.emulate(t, nil)
	op, steps := operation(t, c, Operation{})
	cmd, rep, err := w.terminal.Run(t.Context(), w.target, op)
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, rep.Outcome)
	assert.Equal(t, Command{INS: INSDeactivate, RequestID: op.RequestID, Operator: mobile, ICCID: &everyday, Counter: 7}, cmd)
	assert.Equal(t, appletsim.Disabled, c.Image().Profiles[0].State)
	assert.Len(t, *steps, 2)

	// Back again: two are disabled, so one must be named.
	op, _ = operation(t, c, Operation{INS: INSActivate})
	op.RequestID[2] = 1
	_, _, err = w.terminal.Run(t.Context(), w.target, op)
	assert.ErrorContains(t, err, "2 are disabled")
	op.ICCID = &everyday
	_, rep, err = w.terminal.Run(t.Context(), w.target, op)
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, rep.Outcome)
	assert.Equal(t, uint32(9), c.Image().EventCounter)
}

// The card leaves after it did the command and before it answered, or before:
// the record ends right either way.
func TestRunRecovers(t *testing.T) {
	for kind, name := range map[appletsim.FaultKind]string{appletsim.CutAfter: "after", appletsim.CutBefore: "before"} {
		inBubble(t, name, func(t *testing.T) {
			w := newWorld(t, 0)
			c := w.emulate(t, nil)
			c.Inject(appletsim.Fault{Write: 1, Kind: kind})
			op, _ := operation(t, c, Operation{})
			_, rep, err := w.terminal.Run(t.Context(), w.target, op)
			require.NoError(t, err)
			assert.Equal(t, OutcomeDone, rep.Outcome)
			require.NotNil(t, rep.Status, "recovery reads the status")
			assert.Equal(t, uint32(8), rep.Status.EventCounter, "done once")
			assert.Equal(t, uint32(8), c.Image().EventCounter)
			assert.NoError(t, rep.StatusErr)
		})
	}
}

// Every attempt is lost: unknown, and the same request says later what was.
func TestRunStaysUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		c := w.emulate(t, nil)
		c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
		op, _ := operation(t, c, Operation{Attempts: 1})
		cmd, rep, err := w.terminal.Run(t.Context(), w.target, op)
		assert.ErrorIs(t, err, ErrOutcomeUnknown)
		assert.ErrorIs(t, err, apdu.ErrCardRemoved)
		assert.Equal(t, OutcomeUnknown, rep.Outcome)
		assert.True(t, rep.Sent)

		later, _ := operation(t, c, Operation{Operator: &cmd.Operator, ICCID: cmd.ICCID, Counter: &cmd.Counter})
		_, rep, err = w.terminal.Run(t.Context(), w.target, later)
		require.NoError(t, err)
		assert.Equal(t, OutcomeDone, rep.Outcome)
		assert.Equal(t, uint32(8), c.Image().EventCounter)
	})
}

// The card does not come back: still unknown, never failed.
func TestRunCardStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		c := w.emulate(t, nil)
		c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
		op, _ := operation(t, c, Operation{Attempts: 3})
		op.Wait = time.Millisecond // one Open each
		insert, opens := op.Open, 0
		op.Open = func(ctx context.Context) (apdu.Conn, error) {
			if opens++; opens > 1 {
				return nil, apdu.ErrNoCard
			}
			return insert(ctx)
		}
		_, rep, err := w.terminal.Run(t.Context(), w.target, op)
		assert.ErrorIs(t, err, ErrOutcomeUnknown)
		assert.ErrorIs(t, err, apdu.ErrNoCard)
		assert.Equal(t, OutcomeUnknown, rep.Outcome)
		assert.True(t, rep.Sent)
		assert.Equal(t, 3, opens)
	})
}

// leaver is a card that leaves when it is spoken to.
type leaver struct{ player }

func (*leaver) Transmit(context.Context, []byte) ([]byte, error) {
	return nil, fmt.Errorf("transmit: %w", apdu.ErrCardRemoved)
}

// Nothing was sent yet: a card that leaves is tried again, for one that is not
// there Wait is long enough, and what the card says is believed.
func TestRunBeforeSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		seven := uint32(7)
		for name, given := range map[string]Operation{
			"reads first": {Attempts: 3},
			"all given":   {Attempts: 3, Operator: &mobile, ICCID: &everyday, Counter: &seven},
		} {
			opens := 0
			op, _ := operation(t, w.emulate(t, nil), given)
			op.Wait = time.Millisecond // one Open each
			op.Open = func(context.Context) (apdu.Conn, error) {
				opens++
				return nil, fmt.Errorf("reader: %w", apdu.ErrNoCard)
			}
			_, rep, err := w.terminal.Run(t.Context(), w.target, op)
			assert.ErrorIs(t, err, apdu.ErrNoCard, name)
			assert.NotErrorIs(t, err, ErrOutcomeUnknown, name)
			assert.False(t, rep.Sent, name)
			assert.Equal(t, 1, opens, name)

			opens = 0
			op.Open = func(context.Context) (apdu.Conn, error) { opens++; return &leaver{}, nil }
			_, rep, err = w.terminal.Run(t.Context(), w.target, op)
			assert.ErrorIs(t, err, apdu.ErrCardRemoved, name)
			assert.False(t, rep.Sent, name)
			assert.Equal(t, 3, opens, name)
		}

		opens := 0
		op, _ := operation(t, w.emulate(t, nil), Operation{Attempts: 3})
		for name, full := range map[string]bool{"reads first": false, "all given": true} {
			opens = 0
			broken := errors.New("no such device")
			op.Open = func(context.Context) (apdu.Conn, error) { opens++; return nil, broken }
			op.Operator, op.ICCID, op.Counter = nil, nil, nil
			if full {
				op.Operator, op.ICCID, op.Counter = &mobile, &everyday, &seven
			}
			_, rep, err := w.terminal.Run(t.Context(), w.target, op)
			assert.ErrorIs(t, err, broken, name)
			assert.False(t, rep.Sent)
			assert.Equal(t, 1, opens)
		}

		other := w.target
		other.EID = id.EID{0x89, 0x04, 0x99}.WithCheckDigits()
		op, _ = operation(t, w.emulate(t, nil), Operation{})
		_, rep, err := w.terminal.Run(t.Context(), other, op)
		var auth *AuthError
		assert.ErrorAs(t, err, &auth)
		assert.False(t, rep.Authenticated)
	})
}

// A refusal ends it, a 14 in recovery too.
func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 0)
		op, _ := operation(t, w.emulate(t, nil), Operation{Operator: &foreign})
		_, rep, err := w.terminal.Run(t.Context(), w.target, op)
		require.NoError(t, err)
		assert.Equal(t, OutcomeRefused, rep.Outcome)
		assert.Equal(t, NotOwner, rep.Answer.Result)

		// The first answer is lost on the way, and the card is found with another
		// counter afterwards.
		c := w.emulate(t, nil)
		op, _ = operation(t, c, Operation{})
		insert, opens := op.Open, 0
		op.Open = func(ctx context.Context) (apdu.Conn, error) {
			if opens++; opens == 1 {
				conn, err := insert(ctx)
				return &deaf{Conn: conn}, err
			}
			moved := w.emulate(t, func(im *appletsim.Image) { im.EventCounter = 12 })
			return moved.Connect(), nil
		}
		_, rep, err = w.terminal.Run(t.Context(), w.target, op)
		assert.ErrorIs(t, err, ErrOutcomeUnknown)
		assert.Equal(t, OutcomeUnknown, rep.Outcome)
		assert.True(t, rep.Final())
		assert.Equal(t, 2, opens)
		require.NotNil(t, rep.Status)
		assert.Equal(t, uint32(12), rep.Status.EventCounter)
	})
}

// deaf loses the answer to DEACTIVATE.
type deaf struct{ apdu.Conn }

func (d *deaf) Transmit(ctx context.Context, capdu []byte) ([]byte, error) {
	rapdu, err := d.Conn.Transmit(ctx, capdu)
	if capdu[1] == INSDeactivate {
		return nil, apdu.ErrTimeout
	}
	return rapdu, err
}

func TestRunOnACardWithoutProfiles(t *testing.T) {
	w := newWorld(t, 0)
	c := w.emulate(t, func(im *appletsim.Image) { im.Profiles = []appletsim.Profile{} })
	op, _ := operation(t, c, Operation{})
	_, _, err := w.terminal.Run(t.Context(), w.target, op)
	assert.ErrorContains(t, err, "which operator")
	op.Operator = &mobile
	_, rep, err := w.terminal.Run(t.Context(), w.target, op)
	require.NoError(t, err)
	assert.Equal(t, NoSuchProfile, rep.Answer.Result)
}

func TestRunHonoursItsContext(t *testing.T) {
	w := newWorld(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	op, _ := operation(t, w.emulate(t, nil), Operation{Attempts: 100})
	opens := 0
	op.Open = func(context.Context) (apdu.Conn, error) {
		opens++
		cancel()
		return nil, apdu.ErrNoCard
	}
	_, _, err := w.terminal.Run(ctx, w.target, op)
	assert.Error(t, err)
	assert.Equal(t, 1, opens)
}

func TestReadStatus(t *testing.T) {
	w := newWorld(t, 1)
	status, rep, err := w.terminal.ReadStatus(t.Context(), apdu.BasicChannel(w.emulate(t, nil).Connect()), w.target)
	require.NoError(t, err)
	assert.True(t, rep.Authenticated)
	assert.Equal(t, apdu.SWSuccess, rep.SW)
	assert.Equal(t, uint32(7), status.EventCounter)
	p, ok := status.Enabled()
	assert.True(t, ok)
	assert.Equal(t, everyday, p.ICCID)

	unregistered := w.emulate(t, func(im *appletsim.Image) { im.ServerKeySets[0].ID = 2 })
	_, rep, err = w.terminal.ReadStatus(t.Context(), apdu.BasicChannel(unregistered.Connect()), w.target)
	assert.ErrorIs(t, err, apdu.SWReferenceNotFound)
	assert.Equal(t, apdu.SWReferenceNotFound, rep.SW)
	assert.False(t, rep.Authenticated)
}

// On a supplementary channel and over a transport with short lengths alone.
func TestOtherTransports(t *testing.T) {
	w := newWorld(t, 1)
	conn := w.emulate(t, nil).Connect()
	ch, err := apdu.BasicChannel(conn).Open(t.Context())
	require.NoError(t, err)
	rep, err := w.terminal.Attempt(t.Context(), ch, w.target, Attempt{Command: deactivate(), Recorded: 7})
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, rep.Outcome)
	require.NoError(t, ch.Close(t.Context()))

	shortConn := &shortConn{w.emulate(t, nil).Connect()}
	rep, err = w.terminal.Attempt(t.Context(), apdu.BasicChannel(shortConn), w.target, Attempt{Command: deactivate(), Recorded: 7})
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, rep.Outcome)
}

type shortConn struct{ apdu.Conn }

func (*shortConn) ShortOnly() bool { return true }
