package provider

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"time"
)

// Trail gathers the ids under which the store's own audit log has the requests
// of one piece of work, such as Vault's X-Correlation-ID. They are opaque,
// and no secret.
type Trail struct {
	mu       sync.Mutex
	id       string
	ids      []string
	accesses []Access
}

// The operations of an Access.
const (
	AccessLogin = "login"
	AccessRenew = "renew" // of a token or a lease
)

// Access is a login to a store, or a renewal there. It holds no token.
type Access struct {
	Operation string
	// Address is that of the server, Namespace the one in it.
	Address, Namespace string
	// Mount and Role are what the login was by: Vault's auth mount and role,
	// Akeyless' access type and access ID.
	Mount, Role string
	// Lease is the id of the lease that is renewed; empty for a token.
	Lease string
	// Asked is the id under which the store's own audit log has it.
	Asked string
	// Err is nil on success. Whatever it says is safe to show.
	Err  error
	At   time.Time // when it was over
	Took time.Duration
}

type trailKey struct{}

// WithTrail has the providers note in t what they ask the store.
func WithTrail(ctx context.Context, t *Trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

// Asked notes the id of a request in the trail of the work that it is made
// for, where there is one. A provider calls it for each request that the store
// knows by an id, before it leaves; and for an answer that the work shares with
// another, with the id of the request that brought the answer.
func Asked(ctx context.Context, id string) {
	t := trailOf(ctx)
	if t == nil || id == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.ids, id) {
		t.ids = append(t.ids, id)
	}
}

// Correlation is an id for the requests of the work, by which a store that takes
// one can note them; empty where there is no trail.
func Correlation(ctx context.Context) string {
	t := trailOf(ctx)
	if t == nil {
		return ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.id == "" {
		var random [16]byte
		_, _ = rand.Read(random[:]) // it never fails
		t.id = hex.EncodeToString(random[:])
	}
	return t.id
}

// NoteAccess notes a login or renewal in the trail of the work that it is made
// for, where there is one.
func NoteAccess(ctx context.Context, a Access) {
	t := trailOf(ctx)
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.accesses) < maxAccesses {
		t.accesses = append(t.accesses, a)
	}
}

// maxAccesses bounds what a store that refuses renewals makes of one piece of work.
const maxAccesses = 256

func trailOf(ctx context.Context) *Trail {
	t, _ := ctx.Value(trailKey{}).(*Trail)
	return t
}

// Accesses are those noted so far, in order.
func (t *Trail) Accesses() []Access {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.accesses)
}

// IDs are those noted so far, in order and each once.
func (t *Trail) IDs() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.ids)
}
