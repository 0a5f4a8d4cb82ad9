package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/servertest"
)

// Every operation of the document that names something by its path answers
// another operator, of what is there, to the byte as of what is not, and records
// nothing.
func TestNoOracleAnywhere(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	d := f.ask(1, f.token).deactivation(http.StatusAccepted)
	w := f.webhook(fmt.Sprintf(`{"url":%q}`, endpoint))
	var message api.Delivery
	f.do("POST", "/v1/webhooks/"+w.ID+"/test", f.token, "").into(&message)
	there := map[string]string{
		"eid": servertest.EID(1).String(), "iccid": servertest.ICCID(1, 0).String(), "id": d.ID, "webhook": w.ID, "delivery": message.ID,
	}
	nothing := map[string]string{
		"eid": servertest.EID(7).String(), "iccid": servertest.ICCID(7, 0).String(), "id": "00000000-0000-4000-8000-000000000000",
		"webhook": strings.Repeat("0", len(w.ID)), "delivery": strings.Repeat("0", len(message.ID)),
	}
	bodies := map[string]string{
		"set-groups": `{"groups":["critical"]}`, "set-policy": `{"disable_allowed":false}`, "reject-deactivation": `{"reason":"no"}`, "rotate-webhook": `{}`,
	}
	own, err := f.api.OpenAPI()
	require.NoError(t, err)
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			RequestBody any    `json:"requestBody"`
		} `json:"paths"`
	}
	require.NoError(t, json.Unmarshal(own, &doc))
	fill := func(path string, values map[string]string) string {
		for name, value := range values {
			path = strings.ReplaceAll(path, "{"+name+"}", value)
		}
		require.NotContains(t, path, "{", "this test has to know what that is")
		return path
	}
	before, asked := f.count(), 0
	for path, methods := range doc.Paths {
		if !strings.Contains(path, "{") {
			continue
		}
		for method, op := range methods {
			method, body := strings.ToUpper(method), bodies[op.OperationID]
			require.Equal(t, op.RequestBody != nil, body != "", "%s: this test has to know a good body of it", op.OperationID)
			asked++
			for whose, token := range map[string]string{"of a network with a profile on the card": f.other, "of another network": f.third} {
				for _, accept := range []string{"application/json", "text/event-stream"} {
					a, b := f.do(method, fill(path, there), token, body, "Accept", accept), f.do(method, fill(path, nothing), token, body, "Accept", accept)
					assert.Equal(t, http.StatusNotFound, a.Code, "%s, %s: %s", op.OperationID, whose, a.Body)
					assert.Equal(t, b.Body.String(), a.Body.String(), op.OperationID)
					a.Header().Del("X-Request-Id")
					b.Header().Del("X-Request-Id")
					assert.Equal(t, b.Header(), a.Header(), op.OperationID)
				}
			}
			// Whose it is, it is there: the table is not of what nobody finds. What ends a
			// thing is not asked for.
			if method == http.MethodGet {
				assert.Equal(t, http.StatusOK, f.do(method, fill(path, there), f.token, "").Code, op.OperationID)
			}
		}
	}
	assert.Greater(t, asked, 12)
	assert.Equal(t, before, f.count(), "nothing is recorded")
}
