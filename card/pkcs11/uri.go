package pkcs11

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrURI is matched by every error that says a PKCS#11 URI is none, or not one of
// a private key.
var ErrURI = errors.New("pkcs11: bad URI")

// URI names a private key in a token, or with neither Object nor ID a token (RFC
// 7512). The zero value of a field matches anything.
type URI struct {
	Token        string // label, up to 32 bytes
	Manufacturer string // up to 32 bytes
	Model        string // up to 16 bytes
	Serial       string // up to 16 bytes
	Slot         *uint  // slot-id
	Object       string // CKA_LABEL
	ID           []byte // CKA_ID
	Module       string // module-path: the module's file
	PINSource    string // pin-source: a file's path
}

const (
	scheme   = "pkcs11:"
	maxURI   = 2048 // bytes
	maxValue = 255  // bytes of an object's label or id, of a path 1024
	maxPath  = 1024
)

// IsURI reports whether s looks like a PKCS#11 URI.
func IsURI(s string) bool { return strings.HasPrefix(s, scheme) }

// ParseURI parses a PKCS#11 URI. A pin-value is refused, wherever the URI stands:
// a PIN belongs in a file, which pin-source names, or in the environment. So is
// what is not understood here, rather than taken to match: library-*,
// slot-description, slot-manufacturer, module-name and vendors' own. The error
// matches ErrURI, and has no value of the URI's.
func ParseURI(s string) (URI, error) {
	var u URI
	rest, ok := strings.CutPrefix(s, scheme)
	switch {
	case !ok:
		return u, fmt.Errorf("%w: it does not begin with %q", ErrURI, scheme)
	case len(s) > maxURI:
		return u, fmt.Errorf("%w: %d bytes, at most %d wanted", ErrURI, len(s), maxURI)
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	seen := map[string]bool{}
	each := func(part, separator string, known []string) error {
		for pair := range strings.SplitSeq(part, separator) {
			name, raw, ok := strings.Cut(pair, "=")
			switch {
			case !ok:
				return fmt.Errorf("%w: an attribute without a value", ErrURI)
			case name == "pin-value":
				return fmt.Errorf("%w: pin-value would show the PIN; put it in a file of mode 0600 and name that by pin-source", ErrURI)
			case !slices.Contains(known, name):
				return fmt.Errorf("%w: attribute %.40q is not known here", ErrURI, name)
			case seen[name]:
				return fmt.Errorf("%w: %s is there twice", ErrURI, name)
			}
			seen[name] = true
			value, err := unescape(raw)
			if err == nil {
				err = u.set(name, value)
			}
			if err != nil {
				return fmt.Errorf("%w: %s: %w", ErrURI, name, err)
			}
		}
		return nil
	}
	if path != "" {
		if err := each(path, ";", []string{"token", "manufacturer", "model", "serial", "slot-id", "object", "id", "type"}); err != nil {
			return URI{}, err
		}
	}
	if hasQuery {
		if err := each(query, "&", []string{"module-path", "pin-source", "pin-value"}); err != nil {
			return URI{}, err
		}
	}
	return u, nil
}

func (u *URI) set(name, v string) error {
	text := func(to *string, most int) error {
		switch {
		case v == "" || len(v) > most:
			return fmt.Errorf("%d bytes, 1 to %d wanted", len(v), most)
		case strings.ContainsRune(v, 0):
			return errors.New("it has a NUL")
		}
		*to = v
		return nil
	}
	switch name {
	case "token":
		return text(&u.Token, 32)
	case "manufacturer":
		return text(&u.Manufacturer, 32)
	case "model":
		return text(&u.Model, 16)
	case "serial":
		return text(&u.Serial, 16)
	case "object":
		return text(&u.Object, maxValue)
	case "module-path":
		return text(&u.Module, maxPath)
	case "pin-source":
		if strings.HasPrefix(v, "|") {
			return errors.New("programs are not run; name a file")
		}
		if path, ok := strings.CutPrefix(v, "file:"); ok {
			if host, ok := strings.CutPrefix(path, "//"); ok { // RFC 8089
				if path = strings.TrimPrefix(host, "localhost"); !strings.HasPrefix(path, "/") {
					return errors.New("a file on another machine; file:/path is one on this")
				}
			}
			v = path
		}
		return text(&u.PINSource, maxPath)
	case "id":
		if v == "" || len(v) > maxValue {
			return fmt.Errorf("%d bytes, 1 to %d wanted", len(v), maxValue)
		}
		u.ID = []byte(v)
	case "slot-id":
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil {
			return errors.New("not a number of 32 bits")
		}
		slot := uint(n)
		u.Slot = &slot
	case "type":
		if v != "private" {
			return errors.New("a private key is wanted (type=private)")
		}
	}
	return nil
}

// unescape undoes RFC 3986's percent-encoding; nothing else may be in a value
// than RFC 7512 §2.3 has there.
func unescape(s string) (string, error) {
	var out []byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) {
				return "", errors.New("half a percent-encoding")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errors.New("a percent-encoding that is none")
			}
			out = append(out, byte(n))
			i += 2
		case unreserved(c) || strings.IndexByte(":[]@!$'()*+,=/?|&", c) >= 0:
			out = append(out, c)
		default:
			return "", errors.New("a character that is to be percent-encoded")
		}
	}
	return string(out), nil
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; unreserved(c) || c == '/' || c == ':' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// String is the URI as ParseURI takes it.
func (u URI) String() string {
	var path, query []string
	add := func(to *[]string, name, v string) {
		if v != "" {
			*to = append(*to, name+"="+escape(v))
		}
	}
	add(&path, "token", u.Token)
	add(&path, "manufacturer", u.Manufacturer)
	add(&path, "model", u.Model)
	add(&path, "serial", u.Serial)
	if u.Slot != nil {
		path = append(path, "slot-id="+strconv.FormatUint(uint64(*u.Slot), 10))
	}
	add(&path, "object", u.Object)
	if len(u.ID) > 0 {
		var id strings.Builder
		for _, c := range u.ID {
			fmt.Fprintf(&id, "%%%02X", c)
		}
		path = append(path, "id="+id.String())
	}
	if u.isKey() {
		path = append(path, "type=private")
	}
	add(&query, "module-path", u.Module)
	add(&query, "pin-source", u.PINSource)
	s := scheme + strings.Join(path, ";")
	if len(query) > 0 {
		s += "?" + strings.Join(query, "&")
	}
	return s
}

func (u URI) isKey() bool { return u.Object != "" || len(u.ID) > 0 }

// ofToken is what u says of the token.
func (u URI) ofToken() URI {
	u.Object, u.ID = "", nil
	return u
}
