package api

import (
	"encoding/json"
	"net/http"

	"github.com/cardbridge/cardbridge/server"
)

// probes are the routes that tell how the server is.
var probes = map[string]bool{"/healthz": true, "/livez": true, "/readyz": true}

// Readiness says whether a server should be sent requests, and what it hangs on.
type Readiness struct {
	Status string  `json:"status"` // ready, not ready
	Checks []Check `json:"checks"`
}

// Check is one thing that readiness hangs on.
type Check struct {
	Name string `json:"name"` // engine, record, readers, rules
	OK   bool   `json:"ok"`
	Text string `json:"text,omitempty"` // what is wrong
}

// registerHealth adds what load balancers and supervisors ask. They are no
// operators: the document does not have it. /livez says whether the process
// answers, and if not is to be started again; /readyz whether the server should
// be sent requests: 503 before it has started, once it was told to end, and while
// what it needs is not there.
func (a *API) registerHealth() {
	a.mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeHealth(w, http.StatusOK, Health{Status: "ok"}) })
	a.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		status, out := http.StatusOK, Readiness{Status: "ready"}
		for _, c := range a.server.Readiness(r.Context()) {
			check := Check{Name: c.Name, OK: c.Err == nil}
			if c.Err != nil {
				status, out.Status, check.Text = http.StatusServiceUnavailable, "not ready", c.Text
				if c.Err != server.ErrEnding {
					a.log.WarnContext(r.Context(), "not ready", "check", c.Name, "error", c.Err)
				}
			}
			out.Checks = append(out.Checks, check)
		}
		writeHealth(w, status, out)
	})
}

func writeHealth(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // who is gone does not read it
}
