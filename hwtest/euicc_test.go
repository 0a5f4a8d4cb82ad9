package hwtest

import (
	"bytes"
	"encoding/hex"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/apdu/tlv"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/card/id"
)

// plainEUICC is an emulated eUICC for the virtual bench: SGP.22 ES10c's lists,
// on logical channels 1 to 3, over a card that has EF.ICCID and nothing else.
type plainEUICC struct {
	eid      id.EID
	profiles []es10.Profile

	open    [4]bool // logical channels; the basic one always is
	isdr    [4]bool // where the ISD-R is selected
	file    uint16  // what is selected on the basic channel
	pending []byte
}

const (
	fileMF    = 0x3F00
	fileICCID = 0x2FE2
)

// ATR has T=0 and T=1, and announces command chaining and logical channels.
func (c *plainEUICC) ATR() []byte {
	atr := []byte{0x3B, 0x85, 0x80, 0xB1, 0xFE, 0x45, 0x1F, 0xC7, 0x80, 0x73, 0x80, 0x21, 0x93}
	tck := byte(0)
	for _, b := range atr[1:] {
		tck ^= b
	}
	return append(atr, tck)
}

func (c *plainEUICC) Power(bool) { c.Reset() }

func (c *plainEUICC) Reset() {
	c.open, c.isdr, c.file, c.pending = [4]bool{true}, [4]bool{}, fileMF, nil
}

func (c *plainEUICC) Process(capdu []byte) []byte {
	cmd, err := apdu.ParseCommand(capdu)
	channel := int(cmd.CLA & 0x03)
	switch {
	case err != nil || apdu.IsExtended(capdu):
		return apdu.SWWrongLength.Append(nil)
	case !c.open[channel]:
		return apdu.SWChannelNotSupported.Append(nil)
	}
	data, sw := c.carryOut(channel, cmd)
	c.pending = nil
	if sw != apdu.SWSuccess {
		return sw.Append(nil)
	}
	if len(data) > cmd.Ne { // the rest by GET RESPONSE
		c.pending = data[cmd.Ne:]
		return (0x6100 | apdu.StatusWord(byte(min(len(c.pending), 256)))).Append(data[:cmd.Ne:cmd.Ne])
	}
	return sw.Append(data)
}

func (c *plainEUICC) carryOut(channel int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	switch cmd.INS {
	case 0x70: // MANAGE CHANNEL
		if cmd.P1 == 0x80 && cmd.P2 > 0 && int(cmd.P2) < len(c.open) {
			c.open[cmd.P2], c.isdr[cmd.P2] = false, false
			return nil, apdu.SWSuccess
		}
		for n := 1; n < len(c.open) && cmd.P1 == 0; n++ {
			if !c.open[n] {
				c.open[n] = true
				return []byte{byte(n)}, apdu.SWSuccess
			}
		}
		return nil, apdu.SWChannelNotSupported
	case 0xA4: // SELECT
		return c.choose(channel, cmd)
	case 0xAA: // TERMINAL CAPABILITY
		return nil, apdu.SWSuccess
	case 0xB0: // READ BINARY
		if c.file == fileICCID && len(c.profiles) > 0 {
			return c.profiles[0].ICCID[:], apdu.SWSuccess
		}
		return nil, apdu.SWConditionsNotSatisfied
	case 0xC0: // GET RESPONSE
		if c.pending == nil {
			return nil, apdu.SWConditionsNotSatisfied
		}
		return c.pending, apdu.SWSuccess
	case 0xE2: // STORE DATA
		if !c.isdr[channel] || cmd.P1 != 0x91 {
			return nil, apdu.SWConditionsNotSatisfied
		}
		return c.function(cmd.Data)
	}
	return nil, apdu.SWInstructionNotSupported
}

func (c *plainEUICC) choose(channel int, cmd apdu.Command) ([]byte, apdu.StatusWord) {
	standard, err := hex.DecodeString(es10.ISDRs[0])
	switch {
	case cmd.P1 == 0x04 && err == nil && bytes.Equal(cmd.Data, standard):
		c.isdr[channel] = true
		return tlv.Append(nil, 0x6F, tlv.Append(nil, 0x84, standard...)...), apdu.SWSuccess
	case cmd.P1 == 0x00 && len(cmd.Data) == 2:
		if f := uint16(cmd.Data[0])<<8 | uint16(cmd.Data[1]); f == fileMF || f == fileICCID {
			c.file = f
			return nil, apdu.SWSuccess
		}
	}
	return nil, apdu.SWFileNotFound
}

// function is one of ES10c.
func (c *plainEUICC) function(request []byte) ([]byte, apdu.StatusWord) {
	o, rest, err := tlv.Read(request)
	switch {
	case err != nil || len(rest) != 0:
		return nil, apdu.SWIncorrectData
	case o.Tag == 0xBF3E: // GetEID
		return tlv.Append(nil, 0xBF3E, tlv.Append(nil, 0x5A, c.eid[:]...)...), apdu.SWSuccess
	case o.Tag == 0xBF2D: // GetProfilesInfo
		var list []byte
		for _, p := range c.profiles {
			e := tlv.Append(nil, 0x5A, p.ICCID[:]...)
			e = tlv.Append(e, 0x4F, p.AID...)
			e = tlv.Append(e, 0x9F70, byte(p.State))
			e = tlv.Append(e, 0x91, []byte(p.Provider)...)
			e = tlv.Append(e, 0x92, []byte(p.Name)...)
			e = tlv.Append(e, 0x95, byte(p.Class))
			list = tlv.Append(list, 0xE3, e...)
		}
		return tlv.Append(nil, 0xBF2D, tlv.Append(nil, 0xA0, list...)...), apdu.SWSuccess
	}
	return nil, apdu.SWReferenceNotFound
}
