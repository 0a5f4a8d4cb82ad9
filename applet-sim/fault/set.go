package fault

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// MaxArmed is how many faults a card can have at once.
const MaxArmed = 64

// Strike is a fault that struck.
type Strike struct {
	ID    int    `json:"fault"` // of the fault in its Set
	Fault Fault  `json:"what"`  // with its seed: what repeats it
	APDU  int    `json:"apdu"`  // how many commands the card had been given
	Write int    `json:"write"` // how many persistent writes it had begun
	Reset int    `json:"reset"` // how many resets it had seen
	INS   string `json:"ins"`   // of the command under way; "" if none
}

// String tells the strike on one line.
func (s Strike) String() string {
	ins := ""
	if s.INS != "" {
		ins = " INS " + s.INS
	}
	return fmt.Sprintf("fault %d at APDU %d%s, write %d, reset %d: %s", s.ID, s.APDU, ins, s.Write, s.Reset, s.Fault)
}

// Armed is a fault of a Set.
type Armed struct {
	ID      int   `json:"id"`
	Fault   Fault `json:"fault"`
	Events  int   `json:"events"`  // that counted so far
	Strikes int   `json:"strikes"` // so far
}

// Set is the faults of one card, and its counts. A zero one is ready. It serves
// one goroutine.
type Set struct {
	// OnStrike is called at each strike, at the first one alone where a fault
	// strikes always by its kind; it may be nil.
	OnStrike func(Strike)

	armed                 []*armed
	lastID                int
	apdus, writes, resets int
	command               []byte // under way, as it was sent
	inCommand             bool
	writesNow             int // in the command under way
}

type armed struct {
	Armed
	left int // strikes; Always
	rand *rand.Rand
	due  bool // strikes in the command under way
	on   bool // has struck, and is in force until the next reset
}

// Add arms a fault and gives its id. Where it needs a seed and has none, it gets
// one. The error matches ErrInvalid.
func (s *Set) Add(f Fault) (id int, err error) {
	if err := f.Check(); err != nil {
		return 0, err
	}
	if len(s.armed) == MaxArmed {
		return 0, invalid("%d faults are armed, which is the most", MaxArmed)
	}
	chance := f.Probability > 0 && f.Probability < 1 || f.Kind == Flip || f.Kind == FlipCommand
	if chance && f.Seed == 0 {
		f.Seed = rand.Uint64N(1<<53-1) + 1 // as JSON's numbers go everywhere
	}
	s.lastID++
	a := &armed{Armed: Armed{ID: s.lastID, Fault: f}, left: f.Times, rand: rand.New(rand.NewPCG(f.Seed, 0))}
	if a.left == 0 {
		a.left = 1
		if kinds[f.Kind].standing || f.Until != "" {
			a.left = Always
		}
	}
	s.armed = append(s.armed, a)
	if f.Kind == ATR && f.Reset == 0 {
		a.meet()
		s.struck(ATR)
	}
	return a.ID, nil
}

// List is the faults that are armed, the oldest first. One that has struck as
// often as it should is so no more.
func (s *Set) List() []Armed {
	out := []Armed{}
	for _, a := range s.armed {
		out = append(out, a.Armed)
	}
	return out
}

// Clear disarms the fault of that id; 0: all. It reports whether there was one.
func (s *Set) Clear(id int) bool {
	before := len(s.armed)
	s.armed = slices.DeleteFunc(s.armed, func(a *armed) bool { return id == 0 || a.ID == id })
	return len(s.armed) < before
}

// Counts are how many commands, persistent writes and resets there were.
func (s *Set) Counts() (apdus, writes, resets int) { return s.apdus, s.writes, s.resets }

// meet counts an event that is one for a, and draws whether a strikes at it.
func (a *armed) meet() {
	a.Events++
	p := a.Fault.Probability
	if a.left != 0 && a.Events >= a.Fault.first() && (p == 0 || a.rand.Float64() < p) {
		a.due = true
	}
}

// event has every fault of a stream meet an event.
func (s *Set) event(in stream) {
	for _, a := range s.armed {
		if a.Fault.stream() != in {
			continue
		}
		if ins := a.Fault.INS; ins == nil || s.inCommand && len(s.command) > 1 && bytes.IndexByte(ins, s.command[1]) >= 0 {
			a.meet()
		}
	}
}

// struck finds the first fault of these kinds that is due, and has it strike.
func (s *Set) struck(of ...Kind) *armed {
	for _, a := range s.armed {
		if a.due && slices.Contains(of, a.Fault.Kind) {
			s.strike(a)
			return a
		}
	}
	return nil
}

func (s *Set) strike(a *armed) {
	a.due = false
	a.Strikes++
	if a.left > 0 {
		a.left--
	}
	a.on = a.Fault.Until != "" || a.Fault.Kind == ATR
	if s.OnStrike == nil || kinds[a.Fault.Kind].standing && a.Strikes > 1 {
		return
	}
	hit := Strike{ID: a.ID, Fault: a.Fault, APDU: s.apdus, Write: s.writes, Reset: s.resets}
	if s.inCommand && len(s.command) > 1 {
		hit.INS = fmt.Sprintf("%02X", s.command[1])
	}
	s.OnStrike(hit)
}

// settle ends the strikes that were due, and forgets the faults that strike no
// more.
func (s *Set) settle() {
	for _, a := range s.armed {
		a.due = false
	}
	s.armed = slices.DeleteFunc(s.armed, func(a *armed) bool { return a.left == 0 && !a.on })
}

// Verdict is what becomes of a command on its way to the card.
type Verdict struct {
	CAPDU  []byte // what the card gets
	Skip   bool   // it gets nothing: Answer is its answer, nil for none
	Answer []byte
	Leave  bool // the card leaves its reader, and does not answer
	Away   time.Duration
}

// Begin meets a command. Unless it is skipped, the card carries it out, with
// Write for each write, and End meets the answer.
func (s *Set) Begin(capdu []byte) Verdict {
	s.apdus++
	if len(s.armed) == 0 {
		return Verdict{CAPDU: capdu}
	}
	s.command, s.inCommand, s.writesNow = capdu, true, 0
	s.event(commands)
	if slices.ContainsFunc(s.armed, func(a *armed) bool { return a.on && a.Fault.Kind == Mute }) {
		s.finish()
		return Verdict{Skip: true}
	}
	if a := s.struck(RemoveBefore); a != nil {
		s.finish()
		return Verdict{Skip: true, Leave: true, Away: a.Fault.Away}
	}
	if a := s.struck(Mute); a != nil {
		s.finish()
		return Verdict{Skip: true}
	}
	if a := s.struck(Refuse); a != nil {
		return Verdict{Skip: true, Answer: a.Fault.SW.Append(nil)}
	}
	if a := s.struck(FlipCommand); a != nil {
		capdu = a.flip(capdu)
	}
	return Verdict{CAPDU: capdu}
}

// finish ends the command under way.
func (s *Set) finish() {
	s.inCommand, s.command = false, nil
	s.settle()
}

// Write meets a persistent write, and gives the fault that strikes: of kind
// WriteFails, WornOut or a Cut; the zero Fault for none.
func (s *Set) Write() (f Fault) {
	s.writes++
	s.writesNow++
	s.event(writes)
	if a := s.struck(CutBefore, CutTorn, CutAfter, WriteFails, WornOut); a != nil {
		f = a.Fault
	}
	if !s.inCommand {
		s.settle()
	}
	for _, a := range s.armed { // one of them strikes at a write
		a.due = a.due && kinds[a.Fault.Kind].stream != writes
	}
	return f
}

// Outcome is what becomes of an answer.
type Outcome struct {
	Answer []byte // nil for none
	Delay  time.Duration
	Leave  bool // the card leaves its reader before it answers
	Away   time.Duration
}

// End meets the answer to the command that was begun; nil where the card left.
func (s *Set) End(rapdu []byte) Outcome {
	out := Outcome{Answer: rapdu}
	if !s.inCommand {
		return out
	}
	defer s.finish()
	if rapdu == nil {
		return out
	}
	if a := s.struck(WrongSW); a != nil {
		out.Answer = a.Fault.SW.Append(bytes.Clone(out.Answer[:max(0, len(out.Answer)-2)]))
	}
	if a := s.struck(Flip); a != nil {
		out.Answer = a.flip(out.Answer)
	}
	if a := s.struck(Partial); a != nil {
		out.Answer = out.Answer[:min(a.Fault.Bytes, len(out.Answer))]
	}
	if a := s.struck(Slow); a != nil {
		out.Delay += a.Fault.Timing.of(s.command, out.Answer, s.writesNow)
	}
	if a := s.struck(Late); a != nil {
		out.Delay += a.Fault.Delay
	}
	if s.struck(Lost) != nil {
		out.Answer = nil
	}
	if a := s.struck(RemoveAfter); a != nil {
		out.Answer, out.Leave, out.Away = nil, true, a.Fault.Away
	}
	return out
}

// Reset meets a reset or power-on.
func (s *Set) Reset() {
	s.resets++
	for _, a := range s.armed {
		a.on = false
		if a.Fault.Until != "" && a.Strikes > 0 {
			a.left = 0
		}
	}
	s.event(resets)
	for _, a := range s.armed {
		if a.due && a.Fault.Kind == ATR {
			s.strike(a)
		}
	}
	s.settle()
}

// ATR is the answer to reset that a fault has in force, the newest one; nil for
// none.
func (s *Set) ATR() []byte {
	for _, a := range slices.Backward(s.armed) {
		if a.on && a.Fault.Kind == ATR {
			return bytes.Clone(a.Fault.ATR)
		}
	}
	return nil
}

// flip is b with as many bits flipped as the fault says, each another one where
// there are so many.
func (a *armed) flip(b []byte) []byte {
	b = bytes.Clone(b)
	n := min(max(1, a.Fault.Bits), 8*len(b))
	flipped := map[int]bool{}
	for len(flipped) < n {
		if i := a.rand.IntN(8 * len(b)); !flipped[i] {
			flipped[i] = true
			b[i/8] ^= 1 << (i % 8)
		}
	}
	return b
}
