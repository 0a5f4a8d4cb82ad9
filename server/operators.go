package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

// ErrInvalid is matched by every error that says what was asked for makes no
// sense, whoever asks.
var ErrInvalid = errors.New("invalid")

// ErrUnauthenticated says that a token is nobody's.
var ErrUnauthenticated = errors.New("the token is not one of an operator")

const (
	tokenPrefix = "cbt_"
	maxName     = 64 // characters
)

// AddOperator adds an operator and its first user to a store and gives the user's
// bearer token, which is kept nowhere: the store has its hash. user may be empty:
// then it is called default.
func AddOperator(ctx context.Context, s *store.Store, name string, mccmnc id.MCCMNC, user string, roles store.Roles) (store.Operator, string, error) {
	if err := checkText("an operator's name", name, maxName); err != nil {
		return store.Operator{}, "", err
	}
	return withToken(user, roles, func(u store.User, token store.TokenHash) (store.Operator, error) {
		return s.AddOperator(ctx, name, mccmnc, u, token)
	})
}

// AddUser adds a user to the operator of a name, as AddOperator does.
func AddUser(ctx context.Context, s *store.Store, operator, user string, roles store.Roles) (store.Operator, string, error) {
	return withToken(user, roles, func(u store.User, token store.TokenHash) (store.Operator, error) {
		return s.AddUser(ctx, operator, u, token)
	})
}

// NewToken gives the user of a name another token, as AddOperator does, in place
// of the one it has.
func NewToken(ctx context.Context, s *store.Store, operator, user string) (store.Operator, string, error) {
	token := newToken()
	op, err := s.SetToken(ctx, operator, user, sha256.Sum256([]byte(token)))
	if err != nil {
		return store.Operator{}, "", err
	}
	return op, token, nil
}

func newToken() string {
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
}

func withToken(user string, roles store.Roles, add func(store.User, store.TokenHash) (store.Operator, error)) (store.Operator, string, error) {
	if user == "" {
		user = "default"
	}
	if err := checkText("a user's name", user, maxName); err != nil {
		return store.Operator{}, "", err
	}
	if roles == 0 {
		return store.Operator{}, "", fmt.Errorf("%w: a user needs a role", ErrInvalid)
	}
	token := newToken()
	op, err := add(store.User{Name: user, Roles: roles}, sha256.Sum256([]byte(token)))
	if err != nil {
		return store.Operator{}, "", err
	}
	return op, token, nil
}

// Authenticate is the operator whose token this is. The error matches
// ErrUnauthenticated where there is none.
func (s *Server) Authenticate(ctx context.Context, token string) (store.Operator, error) {
	if len(token) != len(tokenPrefix)+base64.RawURLEncoding.EncodedLen(32) {
		return store.Operator{}, ErrUnauthenticated
	}
	op, err := s.Store.OperatorByToken(ctx, sha256.Sum256([]byte(token)))
	if errors.Is(err, store.ErrNotFound) {
		return store.Operator{}, ErrUnauthenticated
	}
	return op, err
}
