package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Follow tells the steps of a request as they happen, by server-sent events, and
// gives its record once it is finished. A stream that is cut off is taken up
// again where it was, until ctx ends.
func (c *Client) Follow(ctx context.Context, id string, tell func(Step)) (*Deactivation, error) {
	pause := 200 * time.Millisecond
	for last := ""; ; {
		before := last
		end, err := c.stream(ctx, id, &last, tell)
		if end != nil || err != nil && settled(err) {
			return end, err
		}
		if last != before {
			pause = 200 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// stream reads events after last, whose id it keeps up to date, until the one
// that says finished, whose record it gives, or until the stream ends.
func (c *Client) stream(ctx context.Context, id string, last *string, tell func(Step)) (*Deactivation, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(replyTimeout, cancel) // a server sends comments all the time
	defer silent.Stop()
	res, err := c.send(ctx, request{
		method: http.MethodGet, path: "/v1/deactivations/" + url.PathEscape(id) + "/events", header: values{"Last-Event-ID": *last},
	}, "text/event-stream")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, maxReply)
	event, size := map[string]string{}, 0 // by field (WHATWG HTML §9.2), and bytes of it
	for lines.Scan() {
		silent.Reset(replyTimeout)
		if lines.Text() != "" {
			if size += len(lines.Bytes()); size > maxReply {
				return nil, fmt.Errorf("the server's event is longer than %d bytes", maxReply)
			}
			name, value, _ := strings.Cut(lines.Text(), ":")
			event[name] = strings.TrimPrefix(value, " ")
			continue
		}
		switch event["event"] {
		case "step":
			var s Step
			if err := json.Unmarshal([]byte(event["data"]), &s); err != nil {
				return nil, fmt.Errorf("the server's event cannot be read: %w", err)
			}
			tell(s)
			*last = event["id"]
		case "finished":
			d := &Deactivation{}
			if err := json.Unmarshal([]byte(event["data"]), d); err != nil {
				return nil, fmt.Errorf("the server's event cannot be read: %w", err)
			}
			return d, nil
		}
		clear(event)
		size = 0
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return nil, io.ErrUnexpectedEOF
}
