package help_test

import (
	"bytes"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"

	"github.com/cardbridge/cardbridge/cmd/internal/help"
)

func run(args ...string) (said string, began bool, err error) {
	root := &cobra.Command{Use: "prog", Long: "What it is.", SilenceErrors: true, SilenceUsage: true}
	root.AddGroup(&cobra.Group{ID: "first", Title: "The first:"})
	group := &cobra.Command{Use: "card", Short: "Of cards", GroupID: "first"}
	show := &cobra.Command{Use: "show FILE", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return assert.AnError }}
	show.Flags().Bool("json", false, "print JSON")
	show.Flags().Bool("quick", true, "be quick")
	show.Flags().String("out", "", "write to `FILE`")
	group.AddCommand(show)
	root.AddCommand(group)
	begun := help.Attach(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(args)
	err = root.Execute()
	return out.String(), begun(), err
}

func TestHelp(t *testing.T) {
	said, _, err := run("--help")
	assert.NoError(t, err)
	assert.Contains(t, said, "What it is.\n\nUsage:\n  prog COMMAND\n\nThe first:\n  card        Of cards\n\nMore:\n")

	said, _, err = run("card", "show", "--help")
	assert.NoError(t, err)
	assert.Equal(t, `Usage:
  prog card show FILE [flags]

Flags:
  -h, --help       help for show
      --json       print JSON
      --out FILE   write to FILE
      --quick      be quick (default true)
`, said)

	said, began, err := run("card")
	assert.NoError(t, err)
	assert.False(t, began)
	assert.Contains(t, said, "Usage:\n  prog card COMMAND\n\nCommands:\n  show")
}

func TestWhoIsToBlame(t *testing.T) {
	for text, args := range map[string][]string{
		`unknown command "shw" for "prog card"; is it show?`: {"card", "shw"},
		`unknown command "nothing" for "prog card"`:          {"card", "nothing"},
		"accepts 1 arg(s), received 0":                       {"card", "show"},
		"unknown flag: --none":                               {"card", "show", "--none"},
	} {
		_, began, err := run(args...)
		assert.EqualError(t, err, text)
		assert.False(t, began, text)
	}
	_, began, err := run("card", "show", "x")
	assert.ErrorIs(t, err, assert.AnError)
	assert.True(t, began)
}
