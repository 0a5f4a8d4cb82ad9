# make demo   plays the main job in four scenes on real parts
# make test   all checks and tests; installs what it lacks
# make bench  the benchmarks
# make deb    the Debian package
#
# make hwtest BENCH=bench.yaml ALLOW=ICCID   checks real readers and cards (docs/hardware.md)
# make torture                               faults at every step of a request, on servers that share a record
# make torture-card N=20000                  random commands and faults against the emulated card
# make torture-readers                       a fault at every APDU, on every reader stack
# make bench-pcsc bench-rsa bench-trace bench-card bench-server bench-api   measured against peers (docs/bench)

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO          ?= go
SUDO        := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
FUZZTIME    ?= 2s

PACKAGES      := gcc pkg-config libpcsclite-dev libusb-1.0-0-dev pcscd vsmartcard-vpcd
TEST_PACKAGES := libssl-dev openssl libccid qemu-system-x86 xz-utils libkmod2 tshark postgresql opensc pcsc-tools python3 libcacard-dev libnss3-tools systemd dbus polkitd procps man-db softhsm2

.PHONY: all build deb deps test-deps demo test lint cross unit fuzz bench bench-pcsc bench-rsa bench-trace bench-card bench-server bench-api hwtest torture torture-readers torture-card nightly vuln clean

all: build

build: deps
	$(GO) build -o bin/ ./cmd/...
	CGO_ENABLED=0 $(GO) build -o bin/ ./cmd/applet-sim

# deb makes the Debian package, in bin.
deb: deps
	$(GO) run ./cmd/deb

# install installs the Debian packages of a list that are missing.
define install
	@missing=(); for p in $(1); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing+=($$p); done; \
	if [ $${#missing[@]} -gt 0 ]; then \
	  command -v apt-get >/dev/null || { echo "install by hand: $${missing[*]}" >&2; exit 1; }; \
	  echo "installing $${missing[*]}"; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi
endef

# deps: the PC/SC service, its headers and libusb's, the virtual reader, a C
# compiler. test-deps: what the virtual machine of the USB tests is made of, and
# PostgreSQL's programs; the tests start their own, not the system's cluster.
deps:
	$(call install,$(PACKAGES))

test-deps: deps
	$(call install,$(TEST_PACKAGES))
	@$(GO) run ./hwtest/vm/fetch

demo: build
	bin/demo

test: test-deps lint cross unit fuzz
	@echo "all checks and tests passed"

lint:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	@for system in windows darwin; do echo "vet for $$system"; CGO_ENABLED=0 GOOS=$$system $(GO) vet ./...; done
	$(GO) tool staticcheck ./...

# cross builds the programs for other systems, and for this one without cgo,
# where PC/SC is a stub or the system's own.
cross:
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	for target in linux/amd64 linux/arm64 darwin/arm64 windows/amd64; do \
	  echo "build for $$target without cgo"; \
	  CGO_ENABLED=0 GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) build -o "$$dir/" ./cmd/cardbridge ./cmd/applet-sim; \
	done

# What runs in a virtual machine runs without the race detector, which would
# take minutes there; the same code has its race tests outside. The 2,000 trials
# of requests, the guard's 10,000 requests and the card's 20,000 sequences run
# without it too, fewer of them with it. Allocations are counted without it.
IN_VM := ./hwtest/usbtest ./hwtest/torture/usb ./cmd/deb

# SQLite is a C library in Go, most of whose processor time the race detector and
# its pointer checks would take, as they would of arithmetic and hashes: those
# they leave out. Who calls them they do not, nor the driver, which moves our
# memory in and out of SQLite.
PLAIN := modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory \
	crypto/internal/fips140/... crypto/pbkdf2 golang.org/x/crypto/... filippo.io/bigmod
RACE  := -race $(PLAIN:%=-gcflags=%=-race=false)

# One package more than there are processors is tested at a time: their tests wait
# a quarter of the time, for leases, readers, other programs.
SIDE_BY_SIDE := -p $$((1 + $$(nproc)))

unit:
	$(GO) test $(RACE) $(SIDE_BY_SIDE) -count=1 -timeout 15m $$($(GO) list ./... | grep -v -e /hwtest/usbtest$$ -e /hwtest/torture/usb$$ -e /cmd/deb$$)
	$(GO) test -count=1 -timeout 15m $(IN_VM)
	$(GO) test -count=1 -timeout 15m -run 'TestTorture|TestFailedOnce' ./hwtest/torture/requests
	$(GO) test -count=1 -run 'Allocations|TestGuardIsExact|TestInvariants' ./card/cryptogram ./card/securemsg ./server/store ./hwtest/torture/emulator

# fuzz runs every fuzz target for FUZZTIME.
fuzz:
	.ci/fuzz $(FUZZTIME)

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

# bench-pcsc measures round trips against the same loop in C, and the USB driver
# against pcscd and libccid.
bench-pcsc: test-deps
	$(GO) build -o bin/benchpcsc ./hwtest/benchpcsc
	$(GO) build -o bin/benchusb ./hwtest/usbtest/bench
	@out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	{ bin/benchpcsc; bin/benchusb -n 2000; } | tee "$$out"; grep '^ratio ' "$$out"

# bench-rsa measures the raw RSA path against OpenSSL and crypto/rsa on one core.
bench-rsa: test-deps
	@$(GO) build -o bin/benchrsa ./hwtest/benchrsa
	@bin/benchrsa

# bench-trace measures recording, other tools' formats, show and diff.
bench-trace:
	$(GO) test -run '^$$' -bench 'Recorder|Reader|Redactor|Import|Export|Diff|Show|Explain' -benchmem ./apdu/trace/... ./card/explain

# bench-card measures the emulated card by calls, and through pcscd and vpcd
# against libcacard's CAC card.
bench-card: test-deps
	$(GO) build -o bin/benchcard ./hwtest/benchcard
	@out=$$(mktemp); trap 'rm -f "$$out"' EXIT; bin/benchcard | tee "$$out"; grep -q '^ratio ' "$$out"

# bench-server measures the card management server on SQLite and PostgreSQL.
bench-server: test-deps
	@$(GO) build -o bin/benchserver ./hwtest/benchserver
	@bin/benchserver $(BENCHSERVER)

# bench-api measures the operators' interface against the bare database, the audit
# trail against none, keys in a token against keys in a file, and a start.
bench-api: test-deps
	@$(GO) build -o bin/ ./cmd/cardbridge ./hwtest/benchapi
	@bin/benchapi -cardbridge bin/cardbridge $(BENCHAPI)

# hwtest checks what is plugged in; without BENCH, a virtual bench.
HWREPORT ?= hwtest-report
hwtest: deps
	$(GO) test -c -o bin/hwtest ./hwtest
	bin/hwtest $(if $(BENCH),-bench $(BENCH)) $(if $(ALLOW),-allow $(ALLOW)) -out $(HWREPORT)

# torture runs trials of requests with faults, and writes docs/faults-server.md;
# N=500 runs 500 of them, SEED= those of a run, TRIAL= one of them alone, and
# neither writes.
torture: test-deps
	$(GO) build -o bin/torture ./hwtest/torture/requests/run
	bin/torture $(if $(SEED),-seed $(SEED)) $(if $(TRIAL),-trial $(TRIAL),-n $(or $(N),10000)) $(if $(N)$(TRIAL),,-page docs/faults-server.md)

# torture-readers runs a deactivation with a fault at every APDU, on every reader
# stack, and writes docs/faults.md; N=100 runs a seeded sample of 100.
torture-readers: test-deps
	$(GO) run ./hwtest/torture/matrix -n $(or $(N),-1) $(if $(N),,-table docs/faults.md)

# torture-card plays N random sequences of commands and faults on emulated cards
# and holds their memory against invariants; SEED=1.
torture-card:
	@$(GO) build -o bin/torture-card ./hwtest/torture/emulator
	@bin/torture-card -n $(or $(N),20000) -seed $(or $(SEED),1)

# nightly is what is too long for every change: a million RSA operations against
# math/big and crypto/rsa, fuzzing for a minute each, the whole torture matrix,
# a million sequences against the emulated card.
nightly: test-deps
	RSAFAST_OPERATIONS=1000000 $(GO) test -count=1 -run TestRandomOperations -timeout 0 ./card/rsafast
	.ci/fuzz 60s
	$(GO) run ./hwtest/torture/matrix -n -1
	$(GO) run ./hwtest/torture/emulator -n 1000000

# vuln needs the vulnerability database, and so the network.
vuln:
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

clean:
	rm -rf bin
