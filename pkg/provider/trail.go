package provider

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"time"
)

// Trail collects the ids of the requests of one publish, refresh or release, as the
// store's own audit log has them, such as Vault's X-Correlation-ID. They are no secret.
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
	// Address is the server's address, and Namespace a namespace in it.
	Address, Namespace string
	// Mount and Role are Vault's auth mount and role, or Akeyless' access type and
	// access ID.
	Mount, Role string
	// Lease is the id of the renewed lease; empty for a token.
	Lease string
	// Asked is the id of the request in the store's own audit log.
	Asked string
	// Err is nil on success. Its text has no secret.
	Err  error
	At   time.Time // of the end
	Took time.Duration
}

type trailKey struct{}

// WithTrail returns a context with which providers record their requests in t.
func WithTrail(ctx context.Context, t *Trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

// Asked adds the id of a request to the trail, if there is one. A provider calls it before
// each request that has an id in the store's audit log, and for an answer to another
// volume's request, with the id of that request.
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

// Correlation returns an id for the requests of the work, which a store can record; empty
// if there is no trail.
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

// NoteAccess adds a login or renewal to the trail, if there is one.
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

// maxAccesses bounds the accesses in a trail: a store may refuse each renewal.
const maxAccesses = 256

func trailOf(ctx context.Context) *Trail {
	t, _ := ctx.Value(trailKey{}).(*Trail)
	return t
}

// Accesses returns the accesses so far, in order.
func (t *Trail) Accesses() []Access {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.accesses)
}

// IDs returns the ids so far, in order and each once.
func (t *Trail) IDs() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.ids)
}
