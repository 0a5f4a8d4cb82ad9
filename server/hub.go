package server

import (
	"sync"

	"github.com/cardbridge/cardbridge/card/id"
)

// hub tells those who wait for a request's next step that there is one.
type hub struct {
	mu          sync.Mutex
	subscribers map[id.RequestID]map[chan struct{}]struct{}
}

// subscribe gives a channel that gets a value after the request's next step.
func (h *hub) subscribe(r id.RequestID) (steps <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subscribers[r] == nil {
		h.subscribers[r] = map[chan struct{}]struct{}{}
	}
	h.subscribers[r][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subscribers[r], ch)
		if len(h.subscribers[r]) == 0 {
			delete(h.subscribers, r)
		}
	}
}

func (h *hub) publish(r id.RequestID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subscribers[r] {
		select {
		case ch <- struct{}{}:
		default: // it has one waiting already
		}
	}
}
