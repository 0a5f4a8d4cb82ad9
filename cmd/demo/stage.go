package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cardbridge/cardbridge/hwtest/rig"
)

// stage is what the scenes play on.
type stage struct {
	bin, dir string
	colour   bool

	pcscd *rig.PCSCD
	procs []*exec.Cmd // what runs beside pcscd, in order of start
	url   string
	pin   string
	cards []player
}

// player is one emulated card.
type player struct {
	name, eid, reader string
}

const operator = "46011"

// casting says which cards there are: profiles for card new, and flags for
// applet-sim.
var casting = []struct {
	name     string
	profiles []string
	flags    []string
}{
	{"meter", []string{
		"mccmnc=46011,state=enabled,provider=Operator Eleven,name=Everyday",
		"mccmnc=46011,provider=Operator Eleven,name=Bootstrap,class=provisioning,fallback",
	}, nil},
	{"lift", []string{"mccmnc=46011,state=enabled,provider=Operator Eleven,name=Emergency line"}, nil},
	{"ambulance", []string{"mccmnc=46011,state=enabled,provider=Operator Eleven,name=Dispatch,ppr1"}, nil},
	{"tracker", []string{"mccmnc=46011,state=enabled,provider=Operator Eleven,name=Everyday"},
		[]string{"--remove-after-write", "1", "--remove-for", "2s"}},
}

func (s *stage) file(name string) string { return filepath.Join(s.dir, name) }

// set starts everything.
func (s *stage) set(ctx context.Context) (err error) {
	s.say("a private pcscd with %d virtual readers", len(casting))
	if s.pcscd, err = rig.StartPCSCD(ctx, rig.Options{Slots: len(casting)}); err != nil {
		return err
	}
	s.say("keys for the server, RSA-2048: three auth keys and an enc key")
	if _, err := s.cardbridge(ctx, "keys", "new", s.file("server.json")); err != nil {
		return err
	}
	for i, c := range casting {
		args := []string{"card", "new", "--keyset", s.file("server.json"), "--image", s.file(c.name + ".image"), "--record", s.file(c.name + ".json"), "--json"}
		for _, p := range c.profiles {
			args = append(args, "--profile", p)
		}
		out, err := s.cardbridge(ctx, args...)
		if err != nil {
			return err
		}
		var made struct {
			EID string `json:"eid"`
		}
		if err := json.Unmarshal(out, &made); err != nil {
			return err
		}
		slot := s.pcscd.Slots()[i]
		s.cards = append(s.cards, player{c.name, made.EID, slot.Reader})
		s.say("card %-9s  EID %s  in %s", c.name, made.EID, slot.Reader)
		args = append([]string{"--card", s.file(c.name + ".image"), "--vpcd", slot.Addr}, c.flags...)
		if _, err := s.start(ctx, "applet-sim", "attached", args...); err != nil {
			return err
		}
	}
	s.say("operator %s, and the server on SQLite", operator)
	token, err := s.cardbridge(ctx, "operator", "add", "--data", s.file("data"), "--mccmnc", operator, "--json", "Operator Eleven")
	if err != nil {
		return err
	}
	var added struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(token, &added); err != nil {
		return err
	}
	if err := os.WriteFile(s.file("token"), []byte(added.Token+"\n"), 0o600); err != nil {
		return err
	}
	line, err := s.start(ctx, "cardbridge", `"url"`, "serve", "--data", s.file("data"), "--keyset", s.file("server.json"),
		"--listen", "127.0.0.1:0", "--trace", s.file("traces"), "--json")
	if err != nil {
		return err
	}
	var serving struct {
		URL string `json:"url"`
		Pin string `json:"pin"`
	}
	if err := json.Unmarshal([]byte(line), &serving); err != nil {
		return err
	}
	s.url, s.pin = serving.URL, serving.Pin
	s.say("serving at %s, certificate pin %s…", s.url, s.pin[:16])
	for _, c := range s.cards {
		if _, err := s.client(ctx, "card", "register", "--card", s.file(c.name+".json")); err != nil {
			return err
		}
		if _, err := s.client(ctx, "card", "refresh", "--eid", c.eid); err != nil { // returns once its state was read
			return err
		}
	}
	return nil
}

// stop ends what was started, the last first.
func (s *stage) stop() error {
	var errs []error
	for _, p := range slices.Backward(s.procs) {
		_ = p.Process.Signal(syscall.SIGTERM)
		done := make(chan error, 1)
		go func() { done <- p.Wait() }()
		select {
		case err := <-done:
			errs = append(errs, err)
		case <-time.After(5 * time.Second):
			_ = p.Process.Kill()
			errs = append(errs, fmt.Errorf("%s did not end when told to", p.Path))
		}
	}
	if s.pcscd != nil {
		errs = append(errs, s.pcscd.Stop())
	}
	return errors.Join(errs...)
}

// start runs a program until stop, waits for a line of its output that has this
// text, and gives that line.
func (s *stage) start(ctx context.Context, program, text string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	var log lockedBuffer
	cmd.Stderr = &log
	cmd.WaitDelay = time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	s.procs = append(s.procs, cmd)
	found := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), text) {
				select {
				case found <- lines.Text():
				default:
				}
			}
		}
		close(found)
	}()
	select {
	case line, ok := <-found:
		if !ok {
			return "", fmt.Errorf("%s ended before it said %q: %s", program, text, log.String())
		}
		return line, nil
	case <-time.After(15 * time.Second):
		return "", fmt.Errorf("%s did not say %q: %s", program, text, log.String())
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// cardbridge runs one command to its end and gives its standard output.
func (s *stage) cardbridge(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "cardbridge"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("cardbridge %s %s: %w: %s", args[0], args[1], err, stderr.String())
	}
	return out, nil
}

// client is cardbridge as the operator's client.
func (s *stage) client(ctx context.Context, args ...string) ([]byte, error) {
	return s.cardbridge(ctx, append(args, "--server", s.url, "--token-file", s.file("token"), "--pin", s.pin)...)
}

// show runs a command as an operator would, in sight, and gives its exit
// status.
func (s *stage) show(ctx context.Context, args ...string) (int, error) {
	s.say("$ cardbridge %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "cardbridge"),
		append(args, "--server", s.url, "--token-file", s.file("token"), "--pin", s.pin)...)
	indent := &indenter{w: os.Stdout}
	cmd.Stdout, cmd.Stderr = indent, indent
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// indenter sets what a command prints apart from what the demo says.
type indenter struct {
	w    io.Writer
	rest []byte
}

func (i *indenter) Write(p []byte) (int, error) {
	i.rest = append(i.rest, p...)
	for {
		line, rest, ok := bytes.Cut(i.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		fmt.Fprintf(i.w, "    %s\n", line)
		i.rest = rest
	}
}

func (s *stage) title(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if s.colour {
		text = "\x1b[1;36m" + text + "\x1b[0m"
	}
	fmt.Printf("\n== %s\n", text)
}

func (s *stage) say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }
