package explain

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		name string
		show func([]byte) string
		in   string
		want string
	}{
		{"hexa", hexa, "", "empty"},
		{"hexa", hexa, strings.Repeat("AB", 100), strings.Repeat("AB", maxValue) + "… (100 bytes)"},
		{"text", utf8Text, "C3A9", `"é"`},
		{"text", utf8Text, "FF41", "FF41"},
		{"text", utf8Text, "1B5B324A", `"�[2J"`},
		{"text", utf8Text, "E280AE", `"�"`},
		{"alpha", alpha, "4142FFFF", `"AB"`},
		{"alpha", alpha, "80 0041 20AC FFFF", `"A€"`},
		{"alpha", alpha, "0102", "0102"},
		{"alpha", alpha, "", `""`},
		{"ICCID", iccid, "9868300D1A2B3C4E0024", "898603D0A1B2C3E40042"},
		{"ICCID", iccid, "98", "98 (not an ICCID)"},
		{"EID", eid, "89049032000000000000000000424247", "89049032000000000000000000424247"},
		{"EID", eid, "89049032000000000000000000424248", "89049032000000000000000000424248 (not an EID)"},
		{"PLMN", plmn, "64F011", "460 11"},
		{"PLMN", plmn, "130014", "310 410"},
		{"PLMN", plmn, "FFFFFF", "none"},
		{"PLMN", plmn, "AAAAAA", "AAAAAA (not a PLMN)"},
		{"UUID", uuid, "0102", "0102"},
		{"number", number, "00000100", "256"},
		{"number", number, "", "empty"},
		{"number", number, "FFFFFFFFFF", "FFFFFFFFFF"},
		{"version", version, "020500", "2.5.0"},
		{"version", version, "02", "02"},
		{"enum", enum("a", "b"), "01", "b"},
		{"enum", enum("a", "b"), "02", "02"},
		{"coded", coded(map[byte]string{5: "five"}), "05", "five"},
		{"coded", coded(map[byte]string{5: "five"}), "06", "6"},
		{"coded", coded(map[byte]string{5: "five"}), "0506", "0506"},
		{"flag", yesNo, "00", "no"},
		{"flag", yesNo, "FF", "yes"},
		{"flag", yesNo, "", "empty"},
		{"bits", bitString("0", "1", "2"), "0560", "1, 2"},
		{"bits", bitString("0", "1", "2"), "00", "none"},
		{"bits", bitString("0"), "09", "09"},
		{"tags", tagList, "5A9F7092", "5A 9F70 92"},
		{"file", fileDescriptor, "7821", "DF or ADF"},
		{"file", fileDescriptor, "4121", "transparent EF"},
		{"file", fileDescriptor, "4621000A05", "cyclic EF, 5 records of 10 bytes"},
		{"file", fileDescriptor, "4921", "transparent internal EF"},
		{"file", fileDescriptor, "7921", "BER-TLV EF"},
		{"file", fileDescriptor, "41", "41"},
		{"life cycle", lifeCycle, "05", "activated"},
		{"life cycle", lifeCycle, "04", "deactivated"},
		{"life cycle", lifeCycle, "0C", "terminated"},
		{"life cycle", lifeCycle, "03", "initialisation"},
		{"life cycle", lifeCycle, "01", "creation"},
		{"life cycle", lifeCycle, "00", "not given"},
		{"life cycle", lifeCycle, "80", "80"},
		{"rules", accessRules, "6F0603", "EF.ARR 6F06, record 3"},
		{"rules", accessRules, "6F0600010103", "EF.ARR 6F06, record 1 for environment 00, 3 for environment 01"},
		{"rules", accessRules, "6F", "6F"},
		{"PIN", pinReference, "8A", "ADM6"},
		{"PIN", pinReference, "11", "universal PIN"},
		{"PIN", pinReference, "00", "PIN2 or CHV, reference 00"},
		{"PIN", pinReference, "7F", "reference 7F"},
		{"PIN", pinReference, "", "empty"},
		{"OID", objectIdentifier, "2A864886FC6B01", "1.2.840.114283.1"},
		{"OID", objectIdentifier, "883703", "2.56.55.3"},
		{"OID", objectIdentifier, "", "empty"},
		{"OID", objectIdentifier, "2AFFFFFFFFFFFFFFFFFFFF7F", "2AFFFFFFFFFFFFFFFFFFFF7F"},
		{"key", keyInformation, "01308210", "id 1, version 48, 3DES, 16 bytes"},
		{"key", keyInformation, "01309910", "id 1, version 48, type 99, 16 bytes"},
		{"key", keyInformation, "01", "01"},
		{"failures", failures, "01000302FFFF", "key set 1: 3, key set 2: 65535"},
		{"failures", failures, "0100", "0100"},
		{"result", operationResult, "14", "14 the event counter is not the expected one"},
		{"result", operationResult, "55", "55"},
		{"command", commandDetails, "010104", "REFRESH, number 1, UICC reset"},
		{"command", commandDetails, "01FF04", "type FF, number 1, qualifier 04"},
		{"command", commandDetails, "01", "01"},
		{"devices", deviceIdentities, "8121", "UICC to channel 1"},
		{"devices", deviceIdentities, "81FF", "UICC to device FF"},
		{"devices", deviceIdentities, "81", "81"},
		{"result", toolkitResult, "2001", "the terminal is unable to process, 01"},
		{"result", toolkitResult, "FE", "result FE"},
		{"result", toolkitResult, "", "empty"},
		{"duration", duration, "0105", "5 seconds"},
		{"duration", duration, "0905", "0905"},
		{"timer", timer, "015103", "10:15:30"},
		{"timer", timer, "01", "01"},
		{"address", address, "9144214365", "+44123456"},
		{"address", address, "8121F3", "123"},
		{"address", address, "", "empty"},
		{"text", textString, "04414243", `"ABC"`},
		{"text", textString, "0800410042", `"AB"`},
		{"text", textString, "00C8329BFD06", `"Hello"`},
		{"text", textString, "", "empty"},
		{"item", item, "0541", `5 "A"`},
		{"item", item, "", "none"},
		{"events", eventList, "03FF", "location status, event FF"},
		{"events", eventList, "", "none"},
		{"transport", transport, "010035", "UDP client, port 53"},
		{"transport", transport, "01", "01"},
		{"address", otherAddress, "57AABB", "57AABB"},
		{"access name", accessName, "03415043026E6F", `"APC.no"`},
		{"access name", accessName, "FF", `""`},
	} {
		assert.Equal(t, c.want, c.show(unhex(t, c.in)), "%s %s", c.name, c.in)
	}
}

func TestReadObject(t *testing.T) {
	for _, c := range []struct {
		in, value, rest string
		tag             uint32
		cut             bool
	}{
		{"5A0101FF", "01", "FF", 0x5A, false},
		{"9F700101", "01", "", 0x9F70, false},
		{"BF2D00", "", "", 0xBF2D, false},
		{"DF810101AA", "AA", "", 0xDF8101, false},
		{"5A810101", "01", "", 0x5A, false}, // not the shortest length
		{"5A82000101", "01", "", 0x5A, false},
		{"5A0501", "01", "", 0x5A, true},
	} {
		o, rest, ok := readObject(unhex(t, c.in))
		require.Equal(t, c.tag != 0, ok, c.in)
		assert.Equal(t, c.tag, o.tag, c.in)
		assert.Equal(t, c.cut, o.cut, c.in)
		assert.Equal(t, unhex(t, c.value), append([]byte{}, o.value...), c.in)
		assert.Len(t, rest, len(c.rest)/2, c.in)
	}
	for _, bad := range []string{"", "5A", "00", "0000", "FF01", "9F", "9F70", "DF818181", "5A80", "5A8401020304", "5A82"} {
		_, _, ok := readObject(unhex(t, bad))
		assert.False(t, ok, bad)
	}
}
