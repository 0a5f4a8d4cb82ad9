package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/card/keyfile"
	"github.com/cardbridge/cardbridge/server/audit"
)

// auditKeyFile is the key, in a data directory, that signs the audit trail's
// checkpoints.
const auditKeyFile = "audit.key"

// auditKeyOf reads a server's key. The error matches fs.ErrNotExist where there
// is none.
func auditKeyOf(data string) (*audit.Key, error) {
	path := filepath.Join(data, auditKeyFile)
	b, err := keyfile.Read(path, "the key that signs the audit trail")
	if err != nil {
		return nil, err
	}
	key, err := audit.ParseKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// makeAuditKey reads a server's key, and makes it where there is none.
func makeAuditKey(data string) (*audit.Key, error) {
	key, err := auditKeyOf(data)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	host, _ := os.Hostname() // a name is for people alone
	secret, err := audit.NewKey(host)
	if err != nil {
		return nil, err
	}
	if err := keyfile.Write(filepath.Join(data, auditKeyFile), 0o600, []byte(secret+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return auditKeyOf(data)
}

func newAuditKeyCmd() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "key --data DIR",
		Short: "Print the line that a server's checkpoints are verified with",
		Long: `Prints the verifier line of the key that signs a server's checkpoints: what
audit verify takes with --key. It is public. Each server has a key of its own, in
audit.key in its data directory, made when it is first started.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := auditKeyOf(data)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w; serve makes it when it is first started", err)
			}
			if err != nil {
				return err
			}
			p := newPrinter(cmd)
			if p.json {
				return p.object(map[string]string{"key": key.Verifier()})
			}
			_, err = fmt.Fprintln(p.out, key.Verifier())
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "`DIR` with the server's data")
	_ = cmd.MarkFlagRequired("data")
	addJSONFlag(cmd)
	return cmd
}
