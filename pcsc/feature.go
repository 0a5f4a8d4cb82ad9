package pcsc

import (
	"encoding/binary"
	"fmt"

	"github.com/cardbridge/cardbridge/apdu"
)

// FeatureTag names what a reader can do beyond carrying APDUs (PC/SC part 10
// §2.3).
type FeatureTag uint8

// The features of PC/SC part 10.
const (
	FeatureVerifyPINStart       FeatureTag = 0x01
	FeatureVerifyPINFinish      FeatureTag = 0x02
	FeatureModifyPINStart       FeatureTag = 0x03
	FeatureModifyPINFinish      FeatureTag = 0x04
	FeatureGetKeyPressed        FeatureTag = 0x05
	FeatureVerifyPINDirect      FeatureTag = 0x06
	FeatureModifyPINDirect      FeatureTag = 0x07
	FeatureMCTReaderDirect      FeatureTag = 0x08
	FeatureMCTUniversal         FeatureTag = 0x09
	FeatureIFDPINProperties     FeatureTag = 0x0A
	FeatureAbort                FeatureTag = 0x0B
	FeatureSetSPEMessage        FeatureTag = 0x0C
	FeatureVerifyPINDirectAppID FeatureTag = 0x0D
	FeatureModifyPINDirectAppID FeatureTag = 0x0E
	FeatureWriteDisplay         FeatureTag = 0x0F
	FeatureGetKey               FeatureTag = 0x10
	FeatureIFDDisplayProperties FeatureTag = 0x11
	FeatureGetTLVProperties     FeatureTag = 0x12
	FeatureCCIDEscCommand       FeatureTag = 0x13
	FeatureExecutePACE          FeatureTag = 0x20
)

var featureNames = map[FeatureTag]string{
	FeatureVerifyPINStart:       "VERIFY_PIN_START",
	FeatureVerifyPINFinish:      "VERIFY_PIN_FINISH",
	FeatureModifyPINStart:       "MODIFY_PIN_START",
	FeatureModifyPINFinish:      "MODIFY_PIN_FINISH",
	FeatureGetKeyPressed:        "GET_KEY_PRESSED",
	FeatureVerifyPINDirect:      "VERIFY_PIN_DIRECT",
	FeatureModifyPINDirect:      "MODIFY_PIN_DIRECT",
	FeatureMCTReaderDirect:      "MCT_READER_DIRECT",
	FeatureMCTUniversal:         "MCT_UNIVERSAL",
	FeatureIFDPINProperties:     "IFD_PIN_PROPERTIES",
	FeatureAbort:                "ABORT",
	FeatureSetSPEMessage:        "SET_SPE_MESSAGE",
	FeatureVerifyPINDirectAppID: "VERIFY_PIN_DIRECT_APP_ID",
	FeatureModifyPINDirectAppID: "MODIFY_PIN_DIRECT_APP_ID",
	FeatureWriteDisplay:         "WRITE_DISPLAY",
	FeatureGetKey:               "GET_KEY",
	FeatureIFDDisplayProperties: "IFD_DISPLAY_PROPERTIES",
	FeatureGetTLVProperties:     "GET_TLV_PROPERTIES",
	FeatureCCIDEscCommand:       "CCID_ESC_COMMAND",
	FeatureExecutePACE:          "EXECUTE_PACE",
}

// String is the feature's name in the standard without FEATURE_, or its number.
func (t FeatureTag) String() string {
	if name, known := featureNames[t]; known {
		return name
	}
	return fmt.Sprintf("0x%02X", uint8(t))
}

// MarshalText is the feature's String.
func (t FeatureTag) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Feature is one thing that a reader can do, and the control code that has it
// done.
type Feature struct {
	Tag  FeatureTag `json:"feature"`
	Code uint32     `json:"code"`
}

// featureLength is a feature in the answer to a feature request: tag, length 4,
// control code.
const featureLength = 6

// maxFeatures is as many tags as there can be.
const maxFeatures = 255

// ParseFeatures parses the answer to CM_IOCTL_GET_FEATURE_REQUEST (PC/SC part 10
// §2.2). Its errors match apdu.ErrMalformed.
func ParseFeatures(b []byte) ([]Feature, error) {
	if len(b)%featureLength != 0 || len(b) > maxFeatures*featureLength {
		return nil, malformed("features of %d bytes", len(b))
	}
	var features []Feature
	for ; len(b) > 0; b = b[featureLength:] {
		if b[1] != 4 {
			return nil, malformed("feature 0x%02X of %d bytes", b[0], b[1])
		}
		features = append(features, Feature{FeatureTag(b[0]), binary.BigEndian.Uint32(b[2:])})
	}
	return features, nil
}

// Properties are what a reader says of itself (PC/SC part 10 §2.6.14); nil is
// what it does not say.
type Properties struct {
	LCDLayout                *uint16 `json:"lcd_layout,omitzero"`
	EntryValidationCondition *uint8  `json:"entry_validation_condition,omitzero"`
	TimeOut2                 *uint8  `json:"time_out2,omitzero"`
	LCDMaxCharacters         *uint16 `json:"lcd_max_characters,omitzero"`
	LCDMaxLines              *uint16 `json:"lcd_max_lines,omitzero"`
	MinPINSize               *uint8  `json:"min_pin_size,omitzero"`
	MaxPINSize               *uint8  `json:"max_pin_size,omitzero"`
	Firmware                 string  `json:"firmware,omitzero"`
	PPDUSupport              *uint8  `json:"ppdu_support,omitzero"`       // bit 0 by control, bit 1 by transmit
	MaxAPDUData              *uint32 `json:"max_apdu_data_size,omitzero"` // bytes; 0: short APDUs alone
	Vendor                   *uint16 `json:"vendor,omitzero"`             // idVendor
	Product                  *uint16 `json:"product,omitzero"`            // idProduct
}

// Tags of the properties; their numbers are little-endian.
const (
	propertyLCDLayout            = 0x01
	propertyEntryValidation      = 0x02
	propertyTimeOut2             = 0x03
	propertyLCDMaxCharacters     = 0x04
	propertyLCDMaxLines          = 0x05
	propertyMinPINSize           = 0x06
	propertyMaxPINSize           = 0x07
	propertyFirmware             = 0x08
	propertyPPDUSupport          = 0x09
	propertyMaxAPDUData          = 0x0A
	propertyVendor               = 0x0B
	propertyProduct              = 0x0C
	maxProperties                = 4096 // bytes
	propertyHeaderLength     int = 2
)

// ParseProperties parses the answer to FEATURE_GET_TLV_PROPERTIES. Tags that it
// does not know say nothing; of a tag that comes twice the last counts. Its
// errors match apdu.ErrMalformed.
func ParseProperties(b []byte) (Properties, error) {
	var p Properties
	if len(b) > maxProperties {
		return p, malformed("properties of %d bytes", len(b))
	}
	for len(b) > 0 {
		if len(b) < propertyHeaderLength || len(b) < propertyHeaderLength+int(b[1]) {
			return Properties{}, malformed("property that runs past its end")
		}
		tag, v := b[0], b[propertyHeaderLength:propertyHeaderLength+int(b[1])]
		b = b[propertyHeaderLength+len(v):]
		ok := true
		switch tag {
		case propertyLCDLayout:
			p.LCDLayout, ok = little16(v)
		case propertyEntryValidation:
			p.EntryValidationCondition, ok = little8(v)
		case propertyTimeOut2:
			p.TimeOut2, ok = little8(v)
		case propertyLCDMaxCharacters:
			p.LCDMaxCharacters, ok = little16(v)
		case propertyLCDMaxLines:
			p.LCDMaxLines, ok = little16(v)
		case propertyMinPINSize:
			p.MinPINSize, ok = little8(v)
		case propertyMaxPINSize:
			p.MaxPINSize, ok = little8(v)
		case propertyFirmware:
			p.Firmware = text(v)
		case propertyPPDUSupport:
			p.PPDUSupport, ok = little8(v)
		case propertyMaxAPDUData:
			p.MaxAPDUData, ok = little32(v)
		case propertyVendor:
			p.Vendor, ok = little16(v)
		case propertyProduct:
			p.Product, ok = little16(v)
		}
		if !ok {
			return Properties{}, malformed("property 0x%02X of %d bytes", tag, len(v))
		}
	}
	return p, nil
}

func little8(v []byte) (*uint8, bool) {
	if len(v) != 1 {
		return nil, false
	}
	n := v[0]
	return &n, true
}

func little16(v []byte) (*uint16, bool) {
	if len(v) != 2 {
		return nil, false
	}
	n := binary.LittleEndian.Uint16(v)
	return &n, true
}

func little32(v []byte) (*uint32, bool) {
	if len(v) != 4 {
		return nil, false
	}
	n := binary.LittleEndian.Uint32(v)
	return &n, true
}

func malformed(format string, a ...any) error {
	return fmt.Errorf("pcsc: %w: "+format, append([]any{apdu.ErrMalformed}, a...)...)
}
