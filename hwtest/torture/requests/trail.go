package requests

import (
	"errors"
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

// compareTrail proves the audit trail, and the record by it.
func (p *play) compareTrail() {
	if err := p.verify(); err != nil {
		p.mismatch("the trial broke: the audit trail is not read: %v", err)
	}
}

func (p *play) verify() error {
	if _, err := p.w.desk.Store.Checkpoint(p.ctx, auditKey(), ""); err != nil {
		return err
	}
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
		p.mismatch("audit trail: %s", problem)
	}
	return errors.Join(err, trail.Close(), v.Close())
}
