package main

import (
	"errors"
	"log/slog"

	"github.com/cardbridge/cardbridge/server/api"
)

// apiOptions are those of the operators' interface.
func (s *serving) apiOptions(log *slog.Logger) (out []api.Option, err error) {
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
