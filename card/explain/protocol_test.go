package explain

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/cryptogram/vectors"
	"github.com/cardbridge/cardbridge/card/id"
)

// TestManagementSessions compares what is said of the vectors' sessions with
// texts that were checked by hand: a deactivation and a refusal, in each suite.
func TestManagementSessions(t *testing.T) {
	f := vectors.Load(t)
	for i := range f.Sets {
		set := &f.Sets[i]
		server, image, record := vectorFiles(t, set)
		for j := range set.Sessions {
			lines := vectorSession(&set.Sessions[j])
			golden(t, fmt.Sprintf("management-%d-%d.txt", i+1, j+1), text(t, parse(t, lines...), keysOf(t, image, server)))
			if i+j == 0 {
				golden(t, "management-no-keys.txt", text(t, parse(t, lines...), nil))
				golden(t, "management-server-keys.txt", text(t, parse(t, lines...), keysOf(t, server, record)))
			}
		}
	}
}

// levelsOf is what an entry says of each thing that can verify.
func levelsOf(e Explained) map[string]Level {
	out := map[string]Level{}
	for _, f := range e.Fields {
		if f.Level != Plain {
			out[f.Name] = max(out[f.Name], f.Level)
		}
	}
	return out
}

// where are the lines of a vector session.
const (
	atInternal = 3
	atM1       = 4
	atM2       = 7
	atStatus   = 9
	atChange   = 11
)

func TestWhichKeysOpenWhat(t *testing.T) {
	f := vectors.Load(t)
	set := &f.Sets[0]
	server, image, record := vectorFiles(t, set)
	otherImage := anotherImage(t)
	lines := vectorSession(&set.Sessions[0])
	for _, c := range []struct {
		name               string
		keys               *Keys
		m1, m2, mac, after Level
	}{
		{"none", nil, Plain, Plain, Plain, Plain},
		{"empty", &Keys{}, Plain, Plain, Plain, Plain},
		{"the card image alone", keysOf(t, image), Plain, Good, Good, Good},
		{"the card image and the key set", keysOf(t, image, server), Good, Good, Good, Good},
		{"the key set and the record", keysOf(t, server, record), Good, Plain, Plain, Plain},
		{"the key set alone", keysOf(t, server), Plain, Plain, Plain, Plain},
		{"the record alone", keysOf(t, record), Plain, Plain, Plain, Plain},
		{"another card's image", keysOf(t, otherImage, server), Bad, Bad, Plain, Plain},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := explained(t, c.keys, lines...)
			assert.Equal(t, c.m1, levelsOf(e[atM1])["M1"])
			assert.Equal(t, c.m2, levelsOf(e[atM2])["M2"])
			assert.Equal(t, c.mac, levelsOf(e[atStatus])["MAC"])
			assert.Equal(t, c.mac, levelsOf(e[atStatus+1])["MAC"])
			assert.Equal(t, c.after, levelsOf(e[atChange])["authorised"])
			assert.Equal(t, c.after, levelsOf(e[atChange+1])["receipt"])
		})
	}
}

// anotherImage is a card image whose card is not that of the vectors; it holds
// the same server's keys.
func anotherImage(t *testing.T) []byte {
	f := vectors.Load(t)
	set := f.Sets[0]
	set.EID = id.EID{0x89, 0x04, 0x99}.WithCheckDigits().String()
	set.Keys.CardAuth, set.Keys.CardEnc = set.Keys.ServerAuth, set.Keys.ServerEnc
	_, image, _ := vectorFiles(t, &set)
	return image
}

// turned is a line with one bit of a byte of it turned, counted from its end
// where negative.
func turned(line string, at int) string {
	b, err := hex.DecodeString(line[2:])
	if err != nil {
		panic(err)
	}
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	return line[:2] + strings.ToUpper(hex.EncodeToString(b))
}

func TestWhatDoesNotVerify(t *testing.T) {
	set := &vectors.Load(t).Sets[0]
	server, image, _ := vectorFiles(t, set)
	keys := keysOf(t, image, server)
	good := vectorSession(&set.Sessions[0])
	change := func(at int, to string) []string {
		lines := append([]string{}, good...)
		lines[at] = to
		return lines
	}
	e := explained(t, keys, change(atM1, turned(good[atM1], 10))...)
	assert.Equal(t, Bad, levelsOf(e[atM1])["M1"])
	assert.Equal(t, Good, levelsOf(e[atM2])["M2"], "the session's keys do not hang on M1")

	e = explained(t, keys, change(atM2, turned(good[atM2], 20))...)
	assert.Equal(t, Bad, levelsOf(e[atM2])["M2"])
	assert.Equal(t, Plain, levelsOf(e[atStatus])["MAC"], "without keys nothing is said to verify or not")

	e = explained(t, keys, change(atStatus, turned(good[atStatus], -2))...)
	assert.Equal(t, Bad, levelsOf(e[atStatus])["MAC"])
	assert.Equal(t, Plain, levelsOf(e[atStatus+1])["MAC"], "what follows is not known to be wrong")

	e = explained(t, keys, change(atStatus+1, turned(good[atStatus+1], 20))...)
	assert.Equal(t, Bad, levelsOf(e[atStatus+1])["MAC"])

	e = explained(t, keys, change(atInternal, turned(good[atInternal], 9))...)
	assert.Equal(t, Bad, levelsOf(e[atM1])["M1"], "another RS")
	assert.Equal(t, Bad, levelsOf(e[atM2])["M2"])

	e = explained(t, keys, change(atStatus+1, "< 6988")...)
	assert.Equal(t, "ends: the card answers in the clear", value(e[atStatus+1], "secure session"))
	assert.Equal(t, "none on this channel in this trace", value(e[atChange], "secure session"))

	e = explained(t, keys, change(atStatus, "> 80CA005A00")...)
	assert.Equal(t, "ends with this command in the clear", value(e[atStatus], "secure session"))

	e = explained(t, keys, change(atStatus, "> 8CF200000E9702000099"+"0800112233445566")...)
	assert.Equal(t, "data objects missing or malformed", value(e[atStatus], "secure messaging"))
}

// TestNegativeVectors: nothing that a receiver must reject is said to verify.
func TestNegativeVectors(t *testing.T) {
	f := vectors.Load(t)
	ran := 0
	for _, n := range f.Negative {
		t.Run(n.Name, func(t *testing.T) {
			ran++
			set, session := f.Find(n)
			server, image, _ := vectorFiles(t, set)
			keys := keysOf(t, image, server)
			lines := vectorSession(session)
			secured := func(at int) Level {
				l := levelsOf(explained(t, keys, lines...)[at])
				return max(l["MAC"], l["secure messaging"])
			}
			ok := []byte{0x90, 0x00}
			switch n.InputIs {
			case "M1":
				lines[atM1] = line("<", append(bytes.Clone(n.Input), ok...))
				assert.Equal(t, Bad, levelsOf(explained(t, keys, lines...)[atM1])["M1"])
			case "M2":
				wire, err := apdu.Command{INS: insExternal, P1: set.Suite, P2: set.KID, Data: n.Input}.AppendBinary(nil)
				require.NoError(t, err)
				e := explained(t, keys, append(lines[:atM1+1:atM1+1], line(">", wire), "< "+"6300")...)
				assert.Equal(t, Bad, levelsOf(e[atM1+1])["M2"])
			case "command_field":
				wire, err := apdu.Command{CLA: 0x8C, INS: insStatus, Data: n.Input, Ne: apdu.MaxShortNe}.AppendBinary(nil)
				require.NoError(t, err)
				lines[atStatus] = line(">", wire)
				assert.Equal(t, Bad, secured(atStatus))
			case "response_field":
				lines[atStatus+1] = line("<", append(bytes.Clone(n.Input), ok...))
				assert.Equal(t, Bad, secured(atStatus+1))
			case "answer":
				x := New(keys)
				x.secure.card = &keys.cards[0]
				x.secure.plain = plainCommand{ins: session.HCInput[0], data: session.HCInput[1:], ok: true}
				x.receipt(n.Input)
				assert.Equal(t, Bad, levelsOf(x.out)["receipt"])
			default:
				require.Fail(t, "unknown kind of input", n.InputIs)
			}
		})
	}
	assert.Equal(t, 16, ran)
}

// TestAnotherCommandThanTheOneSigned: the MAC verifies and HC does not.
func TestAnotherCommandThanTheOneSigned(t *testing.T) {
	set := &vectors.Load(t).Sets[0]
	_, image, _ := vectorFiles(t, set)
	x := New(keysOf(t, image))
	src := parse(t, vectorSession(&set.Sessions[0])...)
	for i := 0; ; i++ {
		e, err := src.Next()
		require.NoError(t, err)
		if i == atChange {
			x.secure.command = [32]byte{1}
			assert.Equal(t, Bad, levelsOf(x.Explain(e))["authorised"])
			return
		}
		x.Explain(e)
	}
}

// TestAReceiptOfAnotherCard: under the session's keys whoever has them may say
// anything; the receipt is what the card alone can sign.
func TestAReceiptOfAnotherCard(t *testing.T) {
	set := &vectors.Load(t).Sets[0]
	_, image, _ := vectorFiles(t, set)
	x := New(keysOf(t, image))
	otherImage := anotherImage(t)
	src := parse(t, vectorSession(&set.Sessions[0])...)
	for i := 0; ; i++ {
		e, err := src.Next()
		require.NoError(t, err)
		if i == atChange+1 {
			x.secure.card = &keysOf(t, otherImage).cards[0]
			assert.Equal(t, Bad, levelsOf(x.Explain(e))["receipt"])
			return
		}
		x.Explain(e)
	}
}

func TestInTheClear(t *testing.T) {
	e := explained(t, nil, "> 00A404000BF063617264627269646765", "< 9000", "> 80CA00E100", "< E10E80040000010181060100030F00009000", "> 80F2000000", "< 6982")
	assert.Equal(t, "key set 1: 3, key set 15: 0", value(e[3], "failed authentications"))
	assert.Equal(t, "GET STATUS", e[4].Title)
	assert.Equal(t, "none: the card does not do this in the clear", value(e[4], "secure messaging"))
	assert.Equal(t, "6982 no session", e[5].Title)
}

// TestSecretsUnderSecureMessaging: what is secret in the clear is so decrypted.
func TestSecretsUnderSecureMessaging(t *testing.T) {
	x := New(nil)
	x.plainData(apdu.Command{INS: 0x20, P2: 1}, []byte("1234"))
	assert.Equal(t, "4 bytes, secret", value(x.out, "data"))
	x = New(nil)
	x.plainData(apdu.Command{INS: 0xF2}, []byte{0xFE, 0xFE})
	assert.Equal(t, "FEFE", value(x.out, "data"))
}

func TestStartedMidway(t *testing.T) {
	lines := vectorSession(&vectors.Load(t).Sets[0].Sessions[0])
	e := explained(t, nil, lines[atInternal:]...)
	assert.Equal(t, "INTERNAL AUTHENTICATE", e[0].Title)
	assert.Equal(t, "DEACTIVATE, secured", e[atChange-atInternal].Title)
	e = explained(t, nil, lines[atM2:]...)
	assert.Equal(t, "none on this channel in this trace", value(e[0], "challenge"))
}

// TestDecryptedSecretsAreNotSaid: nonces, session keys and the keys given are in
// none of the forms, and neither prints a Keys.
func TestDecryptedSecretsAreNotSaid(t *testing.T) {
	f := vectors.Load(t)
	for i := range f.Sets {
		set := &f.Sets[i]
		server, image, _ := vectorFiles(t, set)
		keys := keysOf(t, image, server)
		assert.Equal(t, "explain.Keys explain.Keys", fmt.Sprintf("%v %#v", keys, keys))
		for j := range set.Sessions {
			s := &set.Sessions[j]
			var a, b, c bytes.Buffer
			to := []Renderer{NewText(&a, false), NewJSON(&b), NewHTML(&c)}
			require.NoError(t, Show(parse(t, vectorSession(s)...), keys, nil, to...))
			for _, r := range to {
				require.NoError(t, r.Close())
			}
			out := strings.ToUpper(a.String() + b.String() + c.String())
			assert.Contains(t, out, "VERIFIES")
			for name, secret := range map[string]vectors.Hex{"RC": s.RC, "RK": s.RK, "Kenc": s.Kenc, "Kmac": s.Kmac, "K of M1": s.M1.EnvelopeKey, "K of M2": s.M2.EnvelopeKey, "HC": s.HC} {
				if len(secret) < 16 || bytes.Count(secret, []byte{0}) == len(secret) {
					continue
				}
				assert.NotContains(t, out, strings.ToUpper(hex.EncodeToString(secret[:16])), name)
			}
		}
	}
}

func TestKeysAdd(t *testing.T) {
	set := &vectors.Load(t).Sets[0]
	server, image, record := vectorFiles(t, set)
	k := &Keys{}
	for name, b := range map[string][]byte{
		"empty": nil, "no JSON": []byte("hello"), "an array": []byte("[]"), "nothing": []byte("{}"), "null": []byte("null"),
		"EID": bytes.Replace(image, []byte(set.EID), []byte("12"), 1),
	} {
		assert.ErrorIs(t, k.Add(b), ErrKeys, name)
	}
	cut := bytes.Replace(image, []byte("BEGIN PRIVATE"), []byte("BEGIN PRIVAT"), 1)
	err := k.Add(cut)
	assert.ErrorIs(t, err, cryptogram.ErrKey)
	assert.NotContains(t, err.Error(), "MII")
	assert.Empty(t, k.cards)
	assert.Empty(t, k.servers)

	require.NoError(t, k.Add(record))
	assert.Nil(t, k.cards[0].enc)
	require.NoError(t, k.Add(image))
	require.NoError(t, k.Add(record))
	require.NoError(t, k.Add(server))
	require.NoError(t, k.Add(image))
	require.Len(t, k.cards, 1, "the same card")
	assert.NotNil(t, k.cards[0].enc, "the private keys stay")
	require.Len(t, k.servers, 1)
	assert.NotNil(t, k.servers[0].private)

	many := map[string]any{}
	require.NoError(t, json.Unmarshal(server, &many))
	for kid := 1; kid <= 15; kid++ {
		many["id"] = kid
		b, err := json.Marshal(many)
		require.NoError(t, err)
		require.NoError(t, k.Add(b))
	}
	assert.Len(t, k.servers, 15)
}

func FuzzKeysAdd(f *testing.F) {
	server, image, record := vectorFiles(f, &vectors.Load(f).Sets[0])
	for _, b := range [][]byte{server, image, record, nil, []byte("{}"), []byte(`{"id":1,"auth":["x"]}`), []byte(`{"eid":"1","keys":{"auth":[]}}`)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k := &Keys{}
		if err := k.Add(b); err != nil {
			require.True(t, errors.Is(err, ErrKeys) || errors.Is(err, cryptogram.ErrKey), err)
			require.Empty(t, len(k.cards)+len(k.servers))
		}
	})
}
