package api

import (
	"net/http"
	"time"
)

// Hasten sets how long a stream may be silent, and how long a client may take to
// read.
func (a *API) Hasten(heartbeat, slow time.Duration) { a.heartbeat, a.slow = heartbeat, slow }

// Streams is how many are open.
func (a *API) Streams() int {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	return a.streams.all
}

// StreamsOfOne is how many an operator may open.
const StreamsOfOne = streamsOfOne

// BucketsOf is how many are kept once so many users have asked, and the most.
func BucketsOf(users int) (kept, most int) {
	b := newBuckets[int](1, 1)
	for n := range users {
		b.take(n, 1)
	}
	return b.order.Len(), maxBuckets
}

// Counted is the address by which a remote one is counted.
var Counted = counted

// ProblemTitles are those of all types.
var ProblemTitles = problemTitles

// Logged is logged.
func (a *API) Logged(w http.ResponseWriter, r *http.Request, pattern string, answer func(http.ResponseWriter, *http.Request)) {
	a.logged(w, r, pattern, answer)
}
