package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
)

// Problem is something that is not as a server wrote it.
type Problem struct {
	Line       int    `json:"line,omitempty"`       // of an export
	Event      int64  `json:"event,omitempty"`      // its number in the record
	Checkpoint int64  `json:"checkpoint,omitempty"` // its number
	Request    string `json:"request_id,omitempty"`
	Text       string `json:"text"`
}

func (p Problem) String() string {
	where := ""
	add := func(what string, n int64) {
		if n != 0 {
			where += what + " " + strconv.FormatInt(n, 10) + ": "
		}
	}
	add("line", int64(p.Line))
	add("event", p.Event)
	add("checkpoint", p.Checkpoint)
	if p.Request != "" {
		where += "request " + p.Request + ": "
	}
	return where + p.Text
}

// maxProblems is how many are kept; one change may make many.
const maxProblems = 100

// Report is what a verification found.
type Report struct {
	Events      int64 `json:"events"`
	Earlier     int64 `json:"earlier"` // of them from before there were chains
	Chains      int64 `json:"chains"`
	Checkpoints int64 `json:"checkpoints"`
	// CheckedUntil is the time of the last checkpoint, and Unproven how many
	// events came after it.
	CheckedUntil *time.Time `json:"checked_until,omitempty"`
	Unproven     int64      `json:"unproven"`
	Receipts     int64      `json:"receipts"`      // of cards, that verify
	NoReceipts   int64      `json:"no_receipts"`   // outcomes of plain eUICCs, which give none
	UnknownCards int64      `json:"unknown_cards"` // outcomes whose card was registered before there were chains
	Requests     int64      `json:"requests"`      // of the record, that the trail agrees with
	Problems     []Problem  `json:"problems"`
	Found        int64      `json:"found"` // problems in all, where they are too many to be listed
}

// Verifier checks a trail, line by line in the order of an export. Memory is in
// proportion to the chains and, by less than a hundred bytes each, to the cards.
type Verifier struct {
	trusted note.Verifiers
	kept    map[int64][]string // notes that somebody kept elsewhere, by their number
	cards   *spool

	report   Report
	heads    map[ChainID]Head
	earlier  Digest
	digest   Digest
	covered  Checkpoint // what the next checkpoint has to say
	lastNote string
	last     Checkpoint // the last one that verifies
	after    int64      // the number of the entry before, since the checkpoint before
	line     int
	buf      []byte
}

// NewVerifier makes one that trusts the servers of these keys. kept are notes of
// checkpoints that were kept elsewhere, each of which must be in the trail; the
// error says that one of them is none, or of no server that is trusted. Close
// must be called.
func NewVerifier(trusted note.Verifiers, kept ...string) (*Verifier, error) {
	v := &Verifier{trusted: trusted, kept: map[int64][]string{}, heads: map[ChainID]Head{}, report: Report{Problems: []Problem{}}}
	for _, k := range kept {
		c, err := open(k, trusted)
		if err != nil {
			return nil, fmt.Errorf("audit: the checkpoint that was kept: %w", err)
		}
		v.kept[c.Number] = append(v.kept[c.Number], k)
	}
	var err error
	v.cards, err = newSpool()
	return v, err
}

// Close gives back what the verifier needed.
func (v *Verifier) Close() error { return v.cards.close() }

func (v *Verifier) problem(p Problem, format string, args ...any) {
	p.Line, p.Text = v.line, fmt.Sprintf(format, args...)
	if v.report.Found++; len(v.report.Problems) < maxProblems {
		v.report.Problems = append(v.report.Problems, p)
	}
}

// Add checks the next line. What is wrong with it becomes part of the report; an
// error is of this machine.
func (v *Verifier) Add(l Line) error {
	v.line = l.At
	if l.Entry == nil {
		v.checkpoint(l.Note)
		return nil
	}
	return v.entry(l.Entry)
}

func (v *Verifier) entry(e *Entry) error {
	at := Problem{Event: e.Seq}
	v.report.Events++
	if e.Seq <= v.after {
		v.problem(at, "it comes after event %d: the order is not that in which they were written", v.after)
	}
	v.after = e.Seq
	if e.N == 0 {
		if v.report.Chains > 0 {
			v.problem(at, "it is of no chain, and yet there were chains: something else than a server wrote it")
		}
		v.report.Earlier++
		v.earlier.AddUnchained(e)
		return nil
	}
	head, known := v.heads[e.Chain]
	switch {
	case e.N == 1 && known:
		v.problem(at, "its chain begins a second time")
	case e.N == 1:
		v.report.Chains++
		v.begun(e)
	case !known || e.N != head.N+1:
		v.problem(at, "it is number %d of chain %x, of which %d comes next: events were removed, or put in", e.N, e.Chain, head.N+1)
	}
	var sum Hash
	if sum, v.buf = e.sum(head.Hash, v.buf); sum != e.Hash {
		v.problem(at, "its hash is not that of what it says, after the event before it in its chain: one of them was changed")
	}
	v.heads[e.Chain] = Head{e.Chain, e.N, e.Hash}
	if e.Seq <= v.last.Through && !v.last.Misses(e.Seq) {
		v.problem(at, "checkpoint %d does not cover it, and was made when it was there: it was put in later", v.last.Number)
	}
	v.covered.Add(&v.digest, e)
	v.report.Unproven++
	return v.content(e)
}

// begun checks the first entry of a chain.
func (v *Verifier) begun(e *Entry) {
	at := Problem{Event: e.Seq}
	var d struct{ Earlier *Earlier }
	if e.Kind != Began || json.Unmarshal([]byte(e.Detail), &d) != nil {
		v.problem(at, "a chain begins without saying so")
	}
	is := Earlier{v.report.Earlier, hex.EncodeToString(v.earlier.Sum[:])}
	switch {
	case d.Earlier == nil && v.report.Chains == 1 && v.report.Earlier > 0:
		v.problem(at, "the first chain does not say that %d events were there before it: they were put in later", v.report.Earlier)
	case d.Earlier != nil && *d.Earlier != is:
		v.problem(at, "%d events from before there were chains are here, and not the %d that were there when the first began, or not as they were", is.Events, d.Earlier.Events)
	}
}

func (v *Verifier) checkpoint(text string) {
	v.report.Checkpoints++
	at := Problem{Checkpoint: v.report.Checkpoints}
	c, err := open(text, v.trusted)
	if err != nil {
		v.problem(at, "%s", err)
		return
	}
	at.Checkpoint = c.Number
	is := v.covered
	switch {
	case c.Number != v.last.Number+1 || c.Before != v.before():
		v.problem(at, "it is not the one after checkpoint %d: checkpoints were removed, changed, or put in", v.last.Number)
	case c.Events != is.Events || c.Chains != is.Chains || c.Digest != v.digest.Sum:
		v.problem(at, "it covers %d events in %d chains, and those that are here are %d in %d, or others: after checkpoint %d events were removed, changed, or put in",
			c.Events, c.Chains, is.Events, is.Chains, v.last.Number)
	case c.Time < v.last.Time:
		v.problem(at, "it is older than the one before")
	}
	for _, kept := range v.kept[c.Number] {
		if kept != text {
			v.problem(at, "it is another than the one that was kept: the trail was written anew")
		}
	}
	delete(v.kept, c.Number)
	// What follows is held against what was signed.
	v.covered.Events, v.covered.Chains, v.digest.Sum = c.Events, c.Chains, c.Digest
	v.last, v.lastNote, v.after, v.report.Unproven = c, text, 0, 0
}

func (v *Verifier) before() (h Hash) {
	if v.last.Number > 0 {
		h = HashNote(v.lastNote)
	}
	return h
}

// End says what was found, once all lines were added.
func (v *Verifier) End() Report {
	v.line = 0
	for n, notes := range v.kept {
		for range notes {
			v.problem(Problem{Checkpoint: n}, "it was kept, and is not here, where checkpoint %d is the last: the end of the trail was cut off", v.last.Number)
		}
	}
	if v.last.Number == 0 {
		v.problem(Problem{}, "no checkpoint of a server that is trusted is here, so that nothing is proven: servers make them, or they were removed")
	} else {
		t := time.UnixMilli(v.last.Time).UTC()
		v.report.CheckedUntil = &t
	}
	return v.report
}

// Fail is End where the export cannot be read on.
func (v *Verifier) Fail(err *SyntaxError) Report {
	v.line = err.Line
	v.problem(Problem{}, "%s", err.Reason)
	return v.End()
}

// Answer is a card's answer in the detail of an event, in hexadecimal.
type Answer struct {
	By         string `json:"by"`
	Result     string `json:"result"`
	StatusWord string `json:"status_word"`
	Command    string `json:"command"`
	Response   string `json:"response"`
	Receipt    string `json:"receipt"`
}

// Registered is the kind of the event that has a card's public keys.
const Registered = "card registered"

// Registration is what verification needs of its detail.
type Registration struct {
	Management string          `json:"management"`
	PublicKeys json.RawMessage `json:"public_keys"` // a card record (docs/protocol.md §9) without profiles
}

// noKeys is what is kept of a card that has none.
const noKeys = "es10c"

// content checks what an entry says.
func (v *Verifier) content(e *Entry) error {
	switch e.Kind {
	case Registered:
		var d Registration
		if err := json.Unmarshal([]byte(e.Detail), &d); err != nil {
			v.problem(Problem{Event: e.Seq}, "its detail cannot be read")
			return nil
		}
		keys := []byte(d.PublicKeys)
		if d.Management == noKeys {
			keys = []byte(noKeys)
		}
		before, err := v.cards.get(e.EID)
		switch {
		case err != nil || len(keys) == 0: // none: another operator vouches for those
			return err
		case before != nil && !bytes.Equal(keys, before):
			// Those stay: what a card signs is held against them.
			v.problem(Problem{Event: e.Seq}, "the card %s was registered before with other keys, or none: a server never changes them", e.EID)
		case before == nil:
			return v.cards.put(e.EID, keys)
		}
	case "done", "refused", "unknown":
		return v.outcome(e)
	}
	return nil
}

// outcome checks that the card of an outcome signed it.
func (v *Verifier) outcome(e *Entry) error {
	at := Problem{Event: e.Seq, Request: e.Request}
	var a Answer
	if err := json.Unmarshal([]byte(e.Detail), &a); err != nil {
		v.problem(at, "its detail cannot be read")
		return nil
	}
	if a.Receipt == "" && (e.Kind == "unknown" || e.Kind == "refused" && a.By != "card") {
		return nil // nobody says that the card did
	}
	keys, err := v.cards.get(e.EID)
	switch {
	case err != nil:
		return err
	case keys == nil && v.report.Earlier > 0:
		v.report.UnknownCards++
	case keys == nil:
		v.problem(at, "the card %s was not registered before", e.EID)
	case string(keys) == noKeys && a.Receipt == "":
		v.report.NoReceipts++
	default:
		if err := verifyAnswer(e, &a, keys); err != nil {
			v.problem(at, "the card's receipt does not prove what it says: %s", err)
		} else {
			v.report.Receipts++
		}
	}
	return nil
}

func verifyAnswer(e *Entry, a *Answer, keys []byte) error {
	record, err := card.ParseRecord(keys)
	if err != nil {
		return err
	}
	if record.EID.String() != e.EID {
		return fmt.Errorf("the keys are of card %s", record.EID)
	}
	var command, response, receipt []byte
	for _, f := range []struct {
		to   *[]byte
		text string
	}{{&command, a.Command}, {&response, a.Response}, {&receipt, a.Receipt}} {
		if *f.to, err = hex.DecodeString(f.text); err != nil {
			return fmt.Errorf("hexadecimal digits: %w", err)
		}
	}
	cmd, err := card.ParseCommand(card.INSDeactivate, command)
	if err != nil {
		return err
	}
	if want, err := id.ParseRequestID(e.Request); err != nil || cmd.RequestID != want {
		return fmt.Errorf("the command is of request %s", cmd.RequestID)
	}
	sw, err := strconv.ParseUint(a.StatusWord, 16, 16)
	if err != nil {
		return fmt.Errorf("status word %.10q", a.StatusWord)
	}
	answer, err := card.VerifyAnswer(record.Target(), cmd, apdu.StatusWord(sw), response, receipt)
	switch {
	case err != nil:
		return err
	case answer.Result.Hex() != a.Result, (answer.Result == card.Done) != (e.Kind == "done"),
		(e.Kind == "unknown") && answer.Result != card.CounterNotExpected:
		return fmt.Errorf("the card signed: %s", answer.Result)
	}
	return nil
}

// Recorded is a request as the record has it, and what the trail has of its
// state.
type Recorded struct {
	Request                    string
	State                      string
	Finished                   bool
	Command, Response, Receipt []byte
	Steps                      []Entry // its events, oldest first, of the kinds of States
}

// States are the kinds of events that say in what state a request is.
var States = []string{
	"accepted", "approved", "held", "waiting", "authenticating", "sending",
	"done", "refused", "failed", "expired", "cancelled", "unknown",
}

// Request checks that a request of the record is what the trail says.
func (v *Verifier) Request(r Recorded) {
	at := Problem{Request: r.Request}
	v.report.Requests++
	state, chained := "", false
	var said Answer
	for _, e := range r.Steps {
		var d struct {
			Answer
			Again bool `json:"again"`
		}
		_ = json.Unmarshal([]byte(e.Detail), &d) // the pass over the entries has told
		chained = e.N > 0
		switch {
		case e.Kind == "approved":
			state = "accepted"
		case e.Kind == "sending" && d.Again:
		default:
			state = e.Kind
		}
		if d.Receipt != "" {
			said = d.Answer
		}
	}
	if len(r.Steps) == 0 {
		v.problem(at, "it is in the record, and the trail has nothing of it")
		return
	}
	ended := state != "unknown" && isEnd(state) || state == "unknown" && said.Receipt != ""
	switch {
	case r.State != state:
		v.problem(at, "the record says that it is %s, and the trail that it is %s", r.State, state)
	case r.Finished != ended && chained && state != "unknown":
		v.problem(at, "record and trail do not agree on whether it has ended")
	case !chained:
	case !sameHex(r.Command, said.Command), !sameHex(r.Response, said.Response), !sameHex(r.Receipt, said.Receipt):
		v.problem(at, "the card's answer in the record is not the one in the trail")
	}
}

func isEnd(state string) bool {
	switch state {
	case "done", "refused", "failed", "expired", "cancelled":
		return true
	}
	return false
}

func sameHex(b []byte, text string) bool {
	got, err := hex.DecodeString(text)
	return err == nil && bytes.Equal(b, got)
}

// NoRequest says that the record has no such request as the trail tells of.
func (v *Verifier) NoRequest(request string) {
	v.problem(Problem{Request: request}, "the trail tells of it, and it is not in the record: it was removed")
}

// Card checks the keys that the record has of a card against those that it was
// registered with.
func (v *Verifier) Card(eid string, keys []byte) error {
	registered, err := v.cards.get(eid)
	if err != nil || registered == nil && v.report.Earlier > 0 {
		return err
	}
	if string(registered) == noKeys {
		registered = nil
	}
	if !bytes.Equal(keys, registered) {
		v.problem(Problem{}, "the keys of card %s in the record are not those that it was registered with", eid)
	}
	return nil
}
