package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/keyfile"
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
	cert, key string // files of a client certificate
}

func (r *remote) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.server, "server", "", "`URL` of the server (or: $"+variable("server")+")")
	f.StringVar(&r.tokenFile, "token-file", "", "`FILE` with the user's token (or: $"+variable("token-file")+")")
	f.StringVar(&r.pin, "pin", "", "trust the server with this key alone: `SHA256` of its public key (SPKI), 64 hexadecimal digits, as serve prints it (or: $"+variable("pin")+")")
	_ = cmd.MarkFlagRequired("server")
	f.StringVar(&r.cert, "client-cert", "", "`FILE` with a client certificate, and those between it and its CA, in PEM, in place of a token")
	f.StringVar(&r.key, "client-key", "", "`FILE` with the client certificate's private key, in PEM")
	cmd.MarkFlagsRequiredTogether("client-cert", "client-key")
	configuredByEnvironment(cmd, "server", "token-file", "pin", "client-cert", "client-key")
	addJSONFlag(cmd)
}

func (r *remote) client() (*client.Client, error) {
	if r.tokenFile == "" && r.cert == "" {
		return nil, fmt.Errorf("who asks? --token-file (or $%s) names the file with a user's token, --client-cert and --client-key a certificate", variable("token-file"))
	}
	var config *tls.Config
	if r.pin != "" {
		var err error
		if config, err = client.PinnedTLS(r.pin); err != nil {
			return nil, err
		}
	}
	if r.cert != "" {
		cert, err := readClientCertificate(r.cert, r.key)
		if err != nil {
			return nil, err
		}
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS13}
		}
		config.Certificates = []tls.Certificate{cert}
	}
	var token []byte
	if r.tokenFile != "" {
		var err error
		if token, err = keyfile.Read(r.tokenFile, "an operator's token"); err != nil {
			return nil, err
		}
	}
	return client.New(r.server, strings.TrimSpace(string(token)), config)
}

// readClientCertificate reads a client certificate and its key.
func readClientCertificate(cert, key string) (tls.Certificate, error) {
	c, err := readFile(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := keyfile.Read(key, "a private key")
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(c, k)
	if err != nil {
		return pair, fmt.Errorf("%s, %s: %w", cert, key, err)
	}
	return pair, nil
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
