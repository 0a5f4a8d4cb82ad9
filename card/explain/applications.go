package explain

import (
	"encoding/hex"
	"strings"
)

// application is what an AID names.
type application struct {
	name   string
	domain bool // takes GlobalPlatform's commands
	isdr   bool // takes ES10
	ours   bool // the card protocol's applet
	dir    *file
}

// applications is by the beginning of the AID, the longer before the shorter.
var applications = []struct {
	aid string
	application
}{
	{"F063617264627269646765", application{name: "management applet (cardbridge)", ours: true}},
	{"A0000005591010FFFFFFFF8900000100", application{name: "ISD-R", domain: true, isdr: true}},
	{"A0000005591010FFFFFFFF8900000200", application{name: "ECASD", domain: true}},
	{"A0000005591010FFFFFFFF8900000D00", application{name: "ISD-P executable load file", domain: true}},
	{"A0000005591010FFFFFFFF8900000E00", application{name: "ISD-P executable module", domain: true}},
	{"A0000005591010FFFFFFFF8900050500", application{name: "ISD-R (5ber)", domain: true, isdr: true}},
	{"A0000005591010000000008900000300", application{name: "ISD-R (eSIM.me)", domain: true, isdr: true}},
	{"A0000005591010FFFFFFFF8900000177", application{name: "ISD-R (Xesim)", domain: true, isdr: true}},
	{"A06573746B6D65FFFFFFFF4953442D52", application{name: "ISD-R (eSTK.me)", domain: true, isdr: true}},
	{"A0000005591010FFFFFFFF8900", application{name: "ISD-P", domain: true}},
	{"A0000005591010", application{name: "eUICC security domain", domain: true}},
	{"A0000000871002", application{name: "USIM", dir: usim}},
	{"A0000000871004", application{name: "ISIM", dir: isim}},
	{"A000000087100B", application{name: "USIM without an IMSI", dir: usim}},
	{"A0000000871001", application{name: "UICC"}},
	{"A0000003431002", application{name: "CSIM"}},
	{"A000000009", application{name: "ETSI application"}},
	{"A00000015141434C00", application{name: "access rule application master (ARA-M)"}},
	{"A000000151000000", application{name: "issuer security domain (ISD)", domain: true}},
	{"A0000001515350", application{name: "supplementary security domain", domain: true}},
	{"A000000151", application{name: "GlobalPlatform application", domain: true}},
	{"A000000003000000", application{name: "card manager", domain: true}},
	{"A000000063504B43532D3135", application{name: "PKCS#15"}},
	{"A000000308000010000100", application{name: "PIV"}},
	{"D27600012401", application{name: "OpenPGP"}},
	{"D2760000850101", application{name: "NDEF"}},
	{"A0000002471001", application{name: "eMRTD"}},
	{"315041592E5359532E4444463031", application{name: "1PAY.SYS.DDF01"}},
	{"325041592E5359532E4444463031", application{name: "2PAY.SYS.DDF01"}},
}

// findApplication finds an application by its AID.
func findApplication(aid []byte) *application {
	s := strings.ToUpper(hex.EncodeToString(aid))
	for i := range applications {
		if strings.HasPrefix(s, applications[i].aid) {
			return &applications[i].application
		}
	}
	return nil
}

// findByPart finds the application that a SELECT with the beginning of its AID
// means, 5 bytes at least.
func findByPart(aid []byte) *application {
	s := strings.ToUpper(hex.EncodeToString(aid))
	for i := range applications {
		if len(aid) >= 5 && strings.HasPrefix(applications[i].aid, s) {
			return &applications[i].application
		}
	}
	return nil
}

// aid is an AID and what it names.
func aid(b []byte) string {
	if a := findApplication(b); a != nil {
		return hexa(b) + " " + a.name
	}
	return hexa(b)
}

// anApplication stands for one that has no name here.
var anApplication = &application{}
