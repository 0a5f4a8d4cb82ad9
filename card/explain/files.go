package explain

import "fmt"

// file is a file of a UICC by name. Children is of an MF, DF or ADF.
type file struct {
	fid      uint16
	sfi      byte
	name     string
	text     string // what it holds
	show     func(*Explainer, []byte)
	children []*file
	parent   *file
	dir      bool
}

func df(fid uint16, name, text string, children ...*file) *file {
	f := &file{fid: fid, name: name, text: text, children: children, dir: true}
	for _, c := range children {
		c.parent = f
	}
	return f
}

func ef(fid uint16, sfi byte, name, text string) *file {
	return &file{fid: fid, sfi: sfi, name: "EF." + name, text: text}
}

// reads sets how the content reads.
func (f *file) reads(show func(*Explainer, []byte)) *file {
	f.show = show
	return f
}

// path is the file's name behind those that it is in.
func (f *file) path() string {
	if f.parent == nil || f.parent == mf && f.dir {
		return f.name
	}
	return f.parent.path() + "/" + f.name
}

// what is the path and what the file holds.
func (f *file) what() string {
	if f.text == "" {
		return f.path()
	}
	return f.path() + " (" + f.text + ")"
}

// child is a file by its identifier.
func (f *file) child(fid uint16) *file {
	for _, c := range f.children {
		if c.fid == fid {
			return c
		}
	}
	return nil
}

// short is a file by its short identifier.
func (f *file) short(sfi byte) *file {
	for _, c := range f.children {
		if c.sfi == sfi && sfi != 0 {
			return c
		}
	}
	return nil
}

// unknown is a file that has no name here.
func unknown(fid uint16, parent *file) *file {
	f := &file{fid: fid, parent: parent}
	switch fid >> 8 {
	case 0x3F, 0x5F, 0x7F:
		f.name, f.dir = fmt.Sprintf("DF %04X", fid), true
	default:
		f.name = fmt.Sprintf("EF %04X", fid)
	}
	return f
}

// resolve finds a file from where a channel stands (TS 102 221 §8.4): here, the
// DF above, or beside; where nothing is known of that, by the identifier alone.
func resolve(c *channel, from *file, fid uint16) *file {
	switch fid {
	case 0x3F00:
		return mf
	case 0x7FFF:
		if c.app != nil && c.app.dir != nil {
			return c.app.dir
		}
		return usim
	}
	if from != nil {
		if f := from.child(fid); f != nil {
			return f
		}
		if p := from.parent; p != nil {
			if p.fid == fid {
				return p
			}
			if f := p.child(fid); f != nil && f.dir {
				return f
			}
		}
		if f := mf.child(fid); f != nil && f.dir {
			return f
		}
		if known(from) {
			return unknown(fid, from)
		}
	}
	for _, d := range [...]*file{usim, mf, telecom, gsm, isim} {
		if f := d.child(fid); f != nil {
			return f
		}
	}
	return unknown(fid, from)
}

// known reports whether the files of a DF have names here.
func known(d *file) bool { return len(d.children) > 0 }

var phonebook = []*file{
	ef(0x4F30, 0, "PBR", "phone book reference"),
	ef(0x4F22, 0, "PSC", "phone book synchronisation counter"),
	ef(0x4F23, 0, "CC", "change counter"),
	ef(0x4F24, 0, "PUID", "previous unique identifier"),
}

var telecom = df(0x7F10, "DF.TELECOM", "",
	ef(0x6F3A, 0, "ADN", "abbreviated dialling numbers").reads((*Explainer).dialling),
	ef(0x6F3B, 0, "FDN", "fixed dialling numbers").reads((*Explainer).dialling),
	ef(0x6F3C, 0, "SMS", "short messages"),
	ef(0x6F3D, 0, "CCP", "capability configuration"),
	ef(0x6F40, 0, "MSISDN", "subscriber's numbers").reads((*Explainer).dialling),
	ef(0x6F42, 0, "SMSP", "short message parameters"),
	ef(0x6F43, 0, "SMSS", "short message status"),
	ef(0x6F44, 0, "LND", "last number dialled").reads((*Explainer).dialling),
	ef(0x6F49, 0, "SDN", "service dialling numbers").reads((*Explainer).dialling),
	ef(0x6F4A, 0, "EXT1", "extension"),
	ef(0x6F4B, 0, "EXT2", "extension"),
	df(0x5F3A, "DF.PHONEBOOK", "", phonebook...),
)

var gsm = df(0x7F20, "DF.GSM", "",
	ef(0x6F05, 0, "LP", "language preference"),
	ef(0x6F07, 0, "IMSI", "subscriber identity").reads((*Explainer).imsi),
	ef(0x6F20, 0, "Kc", "ciphering key"),
	ef(0x6F30, 0, "PLMNsel", "PLMN selector").reads((*Explainer).plmns),
	ef(0x6F31, 0, "HPPLMN", "higher priority PLMN search period"),
	ef(0x6F37, 0, "ACMmax", "accumulated call meter maximum"),
	ef(0x6F38, 0, "SST", "SIM service table"),
	ef(0x6F39, 0, "ACM", "accumulated call meter"),
	ef(0x6F3E, 0, "GID1", "group identifier"),
	ef(0x6F3F, 0, "GID2", "group identifier"),
	ef(0x6F45, 0, "CBMI", "cell broadcast message identifiers"),
	ef(0x6F46, 0, "SPN", "service provider name").reads((*Explainer).spn),
	ef(0x6F52, 0, "KcGPRS", "GPRS ciphering key"),
	ef(0x6F53, 0, "LOCIGPRS", "GPRS location information"),
	ef(0x6F74, 0, "BCCH", "broadcast control channels"),
	ef(0x6F78, 0, "ACC", "access control class"),
	ef(0x6F7B, 0, "FPLMN", "forbidden PLMNs").reads((*Explainer).plmns),
	ef(0x6F7E, 0, "LOCI", "location information").reads((*Explainer).loci),
	ef(0x6FAD, 0, "AD", "administrative data").reads((*Explainer).ad),
	ef(0x6FAE, 0, "Phase", "phase identification"),
)

var usim = df(0x7FFF, "ADF.USIM", "",
	ef(0x6F05, 0x02, "LI", "language indication").reads((*Explainer).languages),
	ef(0x6F06, 0x17, "ARR", "access rule reference"),
	ef(0x6F07, 0x07, "IMSI", "subscriber identity").reads((*Explainer).imsi),
	ef(0x6F08, 0x08, "Keys", "ciphering and integrity keys"),
	ef(0x6F09, 0x09, "KeysPS", "ciphering and integrity keys, PS domain"),
	ef(0x6F2C, 0, "DCK", "depersonalisation control keys"),
	ef(0x6F31, 0x12, "HPPLMN", "higher priority PLMN search period"),
	ef(0x6F32, 0, "CNL", "co-operative network list"),
	ef(0x6F37, 0, "ACMmax", "accumulated call meter maximum"),
	ef(0x6F38, 0x04, "UST", "USIM service table").reads((*Explainer).services),
	ef(0x6F39, 0, "ACM", "accumulated call meter"),
	ef(0x6F3B, 0, "FDN", "fixed dialling numbers").reads((*Explainer).dialling),
	ef(0x6F3C, 0, "SMS", "short messages"),
	ef(0x6F3E, 0, "GID1", "group identifier"),
	ef(0x6F3F, 0, "GID2", "group identifier"),
	ef(0x6F40, 0, "MSISDN", "subscriber's numbers").reads((*Explainer).dialling),
	ef(0x6F41, 0, "PUCT", "price per unit and currency"),
	ef(0x6F42, 0, "SMSP", "short message parameters"),
	ef(0x6F43, 0, "SMSS", "short message status"),
	ef(0x6F45, 0, "CBMI", "cell broadcast message identifiers"),
	ef(0x6F46, 0, "SPN", "service provider name").reads((*Explainer).spn),
	ef(0x6F47, 0, "SMSR", "short message status reports"),
	ef(0x6F48, 0x0E, "CBMID", "cell broadcast message identifiers for data download"),
	ef(0x6F49, 0, "SDN", "service dialling numbers").reads((*Explainer).dialling),
	ef(0x6F4B, 0, "EXT2", "extension"),
	ef(0x6F4C, 0, "EXT3", "extension"),
	ef(0x6F4D, 0, "BDN", "barred dialling numbers").reads((*Explainer).dialling),
	ef(0x6F4E, 0, "EXT5", "extension"),
	ef(0x6F50, 0, "CBMIR", "cell broadcast message identifier ranges"),
	ef(0x6F55, 0, "EXT4", "extension"),
	ef(0x6F56, 0x05, "EST", "enabled services table").reads((*Explainer).services),
	ef(0x6F57, 0, "ACL", "access point name control list"),
	ef(0x6F58, 0, "CMI", "comparison method information"),
	ef(0x6F5B, 0x0F, "START-HFN", "hyperframe numbers"),
	ef(0x6F5C, 0x10, "THRESHOLD", "maximum of START"),
	ef(0x6F60, 0x0A, "PLMNwAcT", "user's PLMN selector").reads((*Explainer).plmnsAcT),
	ef(0x6F61, 0x11, "OPLMNwAcT", "operator's PLMN selector").reads((*Explainer).plmnsAcT),
	ef(0x6F62, 0x13, "HPLMNwAcT", "home PLMN selector").reads((*Explainer).plmnsAcT),
	ef(0x6F73, 0x0C, "PSLOCI", "packet switched location information"),
	ef(0x6F78, 0x06, "ACC", "access control class"),
	ef(0x6F7B, 0x0D, "FPLMN", "forbidden PLMNs").reads((*Explainer).plmns),
	ef(0x6F7E, 0x0B, "LOCI", "location information").reads((*Explainer).loci),
	ef(0x6F80, 0x14, "ICI", "incoming call information"),
	ef(0x6F81, 0x15, "OCI", "outgoing call information"),
	ef(0x6F82, 0, "ICT", "incoming call timer"),
	ef(0x6F83, 0, "OCT", "outgoing call timer"),
	ef(0x6FAD, 0x03, "AD", "administrative data").reads((*Explainer).ad),
	ef(0x6FB1, 0, "VGCS", "voice group call service"),
	ef(0x6FB2, 0, "VGCSS", "voice group call service status"),
	ef(0x6FB3, 0, "VBS", "voice broadcast service"),
	ef(0x6FB4, 0, "VBSS", "voice broadcast service status"),
	ef(0x6FB5, 0, "eMLPP", "multi level precedence"),
	ef(0x6FB6, 0, "AAeM", "automatic answer for eMLPP"),
	ef(0x6FB7, 0x01, "ECC", "emergency call codes").reads((*Explainer).emergency),
	ef(0x6FC3, 0, "Hiddenkey", "key for hidden phone book entries"),
	ef(0x6FC4, 0, "NETPAR", "network parameters"),
	ef(0x6FC5, 0x19, "PNN", "PLMN network names"),
	ef(0x6FC6, 0x1A, "OPL", "operator PLMN list"),
	ef(0x6FC7, 0, "MBDN", "mailbox dialling numbers").reads((*Explainer).dialling),
	ef(0x6FC8, 0, "EXT6", "extension"),
	ef(0x6FC9, 0, "MBI", "mailbox identifier"),
	ef(0x6FCA, 0, "MWIS", "message waiting"),
	ef(0x6FCB, 0, "CFIS", "call forwarding"),
	ef(0x6FCC, 0, "EXT7", "extension"),
	ef(0x6FCD, 0, "SPDI", "service provider display"),
	ef(0x6FD6, 0, "GBABP", "GBA bootstrapping parameters"),
	ef(0x6FD7, 0, "MSK", "MBMS service keys"),
	ef(0x6FD8, 0, "MUK", "MBMS user key"),
	ef(0x6FD9, 0x1D, "EHPLMN", "equivalent home PLMNs").reads((*Explainer).plmns),
	ef(0x6FDA, 0, "GBANL", "GBA NAF list"),
	ef(0x6FDB, 0, "EHPLMNPI", "equivalent home PLMN presentation"),
	ef(0x6FDC, 0, "LRPLMNSI", "last RPLMN selection"),
	ef(0x6FDD, 0, "NAFKCA", "NAF key centre address"),
	ef(0x6FDE, 0, "SPNI", "service provider name icon"),
	ef(0x6FDF, 0, "PNNI", "PLMN network name icon"),
	ef(0x6FE2, 0, "NCP-IP", "network connectivity parameters"),
	ef(0x6FE3, 0x1E, "EPSLOCI", "EPS location information"),
	ef(0x6FE4, 0x18, "EPSNSC", "EPS NAS security context"),
	ef(0x6FE6, 0, "UFC", "USAT facility control"),
	ef(0x6FE7, 0, "UICCIARI", "UICC IARI"),
	ef(0x6FE8, 0, "NASCONFIG", "non access stratum configuration"),
	ef(0x6FEC, 0, "PWS", "public warning system"),
	ef(0x6FF3, 0, "ePDGId", "ePDG identifier"),
	ef(0x6FF4, 0, "ePDGSelection", "ePDG selection"),
	df(0x5F3A, "DF.PHONEBOOK", "", phonebook...),
	df(0x5F3B, "DF.GSM-ACCESS", "",
		ef(0x4F20, 0x01, "Kc", "ciphering key"),
		ef(0x4F52, 0x02, "KcGPRS", "GPRS ciphering key"),
		ef(0x4F63, 0, "CPBCCH", "CPBCCH information"),
		ef(0x4F64, 0, "InvSCAN", "investigation scan"),
	),
	df(0x5F40, "DF.WLAN", ""),
	df(0x5F50, "DF.HNB", ""),
	df(0x5FC0, "DF.5GS", "",
		ef(0x4F01, 0x01, "5GS3GPPLOCI", "5GS location information"),
		ef(0x4F02, 0x02, "5GSN3GPPLOCI", "5GS non-3GPP location information"),
		ef(0x4F03, 0x03, "5GS3GPPNSC", "5GS NAS security context"),
		ef(0x4F04, 0x04, "5GSN3GPPNSC", "5GS non-3GPP NAS security context"),
		ef(0x4F05, 0x05, "5GAUTHKEYS", "5G authentication keys"),
		ef(0x4F06, 0x06, "UAC_AIC", "access identities configuration"),
		ef(0x4F07, 0x07, "SUCI_Calc_Info", "SUCI calculation"),
		ef(0x4F08, 0x08, "OPL5G", "5GS operator PLMN list"),
		ef(0x4F09, 0x09, "SUPI_NAI", "SUPI as NAI"),
		ef(0x4F0A, 0x0A, "Routing_Indicator", "routing indicator"),
		ef(0x4F0B, 0x0B, "URSP", "UE route selection policies"),
		ef(0x4F0C, 0x0C, "TN3GPPSNN", "trusted non-3GPP serving network names"),
	),
	df(0x5FD0, "DF.SAIP", "",
		ef(0x4F01, 0x01, "SUCI_Calc_Info_USIM", "SUCI calculation by the USIM"),
	),
)

var isim = df(0x7FFF, "ADF.ISIM", "",
	ef(0x6F02, 0x02, "IMPI", "IMS private user identity").reads((*Explainer).nai),
	ef(0x6F03, 0x05, "DOMAIN", "home network domain").reads((*Explainer).nai),
	ef(0x6F04, 0x04, "IMPU", "IMS public user identity").reads((*Explainer).nai),
	ef(0x6F06, 0x06, "ARR", "access rule reference"),
	ef(0x6F07, 0x07, "IST", "ISIM service table").reads((*Explainer).services),
	ef(0x6F09, 0, "P-CSCF", "P-CSCF address"),
	ef(0x6FAD, 0x03, "AD", "administrative data"),
	ef(0x6FD5, 0, "GBABP", "GBA bootstrapping parameters"),
	ef(0x6FD7, 0, "GBANL", "GBA NAF list"),
	ef(0x6FDD, 0, "NAFKCA", "NAF key centre address"),
	ef(0x6FE7, 0, "UICCIARI", "UICC IARI"),
)

// mf is the root; TS 102 221 §13 has its files.
var mf = root(
	ef(0x2F00, 0x1E, "DIR", "application directory").reads((*Explainer).directory),
	ef(0x2F05, 0x05, "PL", "preferred languages").reads((*Explainer).languages),
	ef(0x2F06, 0x06, "ARR", "access rule reference"),
	ef(0x2F08, 0, "UMPC", "UICC maximum power consumption"),
	ef(0x2FE2, 0x02, "ICCID", "card identity").reads((*Explainer).iccidFile),
	telecom, gsm,
	df(0x7F22, "DF.IS-41", ""),
	df(0x7F23, "DF.FP-CTS", ""),
	df(0x7F25, "DF.CDMA", ""),
	df(0x7F11, "DF.CD", "configuration data"),
	df(0x7F31, "DF.iDEN", ""),
	df(0x7F80, "DF.PDC", ""),
	df(0x7F90, "DF.TETRA", ""),
)

func root(children ...*file) *file { return df(0x3F00, "MF", "", children...) }
