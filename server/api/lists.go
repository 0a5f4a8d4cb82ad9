package api

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
)

// Page says which part of a list is asked for.
type Page struct {
	Cursor string `query:"cursor" maxLength:"512" pattern:"^[0-9A-Za-z_-]*$" doc:"next of the page before; left out: the list's start"`
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"50" doc:"How many at most; a page may have less and go on"`
}

// Kinds of cursors, one for each kind of list.
const (
	requestCursor  = "d"
	cardCursor     = "c"
	deliveryCursor = "w"
	readerCursor   = "r"
)

// cursorOf is an opaque name of a place in a list of a kind; "" where there is
// none.
func cursorOf(kind, place string) string {
	if place == "" {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString([]byte(kind + place))
}

var errCursor = located(errors.New("this is no cursor of this list; take it from next of a page"), "query.cursor")

// place is where the page begins, after; "" is the start.
func (p *Page) place(kind string) (string, error) {
	if p.Cursor == "" {
		return "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	place, ok := strings.CutPrefix(string(b), kind)
	if err != nil || !ok || place == "" {
		return "", errCursor
	}
	return place, nil
}

// optional is a parameter of which it matters whether it is there.
type optional[T any] struct {
	Value T
	IsSet bool
}

// Schema implements huma.SchemaProvider.
func (optional[T]) Schema(r huma.Registry) *huma.Schema {
	return huma.SchemaFromType(r, reflect.TypeFor[T]())
}

// Receiver implements huma.ParamWrapper.
func (o *optional[T]) Receiver() reflect.Value { return reflect.ValueOf(o).Elem().Field(0) }

// OnParamSet implements huma.ParamReactor.
func (o *optional[T]) OnParamSet(isSet bool, _ any) { o.IsSet = isSet }

// wellFormed turns away a path or query that is not what it seems: one that
// cannot be decoded, a parameter twice, or control characters.
func wellFormed(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		writeProblem(ctx, newProblem(http.StatusBadRequest, "the query is not percent-encoded names and values, with & between"))
		return
	}
	bad := func(text string) bool {
		return !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl)
	}
	if bad(u.Path) {
		writeProblem(ctx, newProblem(http.StatusBadRequest, "the path has characters in it that are none, or control characters"))
		return
	}
	for name, values := range query {
		switch {
		case bad(name):
			writeProblem(ctx, newProblem(http.StatusBadRequest, "the query has a parameter whose name has control characters"))
		case len(values) > 1:
			writeProblem(ctx, problemAt("query."+name, "given more than once"))
		case bad(values[0]):
			writeProblem(ctx, problemAt("query."+name, "characters that are none, or control characters"))
		default:
			continue
		}
		return
	}
	next(ctx)
}
