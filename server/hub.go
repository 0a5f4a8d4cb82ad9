package server

import (
	"maps"
	"slices"
	"sync"
)

// hub tells those who wait for the next step of something that there is one.
type hub[K comparable] struct {
	mu          sync.Mutex
	subscribers map[K]map[chan struct{}]struct{}
}

func newHub[K comparable]() *hub[K] {
	return &hub[K]{subscribers: map[K]map[chan struct{}]struct{}{}}
}

// subscribe gives a channel that gets a value after the next step of k.
func (h *hub[K]) subscribe(k K) (steps <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subscribers[k] == nil {
		h.subscribers[k] = map[chan struct{}]struct{}{}
	}
	h.subscribers[k][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subscribers[k], ch)
		if len(h.subscribers[k]) == 0 {
			delete(h.subscribers, k)
		}
	}
}

func (h *hub[K]) publish(k K) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.subscribers[k] {
		select {
		case ch <- struct{}{}:
		default: // it has one waiting already
		}
	}
}

// keys are those that somebody waits for.
func (h *hub[K]) keys() []K {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.subscribers))
}
