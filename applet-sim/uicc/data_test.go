package uicc

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const adm1 = "0020000A083838383838383838"

func TestReadBinary(t *testing.T) {
	c := newUSIM(t, Data{})
	c.run(
		[2]string{"00B0000000", "6986"}, // no EF
		[2]string{"00A4000C026F07", "9000"},
		[2]string{"00B0000000", "084906112132440024 9000"}, [2]string{"00B00000", "084906112132440024 9000"},
		[2]string{"00B00000000000", "084906112132440024 9000"},
		[2]string{"00B0000009", "084906112132440024 9000"}, [2]string{"00B0000002", "0849 9000"},
		[2]string{"00B0000802", "6C01"}, [2]string{"00B0000801", "24 9000"}, [2]string{"00B0000800", "24 9000"},
		[2]string{"00B000000A", "6C09"}, [2]string{"00B00000000012", "6C09"},
		[2]string{"00B0000901", "6B00"}, [2]string{"00B07FFF01", "6B00"},
		[2]string{"00B000000100", "6700"},
		[2]string{"00B0831000", "6B00"}, [2]string{"00B0830300", "02 9000"}, // by SFI, which selects
		[2]string{"00B0000300", "02 9000"},
		[2]string{"00B0800000", "6A86"}, [2]string{"00B0A30000", "6A86"}, [2]string{"00B0950000", "6A82"},
		[2]string{"00B0970000", "6981"}, // EF.ARR has records
		[2]string{"00A4000C023F00", "9000"}, [2]string{"00B0870000", "6A82"}, [2]string{"00B0820000", "9868300D1A2B3C4E0024 9000"},
	)
}

func TestUpdateBinary(t *testing.T) {
	c := newUSIM(t, Data{})
	c.run(
		[2]string{"00A4000C026F7B", "9000"}, // FPLMN, PIN1, which is disabled
		[2]string{"00D6000003 64F010", "9000"}, [2]string{"00D6000902 0102", "9000"},
		[2]string{"00B0000000", "64F010FFFFFFFFFFFF0102FF 9000"},
		[2]string{"00D6000B02 0102", "6700"}, [2]string{"00D6000C01 01", "6B00"}, [2]string{"00D60000", "6700"},
		[2]string{"00D68D0001 55", "9000"}, [2]string{"00B08D0001", "55 9000"},
		[2]string{"00D6970001 00", "6981"}, [2]string{"00D6870001 00", "6982"},
		[2]string{adm1, "9000"}, [2]string{"00D6870001 07", "9000"}, [2]string{"00B0870001", "07 9000"},
		[2]string{"00A4080C047F206F07", "9000"}, [2]string{"00B0000001", "07 9000"}, [2]string{"00D6000001 08", "9000"},
	)
	assert.Equal(t, map[string]Hex{
		"ADF.USIM/EF.FPLMN": {0x55, 0xF0, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0x02, 0xFF},
		"ADF.USIM/EF.IMSI":  {0x08, 0x49, 0x06, 0x11, 0x21, 0x32, 0x44, 0x00, 0x24},
	}, c.saved.Files)

	writes := c.writes
	c.run([2]string{"00D6000001 08", "9000"})
	assert.Equal(t, writes, c.writes, "what is there already is not written")
	c.start()
	c.run([2]string{selectUSIM, "9000"}, [2]string{"00B08D0003", "55F010 9000"})
}

func TestRecords(t *testing.T) {
	c := newUSIM(t, Data{})
	free := "00" + strings.Repeat("FF", 175)
	sms := func(first string) string { return first + strings.Repeat("FF", 176-len(first)/2) }
	c.run(
		[2]string{"00A4000C026F3C", "9000"},
		[2]string{"00B2000400", "6A83"}, // no record is current
		[2]string{"00B2010400", free + "9000"}, [2]string{"00B20104B0", free + "9000"}, [2]string{"00B20104AF", "6CB0"}, [2]string{"00B20104B1", "6CB0"},
		[2]string{"00B20B0400", "6A83"}, [2]string{"00B2010500", "6A86"}, [2]string{"00B201040100", "6700"},
		[2]string{"00DC0104B0" + sms("0301"), "9000"}, [2]string{"00DC0A04B0" + sms("030A"), "9000"},
		[2]string{"00DC0104AF" + sms("03")[:350], "6700"}, [2]string{"00DC0B04B0" + sms("03"), "6A83"},
		// next and previous
		[2]string{"00B2000200", sms("0301") + "9000"}, [2]string{"00B20002AF", "6CB0"}, [2]string{"00B2000200", free + "9000"},
		[2]string{"00B2000400", free + "9000"},
		[2]string{"00B2000300", sms("0301") + "9000"}, [2]string{"00B2000300", "6A83"}, [2]string{"00B2000400", sms("0301") + "9000"},
		[2]string{"00DC0002B0" + sms("0302"), "9000"}, [2]string{"00B2020400", sms("0302") + "9000"},
		[2]string{"00DC0004B0" + sms("0322"), "9000"}, [2]string{"00B2020400", sms("0322") + "9000"},
		[2]string{"00A4000C026F3C", "9000"}, [2]string{"00B2000300", sms("030A") + "9000"}, [2]string{"00B2000200", "6A83"},
		// by SFI
		[2]string{"00B2013C00", "6981"}, [2]string{"00B201C400", strings.Repeat("FF", 80) + "9000"}, [2]string{"00DC01C450" + strings.Repeat("11", 80), "9000"},
		[2]string{"00B201DC00", "6A82"}, [2]string{"00B2013C00", "6981"},
	)
	assert.Len(t, c.saved.Files, 2)
}

func TestCyclic(t *testing.T) {
	c := newUSIM(t, Data{})
	c.run(
		[2]string{"00200081083030303 0FFFFFFFF", "9000"},
		[2]string{"00A4000C026F39", "9000"},
		[2]string{"00DC000303 000001", "9000"}, [2]string{"00DC000303 000002", "9000"},
		[2]string{"00B2010400", "000002 9000"}, [2]string{"00B2020400", "000001 9000"}, [2]string{"00B2030400", "000000 9000"},
		[2]string{"00DC010403 000003", "6981"}, [2]string{"00DC000203 000003", "6981"}, [2]string{"00DC000302 0003", "6700"},
		[2]string{"00B2000200", "000001 9000"}, [2]string{"00B2000200", "000000 9000"}, [2]string{"00B2000200", "000002 9000"}, [2]string{"00B2000300", "000000 9000"},
		// INCREASE
		[2]string{"8032000002 0102 00", "000104 0102 9000"}, [2]string{"8032000003 000000 00", "000104 000000 9000"},
		[2]string{"00B2010400", "000104 9000"}, [2]string{"00B2030400", "000002 9000"},
		[2]string{"8032000003 FFFFFF 00", "9850"}, [2]string{"8032000004 00000001 00", "6700"}, [2]string{"80320000", "6700"},
		[2]string{"8032010001 01", "6A86"}, [2]string{"8032000101 01", "6A86"}, [2]string{"8032830001 01", "6981"},
		[2]string{"00A4000C026F07", "9000"}, [2]string{"8032000001 01", "6981"},
	)
}

func TestSearchRecord(t *testing.T) {
	c := newUSIM(t, Data{})
	adn := func(first string) string { return first + strings.Repeat("FF", 28-len(first)/2) }
	c.run(
		[2]string{"00A4080C067FFF5F3A4F3A", "9000"},
		[2]string{"00DC02041C" + adn("416C6963"), "9000"}, [2]string{"00DC05041C" + adn("426F62"), "9000"}, [2]string{"00DC07041C" + adn("FF416C6963"), "9000"},
		[2]string{"00A2010404 416C6963 00", "0207 9000"}, [2]string{"00A2030404 416C6963 00", "07 9000"},
		[2]string{"00B2000400", adn("FF416C6963") + "9000"},
		[2]string{"00A2070504 416C6963 00", "0702 9000"}, [2]string{"00A2060504 416C6963 00", "02 9000"},
		[2]string{"00A2010404 58585858 00", "6282"},
		[2]string{"00A2000404 416C6963 00", "0207 9000"}, // from the current, 2
		[2]string{"00A2330404 416C6963 00", "6A83"}, [2]string{"00A20104", "6700"}, [2]string{"00A2010704 01020304", "6A81"}, [2]string{"00A2010204 01020304", "6A86"},
		// enhanced: from record 1, at offset 1; at offset 0; behind a byte
		[2]string{"00A2010605 0401 6C6963 00", "0207 9000"}, [2]string{"00A2010605 0402 6C6963 00", "07 9000"},
		[2]string{"00A2010606 0C41 6C6963 FF 00", "0207 9000"}, [2]string{"00A2010604 0C58 6C69 00", "6282"},
		[2]string{"00A2010606 0600 416C6963 00", "07 9000"}, [2]string{"00A2000606 0700 416C6963 00", "02 9000"}, [2]string{"00A2010606 0500 416C6963 00", "6282"},
		[2]string{"00A2010602 0400", "6700"}, [2]string{"00A2010601 04", "6A80"}, [2]string{"00A2010603 000041", "6A80"}, [2]string{"00A2010603 140041", "6A80"}, [2]string{"00A2010603 04FF41", "6282"},
		[2]string{"00A4080C047FFF6F07", "9000"}, [2]string{"00A2010401 00", "6981"},
	)
}

// TestAccess is the conditions of every rule, one after another satisfied.
func TestAccess(t *testing.T) {
	c := newUSIM(t, withPIN())
	read := func(fid, want string) {
		t.Helper()
		c.run([2]string{"00A4000C02" + fid, "9000"}, [2]string{"00B0000001", "…" + want})
	}
	update := func(fid, want string) {
		t.Helper()
		c.run([2]string{"00A4000C02" + fid, "9000"}, [2]string{"00D6000001 00", want})
	}
	read("6FAD", "9000") // AD: always
	read("6F07", "6982") // IMSI: PIN1
	update("6F05", "6982")
	c.run([2]string{"0020000108 31323334FFFFFFFF", "9000"})
	read("6F07", "9000")
	update("6F05", "9000") // LI: PIN1
	update("6F7B", "9000") // FPLMN: PIN1
	update("6F41", "6982") // PUCT: PIN2
	update("6F07", "6982") // IMSI: ADM1
	c.run([2]string{"0020008108 30303030FFFFFFFF", "9000"})
	update("6F41", "9000")
	update("6F07", "6982")
	c.run([2]string{adm1, "9000"})
	update("6F07", "9000")
	update("6FAD", "9000")
	c.u.Reset()
	c.run([2]string{selectUSIM, "9000"})
	read("6F07", "6982")

	// The PIN that is verified on one channel is on the others.
	c.run([2]string{"0020000108 31323334FFFFFFFF", "9000"}, [2]string{"01A4040C07A0000000871002", "9000"}, [2]string{"01B0870001", "009000"})
}

// TestRules is rules as nobody would write them.
func TestRules(t *testing.T) {
	for name, tt := range map[string]struct {
		rule string
		want string // of READ, with PIN1 verified and ADM1 not
	}{
		"always":                {"800101 9000", "9000"},
		"never":                 {"800101 9700", "6982"},
		"PIN1":                  {"800101 A406830101950108", "9000"},
		"ADM1":                  {"800101 A40683010A950108", "6982"},
		"no such key":           {"800101 A406830102950108", "6982"},
		"either":                {"800101 A010 A40683010A950108 A406830101950108", "9000"},
		"both":                  {"800101 AF10 A40683010A950108 A406830101950108", "6982"},
		"both, satisfied":       {"800101 AF0A 9000 A406830101950108", "9000"},
		"several conditions":    {"800101 9700 9000", "9000"},
		"another mode":          {"800102 9000", "6982"},
		"modes":                 {"80011B 9000", "9000"},
		"by its INS":            {"8401B0 9000", "9000"},
		"by another INS":        {"8401B2 9000", "6982"},
		"by header":             {"8F0400B00000 9000", "6982"},
		"nested":                {"800101 A008 A006 A004 A002 9000", "9000"},
		"nested too deep":       {"800101 A00A A008 A006 A004 A002 9000", "6982"},
		"empty OR":              {"800101 A000", "6982"},
		"NOT":                   {"800101 A702 9700", "6982"},
		"secure messaging":      {"800101 B406830101950108", "6982"},
		"empty":                 {"", "6982"},
		"a condition first":     {"9000", "6982"},
		"no value":              {"800101 A400", "6982"},
		"cut":                   {"800101 A406", "6982"},
		"not minimal":           {"800101 908100", "6982"},
		"first one that stands": {"800101 A40683010A950108 800101 9000", "9000"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newUSIM(t, withPIN())
			rule := strings.ReplaceAll(tt.rule, " ", "")
			rule += strings.Repeat("FF", ruleLength-len(rule)/2)
			c.run(
				[2]string{adm1, "9000"},
				[2]string{"00DC04BC24" + rule, "9000"}, // of IMSI
				[2]string{"0020000A080000000000000000", "63C9"},
				[2]string{"0020000108 31323334FFFFFFFF", "9000"},
				[2]string{"00B0870000", "…" + tt.want},
			)
		})
	}
}

// A write that fails changes nothing.
func TestWriteFails(t *testing.T) {
	c := newUSIM(t, Data{})
	c.run([2]string{"00200081083030303 0FFFFFFFF", "9000"})
	for _, s := range []struct{ sel, cmd, read, holds string }{
		{"6F7B", "00D6000001 01", "00B0000001", "FF9000"},
		{"6F43", "00D6000001 01", "00B0000001", "FF9000"},
		{"6F42", "00DC01042A" + strings.Repeat("01", 42), "00B2010401", "6C2A"},
		{"6F39", "00DC000303 000001", "00B2010403", "0000009000"},
		{"6F39", "8032000001 01", "00B2010403", "0000009000"},
		{"6F07", "00880081 22 10 23553CBE9637A89D218AE64DAE47BF35 10 AA689C6483D0 8000 0000000000000000", "00B0000001", "089000"},
	} {
		c.run([2]string{"00A4000C02" + s.sel, "9000"})
		c.fail = c.writes + 1
		before := c.saved
		want := "6581"
		if strings.HasPrefix(s.cmd, "0088") {
			want = "9862" // nothing to write
		}
		c.run([2]string{s.cmd, want}, [2]string{s.read, s.holds})
		require.Equal(t, before, c.saved)
	}
}
