package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/cardbridge/cardbridge/apdu"
	"github.com/cardbridge/cardbridge/pcsc"
	"github.com/cardbridge/cardbridge/pcsc/atr"
	"github.com/cardbridge/cardbridge/pcsc/ccid"
	"github.com/cardbridge/cardbridge/pcsc/reader"
)

func newReaderCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reader",
		Short: "Card readers, as PC/SC and as USB have them",
		Long: `Shows card readers as the PC/SC service has them and as they are on the USB,
matched by an identity that stays when names move: the USB serial number where
there is one, else the USB path. What is wrong with a reader is said with what
to do about it. A name, a part of one that only one reader has, or an identity
says which reader is meant.`,
	}
	cmd.AddCommand(newReaderListCmd(), newReaderWatchCmd(), newReaderInfoCmd(), newReaderResetCmd())
	return cmd
}

func newReaderListCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the readers, what is in them, and what is wrong with them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newPrinter(cmd)
			v := look(cmd.Context(), true)
			if len(v.Slots) == 0 && v.pcscErr != nil {
				return errors.Join(v.pcscErr, v.usbErr)
			}
			if p.json {
				return p.object(v.json())
			}
			v.print(p)
			return nil
		},
	}
	addJSONFlag(cmd)
	return cmd
}

func (v *view) print(p *printer) {
	if len(v.Slots) == 0 {
		fmt.Fprintln(p.out, "no readers: plug one in, or attach an emulated card by applet-sim to a virtual one")
	} else {
		rows := make([][]string, len(v.Slots))
		for i, s := range v.Slots {
			rows[i] = []string{visible(s.Name), s.state(), s.seenBy(), visible(s.ID), fmt.Sprintf("%X", s.ATR)}
		}
		p.table("READER|STATE|SEEN BY|IDENTITY|ATR", rows)
	}
	for _, s := range v.Slots {
		p.trouble(visible(s.Name), s.Problem, s.Do)
	}
	for _, w := range v.problems() {
		p.trouble(worldName(w.World), w.Problem, "")
	}
}

// trouble prints what is wrong with something, and what to do.
func (p *printer) trouble(what, problem, do string) {
	if problem == "" && do == "" {
		return
	}
	fmt.Fprintf(p.out, "%s %s: %s\n", p.paint(yellow, "!"), what, cmp.Or(problem, do))
	if problem != "" && do != "" {
		fmt.Fprintf(p.out, "  → %s\n", do)
	}
}

func (s *slotView) state() string {
	switch {
	case s.device != nil && s.device.Err != nil && !s.in(worldPCSC):
		return "cannot be used"
	case s.Card && s.Mute:
		return "card, mute"
	case s.Card && s.Exclusive:
		return "card, in exclusive use"
	case s.Card && s.InUse:
		return "card, in use"
	case s.Card:
		return "card"
	}
	return "empty"
}

func (s *slotView) seenBy() string {
	names := make([]string, len(s.Worlds))
	for i, w := range s.Worlds {
		names[i] = worldName(w)
	}
	return strings.Join(names, ", ")
}

// visible is a name that a device gave itself without what would steer a terminal.
func visible(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, name)
}

func worldName(world string) string {
	if world == worldPCSC {
		return "PC/SC"
	}
	return "USB"
}

type readerJSON struct {
	Name      string        `json:"name"`
	ID        string        `json:"id,omitempty"`
	Worlds    []string      `json:"worlds,omitempty"`
	USBName   string        `json:"usb_name,omitempty"`
	Card      bool          `json:"card"`
	ATR       string        `json:"atr,omitempty"`
	Mute      bool          `json:"mute,omitempty"`
	InUse     bool          `json:"in_use,omitempty"`
	Exclusive bool          `json:"exclusive,omitempty"`
	Problem   string        `json:"problem,omitempty"`
	Do        string        `json:"do,omitempty"`
	Holders   []ccid.Holder `json:"holders,omitempty"`
}

func (s *slotView) json() readerJSON {
	return readerJSON{s.Name, s.ID, s.Worlds, s.USBName, s.Card, fmt.Sprintf("%X", s.ATR), s.Mute, s.InUse, s.Exclusive, s.Problem, s.Do, s.Holders}
}

type listJSON struct {
	Readers  []readerJSON `json:"readers"`
	Problems []problem    `json:"problems,omitempty"`
}

func (v *view) json() listJSON {
	out := listJSON{Readers: make([]readerJSON, len(v.Slots)), Problems: v.problems()}
	for i, s := range v.Slots {
		out.Readers[i] = s.json()
	}
	return out
}

// find is the slot that a name or identity means, in either world.
func (v *view) find(name string) (*slotView, error) {
	all := make([]reader.Reader, 0, len(v.Slots))
	for _, s := range v.Slots {
		if s.USBName != "" && s.USBName == name {
			return s, nil
		}
		all = append(all, s.Reader)
	}
	found, err := pcsc.Find(all, name)
	if err != nil {
		why := []error{err, v.pcscErr}
		if len(v.Slots) == 0 {
			why = append(why, v.usbErr)
		}
		return nil, errors.Join(why...)
	}
	for _, s := range v.Slots {
		if s.Name == found.Name && s.ID == found.ID {
			return s, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", apdu.ErrNoReader, name)
}

func newReaderInfoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info [READER]",
		Short: "Show all that is known of a reader and the card in it",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p := newPrinter(cmd)
			v := look(cmd.Context(), true)
			s, err := v.find(argument(args))
			if err != nil {
				return err
			}
			info := infoJSON{Reader: s.json()}
			if s.in(worldPCSC) {
				told, err := pcsc.New().Info(cmd.Context(), s.Name)
				if err != nil {
					info.PCSCProblem = err.Error()
				}
				info.PCSC = &pcscJSON{told, fmt.Sprintf("%X", told.ATR)}
			}
			if s.device != nil {
				info.USB = &usbJSON{Info: *s.device, Slot: s.slot}
			}
			if len(s.ATR) > 0 {
				parsed, err := atr.Parse(s.ATR)
				info.ATR = parsed.Lines(clockOf(s))
				if err != nil {
					info.ATR = append(info.ATR, err.Error())
				}
			}
			if p.json {
				return p.object(info)
			}
			info.print(p, s)
			return nil
		},
	}
	addJSONFlag(cmd)
	return cmd
}

func argument(args []string) string {
	if len(args) == 0 {
		return "" // the only reader
	}
	return args[0]
}

// clockOf is the reader's clock, kHz; 0 where it is not known.
func clockOf(s *slotView) int {
	if s.device == nil {
		return 0
	}
	return s.device.Descriptor.Clock()
}

type infoJSON struct {
	Reader      readerJSON `json:"reader"`
	PCSC        *pcscJSON  `json:"pcsc,omitempty"`
	PCSCProblem string     `json:"pcsc_problem,omitempty"`
	USB         *usbJSON   `json:"usb,omitempty"`
	ATR         []string   `json:"atr,omitempty"` // in words
}

type pcscJSON struct {
	pcsc.Info
	ATR string `json:"atr,omitempty"` // hexadecimal, as everywhere
}

type usbJSON struct {
	ccid.Info
	Slot int `json:"slot"`
}

func (i *infoJSON) print(p *printer, s *slotView) {
	p.field("reader", visible(s.Name))
	p.field("identity", visible(s.ID))
	p.field("state", s.state())
	p.field("seen by", s.seenBy())
	p.trouble("this reader", s.Problem, s.Do)
	if t := i.PCSC; t != nil {
		fmt.Fprintln(p.out, p.paint(green, "by PC/SC"))
		p.field("  vendor", t.Vendor)
		p.field("  type", t.Type)
		p.field("  version", t.Version)
		p.field("  serial", t.Serial)
		if t.Protocol != 0 {
			p.field("  protocol", t.Protocol.String())
		}
		p.field("  clock", between(t.DefaultClock, t.MaxClock, "kHz"))
		p.field("  data rate", between(t.DefaultDataRate, t.MaxDataRate, "bit/s"))
		p.field("  IFSD", between(t.MaxIFSD, t.MaxIFSD, "bytes"))
		p.field("  longest command", between(t.MaxInput, t.MaxInput, "bytes"))
		for _, f := range t.Features {
			p.field("  feature", fmt.Sprintf("%s (control code %08X)", f.Tag, f.Code))
		}
		if pr := t.Properties; pr != nil && pr.MaxAPDUData != nil {
			p.field("  APDU data", fmt.Sprintf("%d bytes", *pr.MaxAPDUData))
		}
		if i.PCSCProblem == "" && t.Vendor == "" && t.Type == "" && t.Serial == "" && t.MaxInput == 0 && len(t.Features) == 0 {
			fmt.Fprintln(p.out, "  the reader says little of itself") // its driver has no attributes, as a virtual one's
		}
		p.trouble("PC/SC", i.PCSCProblem, "")
	}
	if u := i.USB; u != nil {
		fmt.Fprintln(p.out, p.paint(green, "on USB"))
		p.field("  name", s.USBName)
		p.field("  device", fmt.Sprintf("%04x:%04x, bus %d, address %d, path %s, interface %d",
			u.USB.Vendor, u.USB.Product, u.USB.Bus, u.USB.Address, cmp.Or(u.USB.Path, "not known"), u.USB.Interface))
		p.field("  serial", u.USB.Serial)
		for _, line := range u.Descriptor.Lines() {
			fmt.Fprintln(p.out, "  "+line)
		}
		for _, problem := range u.Descriptor.Problems() {
			p.trouble("descriptor", problem.String(), "")
		}
	}
	if len(i.ATR) > 0 {
		fmt.Fprintln(p.out, p.paint(green, "the card"))
		for _, line := range i.ATR {
			fmt.Fprintln(p.out, "  "+line)
		}
	}
}

// between is a value and its maximum, "" where it is not known.
func between(usual, highest uint32, unit string) string {
	switch {
	case usual == 0 && highest == 0:
		return ""
	case usual == highest || highest == 0:
		return fmt.Sprintf("%d %s", usual, unit)
	}
	return fmt.Sprintf("%d to %d %s", usual, highest, unit)
}
