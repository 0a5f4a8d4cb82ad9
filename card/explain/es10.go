package explain

import (
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// es10Functions is the functions of ES10a, ES10b and ES10c (SGP.22 §5.7) and of
// SGP.32 §5.9, and the tags that a bound profile package begins with.
var es10Functions = map[uint32]struct {
	name              string
	request, response objects
}{
	0xBF20: {name: "ES10b.GetEUICCInfo1", response: euiccInfo},
	0xBF21: {name: "ES10b.PrepareDownload", request: signed, response: signed},
	0xBF22: {name: "ES10b.GetEUICCInfo2", response: euiccInfo},
	0xBF23: {name: "ES8+.InitialiseSecureChannel", request: objects{0x82: {name: "remote operation"}, 0x80: {name: "transaction id"}, 0xA6: {name: "control reference template"}, 0x5F49: {name: "one-time public key"}, 0x5F37: {name: "signature"}}},
	0xBF24: {name: "ES8+.ConfigureISDP"},
	0xBF25: {name: "ES8+.StoreMetadata", request: profileInfo},
	0xBF26: {name: "ES8+.ReplaceSessionKeys"},
	0xBF28: {name: "ES10b.ListNotification", request: objects{0x81: {name: "operations", show: notificationEvents}}, response: objects{0xA0: {name: "notifications", inside: notifications}, 0x81: {name: "error", show: es10Error}}},
	0xBF29: {name: "ES10c.SetNickname", request: profileInfo, response: result(map[byte]string{0: "ok", 1: "ICCID not found", 127: "undefined error"})},
	0xBF2A: {name: "ES6.UpdateMetadata", request: profileInfo},
	0xBF2B: {name: "ES10b.RetrieveNotificationsList", request: objects{0xA0: {name: "which", inside: objects{0x80: {name: "number", show: number}, 0x81: {name: "operations", show: notificationEvents}}}}, response: objects{0xA0: {name: "notifications", inside: notifications}, 0x81: {name: "error", show: es10Error}}},
	0xBF2D: {name: "ES10c.GetProfilesInfo", request: objects{0xA0: {name: "which", inside: profileInfo}, 0x5C: {name: "tags asked for", show: tagList}}, response: objects{0xA0: {name: "profiles", inside: objects{0xE3: {name: "profile", inside: profileInfo}}}, 0x81: {name: "error", show: coded(map[byte]string{1: "incorrect input values", 127: "undefined error"})}}},
	0xBF2E: {name: "ES10b.GetEUICCChallenge", response: objects{0x80: {name: "challenge"}}},
	0xBF30: {name: "ES10b.RemoveNotificationFromList", request: objects{0x80: {name: "number", show: number}}, response: result(map[byte]string{0: "ok", 1: "nothing to delete", 127: "undefined error"})},
	0xBF31: {name: "ES10c.EnableProfile", request: profileChoice, response: result(profileResults("not in the disabled state"))},
	0xBF32: {name: "ES10c.DisableProfile", request: profileChoice, response: result(profileResults("not in the enabled state"))},
	0xBF33: {name: "ES10c.DeleteProfile", request: profileInfo, response: result(profileResults("not in the disabled state"))},
	0xBF34: {name: "ES10c.eUICCMemoryReset", request: objects{0x82: {name: "options", show: bitString("delete operational profiles", "delete field-loaded test profiles", "reset the default SM-DP+ address")}}, response: result(map[byte]string{0: "ok", 1: "nothing to delete", 5: "CAT busy", 127: "undefined error"})},
	0xBF35: {name: "ES10b.LoadCRL"},
	0xBF36: {name: "ES10b.LoadBoundProfilePackage", request: boundProfilePackage},
	0xBF37: {name: "profile installation result", response: installation},
	0xBF38: {name: "ES10b.AuthenticateServer", request: signed, response: signed},
	0xBF3C: {name: "ES10a.GetEuiccConfiguredAddresses", response: objects{0x80: {name: "default SM-DP+", show: utf8Text}, 0x81: {name: "root SM-DS", show: utf8Text}}},
	0xBF3E: {name: "ES10c.GetEID", request: objects{0x5C: {name: "tags asked for", show: tagList}}, response: objects{0x5A: {name: "EID", show: eid}}},
	0xBF3F: {name: "ES10a.SetDefaultDpAddress", request: objects{0x80: {name: "default SM-DP+", show: utf8Text}}, response: result(map[byte]string{0: "ok", 127: "undefined error"})},
	0xBF41: {name: "ES10b.CancelSession", request: objects{0x80: {name: "transaction id"}, 0x81: {name: "reason", show: coded(map[byte]string{0: "end user rejection", 1: "postponed", 2: "timeout", 3: "PPR not allowed"})}}, response: signed},
	0xBF42: {name: "ES10b.LpaeActivation"},
	0xBF43: {name: "ES10b.GetRAT", response: objects{0xA0: {name: "rules authorisation table"}}},
	0xBF51: {name: "ES10b.LoadEuiccPackage"},
	0xBF52: {name: "ESipa IPA eUICC data"},
	0xBF54: {name: "ESipa profile download trigger"},
	0xBF55: {name: "ES10b.GetEimConfigurationData"},
	0xBF56: {name: "ES10b.GetCerts"},
	0xBF57: {name: "ES10b.AddInitialEim"},
	0xBF58: {name: "ES10b.ProfileRollback"},
	0xBF59: {name: "ES10b.ConfigureImmediateProfileEnabling"},
	0xBF5D: {name: "ES10b.ExecuteFallbackMechanism"},
	0xBF5E: {name: "ES10b.ReturnFromFallback"},
	0xA0:   {name: "bound profile package, first sequence of 87"},
	0xA1:   {name: "bound profile package, sequence of 88"},
	0xA2:   {name: "bound profile package, second sequence of 87"},
	0xA3:   {name: "bound profile package, sequence of 86"},
	0x86:   {name: "bound profile package, segment 86"},
	0x87:   {name: "bound profile package, segment 87"},
	0x88:   {name: "bound profile package, segment 88"},
}

func result(words map[byte]string) objects {
	return objects{0x80: {name: "result", show: coded(words)}}
}

func profileResults(wrongState string) map[byte]string {
	return map[byte]string{0: "ok", 1: "ICCID or AID not found", 2: wrongState, 3: "disallowed by policy", 4: "wrong profile re-enabling", 5: "CAT busy", 127: "undefined error"}
}

var es10Error = coded(map[byte]string{1: "no result available", 127: "undefined error"})

var notificationEvents = bitString("install", "enable", "disable", "delete")

var profileChoice = objects{
	0xA0: {name: "profile", inside: profileInfo},
	0x5A: {name: "ICCID", show: iccid},
	0x4F: {name: "AID", show: aid},
	0x81: {name: "refresh", show: yesNo},
}

var profileInfo = objects{
	0x5A:   {name: "ICCID", show: iccid},
	0x4F:   {name: "AID", show: aid},
	0x9F70: {name: "state", show: enum("disabled", "enabled")},
	0x90:   {name: "nickname", show: utf8Text},
	0x91:   {name: "provider", show: utf8Text},
	0x92:   {name: "name", show: utf8Text},
	0x93:   {name: "icon type", show: enum("JPEG", "PNG")},
	0x94:   {name: "icon"},
	0x95:   {name: "class", show: enum("test", "provisioning", "operational")},
	0xB6:   {name: "notification configuration", inside: objects{0x30: {name: "configuration", inside: objects{0x80: {name: "operations", show: notificationEvents}, 0x81: {name: "address", show: utf8Text}}}}},
	0xB7:   {name: "owner", inside: owner},
	0xB8:   {name: "SM-DP+ proprietary data"},
	0x99:   {name: "policy rules", show: policyRules},
}

var owner = objects{
	0x80: {name: "MCC MNC", show: plmn},
	0x81: {name: "GID1"},
	0x82: {name: "GID2"},
}

var policyRules = bitString("update control", "PPR1: disabling not allowed", "PPR2: deletion not allowed", "PPR3: deletion after disabling")

var notifications = objects{
	0xBF2F: {name: "notification", inside: notification},
	0xBF37: {name: "profile installation result", inside: installation},
	0x30:   {name: "notification", inside: objects{0xBF2F: {name: "metadata", inside: notification}, 0x5F37: {name: "signature"}, 0x30: {name: "certificate", show: sized}}},
}

var notification = objects{
	0x80: {name: "number", show: number},
	0x81: {name: "operation", show: notificationEvents},
	0x0C: {name: "address", show: utf8Text},
	0x5A: {name: "ICCID", show: iccid},
}

var installation = objects{
	0xBF27: {name: "result data", inside: objects{
		0x80:   {name: "transaction id"},
		0xBF2F: {name: "notification", inside: notification},
		0x06:   {name: "SM-DP+", show: objectIdentifier},
		0xA2: {name: "final result", inside: objects{
			0xA0: {name: "success", inside: objects{0x4F: {name: "AID", show: aid}, 0x04: {name: "response"}}},
			0xA1: {name: "error", inside: objects{
				0x80: {name: "at", show: enum("InitialiseSecureChannel", "ConfigureISDP", "StoreMetadata", "StoreMetadata2", "ReplaceSessionKeys", "LoadProfileElements")},
				0x81: {name: "reason", show: coded(installationErrors)},
				0x82: {name: "response"},
			}},
		}},
	}},
	0x5F37: {name: "signature"},
}

var installationErrors = map[byte]string{
	1: "incorrect input values", 2: "invalid signature", 3: "invalid transaction id", 4: "unsupported CRT values",
	5: "unsupported remote operation", 6: "unsupported profile class", 7: "SCP03t structure error", 8: "SCP03t security error",
	9: "the ICCID exists already", 10: "not enough memory", 11: "interrupted", 12: "profile element error",
	13: "ICCID mismatch", 14: "invalid network access key of a test profile", 15: "PPR not allowed", 127: "unknown error",
}

var boundProfilePackage = objects{
	0xBF23: {name: "initialise secure channel"},
	0xA0:   {name: "first sequence of 87", show: sized},
	0xA1:   {name: "sequence of 88", show: sized},
	0xA2:   {name: "second sequence of 87", show: sized},
	0xA3:   {name: "sequence of 86", show: sized},
}

// signed is what AuthenticateServer, PrepareDownload and CancelSession carry.
var signed = objects{
	0x30:   {name: "signed data or certificate", show: sized},
	0x5F37: {name: "signature"},
	0x04:   {name: "key identifier or hash"},
	0xA0:   {name: "context or success", show: sized},
	0xA1:   {name: "error", inside: objects{0x80: {name: "transaction id"}, 0x02: {name: "code", show: number}, 0x81: {name: "code", show: number}}},
}

// sized is no more than the length.
func sized(b []byte) string { return fmt.Sprintf("%d bytes", len(b)) }

var euiccInfo = objects{
	0x81: {name: "profile package version", show: version},
	0x82: {name: "SGP.22 version", show: version},
	0x83: {name: "firmware version", show: version},
	0x84: {name: "card resources", inside: objects{0x81: {name: "applications", show: number}, 0x82: {name: "free non volatile memory", show: number}, 0x83: {name: "free volatile memory", show: number}}},
	0x85: {name: "UICC capabilities", show: bitString("contactless", "USIM", "ISIM", "CSIM", "Milenage", "CAVE", "TUAK 128", "TUAK 256", "", "", "GBA USIM", "GBA ISIM", "MBMS", "EAP client", "Java Card", "MULTOS", "several USIMs", "several ISIMs", "several CSIMs")},
	0x86: {name: "TS 102 241 version", show: version},
	0x87: {name: "GlobalPlatform version", show: version},
	0x88: {name: "RSP capabilities", show: bitString("additional profile", "CRL", "remote profile management", "test profiles")},
	0xA9: {name: "CI keys for verification", inside: objects{0x04: {name: "key identifier"}}},
	0xAA: {name: "CI keys for signing", inside: objects{0x04: {name: "key identifier"}}},
	0x8B: {name: "category", show: enum("other", "basic", "medium", "contactless")},
	0x99: {name: "forbidden policy rules", show: policyRules},
	0x04: {name: "protection profile version", show: version},
	0x0C: {name: "SAS accreditation", show: utf8Text},
	0xAC: {name: "certification data", inside: objects{0x80: {name: "platform", show: utf8Text}, 0x81: {name: "discovery", show: utf8Text}}},
}

// es10Words tell that a card may refuse all until it is reset once a profile was
// changed.
var es10Words = words{
	0x6985: "conditions of use not satisfied: a profile was changed and the card waits for its reset, or it is busy",
}

// storeData is STORE DATA (GlobalPlatform §11.11), on an ISD-R the transport of
// ES10 (SGP.22 §5.7.2).
func (x *Explainer) storeData(c *channel) {
	cmd := c.now.cmd
	if c.app == nil || !c.app.isdr {
		if c.app != nil || cmd.P1 != 0x91 && cmd.P1 != 0x11 {
			x.add("", "block", block(cmd))
			x.anyData(cmd.Data)
			return
		}
	}
	c.now.words = es10Words
	if cmd.P2 == 0 {
		c.es10, c.es10Hidden = nil, false
	}
	c.es10 = bounded(c.es10, cmd.Data)
	c.es10Hidden = c.es10Hidden || c.now.hidden
	o, _, ok := readObject(c.es10)
	f, found := es10Functions[o.tag]
	name := f.name
	if ok && !found {
		name = fmt.Sprintf("ES10 function %02X", o.tag)
	}
	if name != "" {
		x.out.Title = name
	}
	c.now.name = x.out.Title
	if cmd.P1&0x80 == 0 { // more blocks
		x.out.Title += fmt.Sprintf(", block %d", cmd.P2)
		x.add("", "data", fmt.Sprintf("%d bytes", len(cmd.Data)))
		return
	}
	if cmd.P2 > 0 {
		x.add("", "block", fmt.Sprintf("%d, the last; %d bytes in all", cmd.P2, len(c.es10)))
	}
	switch {
	case c.es10Hidden:
	case !ok:
		x.anyData(c.es10)
	default:
		x.tree(c.es10, objects{o.tag: {name: name, inside: orEmpty(f.request)}}, 0)
	}
	c.es10, c.es10Hidden = nil, false
	c.now.answer = (*Explainer).es10Answer
}

// orEmpty is objects that say nothing where there are none.
func orEmpty(o objects) objects {
	if o == nil {
		return objects{}
	}
	return o
}

func (x *Explainer) es10Answer(_ *channel, data []byte, _ apdu.StatusWord) {
	o, _, ok := readObject(data)
	if !ok {
		x.anyData(data)
		return
	}
	f := es10Functions[o.tag]
	if f.name == "" {
		x.tree(data, nil, 0)
		return
	}
	x.tree(data, objects{o.tag: {name: f.name, inside: orEmpty(f.response)}}, 0)
	if code := find(o.value, 0x80); f.response != nil && len(code) == 1 && f.response[0x80].name == "result" {
		if code[0] != 0 {
			x.out.Level = Bad
		}
	}
}

// block is P1 and P2 of STORE DATA.
func block(cmd apdu.Command) string {
	s := fmt.Sprint(cmd.P2)
	if cmd.P1&0x80 != 0 {
		s += ", the last"
	}
	return s
}
