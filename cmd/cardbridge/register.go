package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/api/client"
	"github.com/cardbridge/cardbridge/server/store"
)

func newCardRegisterCmd() *cobra.Command {
	var file, eid string
	var es10 bool
	var profiles []string
	cmd := remoteCmd("register (--card RECORD | --es10 --eid EID --profile …)", "Register a card with a server",
		`Registers the card of a card record file (cardbridge card new makes one) with a
server. The operator must own one of the card's profiles. Every operator that
asks for something to be done to a card registers it itself; to do so again, with
the same keys, changes nothing.

A plain eUICC, without the management applet, has no keys. Its record is a file
too (cardbridge card new --plain), or is said here:
  --es10 --eid EID --profile iccid=89014100000000000434,mccmnc=46011
What else there is to know of its profiles is read from the card. It is managed by
ES10c, where nothing is authenticated or signed: the server does nothing to it
unless its management rules allow the card by name.`,
		cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
			b, err := cardRecordOf(file, es10, eid, profiles)
			if err != nil {
				return err
			}
			if !card.IsPlainRecord(b) {
				record, err := card.ParseRecord(b)
				if err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
				warnOfTestKeys(p.err, file, record.Keys)
			}
			var in client.CardRecord
			if err := json.Unmarshal(b, &in); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			out, err := c.RegisterCard(ctx, in)
			if err != nil {
				return err
			}
			return p.card(out)
		})
	f := cmd.Flags()
	f.StringVar(&file, "card", "", "`FILE` with the card's record")
	f.BoolVar(&es10, "es10", false, "a plain eUICC, managed by SGP.22 ES10c: it has no keys")
	f.StringVar(&eid, "eid", "", "with --es10: the card's `EID`")
	f.StringArrayVar(&profiles, "profile", nil, "with --es10: a `PROFILE`, by iccid and mccmnc; may be given more than once")
	cmd.MarkFlagsOneRequired("card", "es10")
	cmd.MarkFlagsMutuallyExclusive("card", "es10")
	cmd.MarkFlagsMutuallyExclusive("card", "eid")
	cmd.MarkFlagsMutuallyExclusive("card", "profile")
	return cmd
}

// isPlain reports whether how a card is managed, or a request was sent, is ES10c.
func isPlain[T ~string](how T) bool { return string(how) == string(store.ES10c) }

// cardRecordOf is a card record file, or that of the plain eUICC that flags
// describe.
func cardRecordOf(file string, es10 bool, eid string, profiles []string) ([]byte, error) {
	if !es10 {
		return readFile(file)
	}
	var r card.PlainRecord
	var err error
	if r.EID, err = id.ParseEID(eid); err != nil {
		return nil, fmt.Errorf("--eid: %w", err)
	}
	for _, s := range profiles {
		q, err := parseProfile(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("--profile %q: %w", s, err)
		case !strings.Contains(s, "iccid="):
			return nil, fmt.Errorf("--profile %q: iccid is missing: which one is it?", s)
		}
		r.Profiles = append(r.Profiles, card.Profile{ICCID: q.ICCID, Owner: q.Owner, Class: card.Operational})
	}
	return json.Marshal(&r)
}

// card prints a card as a server has it.
func (p *printer) card(c *client.Card) error {
	if p.json {
		return p.object(c)
	}
	p.field("EID", c.EID)
	if isPlain(c.Management) {
		p.field("management", "ES10c: a plain eUICC; what it says is neither authenticated nor signed")
	} else {
		p.field("event counter", fmt.Sprint(c.EventCounter))
	}
	p.field("groups", strings.Join(c.Groups, " "))
	var rows [][]string
	for _, q := range c.Profiles {
		rows = append(rows, []string{q.ICCID, string(q.State), q.MCCMNC, q.Class, q.Provider, q.Name, fmt.Sprint(q.DisableAllowed)})
	}
	p.table("ICCID|STATE|OWNER|CLASS|PROVIDER|NAME|DISABLE ALLOWED", rows)
	return nil
}
