package ccid_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/hwtest/ccidsim"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
)

const xfrBlock = 0x6F

// bend has the model change its answers to the XfrBlocks of one exchange.
func bend(change func(answer []byte) [][]byte) func(command, answer []byte) [][]byte {
	return func(command, answer []byte) [][]byte {
		if command[0] == xfrBlock {
			return change(answer)
		}
		return [][]byte{answer}
	}
}

func set(answer []byte, at int, value byte) [][]byte {
	b := bytes.Clone(answer)
	b[at] = value
	return [][]byte{b}
}

// Whatever a reader says, there is a typed error in bounded time, and the reader
// is usable again.
func TestHostileReader(t *testing.T) {
	many := func(answer []byte, n int) [][]byte {
		var all [][]byte
		for range n {
			all = append(all, answer)
		}
		return all
	}
	for _, c := range []struct {
		name   string
		change func(answer []byte) [][]byte
		want   error
	}{
		{"length too great", func(a []byte) [][]byte { return set(a, 1, 0x7F) }, ccid.ErrReader},
		{"length of gigabytes", func(a []byte) [][]byte { return set(a, 4, 0xFF) }, ccid.ErrReader},
		{"length of gigabytes and 1024 bytes", func(a []byte) [][]byte { return [][]byte{append(set(a, 4, 0x7F)[0], make([]byte, 1024-len(a))...)} }, ccid.ErrReader},
		{"length too small", func(a []byte) [][]byte { return set(a, 1, a[1]-1) }, ccid.ErrReader},
		{"cut off", func(a []byte) [][]byte { return [][]byte{a[:len(a)-1]} }, ccid.ErrReader},
		{"cut off in the header", func(a []byte) [][]byte { return [][]byte{a[:7]} }, ccid.ErrReader},
		{"one byte", func(a []byte) [][]byte { return [][]byte{a[:1]} }, ccid.ErrReader},
		{"in two transfers", func(a []byte) [][]byte { return [][]byte{a[:10], a[10:]} }, ccid.ErrReader},
		{"in single bytes", func(a []byte) [][]byte {
			var all [][]byte
			for i := range a {
				all = append(all, a[i:i+1])
			}
			return all
		}, ccid.ErrReader},
		{"type of another answer", func(a []byte) [][]byte { return set(a, 0, 0x82) }, ccid.ErrReader},
		{"type of no answer", func(a []byte) [][]byte { return set(a, 0, 0x50) }, ccid.ErrReader},
		{"bmICCStatus reserved", func(a []byte) [][]byte { return set(a, 7, 3) }, ccid.ErrReader},
		{"bmCommandStatus reserved", func(a []byte) [][]byte { return set(a, 7, 0xC0) }, ccid.ErrReader},
		{"time extensions without end", func(a []byte) [][]byte {
			return append(many(set(a, 7, 0x80)[0], 63), a) // as many as the model holds
		}, nil},
		{"old sequence numbers without end", func(a []byte) [][]byte { return many(set(a, 6, a[6]-1)[0], 60) }, ccid.ErrReader},
		{"another slot without end", func(a []byte) [][]byte { return many(set(a, 5, 1)[0], 60) }, ccid.ErrReader},
		{"a slot that is not", func(a []byte) [][]byte { return many(set(a, 5, 0xFF)[0], 60) }, ccid.ErrReader},
		{"empty transfers without end", func([]byte) [][]byte { return many(nil, 60) }, ccid.ErrReader},
		{"an old answer first", func(a []byte) [][]byte { return append(set(a, 6, a[6]-1), a) }, nil},
		{"an empty transfer first", func(a []byte) [][]byte { return [][]byte{nil, a} }, nil},
		{"the answer twice", func(a []byte) [][]byte { return [][]byte{a, a} }, nil},
		{"no answer", func([]byte) [][]byte { return nil }, apdu.ErrTimeout},
		{"no bytes in the answer", func(a []byte) [][]byte { return [][]byte{append(append([]byte{a[0], 0, 0, 0, 0}, a[5:9]...), 0)} }, nil},
		{"a vendor's error", func(a []byte) [][]byte {
			return [][]byte{{0x80, 0, 0, 0, 0, a[5], a[6], 0x40, 0xC0, 0}}
		}, ccid.Code(0xC0)},
		{"an error without a slot status", func(a []byte) [][]byte {
			return [][]byte{{0x81, 0, 0, 0, 0, a[5], a[6], 0x40, 0xFB, 0}}
		}, ccid.CodeHardware},
		{"more than was asked for", func(a []byte) [][]byte {
			return [][]byte{append([]byte{0x80, 0xF0, 3, 0, 0}, append(bytes.Clone(a[5:10]), make([]byte, 0x3F0)...)...)}
		}, nil},
	} {
		for _, f := range forms {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				card, _ := withATR(f.atr)
				sim, conn := connect(t, ccidsim.Config{Level: f.level, Slots: 2}, card, ccid.Options{})
				works(t, conn)
				sim.SetHooks(ccidsim.Hooks{Reply: bend(c.change)})
				_, err := conn.Transmit(within(t, 500*time.Millisecond), selectFile)
				if c.want != nil {
					assert.ErrorIs(t, err, c.want)
				}
				var typed *ccid.Error
				if err != nil {
					assert.ErrorAs(t, err, &typed)
				}
				sim.SetHooks(ccidsim.Hooks{})
				require.NoError(t, conn.Reset(soon(t)))
				works(t, conn)
			})
		}
	}
}

// Time extensions have an end, also where they come at once.
func TestEndlessTimeExtension(t *testing.T) {
	card, _ := withATR(ccidsim.ATR{})
	sim, conn := connect(t, ccidsim.Config{Level: ccidsim.TPDU}, card, ccid.Options{})
	var again []byte
	stop := make(chan struct{})
	sim.SetHooks(ccidsim.Hooks{Reply: bend(func(a []byte) [][]byte {
		again = set(a, 7, 0x80)[0]
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
					sim.Inject(again)
					time.Sleep(10 * time.Microsecond)
				}
			}
		}()
		return nil
	})})
	_, err := conn.Transmit(soon(t), selectFile)
	close(stop)
	assert.ErrorIs(t, err, ccid.ErrReader)
	sim.SetHooks(ccidsim.Hooks{})
	require.NoError(t, conn.Reset(soon(t)))
	works(t, conn)
}

// Slots and descriptors that lie do not matter to the rest.
func TestHostileDescriptor(t *testing.T) {
	lies := func(at int, value ...byte) func([]byte) []byte {
		return func(class []byte) []byte {
			b := bytes.Clone(class)
			copy(b[at:], value)
			return b
		}
	}
	for name, lie := range map[string]func([]byte) []byte{
		"no protocols":           lies(6, 0, 0, 0, 0),
		"no clock":               lies(10, 0, 0, 0, 0),
		"no data rates":          lies(19, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		"rates beyond all":       lies(19, 255, 255, 255, 255, 255, 255, 255, 255),
		"no IFSD":                lies(28, 0, 0, 0, 0),
		"IFSD of gigabytes":      lies(28, 255, 255, 255, 255),
		"messages of gigabytes":  lies(44, 255, 255, 255, 255),
		"no slot may be busy":    lies(53, 0),
		"all slots may be busy":  lies(53, 255),
		"all that is unassigned": lies(36, 255, 255, 255, 255),
	} {
		t.Run(name, func(t *testing.T) {
			card, _ := withATR(ccidsim.ATR{Protocols: []byte{1}, IFSC: 254, TA1: 0x13})
			sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Descriptor: lie})
			sim.Insert(0, card)
			d := attach(t, sim)
			assert.Equal(t, name != "all that is unassigned", len(d.Descriptor().Problems()) > 0)
			conn, err := d.Connect(soon(t), 0, ccid.Options{})
			require.NoError(t, err)
			works(t, conn)
		})
	}
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Descriptor: lies(4, 255)}) // slots that are not there
	desc, err := ccid.ParseDescriptor(sim.ClassDescriptor())
	require.NoError(t, err)
	_, err = ccid.Attach(soon(t), sim.Open(), desc, "model")
	var typed *ccid.Error
	if err != nil {
		assert.ErrorAs(t, err, &typed)
	}
}

// A T=1 card that breaks the protocol: a typed error after a few tries, and the
// next exchange resynchronises.
func TestHostileT1(t *testing.T) {
	block := func(nad, pcb byte, inf ...byte) []byte { return ccidsim.Block(nad, pcb, inf, false) }
	for _, c := range []struct {
		name string
		line func(n int, received, sent []byte) []byte
		want error
	}{
		{"wrong LRC once", func(n int, _, sent []byte) []byte {
			if n == 1 {
				sent = bytes.Clone(sent)
				sent[len(sent)-1] ^= 1
			}
			return sent
		}, nil},
		{"wrong LRC for good", func(_ int, _, sent []byte) []byte {
			sent = bytes.Clone(sent)
			sent[len(sent)-1] ^= 1
			return sent
		}, ccid.ErrT1},
		{"silence once", func(n int, _, sent []byte) []byte {
			if n == 1 {
				return nil
			}
			return sent
		}, nil},
		{"wrong NAD", func(_ int, _, sent []byte) []byte { return block(0x21, sent[1], sent[3:len(sent)-1]...) }, ccid.ErrT1},
		{"wrong LEN", func(_ int, _, sent []byte) []byte {
			b := bytes.Clone(sent)
			b[2], b[len(b)-1] = b[2]^1, b[len(b)-1]^1
			return b
		}, ccid.ErrT1},
		{"LEN FF", func(int, []byte, []byte) []byte { return block(0, 0, make([]byte, 255)...) }, ccid.ErrT1},
		{"a chain without end", func(n int, _, _ []byte) []byte {
			return block(0, byte(n+1)&1<<6|0x20, make([]byte, 254)...)
		}, ccid.ErrT1},
		{"a chain of nothing without end", func(n int, _, _ []byte) []byte { return block(0, byte(n+1)&1<<6|0x20) }, ccid.ErrT1},
		{"one block for good", func(int, []byte, []byte) []byte { return block(0, 0x20, 1) }, ccid.ErrT1},
		{"WTX without end", func(int, []byte, []byte) []byte { return block(0, 0xC3, 1) }, ccid.ErrT1},
		{"WTX of 0", func(int, []byte, []byte) []byte { return block(0, 0xC3, 0) }, ccid.ErrT1},
		{"WTX without a byte", func(int, []byte, []byte) []byte { return block(0, 0xC3) }, ccid.ErrT1},
		{"IFS without end", func(int, []byte, []byte) []byte { return block(0, 0xC1, 32) }, ccid.ErrT1},
		{"IFS of FF", func(int, []byte, []byte) []byte { return block(0, 0xC1, 255) }, ccid.ErrT1},
		{"abort", func(int, []byte, []byte) []byte { return block(0, 0xC2) }, ccid.ErrAborted},
		{"refuses for good", func(int, []byte, []byte) []byte { return block(0, 0x81) }, ccid.ErrT1},
		{"acknowledges for good", func(n int, _, _ []byte) []byte { return block(0, 0x80|byte(n)&1<<4) }, ccid.ErrT1},
		{"resynch from the card", func(int, []byte, []byte) []byte { return block(0, 0xC0) }, ccid.ErrT1},
		{"an answer to no question", func(int, []byte, []byte) []byte { return block(0, 0xE1, 32) }, ccid.ErrT1},
		{"a PCB that is not", func(int, []byte, []byte) []byte { return block(0, 0x9F) }, ccid.ErrT1},
		{"two bytes", func(int, []byte, []byte) []byte { return []byte{0, 0} }, ccid.ErrT1},
		{"too many bytes", func(_ int, _, sent []byte) []byte { return append(bytes.Clone(sent), 0) }, ccid.ErrT1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			card, _ := withATR(ccidsim.ATR{Protocols: []byte{1}, IFSC: 254})
			sim, conn := connect(t, ccidsim.Config{Level: ccidsim.TPDU, Patience: time.Millisecond}, card, ccid.Options{})
			works(t, conn)
			require.NoError(t, conn.Reset(soon(t)))
			_, err := conn.Transmit(soon(t), unhex(t, "00708001")) // S(IFS) is past
			require.NoError(t, err)
			var blocks atomic.Int32
			sim.SetHooks(ccidsim.Hooks{Line: func(_ int, received, sent []byte) []byte {
				return c.line(int(blocks.Add(1)), received, sent)
			}})
			rapdu, err := conn.Transmit(soon(t), selectFile)
			sim.SetHooks(ccidsim.Hooks{})
			if c.want == nil {
				require.NoError(t, err)
				assert.Equal(t, unhex(t, "9000"), rapdu[len(rapdu)-2:])
			} else {
				assert.ErrorIs(t, err, c.want)
				assert.ErrorIs(t, err, apdu.ErrTransport)
			}
			works(t, conn)
		})
	}
}

// A T=0 card that breaks the protocol, character by character.
func TestHostileT0(t *testing.T) {
	for _, c := range []struct {
		name string
		line func(received, sent []byte) []byte
		want error
	}{
		{"NULL without end", func([]byte, []byte) []byte { return bytes.Repeat([]byte{0x60}, 5000) }, ccid.ErrT0},
		{"no procedure byte", func([]byte, []byte) []byte { return []byte{0x00} }, ccid.ErrT0},
		{"asks for more than there is", func([]byte, []byte) []byte { return []byte{0xA4, 0xA4, 0xA4, 0xA4} }, ccid.ErrT0},
		{"SW1 alone", func([]byte, []byte) []byte { return []byte{0x90} }, apdu.ErrTimeout},
		{"silence", func([]byte, []byte) []byte { return nil }, apdu.ErrTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			card, _ := withATR(ccidsim.ATR{})
			sim, conn := connect(t, ccidsim.Config{Level: ccidsim.Character, Patience: time.Millisecond}, card, ccid.Options{})
			works(t, conn)
			sim.SetHooks(ccidsim.Hooks{Line: func(_ int, received, sent []byte) []byte { return c.line(received, sent) }})
			_, err := conn.Transmit(soon(t), selectFile)
			sim.SetHooks(ccidsim.Hooks{})
			assert.ErrorIs(t, err, c.want)
			require.NoError(t, conn.Reset(soon(t)))
			works(t, conn)
		})
	}
}

// After an exchange by T=0 that failed the card may wait for the rest of the
// command: nothing is sent that it could take for that.
func TestFailedT0NeedsAReset(t *testing.T) {
	for name, c := range map[string]struct {
		level ccidsim.Level
		reply func(answer []byte) [][]byte
		line  func(received, sent []byte) []byte
	}{
		"no procedure byte": {level: ccidsim.Character, line: func([]byte, []byte) []byte { return []byte{0x00} }},
		"parity error": {level: ccidsim.TPDU, reply: func(a []byte) [][]byte {
			return [][]byte{{0x80, 0, 0, 0, 0, a[5], a[6], 0x40, byte(ccid.CodeParity), 0}}
		}},
		"procedure byte conflict": {level: ccidsim.TPDU, reply: func(a []byte) [][]byte {
			return [][]byte{{0x80, 0, 0, 0, 0, a[5], a[6], 0x40, byte(ccid.CodeProcedureByte), 0}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			card, e := withATR(ccidsim.ATR{})
			sim, conn := connect(t, ccidsim.Config{Level: c.level, Patience: time.Millisecond}, card, ccid.Options{})
			works(t, conn)
			h := ccidsim.Hooks{}
			if c.line != nil {
				h.Line = func(_ int, received, sent []byte) []byte { return c.line(received, sent) }
			} else {
				h.Reply = bend(c.reply)
			}
			sim.SetHooks(h)
			_, err := conn.Transmit(soon(t), selectFile)
			require.ErrorIs(t, err, apdu.ErrTransport)
			sim.SetHooks(ccidsim.Hooks{})
			e.history()
			_, err = conn.Transmit(soon(t), selectFile)
			assert.ErrorContains(t, err, "ended before")
			assert.Empty(t, e.history())
			require.NoError(t, conn.Reset(soon(t)))
			works(t, conn)
		})
	}
}

// A reader that does not take the speed to which the card has agreed is given the
// card anew, at the speed that every reader takes.
func TestReaderRefusesTheSpeed(t *testing.T) {
	const setParameters = 0x61
	for _, automatic := range []ccidsim.Automatic{0, ccidsim.AutoPPS} {
		card, e := withATR(ccidsim.ATR{TA1: 0x18})
		sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Automatic: automatic, Patience: time.Millisecond})
		sim.SetHooks(ccidsim.Hooks{Reply: func(command, answer []byte) [][]byte {
			const fiDi = 10
			if command[0] == setParameters && command[fiDi] != 0x11 {
				return [][]byte{{0x82, 0, 0, 0, 0, answer[5], answer[6], answer[7] | 0x40, fiDi, 0}}
			}
			return [][]byte{answer}
		}})
		sim.Insert(0, card)
		conn, err := attach(t, sim).Connect(soon(t), 0, ccid.Options{})
		require.NoError(t, err)
		assert.Equal(t, "F=372 D=1", conn.Speed().String())
		assert.Equal(t, []string{"on", "off", "on"}, e.history())
		works(t, conn)
	}
}

// Answers to reset that are none.
func TestHostileATR(t *testing.T) {
	for name, atr := range map[string]string{
		"ends early":    "3BFF 11",
		"no TS":         "00 00",
		"40 bytes":      "3B" + "0F" + "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F2021222324252627",
		"T=14 alone":    "3B80 0E 8E",
		"history short": "3B0A 0102",
	} {
		t.Run(name, func(t *testing.T) {
			sim := ccidsim.New(ccidsim.Config{Level: ccidsim.TPDU, Patience: time.Millisecond})
			sim.Insert(0, ccidsim.RawATR(&echo{}, unhex(t, atr)))
			d := attach(t, sim)
			_, err := d.Connect(soon(t), 0, ccid.Options{})
			var typed *ccid.Error
			assert.ErrorAs(t, err, &typed)
			assert.ErrorIs(t, err, apdu.ErrTransport)
			card, _ := withATR(ccidsim.ATR{})
			sim.Insert(0, card)
			conn, err := d.Connect(soon(t), 0, ccid.Options{})
			require.NoError(t, err)
			works(t, conn)
		})
	}
}

// PPS that a card bends is given up: the card is powered anew and goes on without.
func TestHostilePPS(t *testing.T) {
	for name, answer := range map[string]string{
		"silence":       "",
		"wrong PCK":     "FF100100",
		"another speed": "FF1118F6",
		"garbage":       "3B00",
		"one byte":      "FF",
	} {
		t.Run(name, func(t *testing.T) {
			for _, level := range []ccidsim.Level{ccidsim.Character, ccidsim.TPDU} {
				card, e := withATR(ccidsim.ATR{Protocols: []byte{0, 1}, TA1: 0x13, IFSC: 254})
				sim := ccidsim.New(ccidsim.Config{Level: level, Patience: time.Millisecond, Hooks: ccidsim.Hooks{
					Line: func(_ int, received, sent []byte) []byte {
						if received[0] == 0xFF {
							return unhex(t, answer)
						}
						return sent
					},
				}})
				sim.Insert(0, card)
				conn, err := attach(t, sim).Connect(soon(t), 0, ccid.Options{})
				require.NoError(t, err)
				assert.Equal(t, ccid.T0, conn.Protocol(), "its first protocol is all there is without a PPS")
				assert.Equal(t, "F=372 D=1", conn.Speed().String())
				assert.Equal(t, []string{"on", "off", "on"}, e.history())
				works(t, conn)
			}
		})
	}
}

// lateEndpoints hold back, once, the transfer that follows a full one.
type lateEndpoints struct {
	ccid.Endpoints
	armed, full atomic.Bool
}

func (l *lateEndpoints) In(ctx context.Context, b []byte) (int, error) {
	if l.full.CompareAndSwap(true, false) && l.armed.CompareAndSwap(true, false) {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	n, err := l.Endpoints.In(ctx, b)
	l.full.Store(err == nil && n == len(b))
	return n, err
}

// The rest of an answer that was given up in its middle is taken for nothing else,
// also where the card wrote it to look like the reader's answer.
func TestAnswerGivenUpInItsMiddle(t *testing.T) {
	e := &forger{}
	sim := ccidsim.New(ccidsim.Config{Level: ccidsim.ExtendedAPDU, Patience: 20 * time.Millisecond})
	sim.Insert(0, ccidsim.WithATR(e, ccidsim.ATR{Protocols: []byte{1}}))
	desc, err := ccid.ParseDescriptor(sim.ClassDescriptor())
	require.NoError(t, err)
	late := &lateEndpoints{Endpoints: sim.Open()}
	d, err := ccid.Attach(soon(t), late, desc, "model")
	require.NoError(t, err)
	defer d.Close()
	conn, err := d.Connect(soon(t), 0, ccid.Options{})
	require.NoError(t, err)
	defer conn.Close()
	const sequence = 6
	sim.SetHooks(ccidsim.Hooks{Reply: func(command, answer []byte) [][]byte {
		if len(answer) > 1024 { // the abort that follows has the next number
			answer[1024+sequence] = command[sequence] + 1
		}
		return [][]byte{answer}
	}})
	for range 3 {
		late.armed.Store(true)
		late.full.Store(false)
		_, err = conn.Transmit(within(t, 50*time.Millisecond), unhex(t, "00B0000000 0000"))
		require.ErrorIs(t, err, apdu.ErrTimeout)
		assert.NotErrorIs(t, err, apdu.ErrCardRemoved)
		require.NoError(t, conn.Reset(soon(t)))
		rapdu, err := conn.Transmit(soon(t), selectFile)
		require.NoError(t, err)
		require.Equal(t, unhex(t, "9000"), rapdu)
	}
}

// forger is a card whose long answer has, behind the 1024 bytes of the first
// transfer, what reads as the reader's: a slot status that says that the card has
// gone.
type forger struct{ echo }

func (f *forger) Process(capdu []byte) []byte {
	if capdu[1] != 0xB0 {
		return []byte{0x90, 0x00}
	}
	return append(make([]byte, 1014), 0x81, 0, 0, 0, 0, 0, 0, 2, 0, 0)
}
