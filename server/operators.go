package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

// ErrInvalid is matched by every error that says what was asked for makes no
// sense, whoever asks.
var ErrInvalid = errors.New("invalid")

const maxName = 64 // characters

// AddOperator adds an operator and its first user to a store and gives the user's
// bearer token, which is kept nowhere: the store has its hash. user may be empty:
// then it is called default.
func AddOperator(ctx context.Context, s *store.Store, name string, mccmnc id.MCCMNC, user string, roles store.Roles, opts ...GrantOption) (store.Operator, string, error) {
	if err := checkText("an operator's name", name, maxName); err != nil {
		return store.Operator{}, "", err
	}
	if mccmnc == (id.MCCMNC{}) {
		return store.Operator{}, "", fmt.Errorf("%w: MCCMNC %s is no network's: profiles of which nobody says whose they are have it", ErrInvalid, mccmnc)
	}
	return withToken(s, user, roles, opts, func(u store.User, g store.Grant) (store.Operator, error) {
		return s.AddOperator(ctx, name, mccmnc, u, g)
	})
}

// AddUser adds a user to the operator of a name, as AddOperator does.
func AddUser(ctx context.Context, s *store.Store, operator, user string, roles store.Roles, opts ...GrantOption) (store.Operator, string, error) {
	return withToken(s, user, roles, opts, func(u store.User, g store.Grant) (store.Operator, error) {
		return s.AddUser(ctx, operator, u, g)
	})
}

func withToken(s *store.Store, user string, roles store.Roles, opts []GrantOption, add func(store.User, store.Grant) (store.Operator, error)) (store.Operator, string, error) {
	if user == "" {
		user = "default"
	}
	if err := checkText("a user's name", user, maxName); err != nil {
		return store.Operator{}, "", err
	}
	if roles == 0 {
		return store.Operator{}, "", fmt.Errorf("%w: a user needs a role", ErrInvalid)
	}
	token, g, err := newToken(s, append([]GrantOption{Labelled("first")}, opts...))
	if err != nil {
		return store.Operator{}, "", err
	}
	op, err := add(store.User{Name: user, Roles: roles}, g)
	if err != nil {
		return store.Operator{}, "", err
	}
	return op, token, nil
}
