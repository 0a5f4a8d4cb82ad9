package hwtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/keyfile"
	"github.com/cardbridge/cardbridge/hwtest/report"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// floor is a bench during a run.
type floor struct {
	*Bench
	source  *pcsc.Source
	usb     *ccid.Source
	virtual virtualBench // nil on a real bench
	allowed []id.ICCID   // profiles of the cards that may be changed
}

// station is one reader of the bench.
type station struct {
	*floor
	config Reader // what the bench file says of it
	reader reader.Reader
	card   *cardFound // once it was looked at
}

// loadBench reads the bench file, or takes the virtual bench where there is none.
func loadBench(file string) (*Bench, error) {
	if file == "" {
		b, err := readVirtual("bench.yaml")
		if err != nil {
			return nil, err
		}
		return ParseBench(b, readVirtual)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return ParseBench(b, func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return keyfile.ReadKeys(name)
	})
}

// parseAllow parses the ICCIDs of -allow, separated by commas.
func parseAllow(s string) ([]id.ICCID, error) {
	var out []id.ICCID
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		c, err := id.ParseICCID(part)
		if err != nil {
			return nil, fmt.Errorf("-allow: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// newFloor reads what the flags name and starts nothing.
func newFloor() (*floor, error) {
	bench, err := loadBench(*benchFile)
	if err != nil {
		return nil, err
	}
	allowed, err := parseAllow(*allow)
	if err != nil {
		return nil, err
	}
	return &floor{Bench: bench, source: pcsc.New(), usb: ccid.New(), allowed: allowed}, nil
}

// onVirtual reports whether there is no bench file: the cards are our own, and
// may be changed.
func onVirtual() bool { return *benchFile == "" }

// stations are the readers that are there, those that are missing with no name
// but the bench file's, and those that the file does not name, which are left
// alone.
func (f *floor) stations(readers []reader.Reader) (there []*station, missing []Reader, others []reader.Reader) {
	if len(f.Readers) == 0 {
		for _, r := range readers {
			there = append(there, &station{floor: f, config: Reader{Limits: f.Limits}, reader: r})
		}
		return there, nil, nil
	}
	taken := map[string]bool{}
	for _, config := range f.Readers {
		found := config.Find(readers)
		if len(found) != 1 || taken[found[0].Name] {
			missing = append(missing, config)
			continue
		}
		taken[found[0].Name] = true
		there = append(there, &station{floor: f, config: config, reader: found[0]})
	}
	for _, r := range readers {
		if !taken[r.Name] {
			others = append(others, r)
		}
	}
	return there, missing, others
}

// TestBench runs the checks on every reader of the bench.
func TestBench(t *testing.T) {
	f, err := newFloor()
	require.NoError(t, err)
	if onVirtual() {
		_, f.virtual = startVirtual(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	readers, err := f.source.Readers(ctx)
	require.NoError(t, err)
	there, missing, others := f.stations(readers)

	t.Run("bench", func(t *testing.T) {
		t.Run("readers", func(t *testing.T) {
			for _, r := range readers {
				report.Fact(t, r.Name, "%s", r.ID)
			}
			if len(readers) == 0 {
				t.Error("no readers: plug one in, and see that pcscd knows it (pcsc_scan)")
			}
		})
		t.Run("usb", f.checkUSB)
	})
	for _, r := range missing {
		t.Run(label(r.Reader), func(t *testing.T) {
			report.Title(t, r.Reader)
			t.Run("present", func(t *testing.T) { t.Error(missingText(r, readers)) })
		})
	}
	for _, s := range there {
		t.Run(label(s.reader.Name), func(t *testing.T) {
			report.Title(t, s.reader.Name)
			for _, c := range checks {
				t.Run(c.name, func(t *testing.T) {
					if reason := c.lacks(s); reason != "" {
						report.Omit(t, "%s", reason)
						return
					}
					c.run(t, s)
				})
			}
		})
	}
	for _, r := range others {
		t.Run(label(r.Name), func(t *testing.T) {
			report.Title(t, r.Name)
			report.Omit(t, "the bench file does not name this reader")
		})
	}
}

func missingText(r Reader, readers []reader.Reader) string {
	var names []string
	for _, c := range readers {
		names = append(names, fmt.Sprintf("%q (%s)", c.Name, c.ID))
	}
	is := "is missing"
	if len(r.Find(readers)) > 0 {
		is = "is ambiguous, or the same as another of the bench file"
	}
	return fmt.Sprintf("reader %q %s; there are: %s", r.Reader, is, strings.Join(names, ", "))
}

// label is a test's name for a reader: its characters that have no meaning in
// one.
func label(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, name)
}

// check is one that is run on each reader.
type check struct {
	name string
	what string
	// lacks says why it cannot be run on a bench like this, "" if it can.
	lacks func(*station) string
	run   func(*testing.T, *station)
}

func nothing(*station) string { return "" }

var checks = []check{
	{"info", "what PC/SC and the reader say of the reader, and the card's answer to reset", nothing, checkInfo},
	{"usb", "the USB device's view of the reader and its CCID descriptor, against PC/SC's", lacksUSB, checkDevice},
	{"round-trip", "how long the shortest exchange takes, as a distribution", nothing, checkRoundTrip},
	{"largest-command", "the longest command APDU that the reader carries", nothing, checkLargestCommand},
	{"largest-response", "the longest response APDU that the reader carries", nothing, checkLargestResponse},
	{"power-cycles", "the answer to reset and the time it takes, cycle by cycle", nothing, checkPowerCycles},
	{"hot-plug", "card pulled and inserted, reader unplugged and plugged in", lacksHand, checkHotPlug},
	{"card", "which card it is, against the bench file", nothing, checkCard},
	{"euicc", "a plain eUICC's profiles, by ES10c", nothing, checkEUICC},
	{"euicc-switch", "a plain eUICC's profile disabled, read again and enabled again, by ES10c", lacksEUICC, checkSwitch},
	{"conformance", "card/cardtest; changes the card, and puts its profiles back", lacksAllow, checkConformance},
}

// errNoCard says that a reader is empty, and may be.
var errNoCard = errors.New("no card in the reader")

// connect connects to the card, and keeps others off it. Where there is none, and
// the bench file asks for none, the error is errNoCard.
func (s *station) connect(t *testing.T) (*pcsc.Conn, error) {
	t.Helper()
	wait := 10 * time.Second
	if s.config.Card == nil {
		wait = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if _, err := s.source.WaitCard(ctx, s.reader.Name); err != nil {
		if errors.Is(err, apdu.ErrNoCard) && s.config.Card == nil {
			return nil, errNoCard
		}
		return nil, err
	}
	return s.source.Connect(t.Context(), s.reader.Name, pcsc.Options{
		Mode: reader.Exclusive, OnClose: pcsc.ResetCard, MaxWait: s.config.Limits.Answer,
	})
}

// conn is connect for a check that needs a card: nil where it cannot be run. The
// check's end closes it.
func (s *station) conn(t *testing.T) *pcsc.Conn {
	t.Helper()
	c, err := s.connect(t)
	if errors.Is(err, errNoCard) {
		report.Omit(t, "%v", err)
		return nil
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() }) // what it does to a card that left is no matter
	return c
}
