package atr

import (
	"fmt"
	"strings"
	"time"
)

// String is the answer to reset in hexadecimal.
func (a ATR) String() string { return fmt.Sprintf("% X", a.Raw) }

// Lines say in words what the answer to reset says, with the times at a clock of
// kHz (0: the times are left out).
func (a ATR) Lines(kHz int) []string {
	convention := "direct"
	if a.Inverse {
		convention = "inverse"
	}
	lines := []string{
		"answer to reset: " + a.String(),
		"convention: " + convention,
		"protocols: " + a.protocolText(),
		"speed: " + a.speedText(kHz),
	}
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if a.Offers(0) {
		add("T=0: WI %d%s", a.WI(), took(", waits", a.WWT(kHz)))
	}
	if a.Offers(1) {
		p := a.T1()
		edc := "LRC"
		if p.CRC {
			edc = "CRC"
		}
		add("T=1: IFSC %d, BWI %d%s, CWI %d%s, %s", p.IFSC, p.BWI, took(", block waits", a.BWT(DefaultSpeed, kHz)),
			p.CWI, took(", character waits", a.CWT(a.TA1(), kHz)), edc)
	}
	add("extra guard time: %d", a.ExtraGuardTime())
	if a.SaysClasses() {
		add("classes: %s; clock %s", a.Classes(), a.ClockStop())
	}
	if len(a.Historical) > 0 {
		add("historical bytes: % X", a.Historical)
	}
	if c, ok := a.Capabilities(); ok {
		add("capabilities: %s", c)
	}
	if s := a.Status(); len(s) > 0 {
		add("status indicator: % X", s)
	}
	return lines
}

func (a ATR) protocolText() string {
	var s strings.Builder
	for i, t := range a.Protocols() {
		if i > 0 {
			s.WriteString(", ")
		}
		fmt.Fprintf(&s, "T=%d", t)
	}
	if m, ok := a.Specific(); ok {
		fmt.Fprintf(&s, "; specific mode T=%d", m.T)
		if m.Changeable {
			s.WriteString(", negotiable after a warm reset")
		}
	}
	return s.String()
}

func (a ATR) speedText(kHz int) string {
	s := fmt.Sprintf("%s, clock up to %g MHz", a.TA1(), float64(a.TA1().MaxClock())/1000)
	if kHz > 0 {
		s += fmt.Sprintf(", %.0f baud at %g MHz", a.TA1().Baud(kHz), float64(kHz)/1000)
	}
	return s
}

func took(what string, d time.Duration) string {
	if d == 0 {
		return ""
	}
	return what + " " + d.Round(10*time.Microsecond).String()
}

func (c Capabilities) String() string {
	var s []string
	if c.Chaining {
		s = append(s, "command chaining")
	}
	if c.Extended {
		s = append(s, "extended length")
	}
	n := fmt.Sprintf("%d logical channels", c.Channels)
	switch c.Channels {
	case 1:
		n = "1 logical channel"
	case 8:
		n = "8 logical channels or more"
	}
	return strings.Join(append(s, n), ", ")
}
