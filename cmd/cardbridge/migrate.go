package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/server/store"
)

// migrateJSON is what migrate prints.
type migrateJSON struct {
	Version int64  `json:"version"`
	Was     *int64 `json:"was,omitempty"` // where it was taken back
}

func newMigrateCmd() *cobra.Command {
	var where recordFlags
	var to int64
	var yes bool
	cmd := &cobra.Command{
		Use:   "migrate {--data DIR | --store URL} [--to VERSION [--yes]]",
		Short: "Bring a record's schema up to date, or back to an older program's",
		Long: `Brings the schema of a server's record up to date, as every command that opens it
does, and prints its version. With --to it is taken back to the version that an
older program prints: end all servers and make a backup first, and go on with the
older program, as this one would bring it up to date again. What only newer
versions have is lost: users but an operator's first, credentials but a user's
token, groups and the guard's counts; requests that wait for an approval are
expired.

  cardbridge migrate --data ./data
  cardbridge migrate --data ./data --to 2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return where.with(cmd.Context(), func(records *store.Store) error {
				version, err := records.Version(cmd.Context())
				if err != nil {
					return err
				}
				out, said := migrateJSON{Version: version}, ""
				if cmd.Flags().Changed("to") {
					if to < 1 || to >= version {
						return fmt.Errorf("--to %d: the record has version %d, and goes back to 1 to %d", to, version, version-1)
					}
					if !yes {
						if err := confirm(cmd, fmt.Sprintf("Take the record back from version %d to %d? What only newer versions have is lost.", version, to)); err != nil {
							return err
						}
					}
					if err := records.Downgrade(cmd.Context(), to); err != nil {
						return err
					}
					out, said = migrateJSON{to, &version}, fmt.Sprintf(", taken back from %d", version)
				}
				p := newPrinter(cmd)
				if p.json {
					return p.object(out)
				}
				_, err = fmt.Fprintf(p.out, "the record has schema version %d%s\n", out.Version, said)
				return err
			})
		},
	}
	where.addFlags(cmd)
	cmd.Flags().Int64Var(&to, "to", 0, "take it back to this version")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	addJSONFlag(cmd)
	return cmd
}
