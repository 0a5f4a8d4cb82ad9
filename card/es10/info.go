package es10

import (
	"context"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// Version is major, minor and revision.
type Version [3]byte

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// MarshalText is the numbers with dots between them.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

func (v *Version) read(b []byte) error {
	if len(b) != len(v) {
		return fmt.Errorf("a version of %d bytes", len(b))
	}
	*v = Version(b)
	return nil
}

// Info1 is EUICCInfo1 (SGP.22 §5.7.8).
type Info1 struct {
	SVN Version // of SGP.22
	// Key identifiers of the certificate issuers whose signatures the eUICC takes,
	// and of those under which it signs.
	Verification, Signing [][]byte
}

// Info2 is EUICCInfo2 (SGP.22 §5.7.8). What an eUICC leaves out is the zero value.
type Info2 struct {
	Info1
	Profile        Version // of the profile package's format
	Firmware       Version
	JavaCard       Version
	GlobalPlatform Version
	Protection     Version // protection profile
	FreeMemory     uint64  // bytes of non-volatile memory
	ForbidsPPR1    bool
	ForbidsPPR2    bool
	Accreditation  string // SAS
}

// Info1 reads EUICCInfo1.
func (e *EUICC) Info1(ctx context.Context) (Info1, error) {
	answer, err := e.call(ctx, getInfo1, nil)
	if err != nil {
		return Info1{}, err
	}
	i, err := parseInfo(answer, getInfo1)
	return i.Info1, malformed(getInfo1, err)
}

// Info2 reads EUICCInfo2.
func (e *EUICC) Info2(ctx context.Context) (Info2, error) {
	answer, err := e.call(ctx, getInfo2, nil)
	if err != nil {
		return Info2{}, err
	}
	i, err := parseInfo(answer, getInfo2)
	return i, malformed(getInfo2, err)
}

// parseInfo parses either answer: EUICCInfo1's members are among EUICCInfo2's.
func parseInfo(b []byte, f function) (i Info2, err error) {
	in, err := only(b, f.tag)
	if err != nil {
		return i, err
	}
	err = members(in, map[tlv.Tag]func([]byte) error{
		0x81:   i.Profile.read,
		0x82:   i.SVN.read,
		0x83:   i.Firmware.read,
		0x84:   func(v []byte) error { return readResources(v, &i.FreeMemory) },
		0x86:   i.JavaCard.read,
		0x87:   i.GlobalPlatform.read,
		0xA9:   func(v []byte) error { return readIssuers(v, &i.Verification) },
		0xAA:   func(v []byte) error { return readIssuers(v, &i.Signing) },
		tagPPR: func(v []byte) error { return policyRules(v, &i.ForbidsPPR1, &i.ForbidsPPR2) },
		0x04:   i.Protection.read,
		0x0C:   func(v []byte) error { return text(v, &i.Accreditation) },
	})
	if err != nil {
		return Info2{}, err
	}
	return i, nil
}

// readResources reads the extended card resources (ETSI TS 102 226 §8.2.1.7.2).
func readResources(b []byte, free *uint64) error {
	return members(b, map[tlv.Tag]func([]byte) error{0x82: func(v []byte) error {
		if len(v) == 0 || len(v) > 8 {
			return fmt.Errorf("a size of %d bytes", len(v))
		}
		for _, b := range v {
			*free = *free<<8 | uint64(b)
		}
		return nil
	}})
}

// maxIssuers bounds a list of certificate issuers; eUICCs know a few.
const maxIssuers = 64

func readIssuers(b []byte, out *[][]byte) error {
	for len(b) > 0 {
		v, rest, err := tlv.Expect(b, 0x04)
		if err != nil {
			return err
		}
		if len(*out) == maxIssuers {
			return fmt.Errorf("more than %d certificate issuers", maxIssuers)
		}
		*out, b = append(*out, v), rest
	}
	return nil
}
