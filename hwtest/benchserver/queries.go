package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cardbridge/cardbridge/server/store"
)

// timings are how long statements took, by their text.
type timings struct {
	mu  sync.Mutex
	all map[string][]time.Duration // nil while nobody asks
}

// queryTime is what is told of a statement.
type queryTime struct {
	Count  int
	Median time.Duration
}

func (t *timings) add(query string, _ []any, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all != nil {
		t.all[query] = append(t.all[query], took)
	}
}

func (t *timings) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = map[string][]time.Duration{}
}

func (t *timings) end() map[string]queryTime {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]queryTime{}
	for q, all := range t.all {
		out[q] = queryTime{len(all), quantile(all, 0.5)}
	}
	t.all = nil
	return out
}

// hot are the statements that deactivations, so many, asked, the most frequent
// first, at each size of the fleet.
type hot struct {
	deactivations int
	sizes         []int
	at            []map[string]queryTime
}

func (h *hot) queries() []string {
	count := map[string]int{}
	for _, at := range h.at {
		for q, t := range at {
			count[q] += t.Count
		}
	}
	var out []string
	for q, n := range count {
		if n >= len(h.at)*h.deactivations/4 || strings.Contains(q, "claim_until <=") || strings.Contains(q, "deadline <=") { // polls too
			out = append(out, q)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if count[a] != count[b] {
			return count[b] - count[a]
		}
		return strings.Compare(a, b)
	})
	return out
}

var space = regexp.MustCompile(`\s+`)

// short is a statement in one line of no more than n characters.
func short(query string, n int) string {
	text := []rune(space.ReplaceAllString(strings.TrimSpace(query), " "))
	if i := strings.Index(string(text), " FROM "); i > 0 && strings.HasPrefix(string(text), "SELECT ") {
		text = []rune("SELECT …" + string(text)[i:])
	}
	if len(text) > n {
		text = append(text[:n-1], '…')
	}
	return string(text)
}

// tell prints the medians of each statement at each size.
func (h *hot) tell(b *bench) {
	if len(h.at) == 0 {
		return
	}
	b.say("\nmedian time of each statement, one deactivation at a time, and how many of them a deactivation has")
	head := fmt.Sprintf("%4s %6s", "", "each")
	for _, n := range h.sizes {
		head += fmt.Sprintf(" %9d", n)
	}
	b.say("%s  cards registered", head)
	for i, q := range h.queries() {
		last := h.at[len(h.at)-1][q]
		line := fmt.Sprintf("%4s %6.2f", fmt.Sprintf("q%d", i+1), float64(last.Count)/float64(h.deactivations))
		for _, at := range h.at {
			line += fmt.Sprintf(" %9s", us(at[q].Median))
		}
		b.say("%s  %s", line, short(q, 100))
	}
}

// plans writes how the database answers each statement, and names the tables
// that one of them reads as a whole.
func (h *hot) plans(ctx context.Context, b *bench, name string, f *fleet) error {
	var text strings.Builder
	fmt.Fprintf(&text, "How each statement of the hot path is answered with %d cards registered. See README.md.\n", f.cards)
	db, err := f.open()
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	scans := map[string]bool{}
	for i, q := range h.queries() {
		fmt.Fprintf(&text, "\nq%d: %s\n", i+1, space.ReplaceAllString(strings.TrimSpace(q), " "))
		if verb, _, _ := strings.Cut(strings.TrimSpace(q), " "); verb != "SELECT" && verb != "UPDATE" {
			fmt.Fprintf(&text, "    (looks nothing up)\n")
			continue
		}
		lines, err := explain(ctx, conn, q, i, store.IsPostgres(f.record))
		if err != nil {
			return fmt.Errorf("plan of %s: %w", q, err)
		}
		for _, line := range lines {
			fmt.Fprintf(&text, "    %s\n", line)
			if m := wholeTable.FindStringSubmatch(line); m != nil {
				scans[m[1]+m[2]] = true
			}
		}
	}
	var whole []string
	for t := range scans {
		whole = append(whole, t)
	}
	slices.Sort(whole)
	b.say("tables that a plan reads as a whole: %s", orNone(whole))
	if b.planDir == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(b.planDir, "plans-"+name+".txt"), []byte(text.String()), 0o644)
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// wholeTable is a line of a plan that reads all of a table; json_each is a list
// of arguments.
var wholeTable = regexp.MustCompile(`Seq Scan on (\w+)|^SCAN ([a-ik-z]\w*)`)

// explain is the plan for arguments that are not known.
func explain(ctx context.Context, conn *sql.Conn, query string, i int, isPostgres bool) ([]string, error) {
	if !isPostgres {
		return lines(ctx, conn, `EXPLAIN QUERY PLAN `+query, make([]any, strings.Count(query, "?"))...)
	}
	n := 0
	for strings.Contains(query, "?") {
		n++
		query = strings.Replace(query, "?", fmt.Sprintf("$%d", n), 1)
	}
	for _, q := range []string{`SET plan_cache_mode = force_generic_plan`, fmt.Sprintf(`PREPARE q%d AS %s`, i, query)} {
		if _, err := conn.ExecContext(ctx, q); err != nil {
			return nil, err
		}
	}
	execute := fmt.Sprintf(`EXPLAIN EXECUTE q%d`, i)
	if n > 0 {
		execute += `(` + strings.TrimSuffix(strings.Repeat(`NULL,`, n), ",") + `)`
	}
	return lines(ctx, conn, execute)
}

// lines is the last column of each row.
func lines(ctx context.Context, conn *sql.Conn, query string, args ...any) ([]string, error) {
	rows, err := conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out []string
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprint(*values[len(values)-1].(*any)))
	}
	return out, rows.Err()
}
