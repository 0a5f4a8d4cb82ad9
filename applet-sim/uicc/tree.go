package uicc

import (
	"strings"

	"github.com/cardbridge/cardbridge/apdu/tlv"
)

// usimAID is the USIM's (ETSI TS 101 220 annex E: 3GPP, USIM, UICC).
var usimAID = []byte{0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02, 0xFF, 0xFF, 0xFF, 0xFF, 0x89, 0x07, 0x09, 0x00, 0x00}

const nameARR = "EF.ARR"

// The tree, the USIM beside it, and every EF by its path.
var (
	mf    *file
	usim  *file
	paths = map[string]*file{}
)

// The names, identifiers, sizes and conditions of access are those of TS 102
// 221 §13 and TS 31.102 §4.
func init() {
	arr := func(id uint16, sfi byte) *file {
		return linearEF(nameARR, id, sfi, len(rules), ruleLength, ruleFixed, same(ruleRecords()))
	}

	fdn := linearEF("EF.FDN", 0x6F3B, 0, 10, 28, rulePIN2, blank)
	sms := linearEF("EF.SMS", 0x6F3C, 0, 10, 176, rulePIN, freeRecords(10, 176))
	msisdn := linearEF("EF.MSISDN", 0x6F40, 0, 2, 28, rulePIN, blank)
	smsp := linearEF("EF.SMSP", 0x6F42, 0, 1, 42, rulePIN, blank)
	smss := transparentEF("EF.SMSS", 0x6F43, 0, 2, rulePIN, blank)
	ext2 := linearEF("EF.EXT2", 0x6F4B, 0, 2, 13, rulePIN2, freeRecords(2, 13))
	imsi := transparentEF("EF.IMSI", 0x6F07, 0x07, 9, ruleADM, derived(imsiContent))
	li := transparentEF("EF.LI", 0x6F05, 0x02, 6, ruleOpenPIN, fixed("656E"))
	gid1 := transparentEF("EF.GID1", 0x6F3E, 0, 4, ruleADM, blank)
	gid2 := transparentEF("EF.GID2", 0x6F3F, 0, 4, ruleADM, blank)
	acmMax := transparentEF("EF.ACMmax", 0x6F37, 0, 3, rulePIN2, fixed("000000"))
	acm := cyclicEF("EF.ACM", 0x6F39, 0, 3, 3, ruleCounter, fixed(strings.Repeat("00", 9)))
	puct := transparentEF("EF.PUCT", 0x6F41, 0, 5, rulePIN2, fixed("FFFFFF0000"))
	spn := transparentEF("EF.SPN", 0x6F46, 0, 17, ruleFixed, derived(spnContent))
	plmn := transparentEF("EF.PLMNwAcT", 0x6F60, 0x0A, 40, rulePIN, same(plmns()))
	oplmn := transparentEF("EF.OPLMNwAcT", 0x6F61, 0x11, 40, ruleADM, same(plmns()))
	hplmn := transparentEF("EF.HPLMNwAcT", 0x6F62, 0x13, 10, ruleADM, derived(homePLMN))
	hpplmn := transparentEF("EF.HPPLMN", 0x6F31, 0x12, 1, ruleADM, fixed("05"))
	acc := transparentEF("EF.ACC", 0x6F78, 0x06, 2, ruleADM, derived(accContent))
	fplmn := transparentEF("EF.FPLMN", 0x6F7B, 0x0D, 12, rulePIN, blank)
	loci := transparentEF("EF.LOCI", 0x6F7E, 0x0B, 11, rulePIN, location(4, "\xFF\xFE\xFF"))
	ad := transparentEF("EF.AD", 0x6FAD, 0x03, 4, ruleFixed, derived(adContent))
	kc := transparentEF("EF.Kc", 0x4F20, 0x01, 9, rulePIN, fixed("FFFFFFFFFFFFFFFF07"))
	kcGPRS := transparentEF("EF.KcGPRS", 0x4F52, 0x02, 9, rulePIN, fixed("FFFFFFFFFFFFFFFF07"))

	adn := linearEF("EF.ADN", 0x4F3A, 0x01, 50, 28, rulePIN, blank)
	ext1 := linearEF("EF.EXT1", 0x4F4A, 0x02, 5, 13, rulePIN, freeRecords(5, 13))
	phonebook := dir("DF.PHONEBOOK", 0x5F3A,
		linearEF("EF.PBR", 0x4F30, 0, 1, 32, rulePIN, fixed("A805C0034F3A01AA05C2034F4A02")),
		adn, ext1,
		transparentEF("EF.PSC", 0x4F22, 0, 4, rulePIN, fixed("00000000")),
		transparentEF("EF.CC", 0x4F23, 0, 2, rulePIN, fixed("0000")),
		transparentEF("EF.PUID", 0x4F24, 0, 2, rulePIN, fixed("0000")),
	)

	usim = dir("ADF.USIM", idCurrentADF,
		li,
		arr(0x6F06, 0x17),
		imsi,
		transparentEF("EF.Keys", 0x6F08, 0x08, 33, rulePIN, fixed("07")),
		transparentEF("EF.KeysPS", 0x6F09, 0x09, 33, rulePIN, fixed("07")),
		hpplmn, acmMax,
		transparentEF("EF.UST", 0x6F38, 0x04, 16, ruleADM, same(serviceTable())),
		acm, fdn, sms, gid1, gid2, msisdn, puct, smsp, smss, spn, ext2,
		transparentEF("EF.EST", 0x6F56, 0x05, 1, rulePIN2, fixed("00")),
		transparentEF("EF.START-HFN", 0x6F5B, 0x0F, 6, rulePIN, fixed("F00000F00000")),
		transparentEF("EF.THRESHOLD", 0x6F5C, 0x10, 3, ruleADM, blank),
		plmn, oplmn, hplmn,
		transparentEF("EF.PSLOCI", 0x6F73, 0x0C, 14, rulePIN, location(7, "\xFF\xFE\xFF")),
		acc, fplmn, loci, ad,
		linearEF("EF.ECC", 0x6FB7, 0x01, 2, 4, ruleFixed, fixed("11F2FF0019F1FF00")),
		transparentEF("EF.EHPLMN", 0x6FD9, 0x1D, 9, ruleADM, derived(equivalentPLMN)),
		transparentEF("EF.EPSLOCI", 0x6FE3, 0x1E, 18, rulePIN, location(12, "\xFF\xFE")),
		linearEF("EF.EPSNSC", 0x6FE4, 0x18, 1, 80, rulePIN, blank),
		linked(phonebook),
		dir("DF.GSM-ACCESS", 0x5F3B, kc, kcGPRS),
		dir("DF.5GS", 0x5FC0,
			transparentEF("EF.5GS3GPPLOCI", 0x4F01, 0x01, 20, rulePIN, location(13, "\xFF\xFF\xFE")),
			transparentEF("EF.5GSN3GPPLOCI", 0x4F02, 0x02, 20, rulePIN, location(13, "\xFF\xFF\xFE")),
			linearEF("EF.5GS3GPPNSC", 0x4F03, 0x03, 1, 62, rulePIN, blank),
			linearEF("EF.5GSN3GPPNSC", 0x4F04, 0x04, 1, 62, rulePIN, blank),
			transparentEF("EF.5GAUTHKEYS", 0x4F05, 0x05, 110, rulePIN, blank),
			transparentEF("EF.UAC_AIC", 0x4F06, 0x06, 4, ruleADM, fixed("00000000")),
			transparentEF("EF.Routing_Indicator", 0x4F0A, 0x0A, 4, ruleADM, fixed("F0FF0000")),
		),
	)
	telecom := dir("DF.TELECOM", 0x7F10,
		arr(0x6F06, 0),
		renamed(adn, 0x6F3A), linked(fdn), linked(sms), linked(msisdn), linked(smsp), linked(smss),
		renamed(ext1, 0x6F4A), linked(ext2),
		phonebook,
	)
	// What tools still read there, with the content of the USIM's.
	gsm := dir("DF.GSM", 0x7F20,
		arr(0x6F06, 0),
		linked(li).at(0), linked(imsi).at(0), renamed(kc, 0x6F20), linked(hpplmn).at(0), linked(acmMax), linked(acm),
		linked(gid1), linked(gid2), linked(puct), linked(spn), renamed(kcGPRS, 0x6F52),
		linked(plmn).at(0), linked(oplmn).at(0), linked(hplmn).at(0), linked(acc).at(0), linked(fplmn).at(0),
		linked(loci).at(0), linked(ad).at(0),
	)
	mf = dir("MF", idMF,
		linearEF("EF.DIR", 0x2F00, 0x1E, 2, 38, ruleFixed, derived(dirRecords)),
		transparentEF("EF.PL", 0x2F05, 0x05, 4, ruleOpenPIN, fixed("656E")),
		arr(0x2F06, 0x06),
		transparentEF("EF.UMPC", 0x2F08, 0x08, 5, ruleFixed, fixed("3C0500")),
		transparentEF("EF.ICCID", 0x2FE2, 0x02, 10, ruleFixed, derived(iccidContent)),
		telecom, gsm,
	)
	mf.settle(nil, nil)
	usim.settle(mf, mf.arr)
	index(mf)
	index(usim)
}

// renamed is target once more, under the identifier that it has in older
// directories.
func renamed(target *file, id uint16) *file {
	f := linked(target).at(0)
	f.id = id
	return f
}

func index(f *file) {
	for _, c := range f.children {
		if c.isDir() {
			index(c)
		} else if c.link == nil {
			paths[c.path] = c
		}
	}
}

// ruleLength is the length of EF.ARR's records.
const ruleLength = 36

// Records of EF.ARR. A rule's name says who reads and who updates, where it is
// not the same.
const (
	ruleFixed     = 1 // always, ADM1
	ruleOpenPIN   = 2 // always, PIN1
	rulePIN       = 3
	ruleADM       = 4 // PIN1, ADM1
	rulePIN2      = 5 // PIN1, PIN2
	ruleCounter   = 6 // PIN1, PIN2, and INCREASE by PIN1
	ruleDirectory = 7 // all by ADM1
)

const (
	modeRead   = 0x01 // READ, SEARCH
	modeUpdate = 0x02
)

// rules are the initial records of every EF.ARR.
var rules = func() [][]byte {
	by := func(ref pinRef) []byte { return tlv.Append(nil, 0xA4, 0x83, 1, byte(ref), 0x95, 1, 0x08) }
	always := []byte{0x90, 0x00}
	am := func(bits byte, sc []byte) []byte { return append(tlv.Append(nil, 0x80, bits), sc...) }
	both := func(read, update []byte) []byte { return append(am(modeRead, read), am(modeUpdate, update)...) }
	counter := append(both(by(refPIN1), by(refPIN2)), tlv.Append(nil, 0x84, insIncrease)...)
	return [][]byte{
		both(always, by(refADM1)),
		both(always, by(refPIN1)),
		am(modeRead|modeUpdate, by(refPIN1)),
		both(by(refPIN1), by(refADM1)),
		both(by(refPIN1), by(refPIN2)),
		append(counter, by(refPIN1)...),
		am(0x7F, by(refADM1)),
	}
}()

func ruleRecords() []byte {
	var b []byte
	for _, r := range rules {
		b = append(b, pad(r, ruleLength)...)
	}
	return b
}
