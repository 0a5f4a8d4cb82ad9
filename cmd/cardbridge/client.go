package main

import (
	"context"
	"crypto/tls"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/api/client"
)

const (
	clientTries = 5 // a few seconds
	untilDone   = 0 // tries: as many as ctx allows
)

// remote is the flags of commands that talk to a server.
type remote struct {
	server    string
	tokenFile string
	pin       string
}

func (r *remote) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.server, "server", "", "URL of the server")
	f.StringVar(&r.tokenFile, "token-file", "", "file with the operator's token")
	f.StringVar(&r.pin, "pin", "", "trust the server with this key alone: SHA-256 of its public key (SPKI), 64 hexadecimal digits, as serve prints it")
	_ = cmd.MarkFlagRequired("server")
	_ = cmd.MarkFlagRequired("token-file")
	addJSONFlag(cmd)
}

func (r *remote) client() (*client.Client, error) {
	var config *tls.Config
	if r.pin != "" {
		var err error
		if config, err = client.PinnedTLS(r.pin); err != nil {
			return nil, err
		}
	}
	token, err := readPrivate(r.tokenFile, "an operator's token")
	if err != nil {
		return nil, err
	}
	return client.New(r.server, strings.TrimSpace(string(token)), config)
}

// remoteCmd is a command that talks to a server.
func remoteCmd(use, short, long string, args cobra.PositionalArgs, run func(context.Context, *printer, *client.Client, []string) error) *cobra.Command {
	var r remote
	name, rest, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use: strings.TrimSpace(name + " --server URL --token-file FILE --pin SHA256 " + rest), Short: short, Long: long, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := r.client()
			if err != nil {
				return err
			}
			return run(cmd.Context(), newPrinter(cmd), c, args)
		},
	}
	r.addFlags(cmd)
	return cmd
}
