package hwtest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/hwtest/report"
)

// lacksEUICC says why no plain eUICC may be changed here.
func lacksEUICC(s *station) string {
	switch {
	case onVirtual():
		return ""
	case s.config.Card == nil || !s.config.Card.EUICC:
		return "the bench file names no plain eUICC here (euicc: true)"
	case len(s.allowed) == 0:
		return "it changes the card, and ALLOW names none"
	}
	return ""
}

// checkSwitch disables a plain eUICC's enabled profile by ES10c, reads the card
// again, and enables it again.
func checkSwitch(t *testing.T, s *station) {
	found := s.identify(t)
	if found == nil {
		return
	}
	if found.isdr == "" {
		report.Omit(t, "the card has no ISD-R")
		return
	}
	i := slices.IndexFunc(found.profiles, func(p es10.Profile) bool { return p.State == es10.Enabled })
	if i < 0 {
		report.Omit(t, "no profile is enabled")
		return
	}
	p := found.profiles[i]
	switch {
	case p.PPR1:
		report.Omit(t, "%s may not be disabled (PPR1)", p.ICCID)
		return
	case s.virtual == nil && !slices.Contains(s.allowed, p.ICCID):
		report.Omit(t, "it changes the card, and ALLOW does not name the profile that is enabled")
		return
	}
	disabled := s.change(t, es10.OpDisable, found, p)
	enabled := s.change(t, es10.OpEnable, found, p) // as it was, whatever came of that
	if disabled != nil && enabled != nil && assert.Equal(t, found.profiles, enabled.After) {
		report.Fact(t, p.ICCID.String(), "disabled, read after a reset, and enabled again")
	}
}

// change makes one change of a profile; nil where the card was not read to be as it
// should be, which it reports.
func (s *station) change(t *testing.T, op es10.Op, found *cardFound, p es10.Profile) *es10.Report {
	t.Helper()
	start := time.Now()
	rep, err := es10.Run(t.Context(), es10.Change{Op: op, EID: found.eid, ICCID: &p.ICCID}, es10.Recovery{
		Wait: s.config.Limits.Answer, Attempts: 3, Step: t.Logf,
		Open: func(context.Context) (apdu.Conn, error) {
			conn, err := s.connect(t)
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
	})
	report.Measure(t, report.Measurement{Name: op.String(), Unit: "ms", Values: []float64{time.Since(start).Seconds() * 1e3}})
	if rep.Answer != nil {
		report.Fact(t, op.String(), "the card answered: %v", rep.Answer)
	}
	if !assert.NoError(t, err) || !assert.Equal(t, card.OutcomeDone, rep.Outcome, "%v", rep.Answer) {
		return nil
	}
	return &rep
}
