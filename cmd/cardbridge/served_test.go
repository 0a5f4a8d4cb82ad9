package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// bufferOf is a bytes.Buffer that may be written and read at once.
type bufferOf struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *bufferOf) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *bufferOf) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// served is a server under test and what its operator has at hand.
type served struct {
	testing.TB
	readers *servertest.Readers
	dir     string
	record  recordFlags
	ready   readyJSON
	log     *bufferOf
	stop    func() error
}

func serve(t testing.TB, args ...string) *served { return serveOn(t, "", args...) }

// serveOn is serve on the PostgreSQL database at a URL, where there is one.
func serveOn(t testing.TB, url string, args ...string) *served {
	s := &served{TB: t, readers: servertest.NewReaders(), dir: t.TempDir(), log: &bufferOf{}}
	s.record = recordFlags{data: s.path("data"), store: url}
	s.write("server.json", servertest.KeySetFile())
	s.write("rules.yaml", servertest.RulesFile("{max: 3, ceiling: 7}"))
	_, _, err := s.administer(newOperatorCmd(), "add", "--mccmnc", "46011", "--token-file", s.path("token"), "One")
	require.NoError(t, err)
	s.start(args...)
	return s
}

// administer runs a command on the record.
func (s *served) administer(cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	return s.execute(cmd, append(args, "--data", s.record.data, "--store", s.record.store)...)
}

func (s *served) start(args ...string) {
	s.startWith(func(v *serving) {
		v.insecure = false
		for _, a := range args {
			switch a {
			case "--insecure-http":
				v.insecure = true
			case "--rules":
				v.rules = s.path("rules.yaml")
			case "--trace":
				v.traces = s.path("traces")
			case "--webhook-allow":
				v.webhooks = webhookFlags{allow: []string{"127.0.0.0/8"}, ca: s.path("ca.pem")}
			}
		}
	})
}

// startWith is start with any flags.
func (s *served) startWith(change func(*serving)) {
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	v := serving{recordFlags: s.record, keysets: []string{s.path("server.json")}, listen: "127.0.0.1:0", insecure: true}
	change(&v)
	ended := make(chan error, 1)
	go func() {
		err := v.run(ctx, &printer{out: w, err: s.log, json: true}, s.readers)
		w.CloseWithError(err)
		ended <- err
	}()
	s.ready = readyJSON{}
	require.NoError(s, json.NewDecoder(r).Decode(&s.ready))
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	s.Cleanup(func() { assert.NoError(s, s.stop()) })
}

func (s *served) path(name string) string { return filepath.Join(s.dir, name) }

func (s *served) write(name string, b []byte) string {
	require.NoError(s, os.WriteFile(s.path(name), b, 0o600))
	return s.path(name)
}

// execute runs a command as the program would.
func (s *served) execute(cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	var o, e bufferOf
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(context.Background())
	return o.String(), e.String(), err
}

// ask runs a command of the operator's.
func (s *served) ask(cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	return s.askAs("token", cmd, args...)
}

// askAs is ask with the token of another file.
func (s *served) askAs(token string, cmd *cobra.Command, args ...string) (stdout, stderr string, err error) {
	args = append(args, "--server", s.ready.URL, "--token-file", s.path(token))
	if s.ready.Pin != "" {
		args = append(args, "--pin", s.ready.Pin)
	}
	return s.execute(cmd, args...)
}

func (s *served) deactivate(n int, args ...string) (res deactivateJSON, stderr string, status int) {
	args = append([]string{"--eid", servertest.EID(n).String(), "--wait", "--json"}, args...)
	out, stderr, err := s.ask(newDeactivateCmd(), args...)
	var exit exitStatus
	switch {
	case errors.As(err, &exit):
		status = int(exit)
	case err != nil:
		status = exitError
	}
	if out != "" {
		assert.Equal(s, 1, strings.Count(out, "\n"), "one line")
		require.NoError(s, json.Unmarshal([]byte(out), &res), "%s", out)
	}
	return res, stderr, status
}

// insert registers a card by command and puts it into a reader.
func (s *served) insert(n int, change func(*appletsim.Image), intercept servertest.Intercept) *appletsim.Card {
	im := servertest.Image(n)
	if change != nil {
		change(im)
	}
	out, _, err := s.ask(newCardRegisterCmd(), "--card", s.write("card.json", servertest.Record(im)))
	require.NoError(s, err)
	assert.Contains(s, out, im.EID.String())
	c := servertest.Card(im)
	s.readers.Insert(im.EID.String(), c, intercept)
	return c
}

func TestDeactivateOverTLS(t *testing.T) {
	s := serve(t)
	assert.True(t, strings.HasPrefix(s.ready.URL, "https://127.0.0.1:"))
	c := s.insert(1, nil, nil)
	res, stderr, status := s.deactivate(1, "--reason", "7", "--card", s.path("card.json"))
	assert.Zero(t, status, "%s", stderr)
	assert.Equal(t, "done", res.Outcome)
	assert.True(t, *res.ReceiptVerified)
	assert.Equal(t, "00", res.Result)
	assert.Equal(t, "9000", res.SW)
	assert.EqualValues(t, uint32(6), *res.EventCounter)
	assert.Equal(t, appletsim.Disabled, c.Image().Profiles[0].State)
	for _, step := range []string{"accepted", "authenticating", "sending", "done"} {
		assert.Contains(t, stderr, step)
	}
	token, err := os.ReadFile(s.path("token"))
	require.NoError(t, err)
	assert.NotContains(t, s.log.String(), strings.TrimSpace(string(token)))
	assert.NotContains(t, s.log.String(), "PRIVATE")

	wrong := strings.Repeat("ab", 32)
	_, _, err = s.execute(newDeactivateCmd(), "--server", s.ready.URL, "--token-file", s.path("token"), "--pin", wrong, "--eid", servertest.EID(1).String())
	assert.ErrorContains(t, err, "not the pinned one")
	_, _, err = s.execute(newDeactivateCmd(), "--server", s.ready.URL, "--token-file", s.path("token"), "--eid", servertest.EID(1).String(), "--timeout", "0s")
	assert.Error(t, err)
}

func TestDeactivateExitStatus(t *testing.T) {
	s := serve(t, "--insecure-http")
	assert.True(t, strings.HasPrefix(s.ready.URL, "http://127.0.0.1:"))

	s.insert(1, func(im *appletsim.Image) { im.Profiles[0].PPR1 = true }, nil)
	res, _, status := s.deactivate(1)
	assert.Equal(t, exitCardRefused, status)
	assert.Equal(t, "card", res.RefusedBy)
	assert.Equal(t, "03", res.Result)
	assert.True(t, *res.ReceiptVerified)

	s.insert(2, nil, nil)
	out, _, err := s.ask(newCardPolicyCmd(), "--eid", servertest.EID(2).String(), "--iccid", servertest.ICCID(2, 0).String(), "--disable-allowed=false")
	require.NoError(t, err)
	assert.Contains(t, out, "false")
	res, _, status = s.deactivate(2)
	assert.Equal(t, exitRuleRefused, status)
	assert.Equal(t, "rule", res.RefusedBy)
	assert.Equal(t, "8.2.3/3.8", res.SubjectCode+"/"+res.ReasonCode)
	assert.NotEmpty(t, res.RequestID)

	_, stderr, status := s.deactivate(9)
	assert.Equal(t, exitRuleRefused, status, "%s", stderr)

	// Refused by a rule only when the card is there.
	im := servertest.Image(3)
	_, _, err = s.ask(newCardRegisterCmd(), "--card", s.write("card.json", servertest.Record(im)))
	require.NoError(t, err)
	out, _, err = s.ask(newDeactivateCmd(), "--eid", im.EID.String(), "--json")
	require.NoError(t, err)
	assert.Contains(t, out, `"state":"`)
	_, _, err = s.ask(newCardPolicyCmd(), "--eid", im.EID.String(), "--iccid", im.Profiles[0].ICCID.String(), "--disable-allowed=false")
	require.NoError(t, err)

	res, _, status = s.deactivate(3, "--timeout", "1s")
	assert.Equal(t, exitRuleRefused, status)
	assert.Equal(t, "pol2-disable-allowed", res.Rule)

	im = servertest.Image(4)
	_, _, err = s.ask(newCardRegisterCmd(), "--card", s.write("card.json", servertest.Record(im)))
	require.NoError(t, err)
	res, _, status = s.deactivate(4, "--timeout", "1s")
	assert.Equal(t, exitError, status)
	assert.Equal(t, "expired", res.Outcome)

	_, _, err = s.ask(newCardRegisterCmd(), "--card", s.path("card.json"))
	assert.NoError(t, err, "again")
	_, _, err = s.ask(newCardRegisterCmd(), "--card", s.write("forged.json", servertest.Record(servertest.Stranger(servertest.Image(4)))))
	assert.ErrorContains(t, err, "registered with other keys")
}

// The client ends before an outcome is known: that is what it says.
func TestDeactivateUnknown(t *testing.T) {
	s := serve(t, "--insecure-http")
	c := s.insert(1, nil, nil)
	c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := asking{
		remote: remote{server: s.ready.URL, tokenFile: s.path("token")},
		eid:    servertest.EID(1).String(), timeout: time.Minute, wait: true,
	}
	var out, steps bufferOf
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, &printer{out: &out, err: &steps, json: true}) }()
	require.Eventually(t, func() bool { return strings.Contains(steps.String(), "unknown") }, 10*time.Second, time.Millisecond)
	cancel()
	assert.Equal(t, exitStatus(exitUnknown), <-ended)
	assert.Contains(t, out.String(), `"outcome":"unknown"`)

	c.Insert()
	res, _, status := s.deactivate(1)
	assert.Equal(t, exitRuleRefused, status, "a new request finds the profile disabled: %+v", res)
}

// The server ends and starts again while a client waits.
func TestClientOutlivesTheServer(t *testing.T) {
	s := serve(t, "--insecure-http")
	c := s.insert(1, nil, nil)
	c.Inject(appletsim.Fault{Write: 1, Kind: appletsim.CutAfter})
	addr := strings.TrimPrefix(s.ready.URL, "http://")
	type end struct {
		res    deactivateJSON
		status int
	}
	ended := make(chan end, 1)
	go func() {
		res, _, status := s.deactivate(1)
		ended <- end{res, status}
	}()
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "outcome=unknown") }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.stop())
	c.Insert()
	v := serving{recordFlags: recordFlags{data: s.path("data")}, keysets: []string{s.path("server.json")}, listen: addr, insecure: true}
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() { second <- v.run(ctx, &printer{out: io.Discard, err: s.log, json: true}, s.readers) }()
	got := <-ended
	assert.Zero(t, got.status)
	assert.Equal(t, "done", got.res.Outcome)
	cancel()
	assert.NoError(t, <-second)
}

func TestServeRefuses(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "server.json")
	require.NoError(t, os.WriteFile(keys, servertest.KeySetFile(), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // what it lets pass ends at once
	run := func(v serving) error {
		v.data = filepath.Join(dir, "data")
		return v.run(ctx, &printer{out: io.Discard, err: io.Discard}, servertest.NewReaders())
	}
	assert.ErrorContains(t, run(serving{keysets: []string{keys}, listen: "0.0.0.0:0", insecure: true}), "loopback")
	assert.Error(t, run(serving{keysets: []string{keys}, listen: "nonsense", insecure: true}))
	assert.ErrorIs(t, run(serving{keysets: []string{filepath.Join(dir, "none")}, listen: "127.0.0.1:0"}), os.ErrNotExist)
	require.NoError(t, os.Chmod(keys, 0o644))
	assert.ErrorContains(t, run(serving{keysets: []string{keys}, listen: "127.0.0.1:0"}), "chmod 600")
}

// A second server on the same record says so and ends: it takes no request in
// and touches no card, until the first has ended.
func TestTwoServersOnOneRecord(t *testing.T) {
	s := serve(t, "--insecure-http")
	c := s.insert(1, nil, nil)
	out, cards := &bufferOf{}, servertest.NewReaders()
	cards.Insert("reader", servertest.Card(servertest.Image(2)), nil)
	second := func(ctx context.Context, w io.Writer, readers *servertest.Readers) error {
		v := serving{recordFlags: recordFlags{data: s.path("data")}, keysets: []string{s.path("server.json")}, listen: "127.0.0.1:0", insecure: true}
		return v.run(ctx, &printer{out: w, err: s.log, json: true}, readers)
	}
	err := second(context.Background(), out, cards)
	assert.ErrorIs(t, err, store.ErrInUse)
	assert.ErrorContains(t, err, "another server")
	assert.Empty(t, out.String(), "it was never ready")
	assert.Empty(t, cards.Sent("reader"))
	res, stderr, status := s.deactivate(1)
	assert.Zero(t, status, "the first goes on: %s", stderr)
	assert.Equal(t, "done", res.Outcome)
	assert.Equal(t, uint32(6), c.Image().EventCounter)

	require.NoError(t, s.stop())
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := second(ctx, w, s.readers)
		w.CloseWithError(err)
		ended <- err
	}()
	require.NoError(t, json.NewDecoder(r).Decode(&s.ready), "it has the record now")
	_, _, status = s.deactivate(1)
	assert.Equal(t, exitRuleRefused, status, "the record is the first one's")
	cancel()
	assert.NoError(t, <-ended)
}

// No token, private key, nonce or session key is in the traces, nor in anything
// else that server and client write.
func TestNothingSecretIsTraced(t *testing.T) {
	s := serve(t, "--trace")
	var wire servertest.Wire
	c := s.insert(1, nil, wire.Carry)
	res, stderr, status := s.deactivate(1)
	require.Zero(t, status, "%s", stderr)
	printed, err := json.Marshal(res)
	require.NoError(t, err)
	require.NoError(t, s.stop())

	token, err := os.ReadFile(s.path("token"))
	require.NoError(t, err)
	secrets := servertest.KeySetSecrets()
	secrets["token"] = bytes.TrimSpace(token)
	sessions := wire.Secrets(t, c.Image())
	require.Len(t, sessions, 2*4, "the record settled, a sending")
	maps.Copy(secrets, sessions)
	secrets.AbsentFrom(t, "log", []byte(s.log.String()))
	secrets.AbsentFrom(t, "client's output", append(printed, stderr...))
	traces := 0
	for _, dir := range []string{"data", "traces"} {
		require.NoError(t, filepath.WalkDir(s.path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "tls.key" {
				return err
			}
			b, err := os.ReadFile(path)
			secrets.AbsentFrom(t, d.Name(), b)
			if dir == "traces" {
				traces++
				assert.Contains(t, string(b), "> 00880101", "a session is in it")
			}
			return err
		}))
	}
	assert.Equal(t, 2, traces)
}

func TestClientRefuses(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte("cbt_x\n"), 0o600))
	two := filepath.Join(dir, "two")
	require.NoError(t, os.WriteFile(two, []byte("a b"), 0o600))
	for name, r := range map[string]remote{
		"http to elsewhere": {server: "http://192.0.2.1:80", tokenFile: token},
		"http with a pin":   {server: "http://127.0.0.1:80", tokenFile: token, pin: strings.Repeat("00", 32)},
		"no URL":            {server: "127.0.0.1:80", tokenFile: token},
		"ftp":               {server: "ftp://127.0.0.1", tokenFile: token},
		"password in it":    {server: "https://a:b@127.0.0.1", tokenFile: token},
		"bad pin":           {server: "https://127.0.0.1", tokenFile: token, pin: "00"},
		"no token file":     {server: "https://127.0.0.1", tokenFile: filepath.Join(dir, "none")},
		"two words":         {server: "https://127.0.0.1", tokenFile: two},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.client()
			assert.Error(t, err)
		})
	}
}
