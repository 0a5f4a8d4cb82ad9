package hwtest

import (
	"errors"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// noFiles is for bench files that name none.
func noFiles(name string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func TestVirtualBenchFile(t *testing.T) {
	b, err := loadBench("")
	require.NoError(t, err)
	require.Len(t, b.Readers, 2)
	assert.True(t, b.Readers[1].Card.EUICC)
	assert.Equal(t, DefaultLimits, b.Readers[0].Limits)
	keys := b.KeysOf(*b.Readers[0].Card.EID)
	require.NotNil(t, keys)
	assert.Equal(t, keys.EID, keys.record.EID)
	assert.EqualValues(t, 15, keys.other.KID)
	assert.Nil(t, b.KeysOf(*b.Readers[1].Card.EID))
}

func TestParseBench(t *testing.T) {
	empty, err := ParseBench(nil, noFiles)
	require.NoError(t, err)
	assert.Equal(t, &Bench{Limits: DefaultLimits}, empty)

	b, err := ParseBench([]byte(`
person: true
limits: {power_cycles: 20, answer: 5s}
readers:
  - reader: usb:08e6:4433:serial=1234:0.0
    card: {iccid: 898600000000000005}
    limits: {round_trips: 1000}
`), noFiles)
	require.NoError(t, err)
	assert.True(t, b.Person)
	want := DefaultLimits
	want.PowerCycles, want.Answer = 20, 5*time.Second
	assert.Equal(t, want, b.Limits)
	want.RoundTrips = 1000
	assert.Equal(t, want, b.Readers[0].Limits)
	assert.Equal(t, "898600000000000005", b.Readers[0].Card.ICCID.String())
}

func TestParseBenchRefuses(t *testing.T) {
	const eid = "89049032000000000000000000000163"
	files := func(name string) ([]byte, error) {
		switch name {
		case "short.json": // one auth key, for a card that demands three
			return readVirtual("other.json")
		case "triple.json":
			b, err := readVirtual("card.json")
			return []byte(strings.Replace(string(b), `"require_triple": false`, `"require_triple": true`, 1)), err
		}
		b, err := readVirtual(name)
		if errors.Is(err, fs.ErrNotExist) {
			return noFiles(name)
		}
		return b, err
	}
	for text, says := range map[string]string{
		"readers: [{reader: a, colour: red}]":                              "colour",
		"reader: a":                                                        "field reader not found",
		"readers: [{}]":                                                    "no name",
		"readers: [{reader: a}, {reader: a}]":                              "there already",
		"readers: [{reader: a, card: {eid: 12}}]":                          "32 digits",
		"readers: [{reader: a, card: {eid: " + eid[:31] + "4}}]":           "check digits",
		"readers: [{reader: a, card: {iccid: 12}}]":                        "18 to 20",
		"limits: {round_trips: 10}":                                        "200 to",
		"limits: {power_cycles: -1}":                                       "power_cycles",
		"limits: {data: 65536}":                                            "data",
		"limits: {answer: 1ms}":                                            "answer",
		"limits: {person: 2h}":                                             "person",
		"limits: {answer: soon}":                                           "soon",
		"readers: [{reader: a, limits: {data: -5}}]":                       `"a": limits`,
		"keys: [{eid: " + eid + "}]":                                       "record and keyset",
		"keys: [{eid: " + eid + ", record: no.json, keyset: x}]":           "not exist",
		"keys: [{eid: " + eid + ", record: server.json, keyset: x}]":       "server.json",
		"keys: [{eid: " + eid + ", record: card.json, keyset: no.json}]":   "not exist",
		"keys: [{eid: " + eid + ", record: card.json, keyset: card.json}]": "card.json",
		"keys: [{eid: " + eid + ", record: card.json, keyset: server.json, other: no.json}]":                                             "not exist",
		"keys: [{eid: " + eid + ", record: triple.json, keyset: short.json}]":                                                            "too few auth keys",
		"keys: [{eid: 89049032000000000000000000000260, record: card.json, keyset: server.json}]":                                        "the record of",
		"keys: [{eid: " + eid + ", record: card.json, keyset: server.json}, {eid: " + eid + ", record: card.json, keyset: server.json}]": "twice",
		"person: maybe":                 "maybe",
		"[]":                            "",
		"a: &a [*a]":                    "",
		"person: true\n---\nperson: 1":  "more than one document",
		"person: true\n--- {":           "more than one document",
		strings.Repeat("#", maxBench+1): "bytes",
	} {
		_, err := ParseBench([]byte(text), files)
		if assert.ErrorIs(t, err, ErrBench, "%.60s", text) {
			assert.ErrorContains(t, err, says, "%.60s", text)
			assert.NotContains(t, err.Error(), "PRIVATE")
		}
	}
}

func TestFind(t *testing.T) {
	readers := []reader.Reader{
		{Name: "Acme 00 00", ID: "usb:1234:0001:serial=A:0.0"},
		{Name: "Acme 00 01", ID: "usb:1234:0001:serial=A:0.1"},
		{Name: "Other 00 00", ID: "name:Other 00 00"},
	}
	for name, want := range map[string][]reader.Reader{
		"Acme":                       readers[:2],
		"Acme 00 00":                 readers[:1],
		"usb:1234:0001:serial=A:0.1": readers[1:2],
		"usb:1234":                   nil,
		"Oth":                        readers[2:],
		"nothing":                    nil,
	} {
		assert.Equal(t, want, Reader{Reader: name}.Find(readers), name)
	}

	f := &floor{Bench: &Bench{Readers: []Reader{{Reader: "Acme 00 01"}, {Reader: "Acme"}, {Reader: "usb:1234:0001:serial=A:0.1"}, {Reader: "gone"}}}}
	there, missing, others := f.stations(readers)
	require.Len(t, there, 1)
	assert.Equal(t, readers[1], there[0].reader)
	assert.Equal(t, f.Readers[1:], missing)
	assert.Equal(t, []reader.Reader{readers[0], readers[2]}, others)
	assert.Contains(t, missingText(missing[0], readers), "ambiguous")
	assert.Contains(t, missingText(missing[1], readers), "the same")
	assert.Contains(t, missingText(missing[2], readers), `is missing; there are: "Acme 00 00"`)

	there, missing, others = (&floor{Bench: &Bench{}}).stations(readers)
	assert.Len(t, there, 3, "with none named, all are checked")
	assert.Empty(t, missing)
	assert.Empty(t, others)
}

func TestParseAllow(t *testing.T) {
	got, err := parseAllow("89860000000000000414, 898600000000000005")
	require.NoError(t, err)
	require.Len(t, got, 2)
	assert.Equal(t, "898600000000000005", got[1].String())
	got, err = parseAllow("")
	require.NoError(t, err)
	assert.Empty(t, got)
	_, err = parseAllow("all")
	assert.ErrorContains(t, err, "-allow")
}

// The example in docs/hardware.md is a bench file.
func TestDocumentedBenchFile(t *testing.T) {
	page, err := os.ReadFile("../docs/hardware.md")
	require.NoError(t, err)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, examples)
	for _, e := range examples {
		b, err := ParseBench([]byte(e[1]), func(name string) ([]byte, error) {
			if strings.Contains(name, "keyset") {
				return readVirtual("server.json")
			}
			return readVirtual("card.json")
		})
		require.NoError(t, err)
		assert.NotEmpty(t, b.Readers)
	}
}

func FuzzParseBench(f *testing.F) {
	virtual, err := readVirtual("bench.yaml")
	require.NoError(f, err)
	f.Add(virtual)
	f.Add([]byte("limits: {power_cycles: 20, answer: 5s}\nreaders: [{reader: a, card: {iccid: 898600000000000005}}]"))
	f.Add([]byte("a: &a [*a, *a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		bench, err := ParseBench(b, noFiles)
		if err != nil {
			assert.ErrorIs(t, err, ErrBench)
			return
		}
		assert.NoError(t, bench.Limits.check())
		for _, r := range bench.Readers {
			assert.NotEmpty(t, r.Reader)
			assert.NoError(t, r.Limits.check())
		}
	})
}
