package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestLinksOfThePackage(t *testing.T) {
	for _, c := range [][3]string{
		{".", "[a](docs/rules.md), [b](docs/rules.md#plain-euiccs)", "[a](rules.md), [b](rules.md#plain-euiccs)"},
		{"docs", "[a](rules.md) [b](../README.md#the-server)", "[a](rules.md) [b](README.md#the-server)"},
		{"docs", "[a](grafana/alerts.yaml) [b](#here) [c](https://cel.dev)", "[a](grafana/alerts.yaml) [b](#here) [c](https://cel.dev)"},
		{"docs", "[a](adr/0001-x.md)", "[a](https://github.com/cardbridge/cardbridge/blob/main/docs/adr/0001-x.md)"},
		{"docs", "[a](../server/api/client/openapi.json)", "[a](https://github.com/cardbridge/cardbridge/blob/main/server/api/client/openapi.json)"},
	} {
		assert.Equal(t, c[2], string(relinked([]byte(c[1]), c[0])))
	}
}
