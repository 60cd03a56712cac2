package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/mayfly-csi/mayfly/test/akeylessd"
)

// store is a store as far as the measurements need it.
type store interface {
	// begin starts to count; the function that it returns counts the requests since then.
	begin() (func(context.Context) (requests, error), error)
	// rest waits until the store is idle.
	rest(ctx context.Context) error
}

// waitUntilIdle waits until the store is idle: the late work of one round, such as revoking its logins,
// must not slow the next.
func (n *node) waitUntilIdle(ctx context.Context) error {
	err := n.store.rest(ctx)
	runtime.GC() // ours, so that it does not run while a round is measured
	return err
}

// vaultStore counts in Vault's audit log.
type vaultStore struct{ *world }

func (s vaultStore) begin() (func(context.Context) (requests, error), error) {
	mark, err := s.vault.Mark()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (requests, error) {
		entries, err := s.vault.AuditEntriesSince(ctx, mark)
		return countRequests(entries), err
	}, nil
}

func (s vaultStore) rest(ctx context.Context) error {
	return waitQuiet(ctx, quiet, quietTimeout, s.vault.Mark)
}

// akeylessStore counts at the double itself.
type akeylessStore struct{ double *akeylessd.Server }

func (s akeylessStore) begin() (func(context.Context) (requests, error), error) {
	before := s.double.Counts()
	return func(context.Context) (requests, error) {
		return countCalls(subtract(s.double.Counts(), before)), nil
	}, nil
}

func (s akeylessStore) rest(ctx context.Context) error {
	return waitQuiet(ctx, quiet, quietTimeout, func() (string, error) { return fmt.Sprint(s.double.Counts()), nil })
}

// countCalls sorts the calls of Akeyless' API by path.
func countCalls(calls map[string]int) requests {
	r := requests{OtherPaths: map[string]int{}}
	for path, n := range calls {
		switch path {
		case "/auth":
			r.Logins += n
		case "/get-secret-value", "/get-rotated-secret-value":
			r.Reads += n
		case "/describe-item":
			r.Checks += n
		default:
			r.Other += n
			r.OtherPaths[path] += n
		}
	}
	return r
}
