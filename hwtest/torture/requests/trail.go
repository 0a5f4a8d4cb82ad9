package requests

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cardbridge/cardbridge/server/audit"
)

// auditSecret is a test key, which everybody has: servers that are processes of
// their own sign under it too.
const auditSecret = "PRIVATE+KEY+cardbridge/torture+1995cd4d+AW2poKux9nuoSSoOU38VPoT8/iP7lHcd/WSc3JWPxMnO"

// auditKey signs the checkpoints of all servers.
var auditKey = sync.OnceValue(func() *audit.Key {
	key, err := audit.ParseKey(auditSecret)
	if err != nil {
		panic(err) // it is a constant
	}
	return key
})

// compareTrail proves the audit trail of all trials that the world had so far,
// and the record by it.
func (p *play) compareTrail() {
	if err := p.verify(); err != nil {
		p.mismatch("the trial broke: the audit trail is not read: %v", err)
	}
}

func (p *play) verify() error {
	trusted, err := audit.Trust(auditKey().Verifier())
	if err != nil {
		return err
	}
	v, err := audit.NewVerifier(trusted)
	if err != nil {
		return err
	}
	trail, err := p.w.desk.Store.Trail(p.ctx)
	if err != nil {
		return errors.Join(err, v.Close())
	}
	report, err := trail.Verify(v, nil)
	for _, problem := range report.Problems {
		p.mismatch("audit trail%s: %s", p.w.whose(problem), problem)
	}
	return errors.Join(err, trail.Close(), v.Close())
}

// wrote is what a trial left in the audit trail.
type wrote struct {
	trial    int
	until    int64 // the number of its last event
	requests map[string]bool
}

// signTrail covers what the trial wrote by a checkpoint, and keeps what it is
// known by.
func (p *play) signTrail(pic picture) error {
	if _, err := p.w.desk.Store.Checkpoint(p.ctx, auditKey(), ""); err != nil {
		return err
	}
	of := wrote{trial: p.N, requests: map[string]bool{}}
	for _, r := range pic.requests {
		of.requests[r.ID.String()] = true
	}
	p.w.wrote = append(p.w.wrote, of)
	return p.w.db.QueryRowContext(p.ctx, `SELECT max(seq) FROM events`).Scan(&p.w.wrote[len(p.w.wrote)-1].until)
}

// whose names the trial that a problem of the audit trail is of, where one is.
func (w *world) whose(problem audit.Problem) string {
	for _, of := range w.wrote {
		if of.requests[problem.Request] || problem.Event > 0 && problem.Event <= of.until {
			return fmt.Sprintf(" of trial %d", of.trial)
		}
	}
	return ""
}
