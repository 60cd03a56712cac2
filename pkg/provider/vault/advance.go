package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// held answers a request with the holder's own credential, which is renewed
// or replaced if it is due.
func (f *fetch) held(ctx context.Context, h *holder, r *request) result {
	c, _, err := h.work.Do(ctx, r.id, f.now, time.Time{}, func() (*held, error) { return f.advance(ctx, h, r) })
	if err == nil && !c.answer.has(r.keys) {
		err = errNotShared
	}
	if err != nil {
		return result{err: err}
	}
	if c.kind.shareable() { // it had no lifetime after all
		f.volume.answers().Keep(r.id, c.reading)
		return result{reading: c.reading, due: f.dueOf(r, c.reading)}
	}
	return result{reading: c.reading, due: c.dueTime(), ends: c.ends}
}

// advance does what is due:
//
//  1. Nothing held, not for a pod that is new, or not the keys that the class
//     takes of it by now: make a credential.
//  2. A lease whose Vault token cannot be kept alive any longer: make a new
//     one under a new token. The old goes on to work until it ends.
//  3. Not due: keep it.
//  4. A lease that can be extended: renew it.
//  5. One that was extended for less than asked, or not at all, and
//     certificates: make a new one while the old still works.
//
// Between two that are made there is a pause in any case; see replace.
func (f *fetch) advance(ctx context.Context, h *holder, r *request) (*held, error) {
	c := h.get(r.id)
	if c == nil || !c.answer.has(r.keys) || f.refusedHeld(h, r, c) {
		return f.mint(ctx, h, r)
	}
	if c.token != nil {
		kept, err := f.sustain(ctx, h, c.token)
		if err != nil {
			return nil, err
		}
		if !kept {
			return f.replace(ctx, h, r, c, true)
		}
	}
	if f.wantsLookup(c) {
		next, err := f.lookUpLease(ctx, c)
		if err != nil {
			return nil, err
		}
		if next == nil { // at most once for each demand or hour, so without a pause
			return f.mint(ctx, h, r)
		}
		h.put(r.id, next)
		c = next
	}
	switch {
	case c.kind == once:
		due := !c.due.IsZero() && !f.now().Before(c.due)
		if due || f.request.Fresh && c.asked.Before(f.began) {
			return f.mint(ctx, h, r)
		}
		return c, nil
	case !session.IsDue(c.due, c.ends, f.now()):
		return c, nil
	case c.token != nil && c.answer.renewable && !c.replace:
		next, err := f.renewLease(ctx, c)
		if err != nil {
			return nil, err
		}
		if next != nil && !next.replace {
			h.put(r.id, next)
			return next, nil
		}
		if next != nil { // it is noted in case the new one cannot be had now
			h.put(r.id, next)
		}
	}
	return f.replace(ctx, h, r, c, false)
}

// wantsLookup tells whether to ask if the store still knows the lease: for an
// edit, a refresh by hand, and once an hour.
func (f *fetch) wantsLookup(c *held) bool {
	return c.token != nil && !c.token.limited() &&
		(f.request.Fresh && c.known.Before(f.began) || !f.now().Before(c.known.Add(leaseUnseen)))
}

// wordsInvalidToken are in Vault's refusal of a token that it does not know.
const wordsInvalidToken = "invalid token"

// lookUpLease asks whether the store still knows a lease. It returns nil where
// it does not, or where the Vault token that the lease hangs on was revoked. A
// policy that does not allow the question leaves the lease as it is.
func (f *fetch) lookUpLease(ctx context.Context, c *held) (*held, error) {
	body, err := json.Marshal(map[string]string{"lease_id": c.answer.leaseID})
	if err != nil {
		return nil, fault.New(fault.Internal, "looking up a lease: the request cannot be written")
	}
	k := f.call(c.token, http.MethodPut, "sys/leases/lookup", nil, body)
	k.owner = budget.Owner{}
	_, err = f.client.do(ctx, k)
	switch reason := fault.Of(err); {
	case err == nil:
	case reason == fault.Rejected, reason == fault.NotFound, reason == fault.Denied && strings.Contains(err.Error(), wordsInvalidToken):
		f.config.Logger.Debug("a lease is not known any more, so it is replaced", "lease", c.answer.leaseID, "error", err)
		return nil, nil
	case reason == fault.Denied:
	default:
		return nil, fmt.Errorf("looking up lease %q: %w", c.answer.leaseID, err)
	}
	next := *c
	next.known = f.now()
	return &next, nil
}

// replace makes a credential in the place of c, but not at once after c was
// made. Where c ends with its Vault token before that it is replaced in time,
// once.
func (f *fetch) replace(ctx context.Context, h *holder, r *request, c *held, ending bool) (*held, error) {
	due := session.NextIssue(c.at, c.life())
	early := f.now().Before(due)
	if early && (!ending || c.early) {
		return c.until(due), nil
	}
	next, err := f.mint(ctx, h, r)
	if err != nil || !early || next.kind.shareable() {
		return next, err
	}
	next = next.madeEarly()
	h.put(r.id, next)
	return next, nil
}

// renewLease extends a lease. It returns nil where the store does not know
// the lease any more, does not let us, or answers without a lease.
func (f *fetch) renewLease(ctx context.Context, c *held) (*held, error) {
	body, err := json.Marshal(map[string]any{"lease_id": c.answer.leaseID, "increment": int64(c.answer.duration.Seconds())})
	if err != nil {
		return nil, fault.New(fault.Internal, "renewing a lease: the request cannot be written")
	}
	if !c.token.take(usesToEnd) {
		return nil, nil // a renewal would be the token's end, and the lease's
	}
	var failed error
	defer f.noteAccess(ctx, provider.AccessRenew, c.answer.leaseID, &failed)()
	k := f.call(c.token, http.MethodPut, "sys/leases/renew", nil, body)
	k.operation, k.renews, k.owner, k.about = endpoint.OpRenew, true, budget.Owner{}, path.Dir(c.answer.leaseID)
	reply, err := f.client.do(ctx, k)
	if failed = err; err != nil {
		if !refusedRenewal(k, reply) && (fault.Of(err).Outage() || fault.Of(err) == fault.Canceled) {
			return nil, fmt.Errorf("renewing lease %q: %w", c.answer.leaseID, err)
		}
		f.config.Logger.Debug("a lease was not renewed, so it is replaced", "lease", c.answer.leaseID, "error", err)
		return nil, nil
	}
	var e struct {
		LeaseID       string      `json:"lease_id"`
		LeaseDuration json.Number `json:"lease_duration"`
	}
	none := fault.New(fault.Rejected, "renewing lease %q: the answer of %s renews none", c.answer.leaseID, f.spec.login.target.Address)
	if len(bytes.TrimSpace(reply.Body)) == 0 {
		failed = none // 204
		return nil, nil
	}
	if json.Unmarshal(reply.Body, &e) != nil {
		failed = fault.New(fault.BadAnswer, "renewing lease %q: the answer of %s is not that of a renewal", c.answer.leaseID, f.spec.login.target.Address)
		return nil, failed
	}
	if e.LeaseID == "" {
		failed = none // it names no lease
		return nil, nil
	}
	seconds, _ := e.LeaseDuration.Float64()
	if seconds <= 0 {
		failed = none
	}
	return c.renewed(f.now(), seconds2duration(seconds), f.chance()), nil
}

// mint makes a credential: under the holder's own token if it will have a
// lease, and else with the group's, since nothing hangs on that then.
func (f *fetch) mint(ctx context.Context, h *holder, r *request) (*held, error) {
	if f.leases(r) {
		return f.mintOwn(ctx, h, r)
	}
	g := f.volume.currentGroup()
	if h != f.volume.holder && h != g.holder { // it turned out to be for others
		return nil, errPodBound
	}
	rd, err := f.readWithLogin(ctx, g, r)
	if err != nil {
		return nil, err
	}
	if rd.kind == leased {
		if !g.login.Claim(rd.token) {
			// Another holder's lease hangs on this token already. Ours ends
			// by its own time to live; the next one is under our own token.
			return f.mintOwn(ctx, h, r)
		}
		h.add(rd.token)
	}
	return f.hold(h, r, rd), nil
}

// mintOwn makes a credential under the holder's own token. A denial may be
// the token's: then one new login is tried.
func (f *fetch) mintOwn(ctx context.Context, h *holder, r *request) (*held, error) {
	parent := func(stale *token) (*token, error) {
		t, err := f.parent(ctx, h, stale)
		for err == nil && !t.take(usesToEnd) {
			if t.fresh() {
				return nil, fault.New(fault.Rejected, "the role %q gives Vault tokens for one request alone, and a lease takes two: to make it, and to end it", f.spec.login.role).WithHint(hintNumUses)
			}
			stale = t
			t, err = f.parent(ctx, h, stale)
		}
		return t, err
	}
	rd, err := session.AskTwice(f.now, parent, f.asker(ctx, r), refusedToken)
	if err != nil {
		return nil, err
	}
	return f.hold(h, r, rd), nil
}

// A use that is kept for the end of a token with a number of uses, so that what
// was made with it can be revoked, and is not revoked before.
const usesToEnd = 1

const (
	// wordsLastUse are in Vault's answer to one that makes a lease with the last
	// use of a token.
	wordsLastUse = "token had one use left"
	hintNumUses  = "set token_num_uses of the role to 0, which is any number, or to 2 at the least"
)

func (f *fetch) hold(h *holder, r *request, rd *reading) *held {
	c := newHeld(rd, rd.token, f.pace(r), f.chance())
	if !rd.kind.shareable() {
		h.put(r.id, c)
	}
	return c
}

// parent is the token for the holder's next credential: the newest, kept
// alive, or that of a new login.
func (f *fetch) parent(ctx context.Context, h *holder, stale *token) (*token, error) {
	t, _, err := h.logins.Do(ctx, struct{}{}, f.now, time.Time{}, func() (*token, error) {
		if t := h.parent(f.now()); t != nil && t != stale {
			kept, err := f.sustain(ctx, h, t)
			if err != nil || kept {
				return t, err
			}
		}
		return f.loginHolder(ctx, h)
	})
	return t, err
}

// loginHolder logs in for a holder. Where the answer shows that the identity
// is the pod's own, nothing goes into a holder that the service account's pods
// share: the token goes to that of the pod's group.
func (f *fetch) loginHolder(ctx context.Context, h *holder) (*token, error) {
	g := f.volume.currentGroup()
	own := h == f.volume.holder
	if !own && (h != g.holder || g.key.pod == "" && f.learned.isBound(g.key.login)) {
		return nil, errPodBound
	}
	t, bound, err := f.login(ctx)
	if err != nil {
		return nil, err
	}
	if bound && g.key.pod == "" {
		f.learned.setBound(g.key.login)
		if !own {
			f.rejoin().holder.add(t)
			return nil, errPodBound
		}
	}
	h.add(t)
	return t, nil
}

// sustain renews a holder's token when it is due, and tells whether it can be
// relied on until it is due again. Leases hang on it, so that the store could
// not be asked is an error; that it refuses means a new token.
func (f *fetch) sustain(ctx context.Context, h *holder, t *token) (bool, error) {
	due, final := t.isDue(f.now())
	if !due || final || !t.alive(f.now()) {
		return !due && t.alive(f.now()), nil
	}
	kept, _, err := h.renewals.Do(ctx, t, f.now, time.Time{}, func() (bool, error) {
		err := f.renewSelf(ctx, t)
		switch {
		case err == nil:
			due, _ := t.isDue(f.now())
			return !due, nil
		case fault.Of(err).Outage(), fault.Of(err) == fault.Canceled:
			return false, err
		}
		// It may be gone, and its leases with it; or it may only not renew
		// itself, and is still to be revoked in the end.
		t.giveUp()
		return false, nil
	})
	return kept, err
}
