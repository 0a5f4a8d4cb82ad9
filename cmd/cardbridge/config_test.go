package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// settings are those of one start of serve: by flags, the environment and a file.
type settings struct {
	args []string
	env  map[string]string
	file string
}

// flags are those of serve as it would start with them.
func (s settings) flags(t *testing.T) (*pflag.FlagSet, error) {
	t.Helper()
	cmd := newServeCmd()
	cmd.RunE = func(*cobra.Command, []string) error { return nil }
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	args := s.args
	if s.file != "" {
		path := filepath.Join(t.TempDir(), "config.yaml")
		require.NoError(t, os.WriteFile(path, []byte(s.file), 0o600))
		args = append([]string{"--config", path}, args...)
	}
	for name, value := range s.env {
		t.Setenv(name, value)
	}
	defer func() {
		for name := range s.env {
			os.Unsetenv(name)
		}
	}()
	cmd.SetArgs(args)
	return cmd.Flags(), cmd.Execute()
}

// samples are two values of each type of flag, neither of them a default.
var samples = map[string][2][]string{
	"bool":        {{"true"}, {"false"}},
	"string":      {{"some text"}, {"other, text"}},
	"duration":    {{"7s"}, {"1m11s"}},
	"int":         {{"7"}, {"8"}},
	"float64":     {{"7.5"}, {"8.5"}},
	"stringArray": {{"one", "two"}, {"three"}},
	"stringSlice": {{"10.0.0.0/8", "10.1.0.0/16"}, {"10.2.0.0/16"}},
}

func TestSettings(t *testing.T) {
	ways := []string{fromFlag, fromEnvironment, "file"}
	give := func(s *settings, way, flag string, values []string) {
		switch way {
		case fromFlag:
			for _, v := range values {
				s.args = append(s.args, "--"+flag+"="+v)
			}
		case fromEnvironment:
			s.env[variable(flag)] = strings.Join(values, ",")
		case "file":
			quoted := make([]string, len(values))
			for i, v := range values {
				quoted[i] = `"` + v + `"`
			}
			s.file += flag + ": " + quoted[0] + "\n"
			if len(values) > 1 {
				s.file = strings.TrimSuffix(s.file, quoted[0]+"\n") + "[" + strings.Join(quoted, ", ") + "]\n"
			}
		}
	}
	seen := 0
	newServeCmd().Flags().VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(onlyFlags, flag.Name) {
			return
		}
		seen++
		t.Run(flag.Name, func(t *testing.T) {
			sample, ok := samples[flag.Value.Type()]
			require.True(t, ok, "no sample of %s", flag.Value.Type())
			start := func(given map[string][]string) string {
				s := settings{env: map[string]string{}}
				for _, needed := range []string{"data", "keyset"} {
					if needed != flag.Name {
						give(&s, "file", needed, []string{"here"})
					}
				}
				for way, values := range given {
					give(&s, way, flag.Name, values)
				}
				f, err := s.flags(t)
				require.NoError(t, err, "%+v", s)
				return f.Lookup(flag.Name).Value.String()
			}
			want := start(map[string][]string{fromFlag: sample[0]})
			require.NotEqual(t, flag.DefValue, want)
			for i, way := range ways {
				assert.Equal(t, want, start(map[string][]string{way: sample[0]}), "by %s alone", way)
				for _, weaker := range ways[i+1:] {
					assert.Equal(t, want, start(map[string][]string{way: sample[0], weaker: sample[1]}), "%s before %s", way, weaker)
					other := start(map[string][]string{way: sample[1], weaker: sample[0]})
					assert.NotEqual(t, want, other, "%s before %s", way, weaker)
				}
			}
			if !slices.Contains([]string{"data", "keyset"}, flag.Name) {
				assert.Equal(t, flag.DefValue, start(nil))
			}
		})
	})
	assert.Greater(t, seen, 15)
}

func TestSettingsComeFrom(t *testing.T) {
	cmd := newServeCmd()
	t.Setenv("CARDBRIDGE_LEASE", "20s")
	t.Setenv("CARDBRIDGE_RULES", "")
	file := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(file, []byte("# all of it\ndata: here\nlease: 30s\nlisten: 127.0.0.1:1\n"), 0o600))
	t.Setenv("CARDBRIDGE_CONFIG", file)
	require.NoError(t, cmd.ParseFlags([]string{"--listen", "127.0.0.1:2"}))
	o, err := configure(cmd.Flags())
	require.NoError(t, err)
	for flag, want := range map[string]string{
		"listen": fromFlag, "lease": fromEnvironment, "config": fromEnvironment, "data": file + ":2", "rules": fromDefault,
	} {
		assert.Equal(t, want, o.of(flag), flag)
	}
}

func TestBadSettings(t *testing.T) {
	for name, c := range map[string]struct{ file, want string }{
		"unknown":          {"data: here\nlistens: x\n", `config.yaml:2:1: "listens" is no setting`},
		"misspelt":         {"data: here\nlsten: x\n", `"lsten" is no setting; "listen" is`},
		"nothing near":     {"colour: red\n", "config.yaml:1:1: \"colour\" is no setting"},
		"other spelling":   {"log_format: json\n", `config.yaml:1:1: "log_format" is no setting; "log-format" is`},
		"of a start alone": {"config: x\n", `"config" is no setting`},
		"twice":            {"data: a\nlisten: x\ndata: b\n", "config.yaml:3:1: data is set in line 1 already"},
		"wrong type":       {"data: here\nlease:   soon\n", `config.yaml:2:10: invalid argument "soon" for "--lease"`},
		"yes is no truth":  {"verbose: yes please\n", `config.yaml:1:10: invalid argument`},
		"list for one":     {"listen: [a, b]\n", "config.yaml:1:9: listen: one value is wanted"},
		"mapping":          {"keyset: {a: b}\n", "config.yaml:1:9: keyset: a list of values is wanted"},
		"list in a list":   {"keyset:\n- a\n- [b]\n", "config.yaml:2:1: keyset: a list of values is wanted"},
		"no value":         {"rules:\n", "config.yaml:1:7: rules: one value is wanted"},
		"an alias":         {"data: &d here\nrules: *d\n", "config.yaml:2:8: rules: one value is wanted"},
		"a merge":          {"<<: {data: here}\n", `config.yaml:1:1: "<<" is no setting`},
		"no mapping":       {"- data\n", "config.yaml:1:1: lines such as"},
		"no YAML":          {"data: here\nkeyset: [a\n", "config.yaml:"},
		"not UTF-8":        {"data: \xff\n", "config.yaml:"},
		"two documents":    {"data: here\n---\nkeyset: k\n", "config.yaml: more than one document"},
		"too large":        {"# " + strings.Repeat("x", 1<<20), "bytes"},
		"nothing":          {"# all is missing\n", `required flag(s) "data", "keyset" not set`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := settings{file: c.file}.flags(t)
			assert.ErrorContains(t, err, c.want)
		})
	}
	_, err := settings{args: []string{"--config", "none.yaml"}}.flags(t)
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = settings{env: map[string]string{"CARDBRIDGE_LEASE": "soon"}}.flags(t)
	assert.ErrorContains(t, err, `$CARDBRIDGE_LEASE: invalid argument "soon"`)
	_, err = settings{env: map[string]string{"CARDBRIDGE_KEYSET": "new.json\nold.json"}}.flags(t)
	assert.ErrorContains(t, err, "$CARDBRIDGE_KEYSET: one line is wanted", "no value is dropped")
}

// A variable with a typo is not passed over; those of other commands, of the tests
// and of the place where the program runs are.
func TestMisspeltVariables(t *testing.T) {
	for name, want := range map[string]string{
		"CARDBRIDGE_LISTENN":     "$CARDBRIDGE_LISTENN is no setting; $CARDBRIDGE_LISTEN is",
		"CARDBRIDGE_LOGFORMAT":   "; $CARDBRIDGE_LOG_FORMAT is",
		"CARDBRIDGE_KEYSETS":     "; $CARDBRIDGE_KEYSET is",
		"CARDBRIDGE_PASPHRASE":   "; $CARDBRIDGE_PASSPHRASE is",
		"CARDBRIDGE_CHECK":       "$CARDBRIDGE_CHECK is no setting",
		"CARDBRIDGE_ELSEWHERE":   "$CARDBRIDGE_ELSEWHERE is no setting",
		"CARDBRIDGE_STORE_":      "; $CARDBRIDGE_STORE is",
		"CARDBRIDGE_":            "$CARDBRIDGE_ is no setting",
		"CARDBRIDGE_PORTS_HOST1": "$CARDBRIDGE_PORTS_HOST1 is no setting",
	} {
		_, err := settings{env: map[string]string{name: "hunter2"}}.flags(t)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	passed := map[string]string{
		"CARDBRIDGE_TEST_ANYTHING": "x", "CARDBRIDGE_SERVICE_HOST": "10.0.0.1", "CARDBRIDGE_SERVICE_PORT_HTTPS": "8443", "CARDBRIDGE_PORT": "tcp://10.0.0.1:8443",
		"CARDBRIDGE_DB_SERVICE_HOST": "10.0.0.2", "CARDBRIDGE_DB_PORT": "tcp://10.0.0.2:5432", "CARDBRIDGE_DB_PORT_5432_TCP_ADDR": "10.0.0.2",
		"CARDBRIDGE_PORT_8443_TCP_ADDR": "10.0.0.1", "CARDBRIDGE_LSTEN": "", "CARDBRIDGER": "x",
	}
	for _, name := range otherVariables {
		passed[name] = "x"
	}
	_, err := settings{args: []string{"--data", "d", "--keyset", "k"}, env: passed}.flags(t)
	assert.NoError(t, err)
	_, stderr, status := cli(t, "serve", "--keyset", "k")
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, `required flag(s) "data" not set`, "the tests' environment is let pass")

	// No command has a variable that is not known here.
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, source := range sources {
		b, err := os.ReadFile(source)
		require.NoError(t, err)
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		var names []string
		for _, name := range regexp.MustCompile(`CARDBRIDGE_[A-Z0-9_]*[A-Z0-9]`).FindAllString(string(b), -1) {
			names = append(names, name+"=x")
		}
		for _, call := range regexp.MustCompile(`configuredByEnvironment\(cmd, (.*)\)`).FindAllStringSubmatch(string(b), -1) {
			for name := range strings.SplitSeq(call[1], ", ") {
				names = append(names, variable(strings.Trim(name, `"`))+"=x")
			}
		}
		assert.NoError(t, strangers(names, flagNames(newServeCmd().Flags())), source)
	}
}

func flagNames(f *pflag.FlagSet) (names []string) {
	f.VisitAll(func(flag *pflag.Flag) { names = append(names, flag.Name) })
	return names
}

// The file that the Debian package brings is one that serve takes.
func TestPackagedSettings(t *testing.T) {
	b, err := os.ReadFile("../deb/files/config.yaml")
	require.NoError(t, err)
	f, err := settings{file: string(b)}.flags(t)
	require.NoError(t, err)
	for flag, want := range map[string]string{
		"data": "/var/lib/cardbridge", "keyset": "[/var/lib/cardbridge/server.json]", "listen": "127.0.0.1:8443",
	} {
		assert.Equal(t, want, f.Lookup(flag).Value.String(), flag)
	}
}

// A client finds its server and token in the environment, unless it is told others.
func TestClientByEnvironment(t *testing.T) {
	s := serve(t)
	t.Setenv("CARDBRIDGE_SERVER", s.ready.URL)
	t.Setenv("CARDBRIDGE_TOKEN_FILE", s.path("token"))
	t.Setenv("CARDBRIDGE_PIN", s.ready.Pin)
	_, _, err := s.execute(newRequestsCmd())
	assert.NoError(t, err)
	_, _, err = s.execute(newRequestsCmd(), "--pin", strings.Repeat("ab", 32))
	assert.ErrorContains(t, err, "not the pinned one")
	t.Setenv("CARDBRIDGE_SERVER", "")
	_, _, err = s.execute(newRequestsCmd())
	assert.ErrorContains(t, err, `required flag(s) "server" not set`)
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("data: here\nkeyset: [a, b]\nlease: 7s\n"))
	f.Add([]byte("a: &a [*a]\n<<: *a\n"))
	f.Add([]byte("verbose: yes\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		flags, o := newServeCmd().Flags(), origins{}
		if err := o.file(flags, "f", b); err != nil {
			assert.True(t, strings.HasPrefix(err.Error(), "f:"), "%v", err)
			return
		}
		for name := range o {
			assert.True(t, flags.Lookup(name).Changed, name)
		}
	})
}
