package api_test

import (
	"fmt"
	"time"

	"github.com/cardbridge/cardbridge/server/api"
)

func ExampleStep() {
	s := api.Step{Seq: 4, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Step: "sending"}
	fmt.Println(s.At.Format(time.RFC3339), s.Step)
	// Output: 2026-01-02T03:04:05Z sending
}
