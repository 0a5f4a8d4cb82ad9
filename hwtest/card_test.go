package hwtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cardtest"
	"github.com/cardbridge/cardbridge/card/es10"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/hwtest/report"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// cardFound is what a card says that it is, in the clear.
type cardFound struct {
	managed  bool           // it has the management applet
	eid      *id.EID        // of a managed card or an eUICC
	isdr     string         // AID of an eUICC's ISD-R
	profiles []es10.Profile // an eUICC's
	iccid    *id.ICCID      // EF.ICCID: the profile in use
}

// identify looks at the card once; nil where there is none, which it reports.
func (s *station) identify(t *testing.T) *cardFound {
	t.Helper()
	if s.card != nil {
		return s.card
	}
	conn := s.conn(t)
	if conn == nil {
		return nil
	}
	defer conn.Close() // what follows in the same check connects anew
	found := &cardFound{}
	ctx, basic := t.Context(), apdu.BasicChannel(conn)
	eid, err := card.ReadEID(ctx, basic)
	switch {
	case err == nil:
		found.managed, found.eid = true, &eid
	case refused(err):
		err = found.lookForEUICC(t, conn)
	}
	require.NoError(t, err)
	found.iccid, err = readICCID(t, basic)
	require.NoError(t, err)
	s.card = found
	return found
}

// refused reports whether it was the card that had not what was asked for.
func refused(err error) bool {
	var sw *apdu.Error
	return errors.As(err, &sw)
}

func (c *cardFound) lookForEUICC(t *testing.T, conn apdu.Conn) error {
	e, err := es10.Open(t.Context(), conn, es10.Options{})
	if errors.Is(err, es10.ErrNoISDR) {
		return nil
	}
	if err != nil {
		return err
	}
	c.isdr = e.AID()
	eid, err := e.EID(t.Context())
	if err != nil {
		return err
	}
	c.eid = &eid
	if c.profiles, err = e.Profiles(t.Context()); err != nil {
		return err
	}
	return e.Close(t.Context())
}

// readICCID reads EF.ICCID (3GPP TS 31.102 §4.2.1); nil where the card has none.
func readICCID(t *testing.T, ch *apdu.Channel) (*id.ICCID, error) {
	t.Helper()
	for _, cmd := range []apdu.Command{
		{INS: 0xA4, P2: 0x0C, Data: []byte{0x3F, 0x00}},
		{INS: 0xA4, P2: 0x0C, Data: []byte{0x2F, 0xE2}},
		{INS: 0xB0, Ne: 10},
	} {
		data, sw, err := ch.Transmit(t.Context(), cmd)
		if err != nil || sw != apdu.SWSuccess {
			return nil, err
		}
		if cmd.INS == 0xB0 {
			iccid, err := id.ICCIDFromBytes(data)
			return &iccid, err
		}
	}
	return nil, nil
}

func checkCard(t *testing.T, s *station) {
	found := s.identify(t)
	if found == nil {
		return
	}
	switch {
	case found.managed:
		report.Fact(t, "kind", "management applet (docs/protocol.md)")
	case found.isdr != "":
		report.Fact(t, "kind", "plain eUICC, ISD-R %s", found.isdr)
	default:
		report.Fact(t, "kind", "neither management applet nor eUICC")
	}
	if found.eid != nil {
		report.Fact(t, "EID", "%s", found.eid)
	}
	if found.iccid != nil {
		report.Fact(t, "ICCID in use", "%s", found.iccid)
	}
	want := s.config.Card
	if want == nil {
		return
	}
	if want.EID != nil {
		assert.Equal(t, want.EID, found.eid, "the EID is not the bench file's")
	}
	if want.ICCID != nil {
		known := s.iccids(found)
		assert.Contains(t, known, *want.ICCID, "the card has no profile of that ICCID")
	}
	if want.EUICC {
		assert.NotEmpty(t, found.isdr, "the bench file says that it is a plain eUICC")
	}
}

// iccids are the profiles of the card as far as they are known without touching
// it: what it said, and its record.
func (s *station) iccids(c *cardFound) []id.ICCID {
	var out []id.ICCID
	if c.iccid != nil {
		out = append(out, *c.iccid)
	}
	for _, p := range c.profiles {
		out = append(out, p.ICCID)
	}
	if keys := s.keys(c); keys != nil {
		for _, p := range keys.record.Profiles {
			out = append(out, p.ICCID)
		}
	}
	return out
}

func (s *station) keys(c *cardFound) *Keys {
	if !c.managed {
		return nil
	}
	return s.KeysOf(*c.eid)
}

func checkEUICC(t *testing.T, s *station) {
	found := s.identify(t)
	if found == nil {
		return
	}
	if found.isdr == "" {
		report.Omit(t, "the card has no ISD-R")
		return
	}
	enabled := 0
	for _, p := range found.profiles {
		what := []string{p.State.String(), p.Class.String()}
		for _, text := range []string{p.Nickname, p.Provider, p.Name} {
			if text != "" {
				what = append(what, text)
			}
		}
		if p.PPR1 {
			what = append(what, "may not be disabled (PPR1)")
		}
		if p.PPR2 {
			what = append(what, "may not be deleted (PPR2)")
		}
		report.Fact(t, p.ICCID.String(), "%s", strings.Join(what, ", "))
		if p.State == es10.Enabled {
			enabled++
		}
	}
	report.Measure(t, report.Measurement{Name: "profiles", Unit: "profiles", Values: []float64{float64(len(found.profiles))}})
	assert.LessOrEqual(t, enabled, 1, "more than one profile is enabled (SGP.22 §2.4.3)")
}

// lacksAllow says why no card may be changed here.
func lacksAllow(s *station) string {
	switch {
	case len(s.Keys) == 0:
		return "the bench file has no keys"
	case !onVirtual() && len(s.allowed) == 0:
		return "it changes the card, and ALLOW names none"
	}
	return ""
}

func checkConformance(t *testing.T, s *station) {
	found := s.identify(t)
	if found == nil {
		return
	}
	keys := s.keys(found)
	switch {
	case !found.managed:
		report.Omit(t, "the card has no management applet")
		return
	case keys == nil:
		report.Omit(t, "the bench file has no keys for EID %s", found.eid)
		return
	case !s.mayChange(keys):
		report.Omit(t, "it changes the card, and ALLOW names none of its profiles")
		return
	}
	before := s.authenticate(t, keys)
	summary := cardtest.Run(t, cardtest.Existing(cardtest.Card{
		Open: s.open, Record: keys.record, Server: keys.server, Other: keys.other,
		PowerCycle: func(t *testing.T, conn apdu.Conn) {
			require.NoError(t, conn.(*pcsc.Conn).ColdReset(t.Context()))
		},
	}))
	after := s.authenticate(t, keys)
	for _, kid := range slices.Sorted(maps.Keys(after)) {
		report.Fact(t, fmt.Sprintf("failed authentications of key set %d", kid), "%d before, %d after", before[kid], after[kid])
	}
	for _, o := range summary.NotRun {
		report.OmitSubtest(t, o.Test, o.Reason, slices.Contains(summary.Ran, o.Test))
	}
}

// mayChange reports whether the card may be changed: an emulated one, or one that
// has a profile that ALLOW names.
func (s *station) mayChange(keys *Keys) bool {
	return s.virtual != nil || slices.ContainsFunc(keys.record.Profiles, func(p card.Profile) bool {
		return slices.Contains(s.allowed, p.ICCID)
	})
}

// authenticate reads the status once, and gives the card's counts of failed
// authentications by key set. Were the keys not the card's, each test of the suite
// would fail, and raise them.
func (s *station) authenticate(t *testing.T, keys *Keys) map[byte]uint16 {
	t.Helper()
	conn, err := s.connect(t)
	require.NoError(t, err)
	defer conn.Close()
	terminal := card.Terminal{Keys: keys.server}
	ch := apdu.BasicChannel(conn)
	_, _, err = terminal.ReadStatus(t.Context(), ch, keys.record.Target())
	require.NoError(t, err, "card and keys of the bench file do not fit")
	info, err := card.ReadInfo(t.Context(), ch)
	require.NoError(t, err)
	failures := map[byte]uint16{}
	for _, f := range info.Failures {
		failures[f.KID] = f.Count
	}
	return failures
}

// open connects and resets the card for the suite, without which the protocol of
// an earlier connection stays.
func (s *station) open(t *testing.T) apdu.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := s.source.WaitCard(ctx, s.reader.Name)
	require.NoError(t, err)
	conn, err := s.source.Connect(t.Context(), s.reader.Name, pcsc.Options{Mode: reader.Exclusive, MaxWait: s.config.Limits.Answer})
	require.NoError(t, err)
	if err := conn.ColdReset(t.Context()); err != nil {
		require.NoError(t, fmt.Errorf("%w, and %w", err, conn.Close()))
	}
	return conn
}
