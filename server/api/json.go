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

// checkJSON says what is wrong with JSON text: not one value, not UTF-8, a name
// twice in an object, NUL or a lone surrogate in a string, too deep.
func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("the body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("JSON nested deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("not JSON: %w", noEOF(err))
	}
	switch t := t.(type) {
	case nil:
		return errors.New("null is no value here; leave the member out")
	case string:
		return checkString(t)
	case json.Delim:
		names := map[string]bool{}
		for d.More() {
			if t == '{' {
				name, err := d.Token()
				if err != nil {
					return fmt.Errorf("not JSON: %w", noEOF(err))
				}
				s, _ := name.(string) // an object's names are strings
				if err := checkString(s); err != nil {
					return err
				}
				if names[s] {
					return fmt.Errorf("member %.40q is there twice", s)
				}
				names[s] = true
			}
			if err := checkValue(d, depth+1); err != nil {
				return err
			}
		}
		if _, err := d.Token(); err != nil {
			return fmt.Errorf("not JSON: %w", noEOF(err))
		}
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

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
