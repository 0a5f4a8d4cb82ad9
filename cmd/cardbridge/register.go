package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/server/api"
)

func newCardRegisterCmd() *cobra.Command {
	var r remote
	var file string
	cmd := &cobra.Command{
		Use:   "register --server URL --token-file FILE --pin SHA256 --card RECORD",
		Short: "Register a card with a server",
		Long: `Registers the card of a card record file (cardbridge card new makes one) with a
server. The operator must own one of the card's profiles. Every operator that
asks for something to be done to a card registers it itself; to do so again, with
the same keys, changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := readFile(file)
			if err != nil {
				return err
			}
			record, err := card.ParseRecord(b)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			warnOfTestKeys(cmd.ErrOrStderr(), file, record.Keys)
			c, err := r.client()
			if err != nil {
				return err
			}
			var out api.Card
			if err := c.call(cmd.Context(), http.MethodPost, "/v1/cards", nil, json.RawMessage(b), &out); err != nil {
				return err
			}
			return printCard(newPrinter(cmd), out)
		},
	}
	r.addFlags(cmd)
	cmd.Flags().StringVar(&file, "card", "", "the card record file")
	_ = cmd.MarkFlagRequired("card")
	return cmd
}

// printCard prints a card as a server has it.
func printCard(p *printer, c api.Card) error {
	if p.json {
		return p.object(c)
	}
	p.field("EID", c.EID)
	p.field("event counter", fmt.Sprint(c.EventCounter))
	p.field("groups", strings.Join(c.Groups, " "))
	var rows [][]string
	for _, q := range c.Profiles {
		rows = append(rows, []string{q.ICCID, q.State, q.MCCMNC, q.Class, q.Provider, q.Name, fmt.Sprint(q.DisableAllowed)})
	}
	p.table("ICCID|STATE|OWNER|CLASS|PROVIDER|NAME|DISABLE ALLOWED", rows)
	return nil
}
