package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
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
	Token  string `json:"token,omitempty"`
	File   string `json:"token_file,omitempty"` // where the token is instead
}

func newOperatorAddCmd() *cobra.Command {
	var data, mccmnc, file string
	cmd := &cobra.Command{
		Use:   "add --data DIR --mccmnc N [--token-file FILE] NAME",
		Short: "Add an operator and print its token, this once",
		Long: `Adds an operator to a server's record and prints its bearer token on standard
output, or with --token-file writes it to a new file that its owner alone may
read, as the commands with --token-file want it. The record keeps a hash of it
alone, so it cannot be had again. The server may run meanwhile.

  cardbridge operator add --data ./data --mccmnc 46011 --token-file token "Example Mobile"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			network, err := id.ParseMCCMNC(mccmnc)
			if err != nil {
				return err
			}
			var tokens *os.File // before there is a token that could be lost
			if file != "" {
				if tokens, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
					return err
				}
				defer func() {
					if tokens.Close(); err != nil {
						_ = os.Remove(file)
					}
				}()
			}
			records, err := openRecord(cmd.Context(), data)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, records.Close()) }()
			op, token, err := server.AddOperator(cmd.Context(), records, args[0], network, "", store.AllRoles)
			if err != nil {
				return err
			}
			p := newPrinter(cmd)
			out := operatorJSON{Name: op.Name, MCCMNC: op.MCCMNC.String(), File: file}
			if tokens == nil {
				out.Token = token
			} else if _, err := fmt.Fprintln(tokens, token); err != nil {
				return fmt.Errorf("the operator is added and its token lost: %w", err)
			} else if err := tokens.Sync(); err != nil {
				return fmt.Errorf("the operator is added and its token lost: %w", err)
			}
			if p.json {
				return p.object(out)
			}
			if tokens != nil {
				fmt.Fprintf(p.out, "operator %q of network %s added; its token is in %s and kept nowhere else\n", op.Name, op.MCCMNC, file)
				return nil
			}
			fmt.Fprintf(p.err, "operator %q of network %s added; this is its token, kept nowhere:\n", op.Name, op.MCCMNC)
			_, err = fmt.Fprintln(p.out, token)
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the server's data directory")
	cmd.Flags().StringVar(&mccmnc, "mccmnc", "", "the operator's network: MCC and MNC, 5 or 6 digits")
	cmd.Flags().StringVar(&file, "token-file", "", "write the token to this file, which must not exist yet, and do not print it")
	addJSONFlag(cmd)
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagRequired("mccmnc")
	return cmd
}
