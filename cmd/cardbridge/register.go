package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server/api/client"
)

func newCardRegisterCmd() *cobra.Command {
	var file string
	cmd := remoteCmd("register --card RECORD", "Register a card with a server",
		`Registers the card of a card record file (cardbridge card new makes one) with a
server. The operator must own one of the card's profiles. Every operator that
asks for something to be done to a card registers it itself; to do so again, with
the same keys, changes nothing.`,
		cobra.NoArgs, func(ctx context.Context, p *printer, c *client.Client, _ []string) error {
			b, err := readFile(file)
			if err != nil {
				return err
			}
			record, err := card.ParseRecord(b)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			warnOfTestKeys(p.err, file, record.Keys)
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
	cmd.Flags().StringVar(&file, "card", "", "the card record file")
	_ = cmd.MarkFlagRequired("card")
	return cmd
}

// card prints a card as a server has it.
func (p *printer) card(c *client.Card) error {
	if p.json {
		return p.object(c)
	}
	p.field("EID", c.EID)
	p.field("event counter", fmt.Sprint(c.EventCounter))
	p.field("groups", strings.Join(c.Groups, " "))
	var rows [][]string
	for _, q := range c.Profiles {
		rows = append(rows, []string{q.ICCID, string(q.State), q.MCCMNC, q.Class, q.Provider, q.Name, fmt.Sprint(q.DisableAllowed)})
	}
	p.table("ICCID|STATE|OWNER|CLASS|PROVIDER|NAME|DISABLE ALLOWED", rows)
	return nil
}
