package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/store"
)

// expiry is the flag that says how long a credential is good for; 0 is for good.
type expiry time.Duration

func (e *expiry) addFlag(cmd *cobra.Command, what string) {
	cmd.Flags().Var(e, "expires", "how long "+what+" is good for, such as 90d or 12h, or never")
}

// String implements pflag.Value.
func (e *expiry) String() string {
	const day = 24 * time.Hour
	switch d := time.Duration(*e); {
	case d == 0:
		return "never"
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	default:
		return d.String()
	}
}

const maxDays = 100 * 366

// Set implements pflag.Value.
func (e *expiry) Set(text string) error {
	if text == "never" {
		*e = 0
		return nil
	}
	d, err := time.ParseDuration(text)
	if days, found := strings.CutSuffix(text, "d"); found {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Second || d > maxDays*24*time.Hour {
		return errors.New("such as 90d or 12h is wanted, or never")
	}
	*e = expiry(d)
	return nil
}

// Type implements pflag.Value.
func (e *expiry) Type() string { return "time" }

// from is when a credential made at a time expires; zero: never.
func (e *expiry) from(now time.Time) time.Time {
	if *e == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(*e)).UTC().Truncate(time.Millisecond)
}

const credentialFlags = "{--data DIR | --store URL} --operator NAME "

func newUserTokenCmd() *cobra.Command {
	cmd := newTokenMakingCmd("token", server.NewToken)
	cmd.Use = "token " + credentialFlags + "[--token-file FILE] USER"
	cmd.Short = "The tokens of a user; without a command, token replace"
	cmd.Long = `The tokens of a user. Several are good at once: to change one without a gap, add
another, have the user's programs take that, see in token list that the one before
is not used any more, and revoke it.

Without a command it gives the user a token in place of all that it has, as token
replace does.`
	cmd.AddCommand(newTokenAddCmd(), newTokenReplaceCmd(), newCredentialListCmd(store.Token), newCredentialRevokeCmd(store.Token))
	return cmd
}

func newTokenReplaceCmd() *cobra.Command {
	cmd := newTokenMakingCmd("replace", server.NewToken)
	cmd.Use = "replace " + credentialFlags + "[--token-file FILE] USER"
	cmd.Short = "Give a user a token in place of all that it has"
	cmd.Long = `Gives a user a token, and prints it, as operator user add does. Those that it had
are nobody's from then on: for one that got out.`
	return cmd
}

func newTokenAddCmd() *cobra.Command {
	cmd := newTokenMakingCmd("add", server.AddToken)
	cmd.Use = "add " + credentialFlags + "[--label TEXT] [--roles LIST] [--expires TIME] [--token-file FILE] USER"
	cmd.Short = "Give a user another token, beside those that it has"
	cmd.Long = `Gives a user another token, and prints it, as operator user add does. Those that it
has stay good. A token can be good for fewer roles than its user has:

  cardbridge operator user token add --data ./data --operator "Example Mobile" --label dashboard --roles read --expires 30d --token-file dashboard.token kim`
	return cmd
}

// newTokenMakingCmd is a command that makes a token for a user that is there.
func newTokenMakingCmd(name string, make func(ctx context.Context, s *store.Store, operator, user string, opts ...server.GrantOption) (store.Operator, store.Credential, string, error)) *cobra.Command {
	var a adding
	var operator, label string
	cmd := &cobra.Command{
		Use:  name,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			scoped := a.roles != ""
			if !scoped {
				a.roles = store.AllRoles.String()
			}
			return a.run(cmd, a.open, func(records *store.Store, roles store.Roles, expires server.GrantOption) (store.Operator, store.Credential, string, error) {
				if !scoped {
					roles = 0
				}
				return make(cmd.Context(), records, operator, args[0], expires, server.Labelled(label), server.Scoped(roles))
			})
		},
	}
	a.addFlags(cmd)
	cmd.Flags().StringVar(&a.roles, "roles", "", "`LIST` of those of the user's roles that the token is good for (default: all)")
	cmd.Flags().StringVar(&label, "label", "", "`NAME` of the token in lists")
	addOperatorFlag(cmd, &operator)
	return cmd
}

// credentialJSON is what the commands on credentials print of one.
type credentialJSON struct {
	ID      int64      `json:"id"`
	User    string     `json:"user"`
	Label   string     `json:"label"`
	Roles   string     `json:"roles"`
	State   string     `json:"state"` // live, expired, revoked
	SPKI    string     `json:"spki,omitempty"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Used    *time.Time `json:"used,omitempty"` // to the hour
	Revoked *time.Time `json:"revoked,omitempty"`
}

func credentialOf(c store.Credential, now time.Time) credentialJSON {
	out := credentialJSON{
		ID: c.ID, User: c.User, Label: c.Label, Roles: c.Roles.String(), State: c.State(now),
		Created: c.CreatedAt, Expires: c.ExpiresAt, Used: c.UsedAt, Revoked: c.RevokedAt,
	}
	if c.Kind == store.Certificate {
		out.SPKI = fmt.Sprintf("%x", c.Hash)
	}
	return out
}

func newCredentialListCmd(kind store.CredentialKind) *cobra.Command {
	var where recordFlags
	var operator string
	cmd := &cobra.Command{
		Use:   "list " + credentialFlags + "[USER]",
		Short: fmt.Sprintf("List the %ss of a user, or of all users of the operator", kind),
		Long: fmt.Sprintf(`Lists the %ss of a user, or of all users of the operator, oldest first, and when
each was last used, to the hour. With --json each is one JSON object on one line.`, kind),
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return where.with(cmd.Context(), func(records *store.Store) error {
				list, err := records.Credentials(cmd.Context(), operator, strings.Join(args, ""), kind)
				if err != nil {
					return err
				}
				p := newPrinter(cmd)
				header := "ID|USER|LABEL|ROLES|CREATED|EXPIRES|USED|STATE"
				if kind == store.Certificate {
					header += "|SPKI"
				}
				var rows [][]string
				for _, c := range list {
					out := credentialOf(c, records.Now())
					if p.json {
						if err := p.object(out); err != nil {
							return err
						}
					}
					rows = append(rows, []string{
						fmt.Sprint(c.ID), c.User, c.Label, out.Roles, day(&c.CreatedAt), day(c.ExpiresAt), day(c.UsedAt), out.State, out.SPKI,
					})
				}
				if !p.json {
					p.table(header, rows)
				}
				return nil
			})
		},
	}
	where.addFlags(cmd)
	addOperatorFlag(cmd, &operator)
	addJSONFlag(cmd)
	return cmd
}

// day is a time for a table.
func day(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.Format("2006-01-02 15:04Z")
}

func newCredentialRevokeCmd(kind store.CredentialKind) *cobra.Command {
	var where recordFlags
	var operator string
	cmd := &cobra.Command{
		Use:   "revoke " + credentialFlags + "USER ID",
		Short: fmt.Sprintf("Revoke a %s of a user, for good", kind),
		Long: fmt.Sprintf(`Revokes the %s of a user that has this ID in %[1]s list, for good: from the next
request on it is nobody's. The server may run meanwhile.`, kind),
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return fmt.Errorf("%.40q is no ID: %s list has them", args[1], kind)
			}
			return where.with(cmd.Context(), func(records *store.Store) error {
				c, err := records.RevokeCredential(cmd.Context(), operator, args[0], kind, number)
				if err != nil {
					return err
				}
				p := newPrinter(cmd)
				if p.json {
					return p.object(credentialOf(c, records.Now()))
				}
				_, err = fmt.Fprintf(p.out, "%s %d of user %q is revoked since %s\n", kind, c.ID, c.User, day(c.RevokedAt))
				return err
			})
		},
	}
	where.addFlags(cmd)
	addOperatorFlag(cmd, &operator)
	addJSONFlag(cmd)
	return cmd
}

func newUserCertificateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certificate",
		Short: "The client certificates of a user",
		Long: `The client certificates of a user. A server that was started with --client-ca takes
them in place of tokens: a certificate of one of those CAs, for client
authentication, whose key is bound to a user here. A certificate that is renewed
with the same key stays good. Another key is added beside the one before, which is
revoked once it is not used any more.`,
	}
	cmd.AddCommand(newCertificateAddCmd(), newCredentialListCmd(store.Certificate), newCredentialRevokeCmd(store.Certificate))
	return cmd
}

func newCertificateAddCmd() *cobra.Command {
	var where recordFlags
	var operator, label, roles string
	var until expiry
	cmd := &cobra.Command{
		Use:   "add " + credentialFlags + "[--label TEXT] [--roles LIST] [--expires TIME] USER FILE",
		Short: "Have a client certificate's key stand for a user",
		Long: `Has the key of a client certificate, in a PEM file, stand for a user, beside the
credentials that it has. It is good for as long as there are certificates of it,
unless --expires says otherwise.

  cardbridge operator user certificate add --data ./data --operator "Example Mobile" --roles read kim kim.crt`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var scope store.Roles
			var err error
			if roles != "" {
				if scope, err = store.ParseRoles(roles); err != nil {
					return err
				}
			}
			cert, err := readCertificate(args[1])
			if err != nil {
				return err
			}
			return where.with(cmd.Context(), func(records *store.Store) error {
				opts := []server.GrantOption{server.Scoped(scope), server.Expires(until.from(records.Now()))}
				if label != "" {
					opts = append(opts, server.Labelled(label))
				}
				op, c, err := server.AddCertificate(cmd.Context(), records, operator, args[0], cert, opts...)
				if err != nil {
					return err
				}
				p := newPrinter(cmd)
				out := credentialOf(c, records.Now())
				if p.json {
					return p.object(out)
				}
				_, err = fmt.Fprintf(p.out, "certificate %d, key %s, stands for user %q (%s) of operator %q\n", c.ID, out.SPKI, c.User, out.Roles, op.Name)
				return err
			})
		},
	}
	where.addFlags(cmd)
	addOperatorFlag(cmd, &operator)
	cmd.Flags().StringVar(&label, "label", "", "`NAME` of the certificate in lists (default: its common name)")
	cmd.Flags().StringVar(&roles, "roles", "", "`LIST` of those of the user's roles that the certificate is good for (default: all)")
	until.addFlag(cmd, "the key")
	addJSONFlag(cmd)
	return cmd
}

// readCertificate reads the first certificate of a PEM file.
func readCertificate(path string) (*x509.Certificate, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: a certificate in PEM is wanted", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}
