package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cardbridge/cardbridge/card/id"
	"github.com/cardbridge/cardbridge/server/store"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "cardbridge")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	s, err := store.Open(ctx, filepath.Join(dir, "record.db"))
	if err != nil {
		panic(err)
	}
	defer s.Close()
	network, _ := id.ParseMCCMNC("46011")
	op, err := s.AddOperator(ctx, "example", network, store.User{Name: "default", Roles: store.AllRoles}, store.Grant{Hash: store.Hash{1}})
	fmt.Println(op.Name, op.MCCMNC, err)
	_, _, err = s.OperatorByCredential(ctx, store.Token, store.Hash{2})
	fmt.Println(errors.Is(err, store.ErrNotFound))
	// Output:
	// example 46011 <nil>
	// true
}
