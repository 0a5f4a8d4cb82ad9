package ccid

import "context"

// List lists every reader as Devices does, but claims none: so it does not know
// whether cards are in them, nor whether another program holds them.
func (s *Source) List(ctx context.Context) ([]Info, error) {
	all, err := s.bus.List(ctx)
	if err != nil {
		return nil, &Error{Op: "list readers", Err: err}
	}
	infos := make([]Info, len(all))
	for i, p := range all {
		infos[i] = Info{Plugged: p, Slots: p.readers(all), Err: p.Err}
		infos[i].Name, _ = p.labels(all)
		if p.Err != nil {
			infos[i].Problem = p.Err.Error()
		}
	}
	return infos, nil
}
