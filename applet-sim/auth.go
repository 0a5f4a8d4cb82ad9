package appletsim

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// maxFailed is how many failures since reset make EXTERNAL AUTHENTICATE answer
// 6983 (§4).
const maxFailed = 15

// authState is the one state of the card (§4): IDLE with neither, CHALLENGED,
// or SESSION, and the channel that it belongs to.
type authState struct {
	channel   int
	challenge *challenge
	session   *session
}

// challenge is what INTERNAL AUTHENTICATE left.
type challenge struct {
	cryptogram.Challenge
	rc     [32]byte
	server *server
}

// session is what EXTERNAL AUTHENTICATE opened.
type session struct {
	suite cryptogram.Suite
	hc    [32]byte // the hash of the one DEACTIVATE or ACTIVATE that it may carry
	spent bool     // that was received
	sm    *securemsg.Session
}

// takeState ends the state of a channel and gives what it was; IDLE where the
// state is another channel's.
func (c *Card) takeState(channel int) authState {
	if c.auth.channel != channel {
		return authState{channel: channel}
	}
	was := c.auth
	c.auth = authState{}
	return was
}

func (c *Card) endState(channel int) { c.takeState(channel) }

// internalAuthenticate is INTERNAL AUTHENTICATE: the card proves itself, and
// challenges the server.
func (c *Card) internalAuthenticate(n int, _ authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	suite := cryptogram.Suite(cmd.P1)
	if !c.image.has(suite) {
		return nil, apdu.SWIncorrectP1P2
	}
	srv := findServer(c.material.servers, cmd.P2)
	if srv == nil || !srv.keys.Supports(suite) {
		return nil, apdu.SWReferenceNotFound
	}
	next := &challenge{server: srv}
	if len(cmd.Data) != len(next.RS) {
		return nil, apdu.SWWrongLength
	}
	next.Challenge = cryptogram.Challenge{
		Suite: suite, KID: srv.kid, RS: [16]byte(cmd.Data), SID: srv.sid, EID: c.image.EID,
	}
	if _, err := io.ReadFull(c.rand, next.rc[:]); err != nil {
		return nil, apdu.SWMemoryFailure
	}
	m1, err := next.SealM1(context.Background(), c.rand, c.material.keys, srv.keys, next.rc)
	if err != nil {
		return nil, apdu.SWMemoryFailure
	}
	c.auth = authState{channel: n, challenge: next}
	return m1, apdu.SWSuccess
}

// externalAuthenticate is EXTERNAL AUTHENTICATE: the server answers the
// challenge. Having taken the state, it has spent RC whatever comes out.
func (c *Card) externalAuthenticate(n int, was authState, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	if c.failed >= maxFailed {
		return nil, apdu.SWAuthenticationBlocked
	}
	ch := was.challenge
	if ch == nil || byte(ch.Suite) != cmd.P1 || ch.KID != cmd.P2 {
		return nil, apdu.SWConditionsNotSatisfied
	}
	s, err := ch.OpenM2(context.Background(), c.material.keys, ch.server.keys, ch.rc, cmd.Data)
	switch {
	case errors.Is(err, cryptogram.ErrLength):
		return nil, apdu.SWWrongLength
	case err != nil:
		return nil, c.authenticationFailed(ch.KID)
	}
	keys := ch.Keys(s)
	c.auth = authState{channel: n, session: &session{
		suite: ch.Suite, hc: s.HC, sm: securemsg.New(keys.Enc, keys.Mac),
	}}
	return nil, apdu.SWSuccess
}

// authenticationFailed counts a failure, also in persistent memory before it is
// answered.
func (c *Card) authenticationFailed(kid byte) apdu.StatusWord {
	c.failed++
	n := c.image.failures(kid)
	if n == math.MaxUint16 {
		return apdu.SWAuthenticationFailed
	}
	next := c.image.clone()
	next.setFailures(kid, n+1)
	if c.persist(next) != nil {
		return apdu.SWMemoryFailure
	}
	return apdu.SWAuthenticationFailed
}
