package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cardbridge/cardbridge/hwtest/rig/postgres"
	"github.com/cardbridge/cardbridge/server"
	"github.com/cardbridge/cardbridge/server/api"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/servertest"
	"github.com/cardbridge/cardbridge/server/store"
)

// onBoth runs a test on a record of each kind, under the shipped rules with a
// budget.
func onBoth(t *testing.T, budget string, test func(t *testing.T, f *fixture)) {
	set := servertest.RulesWith(budget)
	config := server.Config{Rules: func() *rules.Set { return set }, Poll: 20 * time.Millisecond}
	t.Run("sqlite", func(t *testing.T) { test(t, newFixtureOn(t, servertest.NewRecord(t, migrate), config)) })
	t.Run("postgres", func(t *testing.T) { test(t, newFixtureOn(t, postgres.Shared(t).NewDatabase(t, ""), config)) })
}

// user adds a user to the operator that f.token is of, and gives its token.
func (f *fixture) user(name string, roles store.Roles) string {
	_, token, err := server.AddUser(f.Context(), f.store, "one", name, roles)
	require.NoError(f, err)
	return token
}

// ask asks for the deactivation of card n.
func (f *fixture) ask(n int, token string) reply {
	return f.do("POST", "/v1/deactivations", token, fmt.Sprintf(`{"eid":%q}`, servertest.EID(n)))
}

func (r reply) deactivation(status int) (d api.Deactivation) {
	r.Helper()
	require.Equal(r, status, r.Code, "%s", r.Body)
	r.into(&d)
	return d
}

// until waits for a state of a request.
func (f *fixture) until(d api.Deactivation, state string) (now api.Deactivation) {
	f.Helper()
	require.Eventually(f, func() bool {
		now = f.do("GET", "/v1/deactivations/"+d.ID, f.token, "").deactivation(http.StatusOK)
		return now.State == state
	}, 20*time.Second, 5*time.Millisecond, "state %s", state)
	return now
}

func step(d api.Deactivation, name string) string { return "/v1/deactivations/" + d.ID + "/" + name }

// refuses checks that a step is answered with a status and records nothing.
func (f *fixture) refuses(status int, path, token, body string) api.Problem {
	f.Helper()
	before := f.count()
	p := f.do("POST", path, token, body).problem(status)
	assert.Equal(f, before, f.count(), "nothing is recorded")
	return p
}

// Beyond the budget requests wait for a second user.
func TestFourEyes(t *testing.T) {
	onBoth(t, "{max: 1}", func(t *testing.T, f *fixture) {
		kim, lee := f.user("kim", store.MayRequest|store.MayRead), f.user("lee", store.MayApprove|store.MayRead)
		for n := 1; n <= 4; n++ {
			f.register(n)
		}
		first := f.ask(1, kim).deactivation(http.StatusAccepted)
		assert.Equal(t, "kim", first.User)
		r := f.ask(2, f.token)
		held := r.deactivation(http.StatusAccepted)
		assert.Equal(t, "held", held.State)
		assert.Contains(t, held.HeldWhy, "budget of 1")
		assert.Equal(t, "/v1/deactivations/"+held.ID, r.Header().Get("Location"))
		assert.WithinDuration(t, time.Now().Add(24*time.Hour), held.Deadline, time.Minute)
		var list api.DeactivationList
		f.do("GET", "/v1/deactivations?state=held", lee, "").into(&list)
		require.Len(t, list.Deactivations, 1)
		assert.Equal(t, held, list.Deactivations[0])
		f.do("GET", "/v1/deactivations?state=held", f.other, "").into(&list)
		assert.Empty(t, list.Deactivations)

		none := api.Deactivation{ID: "00000000-0000-4000-8000-000000000000"}
		for _, name := range []string{"approval", "cancellation"} {
			theirs, nobodys := f.refuses(http.StatusNotFound, step(held, name), f.other, ""), f.refuses(http.StatusNotFound, step(none, name), f.other, "")
			assert.Equal(t, nobodys, theirs)
			f.refuses(http.StatusUnprocessableEntity, step(api.Deactivation{ID: strings.Repeat("-", 36)}, name), f.token, "")
		}
		no := `{"reason":"not this card"}`
		assert.Equal(t, f.refuses(http.StatusNotFound, step(none, "rejection"), f.other, no), f.refuses(http.StatusNotFound, step(held, "rejection"), f.other, no))
		for _, name := range []string{"approval", "rejection"} {
			p := f.refuses(http.StatusForbidden, step(held, name), f.token, map[string]string{"rejection": no}[name])
			assert.Equal(t, server.FourEyes, p.Rule, "whoever asked")
			assert.Contains(t, p.Detail, "a second user must")
			assert.Equal(t, "held", p.State)
			f.refuses(http.StatusForbidden, step(held, name), kim, map[string]string{"rejection": no}[name])
			p = f.refuses(http.StatusConflict, step(first, name), lee, map[string]string{"rejection": no}[name])
			assert.Contains(t, p.Detail, "waits for no approval")
		}
		for _, body := range []string{"", "{}", `{"reason":""}`, `{"reason":null}`, `{"reason":1}`, `{"reason":"a\u0007b"}`, `{"reason":"x","more":1}`, `{"reason":"` + strings.Repeat("é", 201) + `"}`} {
			before := f.count()
			r := f.do("POST", step(held, "rejection"), lee, body)
			assert.True(t, r.Code == 400 || r.Code == 422, "%d for %.40q", r.Code, body)
			assert.Equal(t, before, f.count())
		}

		approved := f.do("POST", step(held, "approval"), lee, "").deactivation(http.StatusOK)
		assert.Equal(t, []any{"accepted", "lee"}, []any{approved.State, approved.ApprovedBy})
		require.NotNil(t, approved.ApprovedAt)
		assert.WithinDuration(t, approved.ApprovedAt.Add(server.DefaultTimeout), approved.Deadline, time.Second)
		p := f.refuses(http.StatusConflict, step(held, "approval"), lee, "")
		assert.NotEmpty(t, p.State, "twice")
		f.readers.Insert("two", servertest.Card(servertest.Image(2)), nil)
		done := f.until(held, "done")
		assert.Equal(t, []string{"one", "lee"}, []string{f.operatorOf(done), done.ApprovedBy})
		p = f.refuses(http.StatusConflict, step(done, "approval"), lee, "")
		assert.Equal(t, "done", p.State)
		f.refuses(http.StatusConflict, step(done, "cancellation"), kim, "")

		third := f.ask(3, kim).deactivation(http.StatusAccepted)
		require.Equal(t, "held", third.State)
		rejected := f.do("POST", step(third, "rejection"), lee, no).deactivation(http.StatusOK)
		assert.Equal(t, "refused", rejected.State)
		assert.Equal(t, &api.Refusal{Rule: server.FourEyes, SubjectCode: "1.1", ReasonCode: "3.8", Text: `rejected by user "lee": not this card`}, rejected.Refusal)
		f.refuses(http.StatusConflict, step(third, "rejection"), lee, no)
		f.refuses(http.StatusConflict, step(third, "cancellation"), kim, "")

		fourth := f.ask(4, kim).deactivation(http.StatusAccepted)
		cancelled := f.do("POST", step(fourth, "cancellation"), kim, "").deactivation(http.StatusOK)
		assert.Equal(t, "cancelled", cancelled.State)
		assert.True(t, cancelled.Finished)
		f.refuses(http.StatusConflict, step(fourth, "cancellation"), kim, "")
		f.refuses(http.StatusConflict, step(fourth, "approval"), lee, "")
		assert.Equal(t, "cancelled", f.do("POST", step(first, "cancellation"), kim, "").deactivation(http.StatusOK).State, "one that was let in")

		var steps api.Steps
		f.do("GET", "/v1/deactivations/"+held.ID+"/events", kim, "").into(&steps)
		var kinds []string
		for _, s := range steps.Steps {
			kinds = append(kinds, s.Step)
		}
		assert.Subset(t, kinds, []string{"held", "approved", "sending", "done"})
	})
}

// operatorOf is the operator that a request's user is of.
func (f *fixture) operatorOf(d api.Deactivation) string {
	assert.Equal(f, "default", d.User)
	return "one"
}

// Nobody approves in time: neither before the server has seen that, nor after.
func TestApprovalsExpire(t *testing.T) {
	set := servertest.RulesWith("{max: 1}")
	config := server.Config{Rules: func() *rules.Set { return set }, Approval: 50 * time.Millisecond, Poll: time.Hour}
	f := newFixtureOn(t, servertest.NewRecord(t, migrate), config)
	f.register(1)
	f.register(2)
	f.ask(1, f.token)
	unseen := f.ask(2, f.token).deactivation(http.StatusAccepted)
	time.Sleep(time.Until(unseen.Deadline))
	for name, body := range map[string]string{"approval": "", "rejection": `{"reason":"x"}`} {
		p := f.refuses(http.StatusConflict, step(unseen, name), f.user("lee "+name, store.MayApprove), body)
		assert.Contains(t, p.Detail, "too late")
	}

	config.Poll = 20 * time.Millisecond
	f = newFixtureOn(t, servertest.NewRecord(t, migrate), config)
	lee := f.user("lee", store.MayApprove)
	f.register(1)
	f.register(2)
	f.ask(1, f.token)
	held := f.ask(2, f.token).deactivation(http.StatusAccepted)
	require.Equal(t, "held", held.State)
	expired := f.until(held, "expired")
	assert.Contains(t, expired.Detail, "nobody approved")
	p := f.refuses(http.StatusConflict, step(held, "approval"), lee, "")
	assert.Equal(t, "expired", p.State)
	f.refuses(http.StatusConflict, step(held, "rejection"), lee, `{"reason":"x"}`)
	f.refuses(http.StatusConflict, step(held, "cancellation"), f.token, "")
}

// Beyond the ceiling the breaker trips: nothing goes out until it is reset, and
// then nothing that was let in before without an approval.
func TestBreaker(t *testing.T) {
	onBoth(t, "{max: 2, ceiling: 3}", func(t *testing.T, f *fixture) {
		lee := f.user("lee", store.MayApprove)
		for n := 1; n <= 4; n++ {
			f.register(n)
		}
		letIn, other := f.ask(1, f.token).deactivation(http.StatusAccepted), f.ask(2, f.token).deactivation(http.StatusAccepted)
		held := f.ask(3, f.token).deactivation(http.StatusAccepted)
		require.Equal(t, []string{"waiting", "waiting", "held"}, []string{letIn.State, other.State, held.State})
		approved := f.do("POST", step(other, "cancellation"), f.token, "").deactivation(http.StatusOK)
		assert.Equal(t, "cancelled", approved.State)
		var g api.Guard
		f.do("GET", "/v1/guard", f.token, "").into(&g)
		two, three := int64(2), int64(3)
		assert.Equal(t, api.Guard{WindowSeconds: 3600, Operator: api.Scope{Fleet: 4, Budget: &two, Ceiling: &three, Asked: 3, Pending: 1}, Groups: []api.Scope{}}, g)

		for range 2 { // the one that trips it, and one more
			p := f.ask(4, f.token).problem(http.StatusConflict)
			assert.Equal(t, server.MassDeactivation, p.Rule)
			assert.Contains(t, p.Detail, "guard reset")
			assert.Equal(t, "8.2.3/3.8", p.SubjectCode+"/"+p.ReasonCode)
		}
		p := f.refuses(http.StatusConflict, step(held, "approval"), lee, "")
		assert.Equal(t, server.MassDeactivation, p.Rule)
		assert.Contains(t, p.Detail, "guard reset")
		f.do("GET", "/v1/guard", f.token, "").into(&g)
		assert.True(t, g.Breaker.Tripped)
		assert.NotNil(t, g.Breaker.Since)
		assert.Contains(t, g.Breaker.Why, "more than 3")
		f.readers.Insert("one", servertest.Card(servertest.Image(1)), nil)
		again := f.until(letIn, "held")
		assert.Contains(t, again.HeldWhy, "breaker")

		_, err := f.store.ResetBreaker(t.Context(), "one")
		require.NoError(t, err)
		_, err = f.store.ResetBreaker(t.Context(), "one")
		assert.ErrorIs(t, err, store.ErrState)
		f.do("GET", "/v1/guard", f.token, "").into(&g)
		assert.False(t, g.Breaker.Tripped)
		assert.Equal(t, "held", f.until(held, "held").State, "the reset lets nothing in")
		f.do("POST", step(letIn, "approval"), lee, "").deactivation(http.StatusOK)
		f.until(letIn, "done")
		f.do("POST", step(held, "approval"), lee, "").deactivation(http.StatusOK)
		assert.Equal(t, "held", f.ask(4, f.token).deactivation(http.StatusAccepted).State, "what was sent still counts, and what is pending")
	})
}

func TestCardGroups(t *testing.T) {
	onBoth(t, "{}", func(t *testing.T, f *fixture) {
		f.register(1)
		path := "/v1/cards/" + servertest.EID(1).String()
		var c api.Card
		f.do("PUT", path+"/groups", f.token, `{"groups":["critical","0-x"]}`).into(&c)
		assert.Equal(t, []string{"critical", "0-x"}, c.Groups)
		f.do("GET", path, f.token, "").into(&c)
		assert.Equal(t, []string{"critical", "0-x"}, c.Groups)
		var g api.Guard
		f.do("GET", "/v1/guard", f.token, "").into(&g)
		require.Len(t, g.Groups, 2)
		assert.Equal(t, []any{"critical", int64(1), int64(2), int64(20)}, []any{g.Groups[0].Group, g.Groups[0].Fleet, *g.Groups[0].Budget, *g.Groups[0].Ceiling})
		assert.Nil(t, g.Groups[1].Budget)
		held := f.ask(1, f.token).deactivation(http.StatusAccepted)
		assert.Equal(t, "held", held.State)
		assert.Contains(t, held.HeldWhy, "critical group")

		before := f.count()
		names := func(list ...string) string {
			b, err := json.Marshal(map[string][]string{"groups": append([]string{}, list...)})
			require.NoError(t, err)
			return string(b)
		}
		for _, body := range []string{
			"", "{}", `{"groups":null}`, `{"groups":"a"}`, `{"groups":[1]}`, `{"groups":[null]}`, names(""), names("-a"), names("A"), names("a b"), names("ä"), names("a_b"), names("a\x00"),
			names(strings.Repeat("a", 33)), names("a", "a"), names("1", "2", "3", "4", "5", "6", "7", "8", "9"), `{"groups":["a"],"x":1}`,
		} {
			r := f.do("PUT", path+"/groups", f.token, body)
			assert.True(t, r.Code == 400 || r.Code == 422, "%d for %.60q", r.Code, body)
		}
		nothing := "/v1/cards/" + servertest.EID(7).String()
		theirs, none := f.do("PUT", path+"/groups", f.other, names("a")), f.do("PUT", nothing+"/groups", f.other, names("a"))
		assert.Equal(t, http.StatusNotFound, theirs.Code)
		assert.Equal(t, none.Body.String(), theirs.Body.String())
		assert.Equal(t, before, f.count(), "nothing is recorded")

		require.Equal(t, http.StatusOK, f.do("PUT", path+"/groups", f.token, names()).Code)
		f.do("GET", path, f.token, "").into(&c)
		for n := 2; n+8 <= store.MaxGroups; n += 8 {
			var list []string
			for i := range 8 {
				list = append(list, fmt.Sprintf("g-%d", n+i))
			}
			require.Equal(t, http.StatusOK, f.do("PUT", path+"/groups", f.token, names(list...)).Code)
		}
		require.Equal(t, http.StatusOK, f.do("PUT", path+"/groups", f.token, names("1", "2", "3", "4", "5", "6")).Code)
		before = f.count()
		p := f.do("PUT", path+"/groups", f.token, names("7")).problem(http.StatusConflict)
		assert.Contains(t, p.Detail, "256")
		assert.Equal(t, before, f.count())
		require.Equal(t, http.StatusOK, f.do("PUT", path+"/groups", f.token, names("6", "critical")).Code, "those that are there")
	})
}

func TestLeaveUnconnected(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	r := f.do("POST", "/v1/deactivations", f.token, fmt.Sprintf(`{"eid":%q,"leave_unconnected":true}`, servertest.EID(1)))
	d := r.deactivation(http.StatusAccepted)
	assert.True(t, d.LeaveUnconnected)
	assert.Equal(t, "default", d.User)
}

// Every operation needs its role, whatever else is wrong with a request.
func TestRoles(t *testing.T) {
	f := newFixture(t)
	f.register(1)
	roles := map[string]string{}
	named := regexp.MustCompile(`Role: ([a-z]+)\.$`)
	all := map[store.Roles]string{}
	for _, role := range []store.Roles{store.MayRead, store.MayRequest, store.MayApprove, store.MayAdminister} {
		all[role] = f.user("only "+role.String(), role)
		all[store.AllRoles&^role] = f.user("all but "+role.String(), store.AllRoles&^role)
	}
	before := f.count()
	path := strings.NewReplacer("{eid}", servertest.EID(7).String(), "{iccid}", servertest.ICCID(7, 0).String(), "{id}", "00000000-0000-4000-8000-000000000000")
	for template, methods := range f.doc.Paths {
		for method, op := range methods {
			if template == "/healthz" {
				continue
			}
			said := named.FindStringSubmatch(op.Description)
			require.NotNil(t, said, op.OperationID)
			role, err := store.ParseRoles(said[1])
			require.NoError(t, err)
			roles[op.OperationID] = said[1]
			method := strings.ToUpper(method)
			for _, body := range []string{"", "{", "{}"} {
				p := f.do(method, path.Replace(template), all[store.AllRoles&^role], body).problem(http.StatusForbidden)
				assert.Contains(t, p.Detail, "role "+said[1], op.OperationID)
			}
			r := f.do(method, path.Replace(template), all[role], "")
			assert.NotContains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, r.Code, op.OperationID)
		}
	}
	assert.Equal(t, before, f.count(), "nothing is recorded")
	for id, role := range map[string]string{
		"register-card": "administer", "set-policy": "administer", "set-groups": "administer",
		"list-cards": "read", "get-card": "read", "list-readers": "read", "list-deactivations": "read", "get-deactivation": "read", "list-steps": "read", "get-guard": "read",
		"refresh-card": "request", "deactivate": "request", "cancel-deactivation": "request",
		"approve-deactivation": "approve", "reject-deactivation": "approve",
	} {
		assert.Equal(t, role, roles[id], id)
	}
}

func FuzzSteps(f *testing.F) {
	x := newFixture(f)
	x.register(1)
	path := "/v1/cards/" + servertest.EID(1).String() + "/groups"
	f.Add([]byte(`{"groups":["critical","meters-north"]}`), "00000000-0000-4000-8000-000000000000")
	f.Add([]byte(`{"reason":"these meters stay"}`), "{}")
	f.Add([]byte(`{"groups":[null,"\ud800"]}`), strings.Repeat("-", 36))
	f.Fuzz(func(t *testing.T, body []byte, request string) {
		for _, r := range []reply{
			x.do("PUT", path, x.token, string(body)),
			x.do("POST", "/v1/deactivations/"+url.PathEscape(request)+"/rejection", x.token, string(body)),
		} {
			if r.Code >= 500 {
				t.Fatalf("%d: %s", r.Code, r.Body)
			}
		}
	})
}

// The rules know who asked also when a request is judged again, once its card is
// there.
func TestRulesKnowWhoAsked(t *testing.T) {
	set, err := rules.Parse("test", append(servertest.RulesFile("{}"), `
  - name: night-shift
    subject_code: "1.1"
    reason_code: "1.2"
    require: request.user == "kim" && operator.name == "one"
    text: only kim may
`...))
	require.NoError(t, err)
	f := newFixtureOn(t, servertest.NewRecord(t, migrate), server.Config{Rules: func() *rules.Set { return set }, Poll: 20 * time.Millisecond})
	f.register(1)
	assert.Equal(t, "night-shift", f.ask(1, f.token).problem(http.StatusConflict).Rule)
	waiting := f.ask(1, f.user("kim", store.MayRequest)).deactivation(http.StatusAccepted)
	require.Equal(t, "waiting", waiting.State)
	f.readers.Insert("one", servertest.Card(servertest.Image(1)), nil)
	f.until(waiting, "done")
}
