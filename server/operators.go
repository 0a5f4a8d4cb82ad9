package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

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

// AddOperator adds an operator to a store and gives its bearer token, which is
// kept nowhere: the store has its hash.
func AddOperator(ctx context.Context, s *store.Store, name string, mccmnc id.MCCMNC) (store.Operator, string, error) {
	if err := checkName(name); err != nil {
		return store.Operator{}, "", err
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return store.Operator{}, "", fmt.Errorf("random bytes: %w", err)
	}
	token := tokenPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	op, err := s.AddOperator(ctx, name, mccmnc, sha256.Sum256([]byte(token)))
	if err != nil {
		return store.Operator{}, "", err
	}
	return op, token, nil
}

func checkName(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > maxName || !utf8.ValidString(name) {
		return fmt.Errorf("%w: an operator's name has 1 to %d characters of UTF-8", ErrInvalid, maxName)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%w: an operator's name has printable characters only", ErrInvalid)
		}
	}
	return nil
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
