package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Exit statuses of cardbridge deactivate.
const (
	exitDone        = 0
	exitRuleRefused = 2
	exitCardRefused = 3
)

func (s *stage) success(ctx context.Context) error {
	c := s.cards[0]
	s.title("Scene 1: the %s's profile is deactivated", c.name)
	began := time.Now()
	if err := s.deactivate(ctx, c, exitDone); err != nil {
		return err
	}
	s.say("request to receipt, this program's start included: %.0f ms", time.Since(began).Seconds()*1e3)
	files, err := s.traces(c)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("the server kept no trace")
	}
	s.say("the APDUs, as the server's trace has them:")
	trace, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(trace)) {
		line = strings.TrimRight(line, "\n")
		if apdu, times, ok := strings.Cut(line, " # "); ok && len(apdu) > 80 {
			line = fmt.Sprintf("%s… %d bytes # %s", apdu[:66], len(apdu)/2-1, times)
		}
		fmt.Printf("    %s\n", line)
	}
	return s.agree(ctx, c, "disabled")
}

func (s *stage) ruleRefuses(ctx context.Context) error {
	c := s.cards[1]
	s.title("Scene 2: a management rule keeps the %s's profile", c.name)
	before, err := s.cardState(ctx, c)
	if err != nil {
		return err
	}
	if status, err := s.show(ctx, "card", "policy", "--eid", c.eid, "--iccid", before.ICCID, "--disable-allowed=false"); err != nil || status != exitDone {
		return fmt.Errorf("card policy: exit status %d, %w", status, err)
	}
	read, err := s.traces(c) // of the card's state, when it was registered
	if err != nil {
		return err
	}
	if err := s.deactivate(ctx, c, exitRuleRefused); err != nil {
		return err
	}
	files, err := s.traces(c)
	if err != nil {
		return err
	}
	if n := len(files) - len(read); n != 0 {
		return fmt.Errorf("%d sessions were opened with a card that a rule protects", n)
	}
	s.say("sessions opened with the card: 0, APDUs sent: 0")
	return s.agree(ctx, c, "enabled")
}

func (s *stage) cardRefuses(ctx context.Context) error {
	c := s.cards[2]
	s.title("Scene 3: the %s's card refuses by its own policy (PPR1), and signs it", c.name)
	if err := s.deactivate(ctx, c, exitCardRefused); err != nil {
		return err
	}
	return s.agree(ctx, c, "enabled")
}

func (s *stage) cardPulled(ctx context.Context) error {
	c := s.cards[3]
	s.title("Scene 4: the %s's card is pulled after it did it and before it answers; back after 2 s", c.name)
	if err := s.deactivate(ctx, c, exitDone); err != nil {
		return err
	}
	return s.agree(ctx, c, "disabled")
}

// deactivate asks for the card's enabled profile and wants this exit status.
func (s *stage) deactivate(ctx context.Context, c player, want int) error {
	status, err := s.show(ctx, "deactivate", "--eid", c.eid, "--wait", "--timeout", "30s")
	if err != nil {
		return err
	}
	if status != want {
		return fmt.Errorf("exit status %d, %d wanted", status, want)
	}
	s.say("exit status %d", status)
	return nil
}

// traces are the files of the sessions that the server had with a card to carry
// out a request.
func (s *stage) traces(c player) ([]string, error) {
	return filepath.Glob(filepath.Join(s.file("traces"), "* "+c.reader+".trace"))
}

// state is what a card says of itself, authenticated, over PC/SC and past the
// server.
type state struct {
	EventCounter uint32 `json:"event_counter"`
	Profiles     []struct {
		ICCID string `json:"iccid"`
		State string `json:"state"`
	} `json:"profiles"`
	ICCID string `json:"-"` // of the first profile
}

func (s *stage) cardState(ctx context.Context, c player) (*state, error) {
	out, err := s.cardbridge(ctx, "card", "status", "--reader", c.reader, "--keyset", s.file("server.json"), "--card", s.file(c.name+".json"), "--json")
	if err != nil {
		return nil, err
	}
	return parseState(out)
}

// record is what the server has recorded.
func (s *stage) record(ctx context.Context, c player) (*state, error) {
	out, err := s.client(ctx, "card", "show", "--eid", c.eid, "--json")
	if err != nil {
		return nil, err
	}
	return parseState(out)
}

func parseState(out []byte) (*state, error) {
	var st state
	if err := json.Unmarshal(out, &st); err != nil {
		return nil, err
	}
	if len(st.Profiles) == 0 {
		return nil, fmt.Errorf("no profiles in %.200s", out)
	}
	st.ICCID = st.Profiles[0].ICCID
	return &st, nil
}

// agree compares the server's record with the card itself.
func (s *stage) agree(ctx context.Context, c player, want string) error {
	card, err := s.cardState(ctx, c)
	if err != nil {
		return err
	}
	record, err := s.record(ctx, c)
	if err != nil {
		return err
	}
	states := map[string]string{}
	for _, p := range record.Profiles {
		states[p.ICCID] = p.State
	}
	for _, p := range card.Profiles {
		s.say("profile %s: the card says %-8s  the record says %s", p.ICCID, p.State, states[p.ICCID])
		if states[p.ICCID] != p.State {
			return fmt.Errorf("record and card disagree about %s", p.ICCID)
		}
	}
	s.say("event counter: the card says %d, the record says %d", card.EventCounter, record.EventCounter)
	if card.EventCounter != record.EventCounter {
		return fmt.Errorf("record and card disagree about the event counter")
	}
	if card.Profiles[0].State != want {
		return fmt.Errorf("the profile is %s, and should be %s", card.Profiles[0].State, want)
	}
	return nil
}
