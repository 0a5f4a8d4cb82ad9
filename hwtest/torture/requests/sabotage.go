package requests

import (
	"context"

	"github.com/cardbridge/cardbridge/applet-sim"
)

// sabotage breaks something on purpose, so that the trials can be seen to find
// it.
type sabotage struct {
	sqlite, postgres []string // statements, for each record
	twice            bool     // cards carry DEACTIVATE out twice
}

func (s *sabotage) breakRecord(ctx context.Context, w *world) error {
	statements := s.sqlite
	if w.record.postgres() {
		statements = s.postgres
	}
	for _, statement := range statements {
		if _, err := w.db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// again has a card carry out once more what it carried out just now.
func (w *world) again(c *tortured) error {
	im := w.memory(c)
	if c.executions() == 0 {
		return nil
	}
	im.EventCounter++
	sim, err := appletsim.New(im, appletsim.WithKeys(w.bench.cardKeys), appletsim.WithStore(c))
	if err != nil {
		return err
	}
	b, err := im.Marshal()
	if err == nil {
		err = c.Save(b)
	}
	was := w.pull(c)
	w.mu.Lock()
	c.sim = sim
	w.mu.Unlock()
	if was {
		w.insert(c)
	}
	return err
}
