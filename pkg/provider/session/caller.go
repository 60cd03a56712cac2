package session

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Caller is the volume that a store is asked for.
type Caller struct {
	Bearer
	Volume string
	Login  Login
	// Fresh asks for the store's own answer, and not one from a cache of its.
	Fresh bool
	// Live tells that the volume has files.
	Live bool
	// Correlation joins our log with the store's audit.
	Correlation string
	Began       time.Time

	run *run // nil for a revocation
}

// Owner is who is charged for what is read for the volume.
func (c *Caller) Owner() budget.Owner {
	return budget.Owner{Namespace: c.Pod.Namespace, Volume: c.Volume}
}

// Secrets are what a hostile server could say back to us.
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

// Token is the identity's token, and not the stale one: Tokens for what is not
// issued.
func (c *Caller) Token(ctx context.Context, stale *Token) (*Token, error) {
	return c.run.logins.token(ctx, c.run.volume.now().group, stale)
}

// CurrentToken is the identity's token if there is one.
func (c *Caller) CurrentToken() *Token {
	return c.run.volume.now().group.current.get(c.run.now(), nil)
}

// Ask makes a call at the store's first address, or at the second while that is
// away, and notes which of them answered.
func (c *Caller) Ask(p endpoint.Pair, at func(e *endpoint.Endpoint, hasOther bool) (*endpoint.Reply, error)) (*endpoint.Reply, error) {
	reply, from, err := p.Do(at)
	if p.Second == nil {
		return reply, err
	}
	second := ""
	if reply != nil {
		if reply.From = from; from == p.Second.Address {
			second = from.String()
		}
	}
	if g := c.group(); g != nil && g.noteAnswer(second) {
		c.logAnswer(p, second, err)
	}
	return reply, err
}

// logAnswer logs that another address answers than before.
func (c *Caller) logAnswer(p endpoint.Pair, second string, err error) {
	log := c.run.engine.config.Logger.With(logkey.Address, p.First.Address.String(), logkey.Pod, c.Pod.String())
	switch {
	case second != "":
		log.Warn("the first address of a store is away, and its second answers", logkey.AnsweredBy, second)
	case err == nil:
		log.Info("the first address of a store answers again")
	}
}

// group is that of the caller's login; nil where the work is for another one.
func (c *Caller) group() *group {
	if c.run == nil || c.run.volume == nil {
		return nil
	}
	if g := c.run.volume.now().group; g != nil && g.key.Login == c.Login {
		return g
	}
	return nil
}

// Facts are what the store's code has learned of the identity.
func (c *Caller) Facts() *Memory[string, any] { return &c.run.volume.now().group.facts }

// Identity is who asks, as far as is known.
func (c *Caller) Identity() Identity { return c.run.volume.now().group.key }

// Objects are the files of the class.
func (c *Caller) Objects() []*Object { return c.run.spec.Objects }

// Optional tells whether all that the request is made for may be missing.
func (c *Caller) Optional(r *Request) bool { return c.run.spec.optional(r) }

// Earlier are the last answers to a request that the volume and its identity
// had, even if they were refused since.
func (c *Caller) Earlier(r *Request) []*Reading {
	state := c.run.volume.now()
	list := []*Reading{state.readings.stored(r.ID), state.group.recent.stored(r.ID)}
	return slices.DeleteFunc(list, func(rd *Reading) bool { return rd == nil || rd.Absent })
}

// Keys are what is to be kept of an answer: what the objects take, and what
// others of the identity took of the last one, so that classes which take
// different parts of a secret do not each ask for it again and again. whole is
// up to how many bytes all of it is kept.
func (c *Caller) Keys(r *Request, k Kind) (keys []string, whole int) {
	whole = wholeAnswer
	last := c.run.volume.now().group.recent.stored(r.ID)
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

// logIn logs in, and notes it for the audit trail.
func (c *Caller) logIn(ctx context.Context, s Session) (t *Token, podBound bool, err error) {
	began := time.Now()
	t, podBound, err = s.Login(ctx)
	if err == nil || fault.Of(err) != fault.NoToken { // without one nothing was asked
		c.noteAccess(ctx, provider.AccessLogin, "", began, err)
	}
	return t, podBound, err
}

// noteAccess notes a login, or the renewal of a lease or else the token, for the
// audit trail.
func (c *Caller) noteAccess(ctx context.Context, operation, lease string, began time.Time, err error) {
	a, now := c.Login.Access(), time.Now()
	if g := c.group(); g != nil {
		a.Address = cmp.Or(g.second(), a.Address)
	}
	a.Operation, a.Lease, a.Asked, a.Err, a.At, a.Took = operation, lease, c.Correlation, err, now, now.Sub(began)
	provider.NoteAccess(ctx, a)
}

// Room tells whether there is memory for so many bytes beside an answer.
func Room(from *endpoint.Reply) func(int64) error {
	before := from.Charge.Bytes()
	return func(n int64) error {
		if before+n <= from.Charge.Bytes() {
			return nil
		}
		return from.Charge.Resize(before + n)
	}
}
