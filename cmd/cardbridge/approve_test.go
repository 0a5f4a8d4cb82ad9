package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// addUser adds a user of operator One, whose token is in the file of its name.
func (s *served) addUser(name, roles string) {
	_, _, err := s.administer(newOperatorCmd(), "user", "add", "--operator", "One", "--roles", roles, "--token-file", s.path(name), name)
	require.NoError(s, err)
}

// underWay is a deactivation that somebody waits for.
type underWay struct {
	out, steps bufferOf
	interrupt  context.CancelFunc
	ended      chan error
}

func (s *served) begin(n int, token string) *underWay {
	a := asking{remote: remote{server: s.ready.URL, tokenFile: s.path(token)}, eid: servertest.EID(n).String(), timeout: time.Minute, wait: true}
	w := &underWay{ended: make(chan error, 1)}
	var ctx context.Context
	ctx, w.interrupt = context.WithCancel(context.Background())
	s.Cleanup(w.interrupt)
	go func() { w.ended <- a.run(ctx, &printer{out: &w.out, err: &w.steps, json: true}) }()
	return w
}

// held waits until a request is held and gives its id.
func (s *served) held(w *underWay) (request string) {
	require.Eventually(s, func() bool {
		_, rest, ok := strings.Cut(w.steps.String(), "cardbridge approve ")
		request, _, _ = strings.Cut(rest, "\n")
		return ok && request != ""
	}, 10*time.Second, time.Millisecond, "%s", w.steps.String())
	return request
}

// lines parses JSON lines.
func lines[T any](t testing.TB, text string) (out []T) {
	for line := range strings.Lines(text) {
		var v T
		require.NoError(t, json.Unmarshal([]byte(line), &v), "%s", line)
		out = append(out, v)
	}
	return out
}

// The whole way of a request beyond the budget, and of the breaker, by command.
func TestApprovals(t *testing.T) {
	for name, url := range map[string]func(*testing.T) string{
		"sqlite":   func(*testing.T) string { return "" },
		"postgres": func(t *testing.T) string { return postgres.Shared(t).NewDatabase(t, "") },
	} {
		t.Run(name, func(t *testing.T) { testApprovals(t, serveOn(t, url(t), "--insecure-http", "--rules")) })
	}
}

func testApprovals(t *testing.T, s *served) {
	s.addUser("kim", "read,request")
	s.addUser("lee", "read,approve")
	out, _, err := s.administer(newOperatorCmd(), "list", "--json")
	require.NoError(t, err)
	users := lines[operatorJSON](t, out)
	require.Len(t, users, 3)
	assert.Equal(t, operatorJSON{Name: "One", MCCMNC: "46011", User: "kim", Roles: "read,request"}, users[1])
	out, _, err = s.administer(newOperatorCmd(), "list")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^One +46011 +lee +read,approve$`, out)

	for n := 1; n <= 5; n++ {
		s.insert(n, nil, nil)
	}
	for n := 1; n <= 3; n++ {
		_, stderr, status := s.deactivate(n)
		require.Zero(t, status, "%s", stderr)
	}
	fourth := []string{"--eid", servertest.EID(4).String(), "--idempotency-key", "fourth", "--json"}
	out, stderr, err := s.askAs("kim", newDeactivateCmd(), fourth...)
	assert.Equal(t, exitStatus(exitHeld), err)
	held := lines[deactivateJSON](t, out)[0]
	assert.EqualValues(t, "held", held.State)
	assert.Contains(t, held.HeldWhy, "budget of 3")
	assert.Contains(t, stderr, "with the role approve, until ")
	assert.Contains(t, stderr, "cardbridge approve "+held.RequestID)

	out, _, err = s.askAs("lee", newRequestsCmd(), "--held")
	require.NoError(t, err)
	assert.Regexp(t, held.RequestID+" +"+held.EID+" +held +kim ", out)
	out, _, err = s.askAs("lee", newRequestsCmd(), "--json")
	require.NoError(t, err)
	assert.Len(t, lines[api.Deactivation](t, out), 4)
	out, _, err = s.askAs("lee", newRequestsCmd(), "--json", "--limit", "2")
	require.NoError(t, err)
	assert.Len(t, lines[api.Deactivation](t, out), 2)
	_, _, err = s.askAs("kim", newApproveCmd(), held.RequestID)
	assert.ErrorContains(t, err, "role approve")
	_, _, err = s.askAs("lee", newApproveCmd(), "00000000-0000-4000-8000-000000000000")
	assert.ErrorContains(t, err, "not yours")
	_, _, err = s.askAs("lee", newApproveCmd(), "x")
	assert.Error(t, err)

	// Whoever waits sees the approval, and then the end.
	fifth := s.begin(5, "kim")
	request := s.held(fifth)
	out, _, err = s.askAs("lee", newApproveCmd(), request)
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^approved by +lee$`, out)
	require.NoError(t, <-fifth.ended, "%s", fifth.steps.String())
	assert.Contains(t, fifth.steps.String(), "by user lee")
	done := lines[deactivateJSON](t, fifth.out.String())[0]
	assert.Equal(t, []string{"done", "lee"}, []string{done.Outcome, done.ApprovedBy})
	_, _, err = s.askAs("lee", newApproveCmd(), request)
	assert.ErrorContains(t, err, "the request is done")

	_, _, err = s.askAs("lee", newRejectCmd(), held.RequestID)
	assert.ErrorContains(t, err, "reason")
	out, _, err = s.askAs("lee", newRejectCmd(), held.RequestID, "--reason", "these meters stay")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^why +rejected by user "lee": these meters stay$`, out)
	out, _, err = s.askAs("kim", newDeactivateCmd(), fourth...)
	assert.Equal(t, exitStatus(exitRuleRefused), err)
	refused := lines[deactivateJSON](t, out)[0]
	assert.Equal(t, []string{"user", server.FourEyes}, []string{refused.RefusedBy, refused.Rule})

	// Whoever waits for an approval no longer leaves the request as it is.
	again := s.begin(4, "token")
	request = s.held(again)
	again.interrupt()
	assert.Equal(t, exitStatus(exitHeld), <-again.ended)
	assert.EqualValues(t, "held", lines[deactivateJSON](t, again.out.String())[0].State)
	_, _, err = s.ask(newApproveCmd(), request)
	assert.ErrorContains(t, err, "a second user must")
	out, _, err = s.askAs("kim", newCancelCmd(), request, "--json")
	require.NoError(t, err)
	assert.Equal(t, "cancelled", lines[api.Deactivation](t, out)[0].State)
	_, _, err = s.askAs("kim", newCancelCmd(), request)
	assert.ErrorContains(t, err, "cancelled any more")

	out, _, err = s.ask(newGuardCmd(), "show")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^breaker +closed\n^window +1h0m0s$`, out)
	assert.Regexp(t, `(?m)^all cards +5 +3 +4 +0 +6 +7 +0$`, out)
	_, _, err = s.administer(newGuardCmd(), "reset", "--yes", "One")
	assert.ErrorContains(t, err, "has not tripped")
	_, _, err = s.ask(newDeactivateCmd(), "--eid", servertest.EID(4).String())
	assert.Equal(t, exitStatus(exitHeld), err)
	res, _, status := s.deactivate(4)
	assert.Equal(t, exitRuleRefused, status)
	assert.Equal(t, server.MassDeactivation, res.Rule)
	assert.Contains(t, res.Detail, "guard reset")
	out, _, err = s.ask(newGuardCmd(), "show")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^breaker +tripped 20.*more than 7`, out)
	out, _, err = s.ask(newGuardCmd(), "show", "--json")
	require.NoError(t, err)
	assert.True(t, lines[api.Guard](t, out)[0].Breaker.Tripped)

	_, _, err = s.administer(newGuardCmd(), "reset", "One")
	assert.ErrorContains(t, err, "--yes", "nobody is at a terminal")
	_, _, err = s.administer(newGuardCmd(), "reset", "--yes", "Nobody")
	assert.ErrorContains(t, err, "Nobody")
	out, _, err = s.administer(newGuardCmd(), "reset", "--yes", "--json", "One")
	require.NoError(t, err)
	assert.Contains(t, lines[breakerJSON](t, out)[0].Was, "more than 7")
	_, _, err = s.ask(newDeactivateCmd(), "--eid", servertest.EID(4).String(), "--json")
	assert.Equal(t, exitStatus(exitHeld), err, "what was sent still counts")
	out, _, err = s.administer(newAuditCmd(), "--json")
	require.NoError(t, err)
	var kinds []string
	for _, e := range lines[eventJSON](t, out) {
		kinds = append(kinds, e.Kind)
	}
	assert.Subset(t, kinds, []string{"user added", "held", "approved", "refused", "cancelled", "breaker tripped", "breaker reset"})
}

func TestCardGroups(t *testing.T) {
	s := serve(t, "--insecure-http")
	s.insert(1, nil, nil)
	eid := servertest.EID(1).String()
	out, _, err := s.ask(newCardGroupsCmd(), "--eid", eid, "critical", "meters")
	require.NoError(t, err)
	assert.Regexp(t, `(?m)^groups +critical meters$`, out)
	out, _, err = s.ask(newCardShowCmd(), "--eid", eid, "--json")
	require.NoError(t, err)
	assert.Equal(t, []string{"critical", "meters"}, lines[api.Card](t, out)[0].Groups)
	for _, args := range [][]string{{}, {"--none", "a"}, {"Bad"}, {"a", "a"}} {
		_, _, err := s.ask(newCardGroupsCmd(), append(args, "--eid", eid)...)
		assert.Error(t, err, "%q", args)
	}
	out, _, err = s.ask(newCardGroupsCmd(), "--eid", eid, "--none")
	require.NoError(t, err)
	assert.NotContains(t, out, "groups")
}

// Two servers on one database: whichever has the card carries it out.
func TestTwoServersOnPostgres(t *testing.T) {
	url := postgres.Shared(t).NewDatabase(t, "")
	first := serveOn(t, url, "--insecure-http")
	second := &served{TB: t, readers: servertest.NewReaders(), dir: t.TempDir(), log: &bufferOf{}}
	second.record = recordFlags{data: second.path("data"), store: url}
	second.write("server.json", servertest.KeySetFile())
	second.start("--insecure-http")
	assert.NotEqual(t, first.ready.URL, second.ready.URL)
	im := servertest.Image(1)
	_, _, err := first.ask(newCardRegisterCmd(), "--card", first.write("card.json", servertest.Record(im)))
	require.NoError(t, err)
	c := servertest.Card(im)
	second.readers.Insert("reader", c, nil)
	res, stderr, status := first.deactivate(1)
	require.Zero(t, status, "%s", stderr)
	assert.True(t, *res.ReceiptVerified)
	assert.Equal(t, uint32(6), c.Image().EventCounter)
	assert.NoFileExists(t, first.path("data/record.db"))
	assert.Contains(t, first.log.String(), "shared=true")
}

// A password in a record's URL comes up nowhere.
func TestStorePasswords(t *testing.T) {
	const password = "s3cret-word"
	dir := t.TempDir()
	for _, url := range []string{
		"postgres://kim:" + password + "@127.0.0.1:1/db", "postgres://kim:" + password + "@127.0.0.1:x/db", "postgres://kim:" + password + "@[::1/db",
		"postgres://kim@127.0.0.1:1/db?password=" + password, "postgres://kim:" + password + "@127.0.0.1:1/db?sslmode=nonsense",
		"postgresql://kim:%zz" + password + "@h/db", "mysql://kim:" + password + "@h/db", "kim:" + password + "@h",
	} {
		t.Run(url, func(t *testing.T) {
			t.Setenv(storeVariable, url)
			for _, args := range [][]string{{"operator", "list"}, {"audit"}, {"guard", "reset", "--yes", "One"}} {
				stdout, stderr, status := cli(t, append(args, "--data", filepath.Join(dir, "data"))...)
				assert.Equal(t, exitError, status)
				assert.NotContains(t, stdout+stderr, password)
				assert.NotEmpty(t, stderr)
			}
			if store.IsPostgres(url) {
				assert.NotContains(t, publicStore(url), password)
			}
		})
	}
	assert.Equal(t, "postgres://db.example:5432/cards", publicStore("postgres://kim:"+password+"@db.example:5432/cards?password="+password))
	assert.NoDirExists(t, filepath.Join(dir, "data"), "the environment names the record")
	_, stderr, status := cli(t, "audit")
	assert.Equal(t, exitError, status)
	assert.Contains(t, stderr, storeVariable)
}

// A file of rules is read again on SIGHUP and when it changes; a bad one changes
// nothing.
func TestServeRules(t *testing.T) {
	s := serve(t, "--insecure-http", "--rules")
	assert.Contains(t, s.log.String(), "management rules loaded")
	budget := func() int64 {
		out, _, err := s.ask(newGuardCmd(), "show", "--json")
		require.NoError(t, err)
		return *lines[api.Guard](t, out)[0].Operator.Budget
	}
	assert.EqualValues(t, 3, budget())
	hangUp := func(line string) {
		self, err := os.FindProcess(os.Getpid())
		require.NoError(t, err)
		require.NoError(t, self.Signal(syscall.SIGHUP))
		require.Eventually(t, func() bool { return strings.Contains(s.log.String(), line) }, 10*time.Second, time.Millisecond)
	}
	s.write("rules.yaml", servertest.RulesFile("{max: 5}"))
	hangUp("management rules reloaded")
	assert.EqualValues(t, 5, budget())
	s.write("rules.yaml", []byte("version: 1\nrules: [{}]\n"))
	hangUp("management rules not reloaded")
	assert.EqualValues(t, 5, budget())
	s.write("rules.yaml", servertest.RulesFile("{max: 6}"))
	require.Eventually(t, func() bool { return budget() == 6 }, 20*time.Second, 50*time.Millisecond, "without a signal")

	s.write("bad.yaml", []byte("version: 1\nrules: [{}]\n"))
	v := serving{recordFlags: recordFlags{data: s.path("other")}, keysets: []string{s.path("server.json")}, listen: "127.0.0.1:0", rules: s.path("bad.yaml")}
	err := v.run(t.Context(), &printer{out: &bufferOf{}, err: &bufferOf{}}, s.readers)
	assert.ErrorContains(t, err, "bad.yaml:2:")
	assert.NoDirExists(t, s.path("other"))
	for _, args := range [][]string{{"--lease", "10ms"}, {"--lease", "1h"}, {"--approval-timeout", "0s"}, {"--approval-timeout", "1000h"}} {
		_, _, err := s.execute(newServeCmd(), append(args, "--data", s.path("other"), "--keyset", s.path("server.json"))...)
		assert.ErrorContains(t, err, "--lease takes")
	}
}

func TestUsersAreRefused(t *testing.T) {
	s := serve(t, "--insecure-http")
	s.addUser("kim", "read")
	for want, args := range map[string][]string{
		"exists already": {"user", "add", "--operator", "One", "--roles", "read", "kim"},
		"not found":      {"user", "add", "--operator", "Two", "--roles", "read", "kim"},
		"no such role":   {"user", "add", "--operator", "One", "--roles", "read,root", "lee"},
		"name":           {"user", "add", "--operator", "One", "--roles", "read", ""},
		"printable":      {"user", "add", "--operator", "One", "--roles", "read", "a\x1bb"},
	} {
		_, _, err := s.administer(newOperatorCmd(), append(args, "--token-file", s.path("none"))...)
		assert.ErrorContains(t, err, want)
		assert.NoFileExists(t, s.path("none"))
	}
	user := func(args ...string) (string, error) {
		out, _, err := s.administer(newOperatorCmd(), append([]string{"user"}, args...)...)
		return out, err
	}
	_, err := user("token", "--operator", "One", "--token-file", s.path("kim2"), "kim")
	require.NoError(t, err)
	_, _, err = s.askAs("kim", newRequestsCmd())
	assert.ErrorContains(t, err, "token", "the one before is nobody's")
	_, _, err = s.askAs("kim2", newRequestsCmd())
	require.NoError(t, err)
	_, _, err = s.askAs("kim2", newDeactivateCmd(), "--eid", servertest.EID(1).String())
	assert.ErrorContains(t, err, "role request")
	out, err := user("remove", "--operator", "One", "kim")
	require.NoError(t, err)
	assert.Contains(t, out, "removed")
	_, _, err = s.askAs("kim2", newRequestsCmd())
	assert.ErrorContains(t, err, "token")
	for _, args := range [][]string{
		{"remove", "--operator", "One", "kim"}, {"token", "--operator", "One", "kim"}, {"token", "--operator", "One", "nobody"}, {"remove", "--operator", "Two", "kim"},
	} {
		_, err = user(args...)
		assert.ErrorContains(t, err, "not found", "%q", args)
	}
	_, err = user("add", "--operator", "One", "--roles", "read", "kim")
	assert.ErrorContains(t, err, "exists already", "a name stays whose it was")
}

func TestMigrate(t *testing.T) {
	s := serve(t, "--insecure-http")
	out, _, err := s.administer(newMigrateCmd(), "--json")
	require.NoError(t, err)
	now := lines[migrateJSON](t, out)[0].Version
	_, _, err = s.administer(newMigrateCmd(), "--to", "2", "--yes")
	assert.ErrorIs(t, err, store.ErrInUse, "a server works on it")
	require.NoError(t, s.stop())
	for to, want := range map[string]string{"2": "--yes", "0": "goes back to", "99": "goes back to"} {
		_, _, err = s.administer(newMigrateCmd(), "--to", to)
		assert.ErrorContains(t, err, want)
	}
	out, _, err = s.administer(newMigrateCmd(), "--to", "2", "--yes")
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("the record has schema version 2, taken back from %d\n", now), out)
	out, _, err = s.administer(newMigrateCmd())
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("the record has schema version %d\n", now), out)
	out, _, err = s.administer(newOperatorCmd(), "list")
	require.NoError(t, err)
	assert.Regexp(t, "(?m)^One +46011 +default ", out)
}
