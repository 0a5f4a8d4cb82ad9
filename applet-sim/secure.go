package appletsim

import (
	"errors"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/securemsg"
)

// secured carries out a command under secure messaging (§5). What is answered
// in the clear ends the session; once the mac verified, every status goes in
// the response's 99 and the session goes on.
func (c *Card) secured(channel int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	was := c.takeState(channel)
	s := was.session
	if s == nil {
		return nil, apdu.SWSecurityStatusNotSatisfied
	}
	if len(cmd.Data) > maxCommandData {
		return nil, apdu.SWWrongLength
	}
	data, err := s.sm.UnwrapCommand(cmd.INS, cmd.P1, cmd.P2, cmd.Data)
	switch {
	case err == nil, errors.Is(err, securemsg.ErrCryptogram):
	case errors.Is(err, securemsg.ErrMAC):
		return nil, apdu.SWSMObjectsIncorrect
	default:
		return nil, apdu.SWSMObjectsMissing
	}
	c.auth = was
	cmd.Data = data
	sw := apdu.SWInstructionNotSupported
	var out []byte
	if in, known, _ := c.instruction(&c.channels[channel], cmd.INS); known {
		out, sw = in.secured(c, s, cmd, err == nil)
	} else if err != nil {
		sw = apdu.SWIncorrectData
	}
	return s.sm.WrapResponse(out, sw), apdu.SWSuccess
}
