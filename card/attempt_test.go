package card

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// Every result of §8, from the emulated card, in its own words.
func TestResults(t *testing.T) {
	other := iccid("89860399999999999999")
	for _, c := range []struct {
		name    string
		set     int
		suite   cryptogram.Suite
		image   func(*appletsim.Image)
		command func(*Command)
		result  Result
		outcome Outcome
	}{
		{name: "done", result: Done, outcome: OutcomeDone},
		{name: "done in suite 03", set: 1, result: Done, outcome: OutcomeDone},
		{name: "done without an ICCID", command: func(c *Command) { c.ICCID = nil }, result: Done, outcome: OutcomeDone},
		{name: "ACTIVATE done", result: Done, outcome: OutcomeDone,
			image:   func(im *appletsim.Image) { im.Profiles[0].State = appletsim.Disabled },
			command: func(c *Command) { c.INS, c.ICCID, c.Operator = INSActivate, &abroad, foreign }},
		{name: "no such profile", command: func(c *Command) { c.ICCID = &other }, result: NoSuchProfile, outcome: OutcomeRefused},
		{name: "none is enabled", result: NoSuchProfile, outcome: OutcomeRefused,
			image:   func(im *appletsim.Image) { im.Profiles[0].State = appletsim.Disabled },
			command: func(c *Command) { c.ICCID = nil }},
		{name: "not enabled", command: func(c *Command) { c.ICCID, c.Operator = &abroad, foreign }, result: WrongState, outcome: OutcomeRefused},
		{name: "PPR1", image: func(im *appletsim.Image) { im.Profiles[0].PPR1 = true }, result: PolicyForbids, outcome: OutcomeRefused},
		{name: "another's profile", command: func(c *Command) { c.Operator = foreign }, result: NotOwner, outcome: OutcomeRefused},
		{name: "triple wanted", set: 1, suite: cryptogram.Suite01, result: TripleRequired, outcome: OutcomeRefused,
			image: func(im *appletsim.Image) { im.Policy.RequireTriple = true }},
		{name: "the fallback profile", image: func(im *appletsim.Image) { im.Profiles[0].Fallback = true }, result: FallbackNotAllowed, outcome: OutcomeRefused},
		{name: "another counter", command: func(c *Command) { c.Counter = 6 }, result: CounterNotExpected, outcome: OutcomeRefused},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.set)
			target := w.target
			if c.suite != 0 {
				target.Suite = c.suite
			}
			cmd := deactivate()
			if c.command != nil {
				c.command(&cmd)
			}
			emulated := w.emulate(t, c.image)
			marked := 0
			rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), target, Attempt{
				Command: cmd, Recorded: 7,
				BeforeSend: func(context.Context) error {
					marked++
					assert.Equal(t, uint32(7), emulated.Image().EventCounter, "before anything is done")
					return nil
				},
			})
			require.NoError(t, err)
			assert.Equal(t, 1, marked)
			assert.Equal(t, c.outcome, rep.Outcome)
			assert.True(t, rep.Authenticated)
			assert.True(t, rep.Sent)
			assert.True(t, rep.Final())
			require.NotNil(t, rep.Answer)
			assert.Equal(t, c.result, rep.Answer.Result)
			assert.Equal(t, results[c.result].sw, rep.SW)
			assert.Equal(t, rep.SW, rep.Answer.SW)
			assert.Equal(t, target.Suite, rep.Answer.Suite)
			assert.NoError(t, Verify(target, cmd, rep.Answer.Data, rep.Answer.Receipt), "the receipt can be kept")
			if c.result == Done {
				assert.Equal(t, uint32(8), rep.Answer.Counter)
				assert.Equal(t, cmd.target(), rep.Answer.State)
				assert.Nil(t, rep.Status, "the answer settles the record")
				return
			}
			assert.Equal(t, uint32(7), rep.Answer.Counter)
			require.NoError(t, rep.StatusErr)
			require.NotNil(t, rep.Status, "94 is not above the recorded counter")
			assert.Equal(t, uint32(7), rep.Status.EventCounter)
		})
	}
}

func TestFallbackProfileChangesToo(t *testing.T) {
	w := newWorld(t, 0)
	emulated := w.emulate(t, func(im *appletsim.Image) { im.Profiles[1].Fallback = true })
	rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{Command: deactivate(), Recorded: 7})
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, rep.Outcome)
	require.NotNil(t, rep.Answer.Fallback)
	assert.Equal(t, abroad, *rep.Answer.Fallback)
}

// A card that moved on by itself, 94 more than one above the record: GET STATUS
// too.
func TestCounterBeyondTheRecord(t *testing.T) {
	w := newWorld(t, 0)
	rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(w.emulate(t, nil).Connect()), w.target, Attempt{Command: deactivate(), Recorded: 3})
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, rep.Outcome)
	require.NotNil(t, rep.Status)
	assert.Equal(t, uint32(8), rep.Status.EventCounter)
}

func TestRequestIDUsed(t *testing.T) {
	w := newWorld(t, 0)
	emulated := w.emulate(t, nil)
	_, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{Command: deactivate(), Recorded: 7})
	require.NoError(t, err)
	cmd := deactivate()
	cmd.Reason = 1
	rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{Command: cmd, Recorded: 8})
	require.NoError(t, err)
	assert.Equal(t, OutcomeRefused, rep.Outcome)
	assert.Equal(t, RequestIDUsed, rep.Answer.Result)
	assert.Equal(t, apdu.SWIncorrectData, rep.SW)
}

// The same command again gives the stored answer, of the suite that did it.
func TestStoredAnswer(t *testing.T) {
	w := newWorld(t, 1)
	emulated := w.emulate(t, nil)
	target := w.target
	target.Suite = cryptogram.Suite01
	first, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), target, Attempt{Command: deactivate(), Recorded: 7})
	require.NoError(t, err)
	again, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{Command: deactivate(), Recorded: 7, Sent: true})
	require.NoError(t, err)
	assert.Equal(t, OutcomeDone, again.Outcome)
	assert.Equal(t, first.Answer.Data, again.Answer.Data)
	assert.Equal(t, first.Answer.Receipt, again.Answer.Receipt)
	assert.Equal(t, cryptogram.Suite01, again.Answer.Suite)
	assert.Equal(t, uint32(8), emulated.Image().EventCounter, "done once")
	require.NotNil(t, again.Status, "recovery reads the status")
	assert.Equal(t, Disabled, again.Status.Profiles[0].State)
}

// A 14 in recovery proves nothing: not refused, not failed.
func TestCounterNotExpectedInRecovery(t *testing.T) {
	w := newWorld(t, 0)
	emulated := w.emulate(t, func(im *appletsim.Image) { im.EventCounter = 9 })
	rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{Command: deactivate(), Recorded: 7, Sent: true})
	assert.ErrorIs(t, err, ErrOutcomeUnknown)
	assert.Equal(t, OutcomeUnknown, rep.Outcome)
	assert.True(t, rep.Final(), "it will not change")
	require.NotNil(t, rep.Answer)
	assert.Equal(t, CounterNotExpected, rep.Answer.Result)
	require.NotNil(t, rep.Status)
	assert.Equal(t, uint32(9), rep.Status.EventCounter)
}

func TestMemoryFails(t *testing.T) {
	w := newWorld(t, 0)
	emulated := w.emulate(t, nil)
	emulated.Inject(appletsim.Fault{Write: 1, Kind: appletsim.WriteFails})
	rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{Command: deactivate(), Recorded: 7})
	require.NoError(t, err)
	assert.Equal(t, OutcomeRefused, rep.Outcome)
	assert.Equal(t, UndefinedError, rep.Answer.Result)
	assert.Equal(t, apdu.SWMemoryFailure, rep.SW)
}

// What a card signs or answers beside the protocol: nothing of it is recorded.
func TestAnswersThatProveNothing(t *testing.T) {
	w := newWorld(t, 0)
	triple := newWorld(t, 1)
	sign := func(b body) func(byte, []byte) ([]byte, apdu.StatusWord) {
		return func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			return w.sign(t, ins, data, b.bytes(), b.suite), results[b.result].sw
		}
	}
	change := func(f func(*body)) func(byte, []byte) ([]byte, apdu.StatusWord) {
		b := done()
		f(&b)
		return sign(b)
	}
	for name, answer := range map[string]func(byte, []byte) ([]byte, apdu.StatusWord){
		"9000 and nothing": func(byte, []byte) ([]byte, apdu.StatusWord) { return nil, apdu.SWSuccess },
		"garbage":          func(byte, []byte) ([]byte, apdu.StatusWord) { return []byte{1, 2, 3}, apdu.SWSuccess },
		"garbage, refused": func(byte, []byte) ([]byte, apdu.StatusWord) { return []byte{0x90, 1, 2}, apdu.SWConditionsNotSatisfied },
		"no receipt":       func(byte, []byte) ([]byte, apdu.StatusWord) { return done().bytes(), apdu.SWSuccess },
		"receipt of another command": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			data[len(data)-1]++
			return w.sign(t, ins, data, done().bytes(), 1), apdu.SWSuccess
		},
		"receipt of another INS": func(_ byte, data []byte) ([]byte, apdu.StatusWord) {
			return w.sign(t, INSActivate, data, done().bytes(), 1), apdu.SWSuccess
		},
		"receipt of another answer": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			other := done()
			other.counter++
			signed := w.sign(t, ins, data, other.bytes(), 1)
			return append(done().bytes(), signed[len(other.bytes()):]...), apdu.SWSuccess
		},
		"receipt of another card": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			other := *w
			other.target.EID[8] ^= 1
			return other.sign(t, ins, data, done().bytes(), 1), apdu.SWSuccess
		},
		"receipt of other keys": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			other := *triple
			other.card.Auth = other.card.Auth[1:]
			return other.sign(t, ins, data, done().bytes(), 1), apdu.SWSuccess
		},
		"suite 03 of a card that has one key": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			b := done()
			b.suite = cryptogram.Suite03
			return triple.sign(t, ins, data, b.bytes(), 3), apdu.SWSuccess
		},
		"receipt cut off": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			out := w.sign(t, ins, data, done().bytes(), 1)
			return out[:len(out)-1], apdu.SWSuccess
		},
		"something behind the receipt": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			return append(w.sign(t, ins, data, done().bytes(), 1), 0x90, 0), apdu.SWSuccess
		},
		"the receipt twice": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			out := w.sign(t, ins, data, done().bytes(), 1)
			return append(out, out[len(done().bytes()):]...), apdu.SWSuccess
		},
		"an unknown object, signed": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			return w.sign(t, ins, data, append(done().bytes(), 0x85, 0), 1), apdu.SWSuccess
		},
		"done, and still enabled":     change(func(b *body) { b.state = Enabled }),
		"done, a state that is none":  change(func(b *body) { b.state = 2 }),
		"done, without a profile":     change(func(b *body) { b.iccid = nil }),
		"refused, without a profile":  change(func(b *body) { b.result, b.iccid = WrongState, nil }),
		"done for another profile":    change(func(b *body) { b.iccid = &abroad }),
		"refused for another profile": change(func(b *body) { b.result, b.iccid = NotOwner, &abroad }),
		"a result that is none":       change(func(b *body) { b.result = 0x42 }),
		"result and status do not fit": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			return w.sign(t, ins, data, done().bytes(), 1), apdu.SWConditionsNotSatisfied
		},
		"refused with 9000": func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			b := done()
			b.result = NotOwner
			return w.sign(t, ins, data, b.bytes(), 1), apdu.SWSuccess
		},
	} {
		for _, sent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, sent before %v", name, sent), func(t *testing.T) {
				r := &rogue{t: t, w: w}
				r.answer = func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
					if ins == insGetStatus {
						return statusData(Disabled, 8), apdu.SWSuccess
					}
					return answer(ins, data)
				}
				rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(r), w.target, Attempt{Command: deactivate(), Recorded: 7, Sent: sent})
				assert.ErrorIs(t, err, ErrOutcomeUnknown)
				assert.Equal(t, OutcomeUnknown, rep.Outcome)
				assert.Nil(t, rep.Answer)
				assert.False(t, rep.Final(), "asking again may help")
				assert.True(t, rep.Authenticated)
				assert.True(t, rep.Sent)
				if !sent {
					assert.Nil(t, rep.Status)
					return
				}
				require.NotNil(t, rep.Status, "what GET STATUS says settles the card's recorded state")
				assert.Equal(t, uint32(8), rep.Status.EventCounter)
				assert.Equal(t, []byte{INSDeactivate, insGetStatus}, r.sent)
			})
		}
	}
}

// An inner status without data: this sending did nothing. The first sending
// failed then; an earlier one stays unknown.
func TestInnerStatusWithoutData(t *testing.T) {
	w := newWorld(t, 0)
	for _, sw := range []apdu.StatusWord{apdu.SWSecurityStatusNotSatisfied, apdu.SWIncorrectData, apdu.SWInstructionNotSupported, apdu.SWMemoryFailure, 0x6F00} {
		r := &rogue{t: t, w: w, answer: func(ins byte, _ []byte) ([]byte, apdu.StatusWord) {
			if ins == insGetStatus {
				return statusData(Enabled, 7), apdu.SWSuccess
			}
			return nil, sw
		}}
		rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(r), w.target, Attempt{Command: deactivate(), Recorded: 7})
		assert.ErrorIs(t, err, sw)
		assert.NotErrorIs(t, err, ErrOutcomeUnknown)
		assert.Equal(t, OutcomeFailed, rep.Outcome)
		assert.Equal(t, sw, rep.SW)
		assert.True(t, rep.Final())

		rep, err = w.terminal.Attempt(t.Context(), apdu.BasicChannel(r), w.target, Attempt{Command: deactivate(), Recorded: 7, Sent: true})
		assert.ErrorIs(t, err, sw)
		assert.ErrorIs(t, err, ErrOutcomeUnknown)
		assert.Equal(t, OutcomeUnknown, rep.Outcome)
		assert.False(t, rep.Final())
		require.NotNil(t, rep.Status)
		assert.Equal(t, uint32(7), rep.Status.EventCounter)
	}
}

// Whoever carries the APDUs drops, changes and invents: after the command went
// out that is unknown, before it nothing was sent.
func TestTheCarrierInterferes(t *testing.T) {
	w := newWorld(t, 0)
	lost := fmt.Errorf("reader: %w", apdu.ErrCardRemoved)
	for _, c := range []struct {
		name string
		wire func([]byte) ([]byte, error)
		want error
		sw   apdu.StatusWord
	}{
		{"answer lost", func([]byte) ([]byte, error) { return nil, lost }, apdu.ErrCardRemoved, 0},
		{"no answer in time", func([]byte) ([]byte, error) { return nil, apdu.ErrTimeout }, apdu.ErrTimeout, 0},
		{"response mac wrong", func(b []byte) ([]byte, error) { b[len(b)-3] ^= 1; return b, nil }, securemsg.ErrMAC, apdu.SWSuccess},
		{"response cut", func(b []byte) ([]byte, error) { return append(b[:len(b)-3], 0x90, 0), nil }, securemsg.ErrObjects, apdu.SWSuccess},
		{"an answer of one byte", func([]byte) ([]byte, error) { return []byte{0x90}, nil }, apdu.ErrMalformed, 0},
		{"9000 in the clear", func([]byte) ([]byte, error) { return []byte{0x90, 0}, nil }, securemsg.ErrObjects, apdu.SWSuccess},
		{"6988 in the clear", func([]byte) ([]byte, error) { return []byte{0x69, 0x88}, nil }, apdu.SWSMObjectsIncorrect, 0x6988},
		{"6982 in the clear", func([]byte) ([]byte, error) { return []byte{0x69, 0x82}, nil }, apdu.SWSecurityStatusNotSatisfied, 0x6982},
		{"6985 and the response", func(b []byte) ([]byte, error) { return append(b[:max(len(b)-2, 0)], 0x69, 0x85), nil }, apdu.SWConditionsNotSatisfied, 0x6985},
	} {
		t.Run(c.name, func(t *testing.T) {
			instructions := []byte{INSDeactivate}
			if !errors.Is(c.want, securemsg.ErrMAC) && !errors.Is(c.want, securemsg.ErrObjects) {
				instructions = append(instructions, 0xA4, 0x88, 0x82) // not about secure messaging alone
			}
			for _, ins := range instructions {
				r := &rogue{t: t, w: w}
				r.answer = func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
					return w.sign(t, ins, data, done().bytes(), 1), apdu.SWSuccess
				}
				r.wire = func(got byte, b []byte) ([]byte, error) {
					if got == ins {
						return c.wire(b)
					}
					return b, nil
				}
				marked := false
				rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(r), w.target, Attempt{
					Command: deactivate(), Recorded: 7,
					BeforeSend: func(context.Context) error { marked = true; return nil },
				})
				if ins == INSDeactivate {
					assert.ErrorIs(t, err, ErrOutcomeUnknown)
					assert.ErrorIs(t, err, c.want)
					assert.Equal(t, OutcomeUnknown, rep.Outcome)
					assert.Equal(t, c.sw, rep.SW)
					assert.True(t, marked)
					assert.True(t, rep.Sent)
					assert.Nil(t, rep.Answer)
					continue
				}
				require.Error(t, err, "INS %02X", ins)
				assert.NotErrorIs(t, err, ErrOutcomeUnknown)
				assert.Equal(t, OutcomeFailed, rep.Outcome)
				assert.False(t, marked)
				assert.False(t, rep.Sent)
				assert.Empty(t, r.sent)
			}
		})
	}
}

// A card that refuses or fails to authenticate in recovery changes nothing.
func TestRecoveryThatDoesNotReachTheCard(t *testing.T) {
	w := newWorld(t, 0)
	for _, ins := range []byte{0xA4, 0x88, 0x82} {
		r := &rogue{t: t, w: w, wire: func(got byte, b []byte) ([]byte, error) {
			if got == ins {
				return []byte{0x6A, 0x82}, nil
			}
			return b, nil
		}}
		rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(r), w.target, Attempt{Command: deactivate(), Recorded: 7, Sent: true})
		assert.ErrorIs(t, err, ErrOutcomeUnknown)
		assert.ErrorIs(t, err, apdu.SWFileNotFound)
		assert.Equal(t, OutcomeUnknown, rep.Outcome)
		assert.Equal(t, apdu.SWFileNotFound, rep.SW)
		assert.False(t, rep.Final())
		assert.True(t, rep.Sent)
		assert.False(t, rep.Authenticated)
	}
}

func TestAnotherCard(t *testing.T) {
	w := newWorld(t, 0)
	for name, change := range map[string]func(*Target){
		"EID":  func(g *Target) { g.EID = id.EID{0x89, 0x04, 0x99}.WithCheckDigits() },
		"keys": func(g *Target) { g.Keys.Auth = newWorld(t, 1).target.Keys.Auth[1:2] },
	} {
		target := w.target
		change(&target)
		marked := false
		rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(w.emulate(t, nil).Connect()), target, Attempt{
			Command: deactivate(), BeforeSend: func(context.Context) error { marked = true; return nil },
		})
		var auth *AuthError
		require.ErrorAs(t, err, &auth, name)
		assert.NotContains(t, err.Error(), auth.Reason, "the reason is for the audit log")
		assert.NotEmpty(t, auth.Reason)
		assert.Equal(t, target.EID, auth.EID)
		assert.Equal(t, OutcomeFailed, rep.Outcome)
		assert.False(t, marked)
	}
	// A target whose suite its keys do not have.
	target := w.target
	target.Suite = cryptogram.Suite03
	_, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(w.emulate(t, nil).Connect()), target, Attempt{Command: deactivate()})
	assert.Error(t, err)
}

// The mark could not be made durable: nothing goes out.
func TestBeforeSendFails(t *testing.T) {
	w := newWorld(t, 0)
	full := errors.New("disk full")
	for _, sent := range []bool{false, true} {
		emulated := w.emulate(t, nil)
		rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(emulated.Connect()), w.target, Attempt{
			Command: deactivate(), Sent: sent, BeforeSend: func(context.Context) error { return full },
		})
		assert.ErrorIs(t, err, full)
		assert.Equal(t, sent, errors.Is(err, ErrOutcomeUnknown))
		assert.Equal(t, sent, rep.Sent)
		assert.True(t, rep.Authenticated)
		assert.Equal(t, uint32(7), emulated.Image().EventCounter)
	}
}

// GET STATUS fails behind an answer that verified: the answer stands.
func TestStatusFailsBehindTheAnswer(t *testing.T) {
	w := newWorld(t, 0)
	for name, status := range map[string]func() ([]byte, apdu.StatusWord){
		"refused":   func() ([]byte, apdu.StatusWord) { return nil, apdu.SWConditionsNotSatisfied },
		"malformed": func() ([]byte, apdu.StatusWord) { return []byte{0xE3, 0x80}, apdu.SWSuccess },
	} {
		r := &rogue{t: t, w: w, answer: func(ins byte, data []byte) ([]byte, apdu.StatusWord) {
			if ins == insGetStatus {
				return status()
			}
			return w.sign(t, ins, data, done().bytes(), 1), apdu.SWSuccess
		}}
		rep, err := w.terminal.Attempt(t.Context(), apdu.BasicChannel(r), w.target, Attempt{Command: deactivate(), Recorded: 7, Sent: true})
		require.NoError(t, err, name)
		assert.Equal(t, OutcomeDone, rep.Outcome)
		assert.Nil(t, rep.Status)
		assert.Error(t, rep.StatusErr)
	}
}

func TestOutcomeText(t *testing.T) {
	for o, want := range map[Outcome]string{OutcomeFailed: "failed", OutcomeDone: "done", OutcomeRefused: "refused", OutcomeUnknown: "unknown", 9: "outcome 9"} {
		assert.Equal(t, want, o.String())
	}
	assert.Equal(t, "result 42", Result(0x42).String())
	assert.Equal(t, "no such profile", NoSuchProfile.String())
}
