package torture

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/applet-sim"
	"github.com/cardbridge/cardbridge/card"
	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/pcsc/reader"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/inventory"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// Drivers: what carries the deactivation out.
const (
	Operation = "operation" // card.Operation alone, as the bench tool uses it
	Server    = "server"    // the server, its queue, its inventory and its record in SQLite
)

var drivers = map[string]func(context.Context, bench) (report, error){
	Operation: operate,
	Server:    serve,
}

// bench is what a driver works with.
type bench struct {
	source reader.Source
	reader string
	image  *appletsim.Image // of the card, before
	seed   uint64
	log    *slog.Logger
	arm    func() // the deactivation starts
}

// state is what is recorded of a card, or what it says of itself.
type state struct {
	Counter  uint32
	Profiles map[id.ICCID]bool // true: enabled
}

func stateOfImage(im *appletsim.Image) state {
	s := state{im.EventCounter, map[id.ICCID]bool{}}
	for _, p := range im.Profiles {
		s.Profiles[p.ICCID] = p.State == appletsim.Enabled
	}
	return s
}

func stateOfStatus(st *card.Status) state {
	s := state{st.EventCounter, map[id.ICCID]bool{}}
	for _, p := range st.Profiles {
		s.Profiles[p.ICCID] = p.State == card.Enabled
	}
	return s
}

// report is what a driver makes of a deactivation.
type report struct {
	outcome string // card.Outcome's words
	why     string // where it is not done
	record  state
	// proof is the card's signed answer and the command that it answers; nil
	// where there is none.
	proof *proof
}

type proof struct {
	command       card.Command
	data, receipt []byte
}

// Bounds of an operation's recovery.
const (
	attempts = 8
	maxWait  = 10 * time.Second // for a card that is away
)

// operate carries the deactivation out by card.Operation. Its record is what a
// caller can know: the record before, and what the card proved since.
func operate(ctx context.Context, b bench) (report, error) {
	record, err := card.ParseRecord(servertest.Record(b.image))
	if err != nil {
		return report{}, err
	}
	op := card.Operation{
		INS: card.INSDeactivate, RequestID: id.RequestID{0: 1, 15: byte(b.seed)}, Attempts: attempts, Wait: maxWait,
		Open: func(ctx context.Context) (apdu.Conn, error) { return b.source.Open(ctx, b.reader, reader.Exclusive) },
		Step: func(format string, args ...any) { b.log.Info(fmt.Sprintf(format, args...)) },
	}
	b.arm()
	cmd, rep, err := servertest.Terminal().Run(ctx, record.Target(), op)
	r := report{outcome: rep.Outcome.String(), record: stateOfImage(b.image)}
	if err != nil {
		r.why = err.Error()
	}
	if a := rep.Answer; a != nil {
		r.proof = &proof{cmd, a.Data, a.Receipt}
		r.record.Counter = a.Counter
		if a.ICCID != nil {
			r.record.Profiles[*a.ICCID] = a.State == card.Enabled
		}
	}
	if rep.Status != nil {
		r.record = stateOfStatus(rep.Status)
	}
	return r, nil
}

// serve has the server carry the deactivation out, as an operator asks for it.
func serve(ctx context.Context, b bench) (r report, err error) {
	dir, err := os.MkdirTemp("", "torture-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	records, err := store.Open(ctx, filepath.Join(dir, "record.db"))
	if err != nil {
		return r, err
	}
	defer records.Close()
	srv, err := server.New(server.Config{
		Store: records, Inventory: inventory.New(b.source, b.log), Terminal: servertest.Terminal(), Log: b.log,
		Retry:     server.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond},
		AuthRetry: server.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond},
	})
	if err != nil {
		return r, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(running) }()
	defer func() {
		stop()
		if eerr := <-ended; err == nil {
			err = eerr
		}
	}()
	op, _, err := server.AddOperator(ctx, records, "torture", servertest.Owner, "", store.AllRoles)
	if err != nil {
		return r, err
	}
	if _, _, err := srv.RegisterCard(ctx, op, servertest.Record(b.image)); err != nil {
		return r, err
	}
	eid := b.image.EID
	settled := func() bool {
		c, err := records.Card(ctx, eid, 0)
		return err == nil && !c.Unsettled && len(srv.Inventory.Readers(eid)) > 0
	}
	if err := until(ctx, settled); err != nil {
		return r, fmt.Errorf("the server does not find the card: %w", err)
	}
	b.arm()
	req, _, err := srv.Deactivate(ctx, op, server.Deactivation{EID: eid})
	if err != nil {
		return r, err
	}
	for after := int64(0); req.FinishedAt == nil && ctx.Err() == nil; {
		var events []store.Event
		var now store.Request
		if events, now, err = srv.Steps(ctx, op, req.ID, after, time.Second); err != nil {
			break
		}
		req = now
		for _, e := range events {
			after = e.Seq
		}
	}
	// What is not finished by now is unknown, and the record is what it is.
	read := context.WithoutCancel(ctx)
	_ = until(ctx, func() bool {
		c, err := records.Card(read, eid, 0)
		return err == nil && !c.Unsettled
	})
	if req, err = records.Request(read, req.ID); err != nil {
		return r, err
	}
	c, err := records.Card(read, eid, 0)
	if err != nil {
		return r, err
	}
	r = report{outcome: string(req.State), why: req.Detail, record: state{c.EventCounter, map[id.ICCID]bool{}}}
	if c.Unsettled {
		r.why += "; the card is unsettled"
	}
	for _, p := range c.Profiles {
		r.record.Profiles[p.ICCID] = p.State == store.Enabled
	}
	if a := req.Answer; a != nil {
		r.proof = &proof{card.Command{
			INS: card.INSDeactivate, RequestID: req.ID, Operator: req.MCCMNC, ICCID: req.ICCID, Reason: req.Reason, Counter: req.Counter,
		}, a.Response, a.Receipt}
	}
	return r, nil
}

// until waits for what is to become true.
func until(ctx context.Context, true func() bool) error {
	for !true() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		sleep(ctx, lookInterval)
	}
	return nil
}

const lookInterval = 5 * time.Millisecond
