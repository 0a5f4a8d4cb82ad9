package atr

import (
	"fmt"
	"time"
)

// Speed is FI and DI in one byte, as TA1 and PPS1 have them (ISO/IEC 7816-3 §8.3).
type Speed byte

// DefaultSpeed is F = 372, D = 1.
const DefaultSpeed Speed = 0x11

// By FI: the clock rate conversion integer Fi, and the highest clock, kHz (ISO/IEC
// 7816-3 table 7). 0 is reserved.
var (
	conversions = [16]int{372, 372, 558, 744, 1116, 1488, 1860, 0, 0, 512, 768, 1024, 1536, 2048, 0, 0}
	clocks      = [16]int{4000, 5000, 6000, 8000, 12000, 16000, 20000, 0, 0, 5000, 7500, 10000, 15000, 20000, 0, 0}
)

// adjustments are the baud rate adjustment integers Di by DI (table 8).
var adjustments = [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0}

// NewSpeed is the speed of the integers FI and DI.
func NewSpeed(fi, di int) Speed { return Speed(fi&0x0F<<4 | di&0x0F) }

// Valid reports whether neither half is reserved.
func (s Speed) Valid() bool { return conversions[s>>4] != 0 && adjustments[s&0x0F] != 0 }

// F is the clock rate conversion integer; 372 where it is reserved.
func (s Speed) F() int {
	if f := conversions[s>>4]; f != 0 {
		return f
	}
	return 372
}

// D is the baud rate adjustment integer; 1 where it is reserved.
func (s Speed) D() int {
	if d := adjustments[s&0x0F]; d != 0 {
		return d
	}
	return 1
}

// MaxClock is the highest clock, kHz, that the card takes with it; 5000 where it
// is reserved.
func (s Speed) MaxClock() int {
	if f := clocks[s>>4]; f != 0 {
		return f
	}
	return 5000
}

// Baud is the bits a second at a clock of kHz: f × D / F.
func (s Speed) Baud(kHz int) float64 {
	return float64(kHz) * 1000 * float64(s.D()) / float64(s.F())
}

// ETU is the elementary time unit at a clock of kHz: F / (D × f), ISO/IEC 7816-3
// §7.1. It is 0 where the clock is.
func (s Speed) ETU(kHz int) time.Duration { return cycles(float64(s.F())/float64(s.D()), kHz) }

func (s Speed) String() string { return fmt.Sprintf("F=%d D=%d", s.F(), s.D()) }

// cycles is the time that n cycles of a clock of kHz take.
func cycles(n float64, kHz int) time.Duration {
	if kHz <= 0 {
		return 0
	}
	return time.Duration(n / float64(kHz) * float64(time.Millisecond))
}

// GuardTime is the least time between two characters to the card, ISO/IEC 7816-3
// §8.3: 12 etu and N × F/D / f more.
func (a ATR) GuardTime(s Speed, kHz int) time.Duration {
	n := a.ExtraGuardTime()
	if n == 255 {
		n = 0
	}
	return time.Duration(12+n) * s.ETU(kHz)
}

// WWT is the waiting time of T=0 at a clock of kHz: WI × 960 × Fi / f (ISO/IEC
// 7816-3 §10.2). Fi is TA1's, whatever was negotiated.
func (a ATR) WWT(kHz int) time.Duration {
	return cycles(float64(a.WI())*960*float64(a.TA1().F()), kHz)
}

// BWT is the block waiting time of T=1: 11 etu + 2^BWI × 960 × 372 / f (ISO/IEC
// 7816-3 §11.4.3).
func (a ATR) BWT(s Speed, kHz int) time.Duration {
	return 11*s.ETU(kHz) + cycles(float64(int(1)<<a.T1().BWI)*960*372, kHz)
}

// CWT is the character waiting time of T=1: (11 + 2^CWI) etu (ISO/IEC 7816-3
// §11.4.3).
func (a ATR) CWT(s Speed, kHz int) time.Duration {
	return time.Duration(11+int(1)<<a.T1().CWI) * s.ETU(kHz)
}
