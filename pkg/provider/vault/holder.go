package vault

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// holder has credentials that were made for it: for one volume or, with
// credentialScope serviceAccount, for one identity. Their leases hang on the
// holder's own Vault tokens, so revoking those ends what is the holder's and
// nothing else.
type holder struct {
	work     singleflight.Group[string, *held]
	logins   singleflight.Group[struct{}, *token]
	renewals singleflight.Group[*token, bool]

	budget *budget.Budget
	owner  budget.Owner

	mu     sync.Mutex
	charge *budget.Charge // for what is held
	tokens []*token       // the newest is last; older ones live out their leases
	held   map[string]*held
}

// held is one credential. It is replaced, never changed.
type held struct {
	*reading
	due   time.Time
	ends  time.Time
	token *token // that the lease hangs on; nil without a lease
	// replace tells that the lease cannot be extended any more.
	replace bool
	// early tells that it was made sooner after the one before than is usual.
	early bool
	// known is when the store last knew the lease.
	known time.Time
}

func newHolder(b *budget.Budget, o budget.Owner) *holder {
	return &holder{budget: b, owner: o, held: map[string]*held{}}
}

// account charges what is held now, with mu held. What finds no room is kept
// all the same, since only a new credential could replace it: the holder has
// no more of them than files.
func (h *holder) account() {
	size := int64(0)
	for _, c := range h.held {
		size += c.Size()
	}
	if h.charge == nil {
		h.charge, _ = h.budget.Acquire(h.owner, budget.Answers, 0)
	}
	_ = h.charge.Resize(size)
}

func (h *holder) get(id string) *held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held[id]
}

func (h *holder) put(id string, c *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held[id] = c
	h.account()
}

// forget drops credentials of requests that are no longer made. Their leases
// are not renewed, so they end by themselves or with the token.
func (h *holder) forget(keep map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.held {
		if !keep[id] {
			delete(h.held, id)
		}
	}
	h.account()
}

// ids are the requests whose credentials are held.
func (h *holder) ids() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.held))
}

// parent is the newest token; nil if none lives.
func (h *holder) parent(now time.Time) *token {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tokens = slices.DeleteFunc(h.tokens, func(t *token) bool { return !t.alive(now) })
	if len(h.tokens) == 0 {
		return nil
	}
	return h.tokens[len(h.tokens)-1]
}

// add makes t the parent of what comes.
func (h *holder) add(t *token) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.tokens, t) {
		h.tokens = append(h.tokens, t)
	}
}

func (h *holder) has(t *token) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.tokens, t)
}

// takeTokens empties the holder.
func (h *holder) takeTokens() []*token {
	h.mu.Lock()
	defer h.mu.Unlock()
	tokens := h.tokens
	h.tokens, h.held = nil, map[string]*held{}
	h.account()
	return tokens
}

// newHeld notes a credential that was just made.
func newHeld(rd *reading, t *token, p pace, chance float64) *held {
	c := &held{reading: rd, ends: rd.end, due: dueAt(rd.kind, rd.at, rd.end, p, chance)}
	if rd.kind == leased {
		c.token, c.known = t, rd.at
	}
	return c
}

// dueTime is when something has to be done for it: for the lease, or for the
// token that the lease dies with.
func (c *held) dueTime() time.Time {
	if c.token == nil {
		return c.due
	}
	return session.Earliest(c.due, c.token.dueTime(), c.known.Add(leaseUnseen))
}

// leaseUnseen is how long a lease is taken to be there without a look at it:
// an operator may have revoked it.
const leaseUnseen = time.Hour

// renewed is the credential after its lease was extended.
func (c *held) renewed(now time.Time, granted time.Duration, chance float64) *held {
	next := *c
	next.ends, next.known = now.Add(granted), now
	next.due = session.TwoThirds(now, next.ends, chance)
	if fellShort(c.answer.duration, granted) {
		next.replace, next.due = true, now
	}
	return &next
}

// life is how long it was to live when it was made: as long as its lease, and
// its token's grant.
func (c *held) life() time.Duration {
	life := c.ends.Sub(c.at)
	if c.token != nil {
		if ttl := c.token.granted(); ttl > 0 && ttl < life {
			return ttl
		}
	}
	return life
}

// until is the credential while it is kept to a moment, whatever is due before.
func (c *held) until(due time.Time) *held {
	next := *c
	next.due, next.token = due, nil
	return &next
}

func (c *held) madeEarly() *held {
	next := *c
	next.early = true
	return &next
}
