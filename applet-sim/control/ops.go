package control

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cardbridge/cardbridge/applet-sim/fault"
	"github.com/cardbridge/cardbridge/card/cryptogram"
)

// op is one request. It takes the members of takes beside v, id and op.
type op struct {
	takes []string
	do    func(*Server, context.Context, *client, *request) (result, *failure)
}

var ops map[string]op

func init() {
	plain := func(do func(*Server)) func(*Server, context.Context, *client, *request) (result, *failure) {
		return func(s *Server, _ context.Context, _ *client, _ *request) (result, *failure) {
			do(s)
			return result{}, nil
		}
	}
	ops = map[string]op{
		"insert":      {do: plain(func(s *Server) { s.card.Insert() })},
		"remove":      {takes: []string{"for"}, do: (*Server).remove},
		"reset":       {do: plain(func(s *Server) { s.card.Reset() })},
		"power":       {takes: []string{"on"}, do: (*Server).power},
		"transmit":    {takes: []string{"apdu"}, do: (*Server).transmitOp},
		"fault.set":   {takes: []string{"fault"}, do: (*Server).setFault},
		"fault.list":  {do: (*Server).listFaults},
		"fault.clear": {takes: []string{"n"}, do: (*Server).clearFault},
		"image.get":   {do: (*Server).image},
		"state":       {do: (*Server).state},
		"trace":       {takes: []string{"on"}, do: (*Server).trace},
		"quit":        {do: plain(func(*Server) {})},
	}
}

// Ops are the names of all requests.
func Ops() []string {
	var all []string
	for name := range ops {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// answer carries out a request; quit says that it was the last.
func (s *Server) answer(ctx context.Context, c *client, line []byte) (r response, quit bool) {
	var req request
	if err := cryptogram.DecodeStrict(line, &req); err != nil {
		r.Error = refused("bad-request", err)
		return r, false
	}
	r.ID = req.ID
	o, f := find(&req, line)
	if f == nil {
		r.result, f = o.do(s, ctx, c, &req)
	}
	r.OK, r.Error = f == nil, f
	return r, f == nil && req.Op == "quit"
}

// find finds what a request asks for, and checks that it says all that belongs to
// it and nothing else.
func find(req *request, line []byte) (op, *failure) {
	bad := func(format string, args ...any) (op, *failure) {
		return op{}, refused("bad-request", fmt.Errorf(format, args...))
	}
	o, known := ops[req.Op]
	switch {
	case req.V != 0 && req.V != Version:
		return bad("version %d: this is version %d", req.V, Version)
	case !known:
		return bad("op %.40q, one of %s wanted", req.Op, strings.Join(Ops(), ", "))
	case len(req.ID) > 256:
		return bad("an id of %d bytes, at most 256 wanted", len(req.ID))
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(line, &members); err != nil {
		return bad("%w", err)
	}
	for name := range members {
		if name != "v" && name != "id" && name != "op" && !slices.Contains(o.takes, name) {
			return bad("%s takes no %s", req.Op, name)
		}
	}
	return o, nil
}

func (s *Server) remove(_ context.Context, _ *client, req *request) (result, *failure) {
	if req.For == "" {
		s.card.Remove()
		return result{}, nil
	}
	away, err := time.ParseDuration(req.For)
	if err != nil || away <= 0 || away > 24*time.Hour {
		return result{}, refused("bad-request", fmt.Errorf("for %.40q: a time like 500ms or 2s, up to 24h", req.For))
	}
	s.card.RemoveFor(away)
	return result{}, nil
}

func (s *Server) power(_ context.Context, _ *client, req *request) (result, *failure) {
	if req.On == nil {
		return result{}, refused("bad-request", errors.New("power: on is true or false"))
	}
	s.card.Power(*req.On)
	return result{}, nil
}

func (s *Server) transmitOp(ctx context.Context, _ *client, req *request) (result, *failure) {
	capdu, err := hex.DecodeString(req.APDU)
	if err == nil && len(capdu) < 4 {
		err = errors.New("a command APDU has 4 bytes at least")
	}
	if err != nil {
		return result{}, refused("bad-request", fmt.Errorf("apdu: %w", err))
	}
	rapdu, f := s.transmit(ctx, capdu)
	return result{APDU: rapdu}, f
}

func (s *Server) setFault(_ context.Context, _ *client, req *request) (result, *failure) {
	f, err := fault.Parse(req.Fault)
	if err != nil {
		return result{}, refused("bad-fault", err)
	}
	id, err := s.card.Inject(f)
	if err != nil {
		return result{}, refused("bad-fault", err)
	}
	return result{Fault: id}, nil
}

func (s *Server) listFaults(context.Context, *client, *request) (result, *failure) {
	all := s.card.Faults()
	return result{Faults: &all}, nil
}

func (s *Server) clearFault(_ context.Context, _ *client, req *request) (result, *failure) {
	if !s.card.ClearFault(req.N) && req.N != 0 {
		return result{}, refused("bad-request", fmt.Errorf("no fault %d is armed", req.N))
	}
	return result{}, nil
}

func (s *Server) image(context.Context, *client, *request) (result, *failure) {
	fields, err := s.card.Image().Fields()
	if err != nil {
		return result{}, refused("bad-request", err)
	}
	return result{Image: fields}, nil
}

func (s *Server) state(context.Context, *client, *request) (result, *failure) {
	im := s.card.Image()
	_, away := s.card.Away()
	st := state{
		EID: im.EID.String(), ATR: hexOf(s.card.ATR()), Powered: s.card.Powered(), Inserted: !away,
		EventCounter: im.EventCounter, Profiles: im.Profiles,
	}
	st.APDUs, st.Writes, st.Resets = s.card.Counts()
	return result{State: &st}, nil
}

func (s *Server) trace(_ context.Context, c *client, req *request) (result, *failure) {
	if req.On == nil {
		return result{}, refused("bad-request", errors.New("trace: on is true or false"))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.traces = *req.On
	return result{}, nil
}
