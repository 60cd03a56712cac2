package provider

import (
	"context"
	"slices"
	"sync"
)

// Trail gathers the ids under which the store's own audit log has the requests
// of one piece of work, such as Vault's X-Correlation-ID. They are opaque,
// and no secret.
type Trail struct {
	mu  sync.Mutex
	ids []string
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
	t, ok := ctx.Value(trailKey{}).(*Trail)
	if !ok || id == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.ids, id) {
		t.ids = append(t.ids, id)
	}
}

// IDs are those noted so far, in order and each once.
func (t *Trail) IDs() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.ids)
}
