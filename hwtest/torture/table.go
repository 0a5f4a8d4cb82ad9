package torture

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Table writes results as a page of Markdown: for each stack, driver and kind of
// card, every step × every fault → outcome.
func Table(results []Result) string {
	var page strings.Builder
	page.WriteString(tableHead)
	sum := Summary{}
	for _, r := range results {
		sum.add(r, nil)
	}
	fmt.Fprintf(&page, "%s.\n", sum)
	for _, stack := range stacksOf(results) {
		of := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.Stack != stack })
		var took time.Duration
		for _, r := range of {
			took += r.Took
		}
		fmt.Fprintf(&page, "\n## %s\n\n%d trials, median %s.\n", stack, len(of), median(of).Round(100*time.Millisecond))
		for _, plain := range of {
			if len(plain.Trial.Injections) == 0 {
				section(&page, plain, of)
			}
		}
		others(&page, of)
	}
	return page.String()
}

const tableHead = `# Faults

Written by ` + "`make torture-readers`" + `: what becomes of a deactivation when something goes wrong in the middle of it.

A row is a command APDU of the deactivation, a column is a fault at that APDU: **before** the card has seen it, or **after** the card
carried it out and before its answer. The fault lasts until the client has met it. Each trial ends with three comparisons: the
outcome, the record, and the card (its memory, and what it says under authentication through the same stack) must agree, a receipt
must verify, nothing may have been done twice, and an outcome that is unknown though the card is back counts as a mismatch.

The card is the emulator. The stacks: *vpcd* is pcscd's virtual reader; *vhci* is a CCID reader in software on the USB of a virtual
machine's kernel, which libccid and libusb take for a reader; *model* is that reader's pipes without USB. The drivers: *operation* is
` + "`card.Operation`" + `, as ` + "`cardbridge card deactivate`" + ` uses it; *server* is the server with its inventory, its queue and its record in SQLite.
An *extended* card takes extended length; a *short* one takes chains and gives its answers by GET RESPONSE.

- *done in 2*: the card was opened twice to carry the operation out, and the second session brought it to its end.
- *stored*: the card had carried the command out already, and gave its stored answer when the same command came again.
- *replugged*: when pcscd was back, libccid gave the reader up, because the reader still had the answer to a command of the pcscd that
  was killed. It was plugged in anew, by hand as it were.

`

func stacksOf(results []Result) (out []string) {
	for _, r := range results {
		if !slices.Contains(out, r.Stack) {
			out = append(out, r.Stack)
		}
	}
	slices.Sort(out)
	return out
}

func median(results []Result) time.Duration {
	s := slices.SortedFunc(slices.Values(results), func(a, b Result) int { return cmp.Compare(a.Took, b.Took) })
	return s[len(s)/2].Took
}

// section is the table of one driver and kind of card; plain is its trial in
// which nothing went wrong.
func section(page *strings.Builder, plain Result, of []Result) {
	cells := map[Injection]string{}
	var faults []Fault
	for _, r := range of {
		if r.Trial.Driver != plain.Trial.Driver || r.Trial.Kind != plain.Trial.Kind || len(r.Trial.Injections) != 1 {
			continue
		}
		at := r.Trial.Injections[0]
		if !slices.Contains(faults, at.Fault) {
			faults = append(faults, at.Fault)
		}
		cells[at] = r.Cell()
	}
	fmt.Fprintf(page, "\n### %s, %s card\n\n| step |", plain.Trial.Driver, plain.Trial.Kind)
	order := []Fault{Pulled, Bounced, Unplugged, Killed, Mute, Hung}
	slices.SortFunc(faults, func(a, b Fault) int { return slices.Index(order, a) - slices.Index(order, b) })
	for _, f := range faults {
		for _, m := range Moments {
			fmt.Fprintf(page, " %s, %s |", f.Words(), m)
		}
	}
	page.WriteString("\n|" + strings.Repeat("---|", 1+len(faults)*len(Moments)) + "\n")
	for i, name := range plain.Steps {
		fmt.Fprintf(page, "| %d %s |", i+1, name)
		for _, f := range faults {
			for _, m := range Moments {
				fmt.Fprintf(page, " %s |", cmp.Or(cells[Injection{i + 1, f, m}], "not run"))
			}
		}
		page.WriteString("\n")
	}
}

// others tells of the trials that are in no table: with another kind of card, or
// with two faults.
func others(page *strings.Builder, of []Result) {
	counts := map[string]int{}
	for _, r := range of {
		if n := len(r.Trial.Injections); n > 1 {
			counts[r.Cell()]++
		}
		if r.Trial.Kind == Triple {
			fmt.Fprintf(page, "\n%s, a card that takes suite 03 alone, %s: %s\n", r.Trial.Driver, r.Trial.words(), r.Cell())
		}
	}
	if len(counts) == 0 {
		return
	}
	page.WriteString("\n### Two faults in one deactivation, drawn by lot\n\n")
	for _, cell := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(page, "- %s: %d trials\n", cell, counts[cell])
	}
}

// words are what goes wrong in a trial.
func (t Trial) words() string {
	var at []string
	for _, i := range t.Injections {
		at = append(at, fmt.Sprintf("step %d %s %s", i.Step, i.Fault.Words(), i.Moment))
	}
	return cmp.Or(strings.Join(at, ", then "), "nothing goes wrong")
}

// Words are the result on one line, for people.
func (r Result) Words() string {
	return fmt.Sprintf("%-28s %-9s %-8s %-42s %s, %.1f s", r.Stack, r.Trial.Driver, r.Trial.Kind, r.Trial.words(), r.Cell(), r.Took.Seconds())
}

// Cell is the result in a few words, as the table has it.
func (r Result) Cell() string {
	if len(r.Mismatches) > 0 {
		return "**MISMATCH** " + r.Trial.String()
	}
	text := fmt.Sprintf("%s in %d", r.Outcome, r.Sessions)
	if r.Stored {
		text += ", stored"
	}
	if r.Helped {
		text += ", replugged"
	}
	return text
}
