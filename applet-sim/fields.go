package appletsim

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Field is one value of a card image.
type Field struct {
	// Path leads to it, as profiles[8988…].state: list members go by what names
	// them, else by their place from 1.
	Path   string `json:"path"`
	Value  string `json:"value"` // "" where it is secret; a long one by its digest
	Secret bool   `json:"secret,omitempty"`

	text string // as the file has it
}

// shown are the paths of what is not secret; what is not among them is.
var shown = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`eid`, `event_counter`, `suites\[\d+\]`, `policy\..*`, `profiles\[\w+\]\..*`,
	`server_keysets\[\d+\]\.(?:id|enc|auth\[\d+\])`,
	`runtime\.(?:by|(?:about|euicc)\..*|(?:answers|failures)\[\w+\]\..*|faults\[\d+\]\..*)`,
	`runtime\.usims\[\w+\]\.(?:iccid|imsi|seq\[\d+\]|pins\.\w+\.(?:disabled|replaced|failed|puk_failed)|files\..*)`,
}, "|") + `)$`)

// secretFile are the EFs that hold keys.
var secretFile = regexp.MustCompile(`\.files\.(?:.*/)?EF\.(?i:.*key.*|kc.*|.*nsc|msk|muk)$`)

// Fields are all values of the image, in the order of its file.
func (im *Image) Fields() ([]Field, error) {
	b, err := im.Marshal()
	if err != nil {
		return nil, err
	}
	var all []Field
	err = walk("", b, func(path, text string) {
		f := Field{Path: path, text: text, Secret: !shown.MatchString(path) || secretFile.MatchString(path)}
		if !f.Secret {
			f.Value = readable(text)
		}
		all = append(all, f)
	})
	return all, err
}

// walk gives each value of a JSON text and its path, in order.
func walk(path string, b []byte, give func(path, text string)) error {
	b = bytes.TrimSpace(b)
	switch b[0] {
	case '{':
		return walkObject(path, b, give)
	case '[':
		var list []json.RawMessage
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		for i, v := range list {
			if err := walk(fmt.Sprintf("%s[%s]", path, nameOf(v, i)), v, give); err != nil {
				return err
			}
		}
		return nil
	case '"':
		var s string
		err := json.Unmarshal(b, &s)
		give(path, s)
		return err
	}
	give(path, string(b))
	return nil
}

func walkObject(path string, b []byte, give func(path, text string)) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return err
		}
		if err := walk(strings.TrimPrefix(path+"."+name.(string), "."), v, give); err != nil {
			return err
		}
	}
	return nil
}

// nameOf is what names a member of a list: its ICCID, request id, key set or
// number, else its place.
func nameOf(v json.RawMessage, i int) string {
	var named struct {
		ICCID     string `json:"iccid"`
		RequestID string `json:"request_id"`
		ID        int    `json:"id"`
		Sequence  int    `json:"sequence"`
	}
	_ = json.Unmarshal(v, &named) // it may be no object
	switch {
	case named.Sequence != 0:
		return strconv.Itoa(named.Sequence)
	case named.ICCID != "":
		return named.ICCID
	case named.RequestID != "":
		return strings.ReplaceAll(named.RequestID, "-", "")
	case named.ID != 0:
		return strconv.Itoa(named.ID)
	}
	return strconv.Itoa(i + 1)
}

// readable is a value as a line shows it: public keys and what is long by their
// digests.
func readable(text string) string {
	const long = 80
	if block, _ := pem.Decode([]byte(text)); block != nil {
		if k, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			if k, ok := k.(interface{ Size() int }); ok {
				return fmt.Sprintf("RSA-%d public key, SHA-256 %.16x…", 8*k.Size(), sha256.Sum256(block.Bytes))
			}
		}
	}
	if len(text) > long {
		return fmt.Sprintf("%d characters, SHA-256 %.16x…", len(text), sha256.Sum256([]byte(text)))
	}
	return text
}

// Change is one value in which two card images differ.
type Change struct {
	Path   string  `json:"path"`
	Before *string `json:"before"` // nil: it was not there; "" where it is secret
	After  *string `json:"after"`  // nil: it is no more
	Secret bool    `json:"secret,omitempty"`
}

// Diff is what differs between two card images, in the order of before's file,
// and then what is new.
func Diff(before, after *Image) ([]Change, error) {
	was, err := before.Fields()
	if err != nil {
		return nil, err
	}
	is, err := after.Fields()
	if err != nil {
		return nil, err
	}
	now := map[string]Field{}
	for _, f := range is {
		now[f.Path] = f
	}
	var changes []Change
	old := map[string]bool{}
	for _, f := range was {
		old[f.Path] = true
		g, there := now[f.Path]
		switch {
		case !there:
			changes = append(changes, Change{f.Path, &f.Value, nil, f.Secret})
		case f.text != g.text:
			changes = append(changes, Change{f.Path, &f.Value, &g.Value, f.Secret})
		}
	}
	for _, f := range slices.DeleteFunc(is, func(f Field) bool { return old[f.Path] }) {
		changes = append(changes, Change{f.Path, nil, &f.Value, f.Secret})
	}
	return changes, nil
}
