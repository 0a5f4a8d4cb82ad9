package main

import (
	"errors"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/cardbridge/cardbridge/server/api"
)

// limiting is the flags that bound what clients may spend of a server.
type limiting struct {
	rate             float64
	burst            int
	connections      int
	connectionsOfOne int
}

func (l *limiting) addFlags(f *pflag.FlagSet) {
	f.Float64Var(&l.rate, "rate", api.DefaultLimits.Rate, "requests a second of one user; an operator's users together may make twice as many; 0: any number, of strangers too")
	f.IntVar(&l.burst, "burst", api.DefaultLimits.Burst, "requests of one user at once, beyond the rate")
	f.IntVar(&l.connections, "max-connections", 4096, "connections that are open at once; 0: any number")
	f.IntVar(&l.connectionsOfOne, "max-connections-per-address", 1024, "connections of one address (IPv6: of one /64) that are open at once; 0: any number")
}

// apiOptions are those of the operators' interface.
func (s *serving) apiOptions(log *slog.Logger) ([]api.Option, error) {
	out := []api.Option{api.WithLimits(api.Limits{Rate: s.rate, Burst: s.burst})}
	if s.clientCA != "" {
		if s.insecure {
			return nil, errors.New("--client-ca needs TLS, and --insecure-http has none")
		}
		cas, err := api.OpenClientCAs(s.clientCA, log)
		if err != nil {
			return nil, err
		}
		out = append(out, api.WithClientCAs(cas))
	}
	return out, nil
}
