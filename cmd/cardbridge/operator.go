package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
)

func newOperatorCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "operator", Short: "The operators that a server knows"}
	cmd.AddCommand(newOperatorAddCmd())
	return cmd
}

// operatorJSON is what operator add prints.
type operatorJSON struct {
	Name   string `json:"name"`
	MCCMNC string `json:"mccmnc"`
	Token  string `json:"token"`
}

func newOperatorAddCmd() *cobra.Command {
	var data, mccmnc string
	cmd := &cobra.Command{
		Use:   "add --data DIR --mccmnc N NAME",
		Short: "Add an operator and print its token, this once",
		Long: `Adds an operator to a server's record and prints its bearer token on standard
output. The record keeps a hash of it alone, so it cannot be printed again. The
server may run meanwhile.

  cardbridge operator add --data ./data --mccmnc 46011 "Example Mobile" > token`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			network, err := id.ParseMCCMNC(mccmnc)
			if err != nil {
				return err
			}
			records, err := openRecord(cmd.Context(), data)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, records.Close()) }()
			op, token, err := server.AddOperator(cmd.Context(), records, args[0], network)
			if err != nil {
				return err
			}
			p := newPrinter(cmd)
			if p.json {
				return p.object(operatorJSON{Name: op.Name, MCCMNC: op.MCCMNC.String(), Token: token})
			}
			fmt.Fprintf(p.err, "operator %q of network %s added; this is its token, kept nowhere:\n", op.Name, op.MCCMNC)
			_, err = fmt.Fprintln(p.out, token)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the server's data directory")
	cmd.Flags().StringVar(&mccmnc, "mccmnc", "", "the operator's network: MCC and MNC, 5 or 6 digits")
	addJSONFlag(cmd)
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagRequired("mccmnc")
	return cmd
}
