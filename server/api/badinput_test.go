package api_test

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/servertest"
)

type object = map[string]any

// spec is the document that is served, to walk.
type spec struct{ root object }

func (f *fixture) spec() spec {
	b, err := f.api.OpenAPI()
	require.NoError(f, err)
	var root object
	require.NoError(f, json.Unmarshal(b, &root))
	return spec{root}
}

// at is the schema itself where it is referred to.
func (s spec) at(schema any) object {
	o, _ := schema.(object)
	if ref, ok := o["$ref"].(string); ok {
		return s.root["components"].(object)["schemas"].(object)[strings.TrimPrefix(ref, "#/components/schemas/")].(object)
	}
	return o
}

type operation struct {
	id, method, path string
	params           []object
	body             object // its schema; nil where there is none
	responses        object
}

func (s spec) operations() (list []operation) {
	paths := s.root["paths"].(object)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for _, method := range slices.Sorted(maps.Keys(paths[path].(object))) {
			o := paths[path].(object)[method].(object)
			op := operation{id: o["operationId"].(string), method: strings.ToUpper(method), path: path, responses: o["responses"].(object)}
			params, _ := o["parameters"].([]any)
			for _, p := range params {
				op.params = append(op.params, p.(object))
			}
			if b, ok := o["requestBody"].(object); ok {
				op.body = s.at(b["content"].(object)["application/json"].(object)["schema"])
			}
			list = append(list, op)
		}
	}
	return list
}

// good are values of path parameters, and bodies, that are all right.
type good struct {
	path   map[string]string
	bodies map[string]string
}

func (f *fixture) good() good {
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	var w struct{ ID string }
	f.do("POST", "/v1/webhooks", f.token, `{"url":"https://example.com/"}`).into(&w)
	var record object
	require.NoError(f, json.Unmarshal(servertest.Record(servertest.Image(2)), &record))
	record["event_counter"], record["policy"] = 1, object{"require_triple": false}
	full, err := json.Marshal(record)
	require.NoError(f, err)
	return good{
		map[string]string{
			"eid": servertest.EID(1).String(), "iccid": servertest.ICCID(1, 0).String(), "id": d.ID, "webhook": w.ID, "delivery": "msg_x",
		},
		map[string]string{
			"register-card":       string(full),
			"set-groups":          `{"groups":["a"]}`,
			"set-policy":          `{"disable_allowed":true}`,
			"deactivate":          fmt.Sprintf(`{"eid":%q,"iccid":%q,"reason":1,"timeout_seconds":60,"leave_unconnected":false}`, servertest.EID(1), servertest.ICCID(1, 0)),
			"reject-deactivation": `{"reason":"x"}`,
			"add-webhook":         `{"url":"https://example.com/x","types":["deactivation.held"]}`,
			"rotate-webhook":      `{"overlap_seconds":1}`,
		},
	}
}

// target is the operation's path with values in it.
func (g good) target(op operation, instead map[string]string) string {
	path := op.path
	for name, value := range g.path {
		if v, ok := instead[name]; ok {
			value = v
		}
		path = strings.ReplaceAll(path, "{"+name+"}", value)
	}
	return path
}

// record is a digest of all that is on file.
func (f *fixture) record() string {
	db, err := sql.Open("sqlite", f.path)
	require.NoError(f, err)
	defer db.Close()
	var out strings.Builder
	rows := func(query string) [][]any {
		r, err := db.Query(query)
		require.NoError(f, err)
		defer r.Close()
		columns, err := r.Columns()
		require.NoError(f, err)
		var all [][]any
		for r.Next() {
			row := make([]any, len(columns))
			for i := range row {
				row[i] = new(any)
			}
			require.NoError(f, r.Scan(row...))
			for i := range row {
				row[i] = *row[i].(*any)
			}
			all = append(all, row)
		}
		require.NoError(f, r.Err())
		return all
	}
	for _, table := range rows(`SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'health' ORDER BY name`) {
		all := rows(fmt.Sprintf(`SELECT * FROM %q`, table[0]))
		if table[0] == "credentials" {
			all = make([][]any, len(all)) // when each was used last is kept
		}
		fmt.Fprintf(&out, "%s %d %x\n", table[0], len(all), sha256.Sum256(fmt.Append(nil, all)))
	}
	return out.String()
}

// badParams are values that a parameter may not have, ready for a URL.
func badParams(p object) []string {
	schema, in := p["schema"].(object), p["in"]
	long := strings.Repeat("9", 600)
	switch {
	case in == "header" && p["name"] == "Accept":
		return nil // whatever it is, JSON is the answer
	case in == "header":
		return []string{long, "a b", "\u00e9"}
	case schema["type"] == "string" && schema["pattern"] == nil && schema["enum"] == nil && schema["format"] == nil:
		return []string{long, "%00", "%ff", "a%0a"}
	}
	list := []string{long, "%00", "%ff", "%20", "x%27", "-1", "1E400", "%5B%5D"}
	if in == "query" {
		list = append(list, "%zz", "1&"+p["name"].(string)+"=1")
	}
	return list
}

// mutants are bodies with one value that may not be, by where it is.
func (s spec) mutants(schema object, value any, where string, put func(any) any) (out []mutant) {
	add := func(v any, names string) { out = append(out, mutant{put(v), names}) }
	kind, _ := schema["type"].(string)
	for of, v := range map[string]any{"string": "\x00", "integer": 7, "boolean": true, "array": []any{}, "object": object{}, "": nil} {
		if of != kind || of == "string" {
			add(v, where)
		}
	}
	switch v := value.(type) {
	case object:
		if kind != "object" {
			panic(where)
		}
		properties := schema["properties"].(object)
		with := func(name string, x any) object {
			m := maps.Clone(v)
			m[name] = x
			return m
		}
		add(with("unknown_member", 1), "unknown_member")
		required, _ := schema["required"].([]any)
		for _, name := range required {
			m := maps.Clone(v)
			delete(m, name.(string))
			add(m, name.(string))
		}
		for name, p := range properties {
			member, ok := v[name]
			if !ok {
				continue
			}
			out = append(out, s.mutants(s.at(p), member, name, func(x any) any { return put(with(name, x)) })...)
		}
	case []any:
		if len(v) > 0 {
			items := s.at(schema["items"])
			out = append(out, s.mutants(items, v[0], where, func(x any) any { return put(append([]any{x}, v[1:]...)) })...)
		}
		if most, ok := schema["maxItems"].(float64); ok {
			add(slices.Repeat([]any{v[0]}, int(most)+1), where)
		}
		if least, ok := schema["minItems"].(float64); ok && least > 0 {
			add([]any{}, where)
		}
	case string:
		add(strings.Repeat("x", 20000), where)
		if least, ok := schema["minLength"].(float64); ok && least > 0 || schema["enum"] != nil {
			add("", where)
		}
	case float64:
		for _, n := range []any{-1, 1.5, 1e30, "1"} {
			add(n, where)
		}
	}
	return out
}

type mutant struct {
	body  any
	names string // what the answer has to name
}

// Every field of every operation in the document, with what it may not be: a
// clear 4xx that names it, and nothing is recorded.
func TestBadInputByTheDocument(t *testing.T) {
	f := newFixture(t)
	s, g := f.spec(), f.good()
	before := f.record()
	cases := 0
	refused := func(what, names string, r reply) {
		cases++
		if !assert.True(t, r.Code >= 400 && r.Code < 500, "%s: %d %.300s", what, r.Code, r.Body) {
			return
		}
		assert.Equal(t, "application/problem+json", r.Header().Get("Content-Type"), what)
		assert.Less(t, r.Body.Len(), 6<<10, what)
		assert.Contains(t, r.Body.String(), names, "%s: the answer names it", what)
	}
	for _, op := range s.operations() {
		body := g.bodies[op.id]
		require.Equal(t, op.body == nil, body == "", "%s: this test needs a body that is all right", op.id)
		if op.id != "health" {
			refused(op.id+" ?unknown", "unknown_parameter", f.do(op.method, g.target(op, nil)+"?unknown_parameter=1", f.token, body))
		}
		for _, p := range op.params {
			name := p["name"].(string)
			for _, bad := range badParams(p) {
				what := fmt.Sprintf("%s %s=%.30q", op.id, name, bad)
				switch p["in"] {
				case "path":
					refused(what, "", f.do(op.method, g.target(op, map[string]string{name: bad}), f.token, body))
				case "query":
					refused(what, "", f.do(op.method, g.target(op, nil)+"?"+name+"="+bad, f.token, body))
				case "header":
					extra := []string{name, bad}
					if name == "Last-Event-ID" {
						extra = append(extra, "Accept", "text/event-stream")
					}
					refused(what, name, f.do(op.method, g.target(op, nil), f.token, body, extra...))
				}
			}
		}
		if op.body == nil {
			continue
		}
		var value any
		require.NoError(t, json.Unmarshal([]byte(body), &value))
		for _, m := range s.mutants(op.body, value, "", func(x any) any { return x }) {
			b, err := json.Marshal(m.body)
			require.NoError(t, err)
			refused(fmt.Sprintf("%s %.200s", op.id, b), m.names, f.do(op.method, g.target(op, nil), f.token, string(b)))
		}
		for name := range value.(object) {
			twice := strings.Replace(body, "{", fmt.Sprintf(`{"%s":1,`, name), 1)
			refused(op.id+" twice "+name, name, f.do(op.method, g.target(op, nil), f.token, twice))
			raw := strings.Replace(body, "{", fmt.Sprintf("{\"%s\":\"\xff\",", name), 1)
			refused(op.id+" not UTF-8 "+name, "", f.do(op.method, g.target(op, nil), f.token, raw))
		}
		for what, raw := range map[string]string{
			"huge": `{"x":"` + strings.Repeat("x", 300<<10) + `"}`, "deep": strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000),
			"wide": "[" + strings.Repeat("1,", 100000) + "1]", "cut off": body[:len(body)-1], "two": body + body, "nothing": " ", "BOM": "\ufeff" + body,
		} {
			refused(op.id+" "+what, "", f.do(op.method, g.target(op, nil), f.token, raw))
		}
	}
	assert.Greater(t, cases, 700)
	assert.Equal(t, before, f.record(), "nothing is recorded")
}

// FuzzHandlers makes requests of any operation of the document, of any
// parameters and body. Whatever they are: no 5xx, no panic, an answer that the
// document tells of, and nothing internal in it.
func FuzzHandlers(f *testing.F) {
	fix := newFixture(f)
	s, g := fix.spec(), fix.good()
	var ops []operation
	for _, op := range s.operations() {
		if op.id != "remove-webhook" && op.id != "test-webhook" && op.id != "refresh-card" { // they would change what the others find, or wait
			ops = append(ops, op)
		}
	}
	for i, op := range ops {
		f.Add(byte(i), g.bodies[op.id], "limit=1", "x")
		f.Add(byte(i), "{}", "", "")
		f.Add(byte(i), `{"eid":null}`, "state=held,done&user=a%00&since=2026-01-01T00:00:00Z", "\x80")
	}
	f.Fuzz(func(t *testing.T, n byte, body, query, extra string) {
		op := ops[int(n)%len(ops)]
		instead := map[string]string{}
		for _, p := range op.params {
			if name := p["name"].(string); p["in"] == "path" && len(extra)%3 == 1 {
				instead[name] = url.PathEscape(extra)
			}
		}
		target, err := url.Parse(g.target(op, instead))
		if err != nil {
			return
		}
		target.RawQuery = strings.ReplaceAll(query, "wait_seconds", "wait")
		req := &http.Request{
			Method: op.method, URL: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "x", RemoteAddr: "127.0.0.1:1",
			Header: http.Header{"Authorization": {"Bearer " + fix.token}, "Content-Type": {"application/json"}, "Idempotency-Key": {extra}},
			Body:   http.NoBody,
		}
		if body != "" {
			req.Body, req.ContentLength = http.NoBody, int64(len(body))
			req = req.WithContext(t.Context())
			req.Body = readCloser{strings.NewReader(body)}
		}
		w := httptest.NewRecorder()
		fix.api.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", op.method, target, w.Code, w.Body)
		}
		told, ok := op.responses[fmt.Sprint(w.Code)].(object)
		if !ok && len(instead) == 0 {
			t.Fatalf("%s answers %d, and the document does not tell of that", op.id, w.Code)
		}
		for _, internal := range []string{"goroutine", "sqlite", "SQL", ".go:", "runtime error", "deactivations_"} {
			if strings.Contains(w.Body.String(), internal) && !strings.Contains(body+query+extra, internal) {
				t.Fatalf("%s: %q in %s", op.id, internal, w.Body)
			}
		}
		content, _ := told["content"].(object)
		kind := w.Header().Get("Content-Type")
		c, ok := content[kind].(object)
		if !ok || kind == "text/event-stream" {
			return
		}
		d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
		var value any
		if err := d.Decode(&value); err != nil {
			t.Fatalf("%s: %v", op.id, err)
		}
		if wrong := s.conforms(c["schema"], value, op.id); wrong != "" {
			t.Fatalf("%s: %s in %s", op.id, wrong, w.Body)
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// conforms says where a value is not as a schema of the document says; "" where
// it is.
func (s spec) conforms(schema, value any, where string) string {
	o := s.at(schema)
	kinds, _ := o["type"].([]any)
	if kind, ok := o["type"].(string); ok {
		kinds = []any{kind}
	}
	var is string
	switch v := value.(type) {
	case object:
		is = "object"
		properties, _ := o["properties"].(object)
		required, _ := o["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				return fmt.Sprintf("%s has no %s", where, name)
			}
		}
		for name, member := range v {
			p, ok := properties[name]
			switch {
			case !ok && o["additionalProperties"] == false:
				return fmt.Sprintf("%s has a member %s", where, name)
			case ok:
				if wrong := s.conforms(p, member, where+"."+name); wrong != "" {
					return wrong
				}
			}
		}
	case []any:
		is = "array"
		for _, item := range v {
			if wrong := s.conforms(o["items"], item, where+"[]"); wrong != "" {
				return wrong
			}
		}
	case string:
		is = "string"
		if enum, ok := o["enum"].([]any); ok && !slices.Contains(enum, any(v)) {
			return fmt.Sprintf("%s is %q", where, v)
		}
	case float64:
		is = "integer"
	case bool:
		is = "boolean"
	case nil:
		is = "null"
	}
	if len(kinds) > 0 && !slices.Contains(kinds, any(is)) {
		return fmt.Sprintf("%s is of type %s", where, is)
	}
	return ""
}
