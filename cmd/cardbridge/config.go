package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

const configFlag = "config"

// onlyFlags are for one start; they are of no file, and of no environment but for
// the file's name.
var onlyFlags = []string{configFlag, "check", "help", "version"}

// Where a flag's value comes from, where it is not a line of a file.
const (
	fromFlag        = "flag"
	fromEnvironment = "environment"
	fromDefault     = "default"
)

// origins says where the values of flags come from, by their names: fromFlag,
// fromEnvironment or FILE:LINE; fromDefault where there is none.
type origins map[string]string

func (o origins) of(flag string) string {
	if from := o[flag]; from != "" {
		return from
	}
	return fromDefault
}

const variablePrefix = "CARDBRIDGE_"

// variable is the environment variable of a flag.
func variable(flag string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// configure gives flags that the command line leaves out the value that the
// environment has for them, else that the file has which --config names. It goes
// before flags that are required are missed. A variable that looks like one of a
// flag and is none is an error.
func configure(f *pflag.FlagSet) (origins, error) {
	o := origins{}
	var names []string
	f.VisitAll(func(flag *pflag.Flag) {
		if !slices.Contains(onlyFlags, flag.Name) || flag.Name == configFlag {
			names = append(names, flag.Name)
		}
	})
	if err := errors.Join(strangers(os.Environ(), names), o.environment(f, names...)); err != nil {
		return nil, err
	}
	if flag := f.Lookup(configFlag); flag != nil && flag.Changed {
		file := flag.Value.String()
		b, err := readFile(file)
		if err != nil {
			return nil, err
		}
		if err := o.file(f, file, b); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// otherVariables are those of this program that stand for no flag of serve.
var otherVariables = []string{
	"CARDBRIDGE_SERVER", "CARDBRIDGE_TOKEN_FILE", "CARDBRIDGE_PIN", "CARDBRIDGE_CLIENT_CERT", "CARDBRIDGE_CLIENT_KEY",
	"CARDBRIDGE_PASSPHRASE", "CARDBRIDGE_OLD_PASSPHRASE", "CARDBRIDGE_PKCS11_PIN",
}

// foreignVariables are the tests' own, and those that Kubernetes sets in every
// container beside a Service whose name begins with cardbridge.
var foreignVariables = regexp.MustCompile(`^CARDBRIDGE_(TEST_|(.*_)?SERVICE_(HOST|PORT)[_=]|(.*_)?PORT(_[0-9]+_(TCP|UDP|SCTP)[_=]|=(tcp|udp|sctp)://))`)

// strangers refuses variables of an environment that are meant for this program
// and that it does not know.
func strangers(environ, flags []string) error {
	known := slices.Clone(otherVariables)
	for _, name := range flags {
		known = append(known, variable(name))
	}
	var errs []error
	for _, set := range environ {
		name, value, _ := strings.Cut(set, "=")
		if value == "" || !strings.HasPrefix(name, variablePrefix) || slices.Contains(known, name) || foreignVariables.MatchString(set) {
			continue
		}
		hint := ""
		if near := nearest(name, known); near != "" {
			hint = "; $" + near + " is"
		}
		errs = append(errs, fmt.Errorf("$%s is no setting%s", name, hint))
	}
	return errors.Join(errs...)
}

// environment gives flags that have no value theirs of the environment. An empty
// variable is none; those of lists have commas, as CSV has them.
func (o origins) environment(f *pflag.FlagSet, names ...string) error {
	for _, name := range names {
		flag, value := f.Lookup(name), os.Getenv(variable(name))
		switch {
		case flag.Changed:
			o[name] = fromFlag
			continue
		case value == "":
			continue
		}
		values := []string{value}
		if _, list := flag.Value.(pflag.SliceValue); list {
			lines, err := csv.NewReader(strings.NewReader(value)).ReadAll()
			if err == nil && len(lines) != 1 {
				err = errors.New("one line is wanted, with commas between the values")
			}
			if err != nil {
				return fmt.Errorf("$%s: %w", variable(name), err)
			}
			values = lines[0]
		}
		if err := set(f, flag, values); err != nil {
			return fmt.Errorf("$%s: %w", variable(name), err)
		}
		o[name] = fromEnvironment
	}
	return nil
}

// set gives a flag its value, a list all of its values.
func set(f *pflag.FlagSet, flag *pflag.Flag, values []string) error {
	list, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return f.Set(flag.Name, values[0])
	}
	flag.Changed = true
	return list.Replace(values)
}

// yamlLine is how YAML's errors begin.
var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// file gives flags that have no value that of a file: a YAML mapping of their
// names to a text, number or truth value each, or a list of them. Errors have the
// file's name, line and column; nothing in it stands for something elsewhere.
func (o origins) file(f *pflag.FlagSet, file string, b []byte) error {
	var doc yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // nothing is in it
	}
	if err == nil {
		if err = d.Decode(new(yaml.Node)); err == nil {
			return fmt.Errorf("%s: more than one document", file)
		}
	}
	if !errors.Is(err, io.EOF) {
		return errors.New(strings.TrimSuffix(yamlLine.ReplaceAllString(err.Error(), file+":$1: "), "\n"))
	}
	fail := func(n *yaml.Node, format string, args ...any) error {
		return fmt.Errorf("%s:%d:%d: %s", file, n.Line, n.Column, fmt.Sprintf(format, args...))
	}
	root := doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.Tag == "!!null":
		return nil // comments alone
	case root.Kind != yaml.MappingNode:
		return fail(root, "lines such as \"listen: 127.0.0.1:8443\" are wanted")
	}
	lines := map[string]int{}
	for i := 0; i < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		name := k.Value
		flag := f.Lookup(name)
		switch {
		case k.Kind != yaml.ScalarNode || flag == nil || slices.Contains(onlyFlags, name):
			return fail(k, "%q is no setting%s", name, hint(f, name))
		case lines[name] != 0:
			return fail(k, "%s is set in line %d already", name, lines[name])
		}
		lines[name] = k.Line
		values, err := valuesOf(v, flag)
		if err != nil {
			return fail(v, "%s: %v", name, err)
		}
		if flag.Changed {
			continue
		}
		if err := set(f, flag, values); err != nil {
			return fail(v, "%s", err)
		}
		o[name] = fmt.Sprintf("%s:%d", file, k.Line)
	}
	return nil
}

// valuesOf is what a file has for a flag: one text, unless it takes a list.
func valuesOf(v *yaml.Node, flag *pflag.Flag) ([]string, error) {
	nodes := []*yaml.Node{v}
	_, list := flag.Value.(pflag.SliceValue)
	if list && v.Kind == yaml.SequenceNode {
		nodes = v.Content
	}
	values := make([]string, 0, len(nodes))
	for _, n := range nodes {
		switch {
		case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
			values = append(values, n.Value)
		case list:
			return nil, errors.New("a list of values is wanted")
		default:
			return nil, errors.New("one value is wanted")
		}
	}
	return values, nil
}

// hint says which setting may be meant by a name that is none.
func hint(f *pflag.FlagSet, name string) string {
	var known []string
	f.VisitAll(func(flag *pflag.Flag) {
		if !slices.Contains(onlyFlags, flag.Name) {
			known = append(known, flag.Name)
		}
	})
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("; %q is", near)
	}
	return ""
}

// nearest is the one of some names that may be meant by a name that is none of
// them: the one that takes the fewest letters to change, a third of them and two
// at most.
func nearest(name string, names []string) (near string) {
	plain := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(strings.TrimPrefix(s, variablePrefix)))
	}
	name = plain(name)
	least := min(2, len(name)/3) + 1
	for _, n := range names {
		if d := distance(name, plain(n)); d < least {
			near, least = n, d
		}
	}
	return near
}

// distance is how many bytes are to be added, taken away or changed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// configuredByEnvironment has some flags of a command take their values from the
// environment where its command line has none.
func configuredByEnvironment(cmd *cobra.Command, names ...string) {
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return origins{}.environment(cmd.Flags(), names...)
	}
}
