package main

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

const ours = "github.com/cardbridge/cardbridge/"

// layers are what the server's time goes to, by whose functions those are that
// are at work: the first of a stack, from its end, that is one of these. What
// all of them use (syscalls, memory, JSON, sockets) counts for who uses it.
var layers = []struct {
	name  string
	parts []string // how functions' names begin
}{
	{"cards' keys, parsed", []string{ours + "card.ParseRecord"}},
	{"RSA", []string{ours + "card/rsafast.", "fma", "ifma", "filippo.io/bigmod.", "crypto/internal/fips140/bigmod."}},
	{"card protocol", []string{ours + "card.", ours + "card/cryptogram.", ours + "card/securemsg.", ours + "apdu.", ours + "apdu/tlv."}},
	{"cards' transport", []string{ours + "server/servertest/cardhost."}},
	{"inventory", []string{ours + "server/inventory."}},
	{"rules and guard", []string{ours + "server/rules.", ours + "server/guard.", "cel.dev/", "github.com/google/cel-go/"}},
	{"store", []string{ours + "server/store.", "database/sql.", "modernc.org/", "github.com/jackc/"}},
	{"HTTP, TLS, JSON", []string{ours + "server/api.", "net/http.", "github.com/danielgtaylor/huma/"}},
	{"log", []string{"log/slog."}},
	{"engine", []string{ours + "server."}},
}

const runtimeLayer = "runtime (scheduler, collector)"

// layerTime is the time of a layer in a profile.
type layerTime struct {
	name  string
	spent time.Duration
}

// byLayer splits a processor profile, the longest first.
func byLayer(file string) ([]layerTime, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := profile.Parse(f)
	if err != nil {
		return nil, err
	}
	spent := map[string]time.Duration{}
	for _, s := range p.Sample {
		spent[layerOf(s)] += time.Duration(s.Value[len(s.Value)-1])
	}
	var out []layerTime
	for name, t := range spent {
		out = append(out, layerTime{name, t})
	}
	slices.SortFunc(out, func(a, b layerTime) int { return cmp.Compare(b.spent, a.spent) })
	return out, nil
}

func layerOf(s *profile.Sample) string {
	name := runtimeLayer
	for _, l := range s.Location {
		for _, line := range l.Line {
			layer := layerOfFunction(line.Function.Name)
			switch {
			case layer == layers[0].name: // whatever is done for it
				return layer
			case name == runtimeLayer && layer != "":
				name = layer
			}
		}
	}
	return name
}

func layerOfFunction(function string) string {
	for _, l := range layers {
		for _, part := range l.parts {
			if strings.HasPrefix(function, part) {
				return l.name
			}
		}
	}
	return ""
}
