package webhook_test

import (
	"encoding/json"
	"log"
	"net/http"

	"github.com/cardbridge/cardbridge/server/webhook"
)

// An endpoint that takes what a cardbridge server tells it.
func ExampleReceive() {
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") // as webhook add printed it
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("POST /cardbridge", func(w http.ResponseWriter, r *http.Request) {
		m, err := webhook.Receive(r, secret)
		if err != nil {
			http.Error(w, "not from my server", http.StatusUnauthorized)
			return
		}
		var record struct{ ID, State string }
		if err := json.Unmarshal(m.Data, &record); err != nil {
			http.Error(w, "not understood", http.StatusBadRequest)
			return
		}
		log.Println(m.ID, m.Type, record.ID, record.State) // a message may come twice: look at m.ID
	})
}
