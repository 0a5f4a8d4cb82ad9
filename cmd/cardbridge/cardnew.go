package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	appletsim "github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/cryptogram"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/card/keyfile"
)

func newCardNewCmd() *cobra.Command {
	var image, record, eid string
	var keysets, profiles []string
	var bits int
	var single, triple, plain bool
	source := newKeySource()
	cmd := &cobra.Command{
		Use:   "new {--keyset FILE | --plain} --image FILE --record FILE",
		Short: "Make a card image with new keys, and the record that registers the card",
		Long: `Makes what personalises an emulated card (applet-sim --card) and the card's
record (card register, card status --card …). Neither file may exist yet.

A profile is given as key=value pairs, and words for what is on or off:
  --profile iccid=89014100000000000434,mccmnc=00101,state=enabled,provider=Lab,name=Test
  keys: iccid, mccmnc, state (disabled, enabled), class (test, provisioning,
  operational), provider, name; words: ppr1 (disabling not allowed), ppr2
  (deletion not allowed), fallback
An iccid that is left out is made up. Without --profile the card gets one
enabled operational profile of 00101.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newPrinter(cmd)
			switch {
			case image == "" || record == "":
				return errors.New("say where to write by --image and --record")
			case len(keysets) == 0 && !plain:
				return errors.New("say whose key set the card holds by --keyset; cardbridge keys new makes one")
			}
			for _, f := range []string{image, record} {
				if _, err := os.Lstat(f); err == nil {
					return fmt.Errorf("%s exists: cards are not overwritten", f)
				}
			}
			im := appletsim.Image{Suites: []int{1, 3}, EID: newEID(), ServerKeySets: []cryptogram.KeySetPEM{}, Policy: appletsim.Policy{RequireTriple: triple}}
			auth := 3
			if single {
				im.Suites, auth = []int{1}, 1
			}
			if eid != "" {
				var err error
				if im.EID, err = id.ParseEID(eid); err != nil {
					return err
				}
			}
			defer source.Close()
			for _, f := range keysets {
				set, err := source.public(cmd.Context(), f)
				if err != nil {
					return err
				}
				if keys, err := set.Public(); err == nil {
					warnOfTestKeys(p.err, f, keys)
				}
				im.ServerKeySets = append(im.ServerKeySets, set)
			}
			if len(profiles) == 0 {
				profiles = []string{"mccmnc=00101,state=enabled"}
			}
			for _, s := range profiles {
				q, err := parseProfile(s)
				if err != nil {
					return fmt.Errorf("--profile %q: %w", s, err)
				}
				im.Profiles = append(im.Profiles, q)
			}
			if plain {
				im.Runtime = &appletsim.Runtime{About: &appletsim.EUICC{Plain: true}}
			}
			var err error
			if im.Keys, err = cryptogram.Generate(auth, bits); err != nil {
				return err
			}
			return writeCard(p, &im, image, record)
		},
	}
	f := cmd.Flags()
	f.StringVar(&image, "image", "", "`FILE` to write the card image to, mode 0600")
	f.StringVar(&record, "record", "", "`FILE` to write the card record to")
	f.StringVar(&eid, "eid", "", "`EID`, 32 digits (default: a random one)")
	f.StringArrayVar(&keysets, "keyset", nil, "`FILE` with a server's key set, whose public half the card holds; may be given more than once")
	source.addFlags(f)
	f.StringArrayVar(&profiles, "profile", nil, "a `PROFILE`, see above; may be given more than once")
	f.IntVar(&bits, "bits", 2048, "`BITS` of each modulus: 2048, 3072 or 4096")
	f.BoolVar(&single, "single", false, "one auth key only: suite 01")
	f.BoolVar(&triple, "require-triple", false, "the card takes DEACTIVATE and ACTIVATE in suite 03 only")
	f.BoolVar(&plain, "plain", false, "a plain eUICC, without the management applet (card … --es10)")
	addJSONFlag(cmd)
	return cmd
}

// writeCard checks the image as the emulator does, and writes it and the record
// that follows from it.
func writeCard(p *printer, im *appletsim.Image, imageFile, recordFile string) error {
	imageJSON, err := im.Marshal()
	if err != nil {
		return err
	}
	if _, err := appletsim.ParseImage(imageJSON); err != nil {
		return err
	}
	recordJSON, err := im.Record()
	if err != nil {
		return err
	}
	if card.IsPlainRecord(recordJSON) {
		_, err = card.ParsePlainRecord(recordJSON)
	} else {
		_, err = card.ParseRecord(recordJSON)
	}
	if err != nil {
		return err
	}
	if err := keyfile.Write(imageFile, 0o600, imageJSON); err != nil {
		return err
	}
	if err := keyfile.Write(recordFile, 0o644, recordJSON); err != nil {
		return errors.Join(err, os.Remove(imageFile)) // it was made here, and is of no use alone
	}
	if p.json {
		return p.object(map[string]any{"eid": im.EID, "image": imageFile, "record": recordFile, "profiles": im.Profiles})
	}
	p.field("EID", im.EID.String())
	p.field("card image", imageFile)
	p.field("card record", recordFile)
	var rows [][]string
	for _, q := range im.Profiles {
		rows = append(rows, []string{q.ICCID.String(), string(q.State), q.Owner.String(), string(q.Class)})
	}
	p.table("ICCID|STATE|OWNER|CLASS", rows)
	return nil
}

func parseProfile(s string) (appletsim.Profile, error) {
	q := appletsim.Profile{State: appletsim.Disabled, Class: appletsim.Operational}
	for _, part := range strings.Split(s, ",") {
		key, value, given := strings.Cut(strings.TrimSpace(part), "=")
		var err error
		switch {
		case key == "ppr1" && !given:
			q.PPR1 = true
		case key == "ppr2" && !given:
			q.PPR2 = true
		case key == "fallback" && !given:
			q.Fallback = true
		case key == "iccid" && given:
			q.ICCID, err = id.ParseICCID(value)
		case key == "mccmnc" && given:
			q.Owner, err = id.ParseMCCMNC(value)
		case key == "state" && given:
			q.State = appletsim.State(value)
		case key == "class" && given:
			q.Class = appletsim.Class(value)
		case key == "provider" && given:
			q.Provider = value
		case key == "name" && given:
			q.Name = value
		default:
			err = fmt.Errorf("%q is no key=value pair or word of a profile", part)
		}
		if err != nil {
			return q, err
		}
	}
	if q.Owner == (id.MCCMNC{}) {
		return q, errors.New("mccmnc is missing: whose profile is it?")
	}
	if q.ICCID == (id.ICCID{}) {
		q.ICCID = newICCID()
	}
	return q, nil
}

// newEID is a random EID with right check digits.
func newEID() id.EID {
	e := id.EID(randomDigits(16))
	copy(e[:], []byte{0x89, 0x04, 0x90, 0x32}) // the EUM's part, as SGP.29 lays it out
	return e.WithCheckDigits()
}

// newICCID is a random ICCID of 19 digits that begins with 89, telecom.
func newICCID() id.ICCID {
	c := id.ICCID(randomDigits(10))
	c[0] = 0x98
	c[9] |= 0xF0
	return c
}

// randomDigits is n bytes of two random decimal digits each.
func randomDigits(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	for i, x := range b {
		b[i] = x/16%10<<4 | x%16%10
	}
	return b
}
