package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
)

const maxDepth = 8 // of arrays and objects; a card record has 3

// strictJSON reads JSON without the leniency of encoding/json, which takes a
// name twice, passes over null and mends what is not UTF-8.
var strictJSON = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(b []byte, v any) error {
		if err := checkJSON(b); err != nil {
			return err
		}
		return json.Unmarshal(b, v)
	},
}

// checkJSON says what is wrong with JSON text: what RFC 7493 forbids (not UTF-8,
// a name twice in an object, half of a surrogate pair), not one value, null, NUL
// in a string, too deep.
func checkJSON(b []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	for first := true; first || d.StackDepth() > 0; first = false {
		t, err := d.ReadToken()
		switch {
		case err == io.EOF:
			return errors.New("not JSON: nothing is there")
		case err != nil:
			return fmt.Errorf("not JSON: %w", err)
		case d.StackDepth() > maxDepth:
			return fmt.Errorf("JSON nested deeper than %d", maxDepth)
		case t.Kind() == 'n':
			return fmt.Errorf("%.200s: null is no value here; leave the member out", d.StackPointer())
		case t.Kind() == '"':
			if err := checkString(t.String()); err != nil {
				return fmt.Errorf("%.200s: %w", d.StackPointer(), err)
			}
		}
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkString(s string) error {
	switch {
	case strings.ContainsRune(s, 0):
		return errors.New("a string has a NUL in it")
	case strings.ContainsRune(s, utf8.RuneError):
		return errors.New("a string has a character in it that is none (U+FFFD or half of a surrogate pair)")
	}
	return nil
}
