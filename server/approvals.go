package server

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/guard"
	"github.com/cardbridge/cardbridge/server/rules"
	"github.com/cardbridge/cardbridge/server/store"
)

// FourEyes is the name under which a second user's no is recorded.
const FourEyes = "four-eyes"

// Bounds of what users say.
const (
	maxReason     = 200 // characters
	MaxCardGroups = 8   // of one card
)

// GroupName is what the name of a card group has to match.
const GroupName = `^[a-z0-9][a-z0-9-]{0,31}$`

var groupName = regexp.MustCompile(GroupName)

// Approve lets a request in that waits for it, in the name of a second user of
// its operator. The error matches store.ErrNotFound where it is another
// operator's, or is a *store.Conflict.
func (s *Server) Approve(ctx context.Context, op store.Operator, request id.RequestID) (store.Request, error) {
	r, err := s.Store.Approve(ctx, op, request)
	return s.moved(ctx, r, err, "request approved", op)
}

// Reject ends a request that waits for an approval, as Approve does; reason is
// what whoever asked gets to read. The error matches ErrInvalid too.
func (s *Server) Reject(ctx context.Context, op store.Operator, request id.RequestID, reason string) (store.Request, error) {
	if err := checkText("a reason", reason, maxReason); err != nil {
		return store.Request{}, err
	}
	r, err := s.Store.Reject(ctx, op, request, store.Refusal{
		Rule: FourEyes, SubjectCode: "1.1", ReasonCode: "3.8", Text: fmt.Sprintf("rejected by user %q: %s", op.User.Name, reason),
	})
	return s.moved(ctx, r, err, "request rejected", op)
}

// Cancel ends an operator's request of which nothing was sent. The errors are
// those of Approve.
func (s *Server) Cancel(ctx context.Context, op store.Operator, request id.RequestID) (store.Request, error) {
	r, err := s.Store.Cancel(ctx, op, request)
	return s.moved(ctx, r, err, "request cancelled", op)
}

// moved tells everybody of a user's step on a request.
func (s *Server) moved(ctx context.Context, r store.Request, err error, what string, op store.Operator) (store.Request, error) {
	if err != nil {
		return store.Request{}, err
	}
	s.Log.InfoContext(ctx, what, "request", r.ID, "eid", r.EID, "operator", op.Name, "user", op.User.Name)
	s.hub.publish(r.ID)
	s.kick(r.EID, nil, false)
	return r, nil
}

// SetCardGroups sets the groups in which the guard counts a card for an operator.
// The error matches ErrInvalid, store.ErrTooMany, or store.ErrNotFound where the
// operator may not see the card.
func (s *Server) SetCardGroups(ctx context.Context, op store.Operator, eid id.EID, groups []string) (*store.Card, error) {
	if len(groups) > MaxCardGroups {
		return nil, fmt.Errorf("%w: %d groups, at most %d", ErrInvalid, len(groups), MaxCardGroups)
	}
	for i, g := range groups {
		if !groupName.MatchString(g) {
			return nil, fmt.Errorf("%w: group %.40q: 1 to 32 of a to z, 0 to 9 and -, not - first", ErrInvalid, g)
		}
		if slices.Contains(groups[:i], g) {
			return nil, fmt.Errorf("%w: group %q comes twice", ErrInvalid, g)
		}
	}
	if _, err := s.Card(ctx, op, eid); err != nil {
		return nil, err
	}
	if err := s.Store.SetCardGroups(ctx, op, eid, groups); err != nil {
		return nil, err
	}
	s.Log.InfoContext(ctx, "groups set", "eid", eid, "groups", groups, "operator", op.Name, "user", op.User.Name)
	return s.Card(ctx, op, eid)
}

// GuardState is what the guard counts of an operator at a moment.
type GuardState struct {
	Window time.Duration
	Scopes []ScopeState // the operator's own, then those of its card groups
}

// ScopeState is one scope: its limits, nil where there is none, and what was asked
// for and sent in the window that ends now.
type ScopeState struct {
	guard.Scope
	Budget, Ceiling *int64
	Asked, Sent     int64
}

// Guard is what the guard counts of an operator.
func (s *Server) Guard(ctx context.Context, op store.Operator) (GuardState, error) {
	scopes, err := s.Store.Guard(ctx, op.ID)
	if err != nil {
		return GuardState{}, err
	}
	set := s.Rules()
	out := GuardState{Window: set.Window()}
	for _, scope := range scopes {
		out.Scopes = append(out.Scopes, scopeState(set, op.MCCMNC, scope, s.Store.Now()))
	}
	return out, nil
}

func scopeState(set *rules.Set, operator id.MCCMNC, scope guard.Scope, now time.Time) ScopeState {
	limits := limitsOf(set, operator, []guard.Scope{scope})[0]
	asked, sent := scope.Counts.Sum(now, set.Window())
	return ScopeState{scope, limit(limits.Max), limit(limits.Ceiling), asked, sent}
}

func limit(n int64) *int64 {
	if n == guard.NoLimit {
		return nil
	}
	return &n
}

// User is a user of any operator, by the number that requests have. What it is
// called never changes.
func (s *Server) User(ctx context.Context, user int64) (store.Operator, error) {
	if op, ok := s.users.Load(user); ok {
		return op.(store.Operator), nil
	}
	op, err := s.Store.OperatorOf(ctx, user)
	if err == nil {
		s.users.Store(user, op)
	}
	return op, err
}

// Users are the names of those who asked for a request and, if anybody did,
// approved it.
func (s *Server) Users(ctx context.Context, r store.Request) (asked, approved string, err error) {
	op, err := s.User(ctx, r.UserID)
	if err != nil || r.ApprovedBy == 0 {
		return op.User.Name, "", err
	}
	second, err := s.User(ctx, r.ApprovedBy)
	return op.User.Name, second.User.Name, err
}

func checkText(what, text string, most int) error {
	if n := utf8.RuneCountInString(text); n < 1 || n > most || !utf8.ValidString(text) {
		return fmt.Errorf("%w: %s has 1 to %d characters of UTF-8", ErrInvalid, what, most)
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%w: %s has printable characters only", ErrInvalid, what)
		}
	}
	return nil
}
