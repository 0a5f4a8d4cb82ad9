package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

// readerEventJSON is a line of reader watch.
type readerEventJSON struct {
	Time  time.Time `json:"time"`
	World string    `json:"world"`
	Event string    `json:"event"`
	Name  string    `json:"name"`
	ID    string    `json:"id"`
	ATR   string    `json:"atr,omitempty"`
}

func newReaderWatchCmd() *cobra.Command {
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Tell of readers and cards that come and go, until interrupted",
		Long: `Tells of each reader that is there and each card in one, and then of those that
come and go: by PC/SC readers and cards, by USB the readers alone, since asking
them for their cards would take them from PC/SC.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration)
				defer cancel()
			}
			return watchReaders(ctx, newPrinter(cmd))
		},
	}
	cmd.Flags().DurationVar(&duration, "for", 0, "how long to watch; 0 is until interrupted")
	cmd.Flags().Bool("json", false, "print one JSON object on a line for each event; all else goes to standard error")
	return cmd
}

// watchReaders prints events until ctx ends, which is no failure.
func watchReaders(ctx context.Context, p *printer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	var printed error
	tell := func(world string, e reader.Event) {
		mu.Lock()
		defer mu.Unlock()
		if err := p.readerEvent(world, e); err != nil { // nobody reads any more
			printed = err
			stop()
		}
	}
	var watching sync.WaitGroup
	var byPCSC, byUSB error
	watching.Go(func() { // else nothing would be all that is said
		for _, w := range look(ctx, false).problems() {
			if ctx.Err() == nil {
				p.step("%s: %s", worldName(w.World), w.Problem)
			}
		}
	})
	watching.Go(func() {
		byPCSC = pcsc.New().Watch(ctx, func(e reader.Event) { tell(worldPCSC, e) })
	})
	watching.Go(func() {
		byUSB = watchUSB(ctx, ccid.New(), func(e reader.Event) { tell(worldUSB, e) })
	})
	watching.Wait()
	if ctx.Err() == nil { // neither can be watched
		return errors.Join(byPCSC, byUSB)
	}
	return printed
}

func (p *printer) readerEvent(world string, e reader.Event) error {
	now := time.Now()
	if p.json {
		return p.object(readerEventJSON{now, world, e.Kind.String(), e.Reader.Name, e.Reader.ID, fmt.Sprintf("%X", e.Reader.ATR)})
	}
	colour := green
	if e.Kind == reader.ReaderRemoved || e.Kind == reader.CardRemoved {
		colour = red
	}
	line := fmt.Sprintf("%s  %-5s  %s  %s", now.Format("15:04:05.000"), worldName(world), p.paint(colour, fmt.Sprintf("%-14s", e.Kind)), visible(e.Reader.Name))
	if e.Kind == reader.ReaderAdded && !strings.HasPrefix(e.Reader.ID, "name:") {
		line += "  " + visible(e.Reader.ID)
	}
	if len(e.Reader.ATR) > 0 {
		line += fmt.Sprintf("  %X", e.Reader.ATR)
	}
	_, err := fmt.Fprintln(p.out, line)
	return err
}

// usbInterval is how often to look which readers are on the USB.
const usbInterval = 500 * time.Millisecond

// watchUSB tells of readers that come and go on the USB, without claiming them,
// until ctx ends or there is no USB.
func watchUSB(ctx context.Context, usb *ccid.Source, fn func(reader.Event)) error {
	type place struct {
		reader.USB
		slot int
	}
	known := map[place]reader.Reader{}
	for {
		devices, err := usb.List(ctx)
		if errors.Is(err, ccid.ErrNoUSB) || errors.Is(err, ccid.ErrNotBuilt) {
			return err
		}
		now := map[place]reader.Reader{}
		for _, d := range devices {
			for n, r := range d.Slots {
				at := place{d.USB, n}
				now[at] = r
				if was, there := known[at]; !there || was.ID != r.ID {
					fn(reader.Event{Kind: reader.ReaderAdded, Reader: r})
				}
			}
		}
		for at, was := range known {
			if is, there := now[at]; err == nil && (!there || is.ID != was.ID) {
				fn(reader.Event{Kind: reader.ReaderRemoved, Reader: was})
			}
		}
		if err == nil {
			known = now
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(usbInterval):
		}
	}
}
