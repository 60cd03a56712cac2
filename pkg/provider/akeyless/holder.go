package akeyless

import (
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// minted is one credential that was made for a holder. It is replaced, never
// changed.
type minted struct {
	Item string // the id of the item
	Kind kind
	Name string // the item's own name
	value
	At   time.Time
	Due  time.Time
	Ends time.Time
	// ID is the store's name for it; empty where it cannot be ended early.
	ID string
	// Login is what it was made with, and can be ended with.
	Login login
}

// ended is what is needed to end the credential.
func (m *minted) ended() *minted {
	next := *m
	next.value = value{}
	return &next
}

func (m *minted) alive(now time.Time) bool { return now.Before(m.Ends) }

// dueTime is when to make another one: when it is due, but not at once after it
// was made.
func (m *minted) dueTime() time.Time {
	if least := session.NextIssue(m.At, m.Ends.Sub(m.At)); m.Due.Before(least) {
		return least
	}
	return m.Due
}

func (m *minted) isDue(now time.Time) bool {
	return session.IsDue(m.dueTime(), m.Ends, now)
}

// endable tells whether there is something to end, and a way to.
func (m *minted) endable(now time.Time) bool { return m.Kind == dynamic && m.ID != "" && m.alive(now) }

// holder has credentials that were made for it: for one volume or, with
// credentialScope serviceAccount, for one identity.
type holder struct {
	work singleflight.Group[string, *minted]

	budget *budget.Budget
	owner  budget.Owner

	mu     sync.Mutex
	charge *budget.Charge     // for what is held
	held   map[string]*minted // by item
	// replaced are those that newer ones took the place of. Programs may
	// still use them, so they go on until they end or the volume does.
	replaced []*minted
}

func newHolder(b *budget.Budget, o budget.Owner) *holder {
	return &holder{budget: b, owner: o, held: map[string]*minted{}}
}

// account charges what is held now, with mu held. What finds no room is kept
// all the same, since only a new credential could replace it: the holder has
// no more of them than files.
func (h *holder) account() {
	size := int64(0)
	for _, m := range h.held {
		size += m.size()
	}
	if h.charge == nil {
		h.charge, _ = h.budget.Acquire(h.owner, budget.Answers, 0)
	}
	_ = h.charge.Resize(size)
}

func (h *holder) get(id string) *minted {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[id]
}

func (h *holder) put(m *minted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.held[m.Item]; old != nil {
		h.replaced = append(h.replaced, old.ended())
	}
	h.held[m.Item] = m
	h.account()
}

// forget sets aside what the class no longer asks for, and drops what is over.
func (h *holder) forget(keep map[string]bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, m := range h.held {
		if !keep[id] {
			delete(h.held, id)
			h.replaced = append(h.replaced, m.ended())
		}
	}
	h.account()
	h.replaced = slices.DeleteFunc(h.replaced, func(m *minted) bool { return !m.endable(now) })
}

// all lists what the holder has, in no order.
func (h *holder) all() (held, replaced []*minted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.held {
		held = append(held, m)
	}
	return held, slices.Clone(h.replaced)
}

// takeAll empties the holder.
func (h *holder) takeAll() []*minted {
	held, replaced := h.all()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held, h.replaced = map[string]*minted{}, nil
	h.account()
	return append(held, replaced...)
}

// giveBack takes credentials that are to be ended with this holder.
func (h *holder) giveBack(list []*minted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replaced = append(h.replaced, list...)
}

// holds tells whether there is something to end one day.
func (h *holder) holds(now time.Time) bool {
	held, replaced := h.all()
	return slices.ContainsFunc(append(held, replaced...), func(m *minted) bool { return m.endable(now) })
}
