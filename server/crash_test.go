package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// What the test binary is told when it is to be a server that dies.
const (
	crashDir   = "CARDBRIDGE_TEST_CRASH_DIR"
	crashPoint = "CARDBRIDGE_TEST_CRASH_POINT"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, dieServing(dir, os.Getenv(crashPoint)))
		os.Exit(1) // it was to die before
	}
	postgres.Main(m)
}

// dieServing is a server over the card image file in dir that kills itself, as
// kill -9 does, at a point of its first request.
func dieServing(dir, point string) error {
	c, err := appletsim.Open(filepath.Join(dir, "card.json"))
	if err != nil {
		return err
	}
	s, err := store.Open(context.Background(), filepath.Join(dir, "record.db"))
	if err != nil {
		return err
	}
	die := func() {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {}
	}
	readers := servertest.NewReaders()
	readers.Insert("reader", c, func(capdu []byte, next servertest.Next) ([]byte, error) {
		switch {
		case point == "authenticating" && capdu[1] == servertest.INSExternalAuthenticate,
			point == "marked" && sends(capdu):
			die()
		case point == "carried out" && sends(capdu):
			if _, err := next(capdu); err != nil {
				return nil, err
			}
			die()
		}
		return next(capdu)
	})
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	srv, err := server.New(server.Config{Store: s, Inventory: inventory.New(readers, log), Terminal: servertest.Terminal(), Log: log, Rules: everyPlainOne})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return srv.Run(ctx)
}

// sends reports whether an APDU is the command that a mark is for.
func sends(capdu []byte) bool { return isSecured(capdu, servertest.INSDeactivate) || isDisable(capdu) }

// The server dies at a step of a request; the next one brings it to its end and
// the record ends as the card is.
func TestKillNine(t *testing.T) {
	for point, left := range map[string]store.State{
		"authenticating": store.Waiting, // nothing of it is durable before the mark
		"marked":         store.Sending,
		"carried out":    store.Sending,
	} {
		t.Run(point, func(t *testing.T) {
			r := newRig(t)
			im := servertest.Image(1)
			r.insert(im, nil) // its record is settled
			req, c := r.killed(t, im, point)
			defer c.Close()
			carriedOut := c.Image().EventCounter == 6
			assert.Equal(t, point == "carried out", carriedOut)
			s, err := store.Open(t.Context(), filepath.Join(r.dir, "record.db"))
			require.NoError(t, err)
			now, err := s.Request(t.Context(), req.ID)
			require.NoError(t, err)
			assert.Equal(t, left, now.State)
			require.NoError(t, s.Close())

			r.start()
			r.readers.Insert("reader", c, nil)
			req = r.finished(req)
			assert.Equal(t, store.Done, req.State)
			r.proven(req, im)
			assert.Equal(t, uint32(6), c.Image().EventCounter, "done once")
			r.sameAs(c.Image())
			if left == store.Sending {
				assert.Contains(t, r.kinds(req, false), "unknown", "what was sent is unknown until it is recovered")
			}
		})
	}
}

// killed asks for the deactivation of an image's card, which is carried out by a
// server that dies at a point of it; r is stopped then. It gives the request and
// the card.
func (r *rig) killed(t *testing.T, im *appletsim.Image, point string) (store.Request, *appletsim.Card) {
	r.readers.Remove("reader")
	file, err := im.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "card.json"), file, 0o600))
	req := r.ask(server.Deactivation{EID: im.EID})
	require.NoError(t, r.stop())

	self, err := os.Executable()
	require.NoError(t, err)
	child := exec.Command(self)
	child.Env = append(os.Environ(), crashDir+"="+r.dir, crashPoint+"="+point)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Equal(t, -1, exit.ExitCode(), "killed: %s", out)

	c, err := appletsim.Open(filepath.Join(r.dir, "card.json"))
	require.NoError(t, err)
	return req, c
}

// The same with a plain eUICC: what was sent is read back, and not sent again.
func TestKillNinePlainEUICC(t *testing.T) {
	for point, want := range map[string]store.State{"marked": store.Failed, "carried out": store.Done} {
		t.Run(point, func(t *testing.T) {
			r := newRig(t)
			require.NoError(t, r.stop())
			r.rules = everyPlainOne
			r.start()
			im := servertest.Plain(servertest.Image(1))
			r.insert(im, nil)
			req, c := r.killed(t, im, point)
			defer c.Close()
			r.start()
			now, err := r.store.Request(t.Context(), req.ID)
			require.NoError(t, err)
			assert.Equal(t, store.Sending, now.State)
			r.readers.Insert("reader", c, nil)
			req = r.finished(req)
			assert.Equal(t, want, req.State, "%s", req.Detail)
			assert.Contains(t, r.kinds(req, false), "unknown")
			assert.Zero(t, r.disables("reader"))
			r.asPlain(c)
		})
	}
}

// everyPlainOne are rules that allow every plain eUICC.
var everyPlainOne = sync.OnceValue(func() *rules.Set { return servertest.PlainRules("every-plain-one", "true") })
