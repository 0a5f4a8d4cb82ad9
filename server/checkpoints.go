package server

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"

	"github.com/cardbridge/cardbridge/server/store"
)

// checkpoints signs what happened since the last checkpoint.
type checkpoints struct {
	s     *Server
	mu    sync.Mutex
	last  string // what it signed last: nobody can take that back unseen
	rules string // digest of those that the trail knows of
}

// begin has the trail tell of the start, and end of the end.
func (c *checkpoints) begin(ctx context.Context) {
	c.rules = c.s.Rules().Digest()
	sid := c.s.Terminal.Keys.SID()
	detail := map[string]any{"server": c.s.self.Name, "keys": hex.EncodeToString(sid[:]), "rules_digest": c.rules}
	if c.s.Checkpoints != nil {
		detail["audit_key"] = c.s.Checkpoints.Verifier()
	}
	c.note(ctx, "server started", detail)
	c.make(ctx)
}

func (c *checkpoints) end() {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	c.note(ctx, "server ended", map[string]any{"server": c.s.self.Name})
	c.make(ctx)
}

func (c *checkpoints) note(ctx context.Context, kind string, detail map[string]any) {
	if err := c.s.Store.Note(ctx, store.Event{Kind: kind, Internal: true, Detail: detail}); err != nil && ctx.Err() == nil {
		c.s.Log.Error("not in the audit trail", "event", kind, "error", err)
	}
}

// make notes that the rules are others, and makes a checkpoint where something happened. It is logged whole, so that
// whoever keeps the log has what nobody who writes in the record can change.
func (c *checkpoints) make(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if digest := c.s.Rules().Digest(); digest != c.rules {
		c.note(ctx, "rules changed", map[string]any{"server": c.s.self.Name, "rules_digest": digest, "was": c.rules})
		c.rules = digest
	}
	if c.s.Checkpoints == nil {
		return
	}
	note, err := c.s.Store.Checkpoint(ctx, c.s.Checkpoints, c.last)
	switch {
	case err == nil && note != "":
		c.last = note
		c.s.Log.Info("audit checkpoint", "note", note)
	case errors.Is(err, store.ErrRewritten):
		c.s.Log.Error("the audit trail was tampered with; run audit verify with the last checkpoint of the log", "error", err, "signed", c.last)
	case err != nil && ctx.Err() == nil:
		c.s.Log.Error("no audit checkpoint", "error", err)
	}
}
