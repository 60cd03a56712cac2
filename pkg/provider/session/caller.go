package session

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Caller is the volume for which the store is asked.
type Caller struct {
	Bearer
	Volume string
	Login  Login
	// Fresh bypasses the store code's own caches.
	Fresh bool
	// Live says that the volume has files.
	Live bool
	// Correlation is the id of the requests in the store's audit log.
	Correlation string
	Began       time.Time

	run *run // nil for a revocation
}

// Owner is charged for the memory of the volume's answers.
func (c *Caller) Owner() budget.Owner {
	return budget.Owner{Namespace: c.Pod.Namespace, Volume: c.Volume}
}

// Secrets are the credentials that a hostile server could repeat.
func (c *Caller) Secrets(t *Token) []secret.String {
	list := []secret.String{c.Given}
	if t != nil {
		list = append(list, t.Value)
	}
	for _, account := range c.Tokens {
		list = append(list, account.JWT)
	}
	return list
}

// Token returns the identity's token, and another one than stale. It is the Tokens for
// reads.
func (c *Caller) Token(ctx context.Context, stale *Token) (*Token, error) {
	return c.run.token(ctx, stale)
}

// CurrentToken returns the identity's token if there is one.
func (c *Caller) CurrentToken() *Token {
	return c.run.volume.now().group.token(c.run.now(), nil)
}

// group returns the group of the caller's login; nil if the login is another one.
func (c *Caller) group() *group {
	if c.run == nil || c.run.volume == nil {
		return nil
	}
	if g := c.run.volume.now().group; g != nil && g.key.Login == c.Login {
		return g
	}
	return nil
}

// noteAnswer records the second address of the login if that answered, else "". It reports
// whether another address answered before.
func (c *Caller) noteAnswer(second string) bool {
	g := c.group()
	return g != nil && g.noteAnswer(second)
}

// Facts has the facts that the store's code has learned about the identity.
func (c *Caller) Facts() *bounded.Map[string, any] { return &c.run.volume.now().group.facts }

// Identity returns the caller's identity, as far as it is known.
func (c *Caller) Identity() Identity { return c.run.volume.now().group.key }

// Objects returns the objects of the class.
func (c *Caller) Objects() []*Object { return c.run.spec.Objects }

// Optional reports whether all objects of the request are optional.
func (c *Caller) Optional(r *Request) bool { return c.run.spec.optional(r) }

// Earlier returns the last answers to a request for the volume and its identity, even if
// the store has refused the request since.
func (c *Caller) Earlier(r *Request) []*Reading {
	state := c.run.volume.now()
	list := []*Reading{state.readings.Stored(r.ID), state.group.recent.Stored(r.ID)}
	return slices.DeleteFunc(list, func(rd *Reading) bool { return rd == nil || rd.Absent })
}

// Keys returns the keys of an answer to keep: those of the objects, and those that other
// volumes of the identity used of the last answer, so that classes with different keys of
// a secret do not read it again and again. An answer of up to whole bytes is kept
// entirely.
func (c *Caller) Keys(r *Request, k Kind) (keys []string, whole int) {
	whole = wholeAnswer
	last := c.run.volume.now().group.recent.Stored(r.ID)
	if !k.Shareable() {
		whole = wholeCredential
		if held := c.run.credentials().get(r.ID); held != nil {
			last = held.Reading
		}
	}
	if last == nil || last.Answer == nil {
		return r.Keys, whole
	}
	return params.Union(r.Keys, last.Answer.Part), whole
}

// logIn logs in, and records the login for the audit trail.
func (c *Caller) logIn(ctx context.Context, s Session) (t *Token, podBound bool, err error) {
	began := time.Now()
	t, podBound, err = s.Login(ctx)
	if err == nil || fault.Of(err) != fault.NoToken { // without a token no request was sent
		c.noteAccess(ctx, provider.AccessLogin, "", began, err)
	}
	return t, podBound, err
}

// noteAccess records a login, or the renewal of a lease or else of the token, for the
// audit trail.
func (c *Caller) noteAccess(ctx context.Context, operation, lease string, began time.Time, err error) {
	a, now := c.Login.Access(), time.Now()
	if g := c.group(); g != nil {
		a.Address = cmp.Or(g.second(), a.Address)
	}
	a.Operation, a.Lease, a.Asked, a.Err, a.At, a.Took = operation, lease, c.Correlation, err, now, now.Sub(began)
	provider.NoteAccess(ctx, a)
}
