// Package man gives a program a command that writes its man pages, from the same
// texts as its help.
package man

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Version is the program's, as the build knows it: of its tag, or of its commit.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Command is `man DIR`, for the program of a root command.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages of this program and of each of its commands into a directory",
		Long: `Writes a man page in section 1 for this program and for each of its commands
into a directory, which is made if it is not there. The pages have the date of
SOURCE_DATE_EPOCH where that is set.`,
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return write(cmd.Root(), args[0])
		},
	}
}

func write(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root.DisableAutoGenTag = true
	prepare(root)
	header := &doc.GenManHeader{Section: "1", Source: root.Name() + " " + Version(), Manual: "cardbridge"}
	if err := doc.GenManTree(root, header, dir); err != nil {
		return err
	}
	pages, err := filepath.Glob(filepath.Join(dir, root.Name()+"*.1"))
	if err == nil && len(pages) == 0 {
		err = fmt.Errorf("no page was written into %s", dir)
	}
	return err
}

// prepare makes the texts of a command and of those under it Markdown, which is
// what pages are made of: lines that are set in stay lines, and no character of
// the text is markup.
func prepare(cmd *cobra.Command) {
	cmd.Long = markdown(cmd.Long)
	for _, sub := range cmd.Commands() {
		prepare(sub)
	}
}

var plain = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `_`, `\_`, `<`, `\<`, `[`, `\[`)

func markdown(text string) string {
	var out strings.Builder
	indented := false
	for line := range strings.Lines(text) {
		was := indented
		if indented = strings.HasPrefix(line, "  "); indented != was && strings.TrimSpace(line) != "" {
			out.WriteString("\n")
		}
		if indented {
			out.WriteString("    " + line[2:])
		} else {
			out.WriteString(plain.Replace(line))
		}
	}
	return out.String()
}
