package corpus_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/securemsg"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// side is the terminal's side of a scene.
type side struct {
	*testing.T
	terminal *card.Terminal
	target   card.Target
	open     func() apdu.Conn
	conn     apdu.Conn
	requests byte
}

// channel is the basic channel of the connection, which is made where there is
// none.
func (p *side) channel() *apdu.Channel {
	if p.conn == nil {
		p.conn = p.open()
	}
	return apdu.BasicChannel(p.conn)
}

// end closes the connection.
func (p *side) end() {
	if p.conn != nil {
		assert.NoError(p, p.conn.Close())
		p.conn = nil
	}
}

// read settles the record of a card, as a server does once it is registered.
func (p *side) read() *card.Status {
	p.Helper()
	ch := p.channel()
	_, err := card.Select(p.Context(), ch)
	require.NoError(p, err)
	s, err := p.terminal.Authenticate(p.Context(), ch, p.target, [32]byte{})
	require.NoError(p, err)
	status, err := s.Status(p.Context())
	require.NoError(p, err)
	p.end()
	return status
}

var (
	profile0 = servertest.ICCID(cardNumber, 0) // enabled, of Owner
	profile1 = servertest.ICCID(cardNumber, 1) // disabled, of Owner
	unknown  = servertest.ICCID(cardNumber, 9) // not on the card
)

// deactivation is a command that is done, unless the card is another.
func (p *side) deactivation(change ...func(*card.Command)) card.Command {
	p.requests++
	cmd := card.Command{
		INS: card.INSDeactivate, RequestID: id.RequestID{0: 0xC0, 15: p.requests}, Operator: servertest.Owner, ICCID: &profile0, Counter: 5,
	}
	for _, f := range change {
		f(&cmd)
	}
	return cmd
}

// attempt sends a command as a server does: the event counter first.
func (p *side) attempt(a card.Attempt) (card.Report, error) {
	p.Helper()
	ch := p.channel()
	if !a.Sent {
		_, err := card.Select(p.Context(), ch)
		require.NoError(p, err)
		_, err = card.ReadInfo(p.Context(), ch)
		require.NoError(p, err)
	}
	a.Recorded = 5
	return p.terminal.Attempt(p.Context(), ch, p.target, a)
}

// ask sends a command, to which the card answers with this result.
func (p *side) ask(want card.Result, cmd card.Command) {
	p.Helper()
	rep, err := p.attempt(card.Attempt{Command: cmd})
	require.NoError(p, err)
	require.NotNil(p, rep.Answer)
	require.Equal(p, want, rep.Answer.Result)
	p.end()
}

// send sends commands as they are and expects the ends of their answers.
func (p *side) send(steps ...string) {
	p.Helper()
	p.channel()
	for i := 0; i < len(steps); i += 2 {
		capdu, err := hex.DecodeString(steps[i])
		require.NoError(p, err)
		rapdu, err := p.conn.Transmit(p.Context(), capdu)
		require.NoError(p, err)
		got := fmt.Sprintf("%X", rapdu)
		require.Equal(p, steps[i+1], got[max(0, len(got)-len(steps[i+1])):], steps[i])
	}
}

const selectApplet = "00A404000BF06361726462726964676500"

// authenticate is the authentication by hand, with these keys as the server's.
func (p *side) authenticate(keys cryptogram.PrivateKeys, hc [32]byte) (*securemsg.Session, apdu.StatusWord) {
	p.Helper()
	c := cryptogram.Challenge{Suite: cryptogram.Suite01, KID: p.terminal.Keys.KID, SID: p.terminal.Keys.SID(), EID: p.target.EID}
	s := cryptogram.Session{HC: hc}
	_, err := p.terminal.Rand.Read(c.RS[:])
	require.NoError(p, err)
	ch := p.channel()
	m1, sw, err := ch.Transmit(p.Context(), apdu.Command{INS: 0x88, P1: 1, P2: c.KID, Data: c.RS[:], Ne: ch.MaxNe()})
	require.NoError(p, err)
	require.Equal(p, apdu.SWSuccess, sw)
	s.RC, err = c.OpenM1(p.Context(), p.terminal.Keys.PrivateKeys, p.target.Keys, m1)
	require.NoError(p, err)
	_, err = p.terminal.Rand.Read(s.RK[:])
	require.NoError(p, err)
	m2, err := c.SealM2(p.Context(), p.terminal.Rand, keys, p.target.Keys, &s)
	require.NoError(p, err)
	_, sw, err = ch.Transmit(p.Context(), apdu.Command{INS: 0x82, P1: 1, P2: c.KID, Data: m2})
	require.NoError(p, err)
	k := c.Keys(&s)
	return securemsg.New(k.Enc, k.Mac), sw
}

// fail is an authentication by a server whose M2 the card does not open.
func (p *side) fail(want apdu.StatusWord) {
	p.Helper()
	keys := p.terminal.Keys.PrivateKeys
	keys.Auth = keys.Auth[1:2]
	_, sw := p.authenticate(keys, [32]byte{})
	require.Equal(p, want, sw)
}

// lost sends a deactivation of which the answer is lost, and recovers it. The
// error matches want, where it is not nil.
func (p *side) lost(want error) {
	p.Helper()
	cmd := p.deactivation()
	rep, err := p.attempt(card.Attempt{Command: cmd})
	require.ErrorIs(p, err, card.ErrOutcomeUnknown)
	if want != nil {
		require.ErrorIs(p, err, want)
	}
	require.True(p, rep.Sent)
	p.end()
	rep, err = p.attempt(card.Attempt{Command: cmd, Sent: true})
	require.NoError(p, err)
	require.Equal(p, card.OutcomeDone, rep.Outcome)
	require.Equal(p, uint32(6), rep.Status.EventCounter)
	p.end()
}

func ppr1(im *appletsim.Image)         { im.Profiles[0].PPR1 = true }
func noneEnabled(im *appletsim.Image)  { im.Profiles[0].State = appletsim.Disabled }
func withFallback(im *appletsim.Image) { im.Profiles[1].Fallback = true }
func tripleOnly(im *appletsim.Image)   { im.Policy.RequireTriple = true }

var short = []appletsim.Option{appletsim.WithoutExtendedLength()}

// fails is a fault at the n-th persistent write.
func fails(n int, kind appletsim.FaultKind) func(*appletsim.Card) {
	return func(c *appletsim.Card) { c.Inject(appletsim.Fault{Write: n, Kind: kind}) }
}

// at has the n-th command meet something on its way.
func at(n int, rapdu []byte, err error) func(*carrier) {
	return func(c *carrier) {
		c.before = func(i int) ([]byte, error) {
			if i == n {
				return rapdu, err
			}
			return nil, nil
		}
	}
}

// theDeactivation is which of a server's commands is DEACTIVATE: before it come
// SELECT, GET DATA, SELECT, INTERNAL and EXTERNAL AUTHENTICATE.
const theDeactivation = 6

var scenes = []scene{
	// The demo's.
	{name: "demo-1-deactivated", title: "Demo, scene 1: state read, then deactivated, the fallback profile enabled", image: withFallback, play: func(p *side) {
		assert.Len(p, p.read().Profiles, 3)
		p.ask(card.Done, p.deactivation())
		assert.Equal(p, uint32(6), p.read().EventCounter)
	}},
	{name: "demo-2-rule-refuses", title: "Demo, scene 2: a management rule refuses, so the state is read and no more", play: func(p *side) {
		assert.Equal(p, uint32(5), p.read().EventCounter)
	}},
	{name: "demo-3-card-refuses", title: "Demo, scene 3: the card refuses by its own policy (PPR1), and signs it", image: ppr1, play: func(p *side) {
		p.read()
		p.ask(card.PolicyForbids, p.deactivation())
	}},
	{name: "demo-4-card-pulled", title: "Demo, scene 4: pulled after it did it and before it answers; recovered", fault: fails(1, appletsim.CutAfter), play: func(p *side) {
		p.read()
		p.lost(apdu.ErrCardRemoved)
	}},

	// What goes well otherwise.
	{name: "activated", title: "ACTIVATE, done", image: noneEnabled, play: func(p *side) {
		p.ask(card.Done, p.deactivation(func(c *card.Command) { c.INS = card.INSActivate }))
	}},
	{name: "deactivated-suite-03", title: "DEACTIVATE in suite 03, done", image: tripleOnly, play: func(p *side) { p.ask(card.Done, p.deactivation()) }},
	{name: "deactivated-short", title: "DEACTIVATE, done: command chaining and GET RESPONSE, no extended length", opts: short, play: func(p *side) {
		p.ask(card.Done, p.deactivation())
	}},
	{name: "deactivated-suite-03-short", title: "DEACTIVATE in suite 03, done: command chaining and GET RESPONSE", image: tripleOnly, opts: short, play: func(p *side) {
		p.ask(card.Done, p.deactivation())
	}},
	{name: "deactivated-the-enabled-one", title: "DEACTIVATE without an ICCID, done", play: func(p *side) {
		p.ask(card.Done, p.deactivation(func(c *card.Command) { c.ICCID = nil }))
	}},
	{name: "answered-again", title: "The same request again: the stored answer", play: func(p *side) {
		cmd := p.deactivation()
		p.ask(card.Done, cmd)
		rep, err := p.attempt(card.Attempt{Command: cmd, Sent: true})
		require.NoError(p, err)
		assert.Equal(p, card.OutcomeDone, rep.Outcome)
	}},
	{name: "supplementary-channel", title: "The state is read on a logical channel of its own", play: func(p *side) {
		ch, err := p.channel().Open(p.Context())
		require.NoError(p, err)
		_, rep, err := p.terminal.ReadStatus(p.Context(), ch, p.target)
		require.NoError(p, err)
		assert.True(p, rep.Authenticated)
		require.NoError(p, ch.Close(p.Context()))
	}},
	{name: "in-the-clear", title: "What a card says of itself in the clear: EID, suites, counters", play: func(p *side) {
		eid, err := card.ReadEID(p.Context(), p.channel())
		require.NoError(p, err)
		assert.Equal(p, p.target.EID, eid)
		_, err = card.ReadInfo(p.Context(), p.channel())
		require.NoError(p, err)
	}},

	// Each refusal of §8, signed.
	{name: "refused-01-no-such-profile", title: "Result 01: no such profile", play: func(p *side) {
		p.ask(card.NoSuchProfile, p.deactivation(func(c *card.Command) { c.ICCID = &unknown }))
	}},
	{name: "refused-01-none-enabled", title: "Result 01: no ICCID given and no profile enabled", image: noneEnabled, play: func(p *side) {
		p.ask(card.NoSuchProfile, p.deactivation(func(c *card.Command) { c.ICCID = nil }))
	}},
	{name: "refused-02-not-enabled", title: "Result 02: DEACTIVATE of a profile that is not enabled", play: func(p *side) {
		p.ask(card.WrongState, p.deactivation(func(c *card.Command) { c.ICCID = &profile1 }))
	}},
	{name: "refused-02-another-enabled", title: "Result 02: ACTIVATE where another profile is enabled", play: func(p *side) {
		p.ask(card.WrongState, p.deactivation(func(c *card.Command) { c.INS, c.ICCID = card.INSActivate, &profile1 }))
	}},
	{name: "refused-03-policy-rule", title: "Result 03: PPR1 forbids it", image: ppr1, play: func(p *side) { p.ask(card.PolicyForbids, p.deactivation()) }},
	{name: "refused-10-not-owner", title: "Result 10: another operator's profile", play: func(p *side) {
		p.ask(card.NotOwner, p.deactivation(func(c *card.Command) { c.Operator = servertest.Other }))
	}},
	{name: "refused-11-suite-03-wanted", title: "Result 11: the card's policy wants suite 03", image: tripleOnly, play: func(p *side) {
		p.target.Suite = cryptogram.Suite01
		p.ask(card.TripleRequired, p.deactivation())
	}},
	{name: "refused-12-fallback", title: "Result 12: the fallback profile", image: func(im *appletsim.Image) { im.Profiles[0].Fallback = true }, play: func(p *side) {
		p.ask(card.FallbackNotAllowed, p.deactivation())
	}},
	{name: "refused-13-request-id-used", title: "Result 13: the request id was done with other command data", play: func(p *side) {
		cmd := p.deactivation()
		p.ask(card.Done, cmd)
		cmd.Reason = 1
		p.ask(card.RequestIDUsed, cmd)
	}},
	{name: "refused-14-counter", title: "Result 14: the event counter is not the expected one", play: func(p *side) {
		p.ask(card.CounterNotExpected, p.deactivation(func(c *card.Command) { c.Counter = 4 }))
	}},

	// Refusals before an operation is judged.
	{name: "authentication-6300", title: "6300: a server whose M2 does not open; counted", play: func(p *side) {
		p.send(selectApplet, "9000")
		p.fail(apdu.SWAuthenticationFailed)
		info, err := card.ReadInfo(p.Context(), p.channel())
		require.NoError(p, err)
		assert.Equal(p, []card.Failures{{KID: servertest.KID, Count: 1}}, info.Failures)
	}},
	{name: "authentication-6983", title: "6983: after 15 failures, until a reset", play: func(p *side) {
		p.send(selectApplet, "9000")
		for range 15 {
			p.fail(apdu.SWAuthenticationFailed)
		}
		p.fail(apdu.SWAuthenticationBlocked)
		require.NoError(p, p.conn.Reset(p.Context()))
		p.send(selectApplet, "9000")
		p.fail(apdu.SWAuthenticationFailed)
	}},
	{name: "authentication-6985", title: "6985: no challenge, or one that was answered, or another key set's", play: func(p *side) {
		m2 := "000160" + fmt.Sprintf("%0704X", 0)
		p.send(selectApplet, "9000", "00820101"+m2, "6985",
			"0088010110000102030405060708090A0B0C0D0E0F00", "6160", "00820102"+m2, "6985", "00820101"+m2, "6985")
	}},
	{name: "authentication-refused", title: "What INTERNAL and EXTERNAL AUTHENTICATE refuse: 6A86, 6A88, 6700", play: func(p *side) {
		rs := "10000102030405060708090A0B0C0D0E0F00"
		p.send(selectApplet, "9000", "00880201"+rs, "6A86", "00880102"+rs, "6A88", "008801010F000102030405060708090A0B0C0D0E00", "6700",
			"00880101"+rs, "6160", "008201010400010203", "6700")
	}},
	{name: "authentication-impostor", title: "A card that is not the one in the record: the server stops after M1", other: func(im *appletsim.Image) { servertest.Stranger(im) },
		play: func(p *side) {
			_, err := p.attempt(card.Attempt{Command: p.deactivation()})
			var auth *card.AuthError
			require.ErrorAs(p, err, &auth)
		}},
	{name: "refused-6982-no-session", title: "6982: GET STATUS, DEACTIVATE and ACTIVATE in the clear", play: func(p *side) {
		p.send(selectApplet, "9000", "80F2000000", "6982", "8004000000", "6982", "8044000000", "6982")
	}},
	{name: "refused-6982-another-command", title: "6982 within the session: another command than the one that was authorised", play: func(p *side) {
		p.send(selectApplet, "9000")
		cmd := p.deactivation()
		sm, sw := p.authenticate(p.terminal.Keys.PrivateKeys, cryptogram.HashCommand(cmd.INS, cmd.Data()))
		require.Equal(p, apdu.SWSuccess, sw)
		cmd.Reason = 1
		field, sw, err := p.channel().Transmit(p.Context(), apdu.Command{CLA: 0x8C, INS: cmd.INS, Data: sm.Wrap(cmd.INS, 0, 0, cmd.Data()), Ne: 256})
		require.NoError(p, err)
		require.Equal(p, apdu.SWSuccess, sw)
		data, inner, err := sm.Unwrap(field)
		require.NoError(p, err)
		assert.Empty(p, data)
		assert.Equal(p, apdu.SWSecurityStatusNotSatisfied, inner)
	}},
	{name: "refused-secure-messaging", title: "6987 and 6988: objects missing, and a mac that is wrong", play: func(p *side) {
		for _, c := range [][2]string{{"0497020000", "6987"}, {"0E970200008E080011223344556677", "6988"}} {
			p.send(selectApplet, "9000")
			_, sw := p.authenticate(p.terminal.Keys.PrivateKeys, [32]byte{})
			require.Equal(p, apdu.SWSuccess, sw)
			p.send("8CF20000"+c[0], c[1], "8CF2000000", "6982")
		}
	}},
	{name: "refused-in-general", title: "Status words of ISO 7816-4: 6700, 6881, 6882, 6883, 6884, 6A82, 6A86, 6A88, 6C12, 6D00, 6E00, 6985", play: func(p *side) {
		p.send("80CA005A00", "6985", "00A4040005A00000000100", "6A82", selectApplet, "9000",
			"00A404000B01", "6700", "01A4040000", "6881", "8CCA005A00", "6882", "1088010101FF", "9000", "80CA005A00", "6883",
			"90CA005A00", "6884", "80CA015A00", "6A88", "00A4000000", "6A86", "80CA005A01", "6C12", "80CA005A12", "9000",
			"8002000000", "6D00", "00CA005A00", "6E00", "00C0000000", "6985")
	}},

	// Each fault.
	{name: "fault-removed-before-the-write", title: "The card leaves before it did it; recovered", fault: fails(1, appletsim.CutBefore), play: func(p *side) { p.lost(apdu.ErrCardRemoved) }},
	{name: "fault-removed-after-the-write", title: "The card leaves after it did it; recovered, in parts", fault: fails(1, appletsim.CutAfter), opts: short, play: func(p *side) {
		p.lost(apdu.ErrCardRemoved)
	}},
	{name: "fault-reset", title: "The card is reset by another program before DEACTIVATE; recovered", carry: func(c *carrier) {
		c.before = func(n int) ([]byte, error) {
			if n == theDeactivation {
				return nil, c.card.Connect().Reset(context.Background())
			}
			return nil, nil
		}
	}, play: func(p *side) { p.lost(apdu.ErrCardReset) }},
	{name: "fault-reset-by-the-reader", title: "A reset by the reader: session, channels and selection are gone", play: func(p *side) {
		p.send(selectApplet, "9000", "0070000001", "019000")
		require.NoError(p, p.conn.Reset(p.Context()))
		p.send("80CA005A00", "6985", "01A4040000", "6881", selectApplet, "9000", "80F2000000", "6982")
	}},
	{name: "fault-mute", title: "The card does not answer DEACTIVATE; recovered", carry: at(theDeactivation, nil, fmt.Errorf("reader: %w", apdu.ErrTimeout)), play: func(p *side) {
		p.lost(apdu.ErrTimeout)
	}},
	{name: "fault-reader-fails", title: "The reader fails in DEACTIVATE; recovered", carry: at(theDeactivation, nil, fmt.Errorf("reader: %w", apdu.ErrTransport)), play: func(p *side) {
		p.lost(apdu.ErrTransport)
	}},
	{name: "fault-answer-cut-off", title: "The answer to DEACTIVATE ends before its status word; recovered", carry: at(theDeactivation, []byte{0x87}, nil), play: func(p *side) {
		p.lost(nil) // an answer of one byte, or the error that a trace has in its place
	}},
	{name: "fault-answer-spoilt", title: "The answer to DEACTIVATE is another on its way; recovered", carry: at(theDeactivation, []byte{0x99, 0x02, 0x90, 0x00, 0x90, 0x00}, nil), play: func(p *side) {
		p.lost(card.ErrUnverified)
	}},
	{name: "fault-write-fails", title: "Result 7F: the card's memory refuses the write; nothing changed", fault: fails(1, appletsim.WriteFails), play: func(p *side) {
		p.ask(card.UndefinedError, p.deactivation())
		p.ask(card.Done, p.deactivation())
	}},
	{name: "fault-write-fails-6581", title: "6581: the card's memory refuses to count a failed authentication", fault: fails(1, appletsim.WriteFails), play: func(p *side) {
		p.send(selectApplet, "9000")
		p.fail(apdu.SWMemoryFailure)
	}},
}
