// Package requests brings faults about at the steps of deactivation requests, on
// servers that share a record, and checks that every record ends as its card is,
// that no request is lost and none is done twice.
//
// A trial is a few cards, a handful of requests of two operators, one or two
// servers over one record, and a fault at a named step of one of the requests;
// sometimes a second one. Once the faults are gone and the servers had time to
// settle, the record, the cards, the audit trail, the guard's counts and what
// the operators were told must agree.
//
// All that a trial leaves to chance comes from the seed of the run and the
// trial's number, but for the scheduling of goroutines: run alone, a trial does
// the same again, though not always with the same result.
package requests

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/torture"
)

// Step is a point in the course of a request at which a fault can strike: a
// write of the record by its name in the store, or a command APDU.
type Step string

// The steps. A write is struck before its transaction does anything, or after
// it was committed and before anybody was told; an APDU before the card saw it,
// or after the card carried it out and before its answer.
const (
	Submit     Step = "submit"
	Claim      Step = "claim"
	Mark       Step = "mark"
	Again      Step = "again"
	Finish     Step = "finish"
	Wait       Step = "wait"
	Lost       Step = "lost"
	RecordCard Step = "record card"
	Release    Step = "release"
	Renew      Step = "renew"
	Approve    Step = "approve"
	Cancel     Step = "cancel"
	Expire     Step = "expire"

	Select       Step = "SELECT"
	GetData      Step = "GET DATA"
	Internal     Step = "INTERNAL AUTHENTICATE"
	External     Step = "EXTERNAL AUTHENTICATE"
	Deactivate   Step = "DEACTIVATE"
	GetStatus    Step = "GET STATUS"
	otherCommand Step = "other command" // is never struck
)

// Steps are all of them: first the writes, then the commands.
var Steps = []Step{
	Submit, Claim, Mark, Again, Finish, Wait, Lost, RecordCard, Release, Renew, Approve, Cancel, Expire,
	Select, GetData, Internal, External, Deactivate, GetStatus,
}

// onCard reports whether a step is a command APDU.
func (s Step) onCard() bool { return string(s) == strings.ToUpper(string(s)) }

// underClaim reports whether a step is a write that only the holder of a claim
// may do.
func (s Step) underClaim() bool {
	return slices.Contains([]Step{Mark, Again, Finish, Wait, Lost, RecordCard}, s)
}

// stepOf is the step of a command APDU.
func stepOf(capdu []byte) Step {
	if len(capdu) < 2 {
		return otherCommand
	}
	switch capdu[1] {
	case 0xA4:
		return Select
	case 0xCA:
		return GetData
	case 0x88:
		return Internal
	case 0x82:
		return External
	case 0x04:
		return Deactivate
	case 0xF2:
		return GetStatus
	}
	return otherCommand
}

// Fault is what goes wrong.
type Fault string

// The faults.
const (
	Died      Fault = "died"      // the server dies: all that it does fails from here on; another one starts from the record
	Killed    Fault = "killed"    // the server is a process of its own and gets SIGKILL
	Dropped   Fault = "dropped"   // the server's connections to the record are dropped
	Pulled    Fault = "pulled"    // the card leaves its reader, and comes back
	Answer    Fault = "answer"    // the answer is lost: of the card, or of the record
	Slept     Fault = "slept"     // the server sleeps until its leases have passed, and goes on
	Jumped    Fault = "jumped"    // the clock jumps, either way
	Full      Fault = "full"      // the disk is full for a while
	Restarted Fault = "restarted" // PostgreSQL is killed (SIGKILL) or shut down, and started again

	delayed Fault = "delayed" // the card takes long to answer: only to bring a step about
)

// Faults are all of them.
var Faults = []Fault{Died, Killed, Dropped, Pulled, Answer, Slept, Jumped, Full, Restarted}

var faultWords = map[Fault]string{
	Died: "server dies", Killed: "kill -9", Dropped: "connection dropped", Pulled: "card pulled", Answer: "answer lost",
	Slept: "lease passes in sleep", Jumped: "clock jumps", Full: "disk full", Restarted: "PostgreSQL restarts",
}

// Words name the fault for people.
func (f Fault) Words() string { return faultWords[f] }

// Strike is one fault at one step.
type Strike struct {
	Step   Step
	Moment torture.Moment
	Fault  Fault
	Nth    int // 1: the first time that the step is reached once the strike before has happened
}

func (s Strike) String() string {
	return fmt.Sprintf("%s, %s the %d. %s", s.Fault, s.Moment, s.Nth, s.Step)
}

// record is the kind of database, and who works on it.
type record string

const (
	sqliteOne    record = "SQLite"
	postgresOne  record = "PostgreSQL, one server"
	postgresTwo  record = "PostgreSQL, two servers"
	childSQLite  record = "SQLite, server in a process"
	childTwo     record = "PostgreSQL, one server of two in a process"
	restartedOne record = "PostgreSQL that restarts, one server"
	restartedTwo record = "PostgreSQL that restarts, two servers"
)

// records are all kinds.
var records = []record{sqliteOne, postgresOne, postgresTwo, childSQLite, childTwo, restartedOne, restartedTwo}

func (r record) servers() int {
	switch r {
	case postgresTwo, childTwo, restartedTwo:
		return 2
	}
	return 1
}

func (r record) postgres() bool { return r != sqliteOne && r != childSQLite }
func (r record) child() bool    { return r == childSQLite || r == childTwo }
func (r record) restarts() bool { return r == restartedOne || r == restartedTwo }

// reals is how many of the first trials of a run kill a process; after them it
// is one in realEvery.
const (
	reals     = 60
	realEvery = 100
)

// Trial is one trial: what is there, what is asked for, and what goes wrong.
type Trial struct {
	Seed    uint64 // of the run
	N       int    // number in the run, from 0
	Record  record
	Prelude []Strike // bring the step about
	Main    Strike
	Second  *Strike // nil for none
	cards   []cardPlan
	asks    []askPlan
	budget  string // the operators', as it stands in a rules file
	max     int64  // of budget; 0 for none
	ceiling int64
	rand    rand.PCG // for what comes up while it runs
}

// cardPlan is a card of a trial.
type cardPlan struct {
	owner     int           // of the enabled profile: operator 0 or 1
	fallback  bool          // profile 1 is a fallback profile
	unsettled bool          // the server has to read its state first
	critical  bool          // in a group that wants an approval
	absent    bool          // in no reader, ever
	late      time.Duration // in its reader that much later
}

// askPlan is what an operator does.
type askPlan struct {
	operator, card int
	named          bool // the profile is named
	key            bool // under an idempotency key
	again          bool // handed in a second time, under the same key
	timeout        time.Duration
	node           int // the server that it is handed in to
	gap            time.Duration
	cancel         bool
	approve        bool
	wait           time.Duration // before it is cancelled
}

// PlanTrial is trial n of a run. It is the same each time.
func PlanTrial(seed uint64, n int) *Trial {
	t := &Trial{Seed: seed, N: n, rand: *rand.NewPCG(seed, uint64(n)<<1|1)}
	r := rand.New(rand.NewPCG(seed, uint64(n)<<1))
	t.choose(r)
	chance := func(p float64) bool { return r.Float64() < p }
	within := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

	switch x := r.IntN(10); {
	case x < 4:
		t.budget = "{}"
	case x < 8:
		t.max = 1 + r.Int64N(2)
		t.budget = fmt.Sprintf("{max: %d}", t.max)
	default:
		t.max, t.ceiling = 1, 2+r.Int64N(2)
		t.budget = fmt.Sprintf("{max: %d, ceiling: %d}", t.max, t.ceiling)
	}
	present := 1 + r.IntN(2)
	if t.Main.Fault == Slept {
		present = 1 // so that whose claim it is can be told from outside
	}
	for range present {
		c := cardPlan{owner: min(r.IntN(4), 1), fallback: chance(0.2), unsettled: chance(0.15), critical: chance(0.15)}
		if chance(0.15) {
			c.late = within(40 * time.Millisecond)
		}
		t.cards = append(t.cards, c)
	}
	for range 2 + r.IntN(3) {
		a := askPlan{
			operator: min(r.IntN(4), 1), card: r.IntN(present), named: chance(0.3), key: chance(0.7), node: r.IntN(2), gap: within(6 * time.Millisecond),
			approve: chance(0.6), wait: within(20 * time.Millisecond), cancel: chance(0.1),
		}
		a.again = a.key && chance(0.4)
		if chance(0.8) {
			a.operator = t.cards[a.card].owner // else it is refused
		}
		if chance(0.05) {
			a.timeout = 20*time.Millisecond + within(100*time.Millisecond)
		}
		t.asks = append(t.asks, a)
	}
	t.asks[0].cancel = t.asks[0].cancel && t.Main.Step == Cancel
	t.asks[0].operator, t.asks[0].card = t.cards[0].owner, 0
	t.bringAbout(r)
	return t
}

// choose draws the fault, the step and the record.
func (t *Trial) choose(r *rand.Rand) {
	pick := func(f ...Fault) Fault { return f[r.IntN(len(f))] }
	draw := func(f Fault) Strike {
		return Strike{Steps[r.IntN(len(Steps))], torture.Moments[r.IntN(2)], f, 1 + max(0, r.IntN(4)-2)}
	}
	t.Main = draw(pick(Died, Dropped, Pulled, Answer, Slept, Jumped, Full))
	if t.N < reals || t.N%realEvery == 0 {
		t.Main.Fault = Killed
		t.Record = []record{childSQLite, childTwo}[r.IntN(2)]
		if r.IntN(5) < 2 {
			t.Main.Fault = Restarted
			t.Record = []record{restartedOne, restartedTwo}[r.IntN(2)]
		}
		return
	}
	t.Record = []record{sqliteOne, sqliteOne, sqliteOne, postgresOne, postgresTwo}[r.IntN(5)]
	if t.Main.Fault == Slept && r.IntN(3) > 0 {
		t.Record = postgresTwo // for somebody to take over
	}
	if r.IntN(5) == 0 {
		second := draw(pick(Died, Dropped, Pulled, Answer, Slept, Jumped, Full))
		second.Nth = 1
		t.Second = &second
	}
}

// bringAbout changes the trial so that its step is reached.
func (t *Trial) bringAbout(r *rand.Rand) {
	lose := func(s Step, m torture.Moment) { t.Prelude = append(t.Prelude, Strike{s, m, Answer, 1}) }
	first := &t.asks[0]
	switch t.Main.Step {
	case Again, Lost:
		lose(Deactivate, torture.Moments[r.IntN(2)])
	case Wait:
		lose([]Step{Select, Internal, External}[r.IntN(3)], torture.Before)
		t.Main.Nth = 1
	case RecordCard, GetStatus:
		t.cards[0].unsettled = true
	case Release:
		t.cards[0].unsettled, t.cards[0].late = true, 0
		first.gap = 50 * time.Millisecond
		lose([]Step{Internal, GetStatus}[r.IntN(2)], torture.Before)
	case Renew:
		t.Prelude = append(t.Prelude, Strike{Internal, torture.Before, delayed, 1})
	case Approve:
		t.cards[0].critical = true
		first.approve = true
	case Cancel, Expire:
		t.cards = append(t.cards, cardPlan{owner: first.operator, absent: true})
		first.card = len(t.cards) - 1
		if t.Main.Step == Cancel {
			first.cancel = true
		} else {
			first.timeout = 10*time.Millisecond + time.Duration(r.Int64N(int64(30*time.Millisecond)))
		}
	}
	switch t.Main.Step {
	case Cancel, Approve, Again, Lost, Release, Renew, Expire, RecordCard:
		t.Main.Nth = 1
	}
}

// String tells what the trial is.
func (t *Trial) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "trial %d of seed %d: %s; %s", t.N, t.Seed, t.Record, t.Main)
	for _, s := range t.Prelude {
		fmt.Fprintf(&b, "; before it: %s", s)
	}
	if t.Second != nil {
		fmt.Fprintf(&b, "; then: %s", *t.Second)
	}
	fmt.Fprintf(&b, "; budget %s, %d cards, %d requests", t.budget, len(t.cards), len(t.asks))
	return b.String()
}

// Command runs the trial again.
func (t *Trial) Command() string { return fmt.Sprintf("make torture SEED=%d TRIAL=%d", t.Seed, t.N) }
