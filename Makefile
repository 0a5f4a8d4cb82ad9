# make demo   plays the main job in four scenes on real parts
# make test   all checks and tests; installs what it lacks
# make bench  the benchmarks

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO          ?= go
SUDO        := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
FUZZTIME    ?= 2s

PACKAGES := gcc pkg-config libpcsclite-dev pcscd vsmartcard-vpcd

.PHONY: all build deps demo test lint cross unit fuzz bench vuln clean

all: build

build: deps
	$(GO) build -o bin/ ./cmd/...

# deps installs the Debian packages that are missing: the PC/SC service, its
# headers, the virtual reader and a C compiler.
deps:
	@missing=(); for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing+=($$p); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  command -v apt-get >/dev/null || { echo "install by hand: $${missing[*]}" >&2; exit 1; }; \
	  echo "installing $${missing[*]}"; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi

demo: build
	bin/demo

test: deps lint cross unit fuzz
	@echo "all checks and tests passed"

lint:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# cross builds the programs for other systems, and for this one without cgo,
# where PC/SC is a stub or the system's own.
cross:
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	for target in linux/amd64 linux/arm64 darwin/arm64 windows/amd64; do \
	  echo "build for $$target without cgo"; \
	  CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build -o "$$dir/" ./cmd/cardbridge ./cmd/applet-sim; \
	done

unit:
	$(GO) test -race -count=1 -timeout 15m ./...

# fuzz runs every fuzz target for FUZZTIME.
fuzz:
	.ci/fuzz $(FUZZTIME)

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# vuln needs the vulnerability database, and so the network.
vuln:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

clean:
	rm -rf bin
