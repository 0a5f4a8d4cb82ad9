package pcsc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// Attribute is something that a reader may say of itself or its card (PC/SC part
// 3 §3.1.1).
type Attribute uint32

// Attributes that readers have.
const (
	AttrVendorName      Attribute = 0x00010100
	AttrIFDType         Attribute = 0x00010101
	AttrIFDVersion      Attribute = 0x00010102
	AttrIFDSerial       Attribute = 0x00010103
	AttrChannelID       Attribute = 0x00020110
	AttrDefaultClock    Attribute = 0x00030121 // kHz
	AttrMaxClock        Attribute = 0x00030122 // kHz
	AttrDefaultDataRate Attribute = 0x00030123 // bit/s
	AttrMaxDataRate     Attribute = 0x00030124 // bit/s
	AttrMaxIFSD         Attribute = 0x00030125 // bytes
	AttrProtocol        Attribute = 0x00080201
	AttrATR             Attribute = 0x00090303
	AttrMaxInput        Attribute = 0x0007A007 // bytes
)

// maxAttribute bounds an attribute's value, bytes.
const maxAttribute = 4096

// Info is what a reader says of itself. What it does not say is zero.
type Info struct {
	reader.Reader
	// Protocol is the one that the card in it speaks now, 0 while it speaks none.
	Protocol Protocol `json:"protocol,omitzero"`
	// USB is where the reader is plugged in, where that can be told.
	USB *reader.USB `json:"usb,omitzero"`

	Vendor          string `json:"vendor,omitzero"`
	Type            string `json:"ifd_type,omitzero"`
	Version         string `json:"ifd_version,omitzero"` // "major.minor.build"
	Serial          string `json:"ifd_serial,omitzero"`
	ChannelID       uint32 `json:"channel_id,omitzero"`        // DDDDCCCC: type and number; USB: 0020, bus, address
	DefaultClock    uint32 `json:"default_clock,omitzero"`     // kHz
	MaxClock        uint32 `json:"max_clock,omitzero"`         // kHz
	DefaultDataRate uint32 `json:"default_data_rate,omitzero"` // bit/s
	MaxDataRate     uint32 `json:"max_data_rate,omitzero"`     // bit/s
	MaxIFSD         uint32 `json:"max_ifsd,omitzero"`          // bytes
	MaxInput        uint32 `json:"max_input,omitzero"`         // bytes of a command

	Features   []Feature   `json:"features,omitzero"`
	Properties *Properties `json:"properties,omitzero"`
}

// Info asks a reader, found as by Find, what it is. It leaves the card alone: it
// connects to the reader only (SCARD_SHARE_DIRECT). Where that fails, because a
// program holds the reader exclusively (apdu.ErrCardBusy) or for another reason,
// Info has what the list of readers says beside the error.
func (s *Source) Info(ctx context.Context, name string) (Info, error) {
	slots, err := s.slots(ctx, "reader info")
	if err != nil {
		return Info{}, err
	}
	r, err := Find(readersOf(slots), name)
	if err != nil {
		return Info{}, &Error{Op: "reader info", Reader: name, Err: err}
	}
	found := slots[slices.IndexFunc(slots, func(sl slot) bool { return sl.Name == r.Name })]
	info := Info{Reader: r, USB: found.usb}
	if s.stuck(r.Name) {
		return info, &Error{Op: "reader info", Reader: r.Name, Code: CodeTimeout, Err: ErrStuck}
	}
	ses, err := s.newSession(ctx, "reader info", r.Name)
	if err != nil {
		return info, err
	}
	defer ses.close(LeaveCard)
	var told Info
	err = ses.do(ctx, "reader info", func(svc service) error {
		if err := svc.direct(r.Name); err != nil {
			return err
		}
		told = ask(svc)
		return nil
	})
	if err != nil {
		return info, err
	}
	told.Reader, told.USB = info.Reader, info.USB
	return told, nil
}

// ask asks a reader that is connected; what it does not answer stays zero.
func ask(svc service) Info {
	str := func(a Attribute) string {
		v, err := svc.attribute(a)
		if err != nil || len(v) > maxAttribute {
			return ""
		}
		return text(v)
	}
	num := func(a Attribute) uint32 {
		v, err := svc.attribute(a)
		if err != nil || len(v) != 4 {
			return 0
		}
		return binary.NativeEndian.Uint32(v) // a DWORD of the driver's machine
	}
	info := Info{
		Vendor: str(AttrVendorName), Type: str(AttrIFDType), Serial: str(AttrIFDSerial),
		ChannelID:    num(AttrChannelID),
		DefaultClock: num(AttrDefaultClock), MaxClock: num(AttrMaxClock),
		DefaultDataRate: num(AttrDefaultDataRate), MaxDataRate: num(AttrMaxDataRate),
		MaxIFSD: num(AttrMaxIFSD), MaxInput: num(AttrMaxInput),
	}
	if v := num(AttrIFDVersion); v != 0 {
		info.Version = fmt.Sprintf("%d.%d.%d", v>>24, v>>16&0xFF, v&0xFFFF)
	}
	if _, p, err := svc.cardStatus(); err == nil && (p == T0 || p == T1) {
		info.Protocol = p
	}
	info.Features, _ = features(svc)
	info.Properties, _ = properties(svc, info.Features)
	return info
}

// errNoFeature says that a reader has not what was asked for.
var errNoFeature = errors.New("the reader has no such feature")

func features(svc service) ([]Feature, error) {
	answer, err := svc.control(featureRequest, nil)
	if err != nil {
		return nil, err
	}
	return ParseFeatures(answer)
}

func properties(svc service, features []Feature) (*Properties, error) {
	at := slices.IndexFunc(features, func(f Feature) bool { return f.Tag == FeatureGetTLVProperties })
	if at < 0 {
		return nil, errNoFeature
	}
	answer, err := svc.control(features[at].Code, nil)
	if err != nil {
		return nil, err
	}
	p, err := ParseProperties(answer)
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// text is what a reader says in words, without what would confuse a terminal.
func text(v []byte) string {
	s := strings.ToValidUTF8(string(v), "")
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7F && r < 0xA0 {
			return -1
		}
		return r
	}, s))
}

// Attribute asks for an attribute as the reader codes it. One that the reader
// has not is an error that matches apdu.ErrTransport; the Conn stays as it is.
func (c *Conn) Attribute(ctx context.Context, a Attribute) ([]byte, error) {
	var v []byte
	err := c.current().do(ctx, "get attribute", func(svc service) (err error) {
		v, err = svc.attribute(a)
		return err
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Features asks what the reader can do beside carrying APDUs (PC/SC part 10).
func (c *Conn) Features(ctx context.Context) ([]Feature, error) {
	var found []Feature
	err := c.current().do(ctx, "get features", func(svc service) (err error) {
		found, err = features(svc)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// featureRequest asks for the features (CM_IOCTL_GET_FEATURE_REQUEST).
var featureRequest = ControlCode(3400)

// ControlCode is the control code that a number stands for on this system
// (SCARD_CTL_CODE).
func ControlCode(n uint16) uint32 {
	if runtime.GOOS == "windows" {
		return 0x310000 | uint32(n)<<2 // FILE_DEVICE_SMARTCARD
	}
	return 0x42000000 + uint32(n)
}

// EscapeCode is the control code that hands its data to a CCID reader as
// PC_to_RDR_Escape.
func EscapeCode() uint32 {
	if runtime.GOOS == "windows" {
		return ControlCode(3500)
	}
	return ControlCode(1)
}

// Control sends a control code to the reader and gives what it answers. Without
// Options.AllowEscape it fails with ErrEscapeNotAllowed for any code but
// questions for features and properties: what a reader does for a vendor's own
// code may be anything, a new firmware included.
func (c *Conn) Control(ctx context.Context, code uint32, in []byte) ([]byte, error) {
	in = slices.Clone(in) // a call that outlives its context must not read the caller's
	var out []byte
	err := c.current().do(ctx, "control", func(svc service) (err error) {
		if !c.options.AllowEscape && !isQuestion(svc, code) {
			return ErrEscapeNotAllowed
		}
		out, err = svc.control(code, in)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// isQuestion reports whether code does nothing but ask the reader what it is.
func isQuestion(svc service, code uint32) bool {
	if code == featureRequest {
		return true
	}
	found, err := features(svc)
	asks := err == nil
	named := false
	for _, f := range found {
		if f.Code == code {
			named = true
			asks = asks && slices.Contains(questions, f.Tag)
		}
	}
	return asks && named
}

// questions are the features that do nothing.
var questions = []FeatureTag{FeatureGetTLVProperties, FeatureIFDPINProperties, FeatureIFDDisplayProperties}
