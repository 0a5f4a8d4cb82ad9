package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

func newOperatorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "The operators that a server knows, and their users",
		Long: `The operators that a server knows, and their users. These commands work on the
server's record, on its machine or wherever the database can be reached; the
server may run meanwhile.

Roles: read (cards, requests, readers, the guard), request (ask for deactivations,
cancel them, have cards read anew), approve (approve or reject what others asked
for), administer (register cards, set their policy and groups).`,
	}
	user := &cobra.Command{Use: "user", Short: "The users of an operator"}
	user.AddCommand(newUserAddCmd(), newUserTokenCmd(), newUserCertificateCmd(), newUserRemoveCmd())
	cmd.AddCommand(newOperatorAddCmd(), newOperatorListCmd(), user)
	return cmd
}

// operatorJSON is what operator add, operator user add and operator list print.
type operatorJSON struct {
	Name   string `json:"name"`
	MCCMNC string `json:"mccmnc"`
	User   string `json:"user"`
	Roles  string `json:"roles"` // where there is a token, those that it is good for
	Token  string `json:"token,omitempty"`
	File   string `json:"token_file,omitempty"` // where the token is instead

	Credential int64      `json:"credential,omitempty"` // the token's number
	Expires    *time.Time `json:"expires,omitempty"`    // the token
}

// adding is the flags of commands that make a user and its token.
type adding struct {
	recordFlags
	roles  string
	file   string
	expiry expiry
}

func (a *adding) addFlags(cmd *cobra.Command) {
	a.recordFlags.addFlags(cmd)
	cmd.Flags().StringVar(&a.file, "token-file", "", "write the token to this `FILE`, which must not exist yet, and do not print it")
	a.expiry = expiry(server.DefaultLifetime)
	a.expiry.addFlag(cmd, "the token")
	addJSONFlag(cmd)
}

func (a *adding) addRoles(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.roles, "roles", store.AllRoles.String(), "what the user may do: a `LIST` of roles with commas")
}

func newOperatorAddCmd() *cobra.Command {
	var a adding
	var mccmnc, user string
	cmd := &cobra.Command{
		Use:   "add {--data DIR | --store URL} --mccmnc N [--user NAME] [--roles LIST] [--token-file FILE] NAME",
		Short: "Add an operator and its first user, and print the user's token, this once",
		Long: `Adds an operator and its first user to a server's record and prints the user's
bearer token on standard output, or with --token-file writes it to a new file
that its owner alone may read, as the commands with --token-file want it. The
record keeps a hash of it alone, so it cannot be had again. The server may run
meanwhile.

  cardbridge operator add --data ./data --mccmnc 46011 --token-file token "Example Mobile"
  cardbridge operator add --data ./data --mccmnc 46011 --user kim --roles read,request "Example Mobile"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			network, err := id.ParseMCCMNC(mccmnc)
			if err != nil {
				return err
			}
			return a.run(cmd, a.make, func(records *store.Store, roles store.Roles, expires server.GrantOption) (op store.Operator, _ store.Credential, token string, err error) {
				op, token, err = server.AddOperator(cmd.Context(), records, args[0], network, user, roles, expires)
				return
			})
		},
	}
	a.addFlags(cmd)
	a.addRoles(cmd)
	cmd.Flags().StringVar(&mccmnc, "mccmnc", "", "`MCCMNC` of the operator's network, 5 or 6 digits")
	cmd.Flags().StringVar(&user, "user", "default", "`NAME` of the first user")
	_ = cmd.MarkFlagRequired("mccmnc")
	return cmd
}

func newUserAddCmd() *cobra.Command {
	var a adding
	var operator string
	cmd := &cobra.Command{
		Use:   "add {--data DIR | --store URL} --operator NAME --roles LIST [--token-file FILE] USER",
		Short: "Add a user to an operator and print its token, this once",
		Long: `Adds a user to an operator, as operator add adds the first. Four eyes need two
users, the one who asks and the one who approves:

  cardbridge operator user add --data ./data --operator "Example Mobile" --roles read,approve --token-file lee.token lee`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return errors.New("a user needs a name")
			}
			return a.run(cmd, a.open, func(records *store.Store, roles store.Roles, expires server.GrantOption) (op store.Operator, _ store.Credential, token string, err error) {
				op, token, err = server.AddUser(cmd.Context(), records, operator, args[0], roles, expires)
				if errors.Is(err, store.ErrExists) {
					err = fmt.Errorf("%w; a name is given once, also that of a user who was removed: choose another", err)
				}
				return
			})
		},
	}
	a.addFlags(cmd)
	a.addRoles(cmd)
	addOperatorFlag(cmd, &operator)
	_ = cmd.MarkFlagRequired("roles")
	return cmd
}

func addOperatorFlag(cmd *cobra.Command, operator *string) {
	cmd.Flags().StringVar(operator, "operator", "", "`NAME` of the operator")
	_ = cmd.MarkFlagRequired("operator")
}

// removedJSON is what operator user remove prints.
type removedJSON struct {
	operatorJSON
	Unsent    int `json:"unsent_requests"` // that are still to be sent
	Cancelled int `json:"cancelled_requests"`
}

func newUserRemoveCmd() *cobra.Command {
	var where recordFlags
	var operator string
	var cancel bool
	cmd := &cobra.Command{
		Use:   "remove {--data DIR | --store URL} --operator NAME [--cancel-requests] USER",
		Short: "Take its credentials and its roles from a user, for good",
		Long: `Takes its tokens, its certificates and its roles from a user, for good. What it asked for and approved
stays, under its name, which nobody else can get. Requests of its that are not sent yet go on, unless
--cancel-requests is given: then they are cancelled in the same step. What came in at the last moment is
cancelled by the same command, given again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return where.with(cmd.Context(), func(records *store.Store) error {
				op, unsent, err := records.RemoveUser(cmd.Context(), operator, args[0], cancel)
				if err != nil {
					return err
				}
				p := newPrinter(cmd)
				out := removedJSON{operatorJSON: operatorJSON{Name: op.Name, MCCMNC: op.MCCMNC.String(), User: op.User.Name}, Unsent: unsent}
				if cancel {
					out.Unsent, out.Cancelled = 0, unsent
				}
				if p.json {
					return p.object(out)
				}
				fmt.Fprintf(p.out, "user %q of operator %q is removed; its credentials are nobody's\n", op.User.Name, op.Name)
				switch {
				case cancel:
					fmt.Fprintf(p.out, "requests of its that were cancelled: %d\n", out.Cancelled)
				case unsent > 0:
					fmt.Fprintf(p.out, "requests of its that are not sent yet, and go on: %d; to cancel them give the command again with --cancel-requests\n", unsent)
				}
				return nil
			})
		},
	}
	where.addFlags(cmd)
	addOperatorFlag(cmd, &operator)
	cmd.Flags().BoolVar(&cancel, "cancel-requests", false, "cancel the user's requests that are not sent yet")
	addJSONFlag(cmd)
	return cmd
}

// run has add make a token in a record and hands it out.
func (a *adding) run(cmd *cobra.Command, open func(context.Context, ...store.Option) (*store.Store, error),
	add func(*store.Store, store.Roles, server.GrantOption) (store.Operator, store.Credential, string, error)) (err error) {
	roles, err := store.ParseRoles(a.roles)
	if err != nil {
		return err
	}
	var tokens *os.File // before there is a token that could be lost
	if a.file != "" {
		if tokens, err = os.OpenFile(a.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		defer func() {
			if tokens.Close(); err != nil {
				_ = os.Remove(a.file)
			}
		}()
	}
	records, err := open(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	expires := a.expiry.from(records.Now())
	op, c, token, err := add(records, roles, server.Expires(expires))
	if err != nil {
		return err
	}
	p := newPrinter(cmd)
	out := operatorJSON{Name: op.Name, MCCMNC: op.MCCMNC.String(), User: op.User.Name, Roles: cmp.Or(c.Roles, op.User.Roles).String(), File: a.file, Credential: c.ID}
	until := "for good"
	if !expires.IsZero() {
		out.Expires, until = &expires, "until "+expires.Format(time.RFC3339)
	}
	if tokens == nil {
		out.Token = token
	} else if _, err := fmt.Fprintln(tokens, token); err != nil {
		return fmt.Errorf("the token is lost, get another by operator user token replace: %w", err)
	} else if err := tokens.Sync(); err != nil {
		return fmt.Errorf("the token is lost, get another by operator user token replace: %w", err)
	}
	if p.json {
		return p.object(out)
	}
	whose := fmt.Sprintf("user %q (%s) of operator %q, network %s, %s", out.User, out.Roles, out.Name, out.MCCMNC, until)
	if tokens != nil {
		fmt.Fprintf(p.out, "%s: the token is in %s and kept nowhere else\n", whose, a.file)
		return nil
	}
	fmt.Fprintf(p.err, "%s: this is the token, kept nowhere:\n", whose)
	_, err = fmt.Fprintln(p.out, token)
	return err
}

func newOperatorListCmd() *cobra.Command {
	var r recordFlags
	cmd := &cobra.Command{
		Use:   "list {--data DIR | --store URL}",
		Short: "List operators, their users and what those may do",
		Long:  "Lists operators, their users and what those may do. With --json each user is one JSON object on one line.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd.Context(), func(records *store.Store) error {
				list, err := records.Operators(cmd.Context())
				if err != nil {
					return err
				}
				p := newPrinter(cmd)
				var rows [][]string
				for _, op := range list {
					if p.json {
						if err := p.object(operatorJSON{Name: op.Name, MCCMNC: op.MCCMNC.String(), User: op.User.Name, Roles: op.User.Roles.String()}); err != nil {
							return err
						}
					}
					rows = append(rows, []string{op.Name, op.MCCMNC.String(), op.User.Name, cmp.Or(op.User.Roles.String(), "none: removed")})
				}
				if !p.json {
					p.table("OPERATOR|NETWORK|USER|ROLES", rows)
				}
				return nil
			})
		},
	}
	r.addFlags(cmd)
	addJSONFlag(cmd)
	return cmd
}
