package requests

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/torture"
)

func TestMain(m *testing.M) {
	Enter()
	os.Exit(m.Run())
}

// failed are trials that once found something wrong in the servers or the store.
var failed = []struct {
	seed uint64
	n    int
	what string
}{
	{1, 468, "the same idempotency key at two servers at once was an internal error"},
	{4, 399, "a claim made while the clock was ahead held a card for as long"},
}

func TestFailedOnce(t *testing.T) {
	for _, f := range failed {
		sum, err := Run(t.Context(), Options{Seed: f.seed, Trials: []int{f.n, f.n, f.n}, Out: t.Output()})
		require.NoError(t, err)
		assert.Zero(t, sum.Mismatches, f.what)
	}
}

func TestTorture(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	sum, err := Run(t.Context(), Options{Seed: seed, Trials: Numbers(many), Out: t.Output()})
	t.Logf("%d faults happened, %d trials killed a process, %s", sum.Struck, sum.Real, sum.Took)
	t.Log(sum)
	require.NoError(t, err)
	assert.Zero(t, sum.Mismatches)
	assert.Equal(t, many, sum.Trials)
	assert.GreaterOrEqual(t, sum.Real, 50, "trials that killed a process")
	assert.Greater(t, sum.Struck, many*7/10, "trials whose fault happened")
}

func TestPlan(t *testing.T) {
	steps, faults, kinds := map[Step]int{}, map[Fault]int{}, map[record]int{}
	for n := range 3000 {
		p := PlanTrial(7, n)
		assert.Equal(t, p.String(), PlanTrial(7, n).String(), "the seed decides")
		steps[p.Main.Step]++
		faults[p.Main.Fault]++
		kinds[p.Record]++
		if n < 50 {
			assert.Contains(t, []Fault{Killed, Restarted}, p.Main.Fault)
		}
		assert.Equal(t, p.Main.Fault == Killed, p.Record.child())
		assert.Equal(t, p.Main.Fault == Restarted, p.Record.restarts())
	}
	for _, s := range Steps {
		assert.Greater(t, steps[s], 50, s)
	}
	for _, f := range Faults {
		assert.Greater(t, faults[f], 10, f)
	}
	assert.Len(t, kinds, len(records))
	assert.NotEqual(t, PlanTrial(7, 60).String(), PlanTrial(8, 60).String())
}

// some are trials of a seed.
func some(seed uint64, n int, which func(*Trial) bool) (out []int) {
	for i := reals; len(out) < n; i++ {
		if which(PlanTrial(seed, i)) {
			out = append(out, i)
		}
	}
	return out
}

// bothCards reports whether one operator asks for two cards that it can have
// deactivated.
func (t *Trial) bothCards() bool {
	card := map[int]int{} // by operator
	for _, a := range t.asks {
		c := t.cards[a.card]
		if c.owner != a.operator || c.critical || c.absent {
			continue
		}
		if other, ok := card[a.operator]; ok && other != a.card {
			return true
		}
		card[a.operator] = a.card
	}
	return false
}

// What is broken on purpose is found.
func TestSabotage(t *testing.T) {
	ignore := func(event, table, when string) sabotage {
		return sabotage{sqlite: []string{`CREATE TRIGGER sabotage BEFORE ` + event + ` ON ` + table + ` WHEN ` + when + ` BEGIN SELECT RAISE(IGNORE); END`}}
	}
	plain := func(p *Trial) bool { return p.Record == sqliteOne && p.Second == nil }
	for what, c := range map[string]struct {
		sabotage
		which func(*Trial) bool
		want  string
	}{
		"a fencing token that does not grow": {
			sabotage{postgres: []string{
				`CREATE FUNCTION sabotage() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN NEW.claim_token := OLD.claim_token; RETURN NEW; END $$`,
				`CREATE TRIGGER zabotage BEFORE UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION sabotage()`,
			}},
			func(p *Trial) bool {
				return p.Record == postgresTwo && p.Second == nil && p.Main.Fault == Slept && (p.Main.Step == Mark || p.Main.Step == Internal || p.Main.Step == External) &&
					p.Main.Moment == torture.Before
			},
			"although another one had claimed the card while it slept",
		},
		"a mark that is not written":         {ignore("UPDATE", "deactivations", "NEW.state = 'sending'"), plain, "marked false, and the audit trail has"},
		"an outcome that is not written":     {ignore("UPDATE", "deactivations", "NEW.state = 'done'"), plain, "and 0 requests are done"},
		"a card's state that is not written": {ignore("UPDATE", "cards", "NEW.event_counter <> OLD.event_counter"), plain, "recorded 5"},
		"a key that is not kept":             {ignore("INSERT", "idempotency_keys", "TRUE"), plain, "has two requests"},
		"a request that is not kept":         {ignore("INSERT", "events", "NEW.kind = 'done'"), plain, "the audit trail does not end so"},
		"an event that is changed later": {
			sabotage{sqlite: []string{
				`DROP TRIGGER events_no_update`,
				`CREATE TRIGGER sabotage AFTER INSERT ON events WHEN NEW.kind = 'done' BEGIN UPDATE events SET at = at + 1 WHERE seq = NEW.seq; END`,
			}},
			plain, "its hash is not that of what it says",
		},
		"a guard that does not give places back": {ignore("UPDATE", "guard_scopes", "NEW.pending < OLD.pending"), plain, "are pending for the guard"},
		"a guard that forgets what was sent": {
			sabotage{sqlite: []string{`CREATE TRIGGER sabotage AFTER UPDATE ON guard_scopes BEGIN UPDATE guard_scopes SET counts = x'', pending = 0 WHERE id = NEW.id; END`}},
			func(p *Trial) bool { return plain(p) && p.max == 1 && p.ceiling == 0 && p.bothCards() },
			"was sent without an approval",
		},
		"a card that carries out a command twice": {sabotage{twice: true}, plain, "the event counter moved by 2, and 1 requests are done"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			sum, err := Run(t.Context(), Options{Seed: 1, Trials: some(1, 12, c.which), sabotage: &c.sabotage, patience: 500 * time.Millisecond})
			require.NoError(t, err)
			require.NotZero(t, sum.Mismatches)
			var all strings.Builder
			for _, r := range sum.Failed {
				all.WriteString(strings.Join(r.Mismatches, "\n"))
				assert.Contains(t, r.Story, "make torture SEED=1 TRIAL=")
			}
			assert.Contains(t, all.String(), c.want)
		})
	}
}

func TestTable(t *testing.T) {
	sum, err := Run(t.Context(), Options{Seed: 3, Trials: some(3, 4, func(p *Trial) bool { return p.Record == sqliteOne })})
	require.NoError(t, err)
	page := sum.Page()
	assert.Contains(t, page, "trials 4, mismatches 0, seed 3")
	assert.Equal(t, 2+2*len(Steps), strings.Count(page, "\n|"))
}
