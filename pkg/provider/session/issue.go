package session

import (
	"context"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// usesToEnd is kept of a token with a number of uses, so that what was issued
// with it can be revoked, and is not revoked before.
const usesToEnd = 1

// issuer keeps credentials alive, and issues them.
type issuer struct {
	*run
	set *credentials
}

// result answers a request with a credential, which is renewed or replaced if
// it is due.
func (f *issuer) result(ctx context.Context, r *Request) Result {
	c, err := f.credential(ctx, r)
	switch {
	case err != nil && fault.Of(err) == fault.NotFound && !IsNotServed(err) && !singleflight.IsOwn(err) && f.spec.optional(r):
		return f.run.result(r, Absent(f.now(), nil))
	case err != nil:
		return Result{Err: err}
	case c.Absent, c.Kind.Shareable(): // it had no lifetime after all
		f.volume.now().readings.Put(r.ID, c.Reading)
		return f.run.result(r, c.Reading)
	case !c.Answer.Has(r.Keys):
		return Result{Err: ErrAgain} // it was issued for another volume
	}
	return Result{Reading: c.Reading, due: c.dueTime(), ends: c.ends}
}

// credential does what is due once for all volumes that want it. What the store
// goes on with, whether or not the caller waits, is waited for by the volume's
// release.
func (f *issuer) credential(ctx context.Context, r *Request) (*Credential, error) {
	if _, detached := f.session.(Detacher); !detached {
		c, _, err := f.set.issues.Do(ctx, r.ID, f.now, time.Time{}, func() (*Credential, error) { return f.advance(ctx, r) })
		return c, err
	}
	c, ended, err := f.set.issues.DoDetached(ctx, r.ID, f.now, func() (c *Credential, err error) {
		defer fault.Recover(&err, f.config.Logger, "issuing a credential of "+r.Name, logkey.Volume, f.volume.id)
		c, err = f.advance(ctx, r)
		f.revokeOrphans()
		return c, err
	})
	if err != nil {
		f.volume.await(ended)
	}
	return c, err
}

// advance does what is due:
//
//  1. Nothing issued yet, not for a pod that is new, or not the keys that the
//     class takes of it by now: issue a credential.
//  2. A lease whose token cannot be kept alive any longer: issue another under
//     a new token. The old goes on to work until it ends.
//  3. A lease that the store does not know any more: issue another.
//  4. Not due: keep it.
//  5. A lease that can be extended: renew it.
//  6. One that was extended for less than asked, or not at all, and
//     certificates: issue another while the old still works.
//
// Between two that are issued there is a pause in any case; see replace.
func (f *issuer) advance(ctx context.Context, r *Request) (*Credential, error) {
	c := f.set.get(r.ID)
	if c == nil || !c.Answer.Has(r.Keys) || f.refused(r, c) {
		return f.issue(ctx, r)
	}
	if c.token != nil {
		alive, err := f.keepAlive(ctx, f.set, c.token)
		if err != nil {
			return nil, err
		}
		if !alive {
			return f.replace(ctx, r, c, true)
		}
	}
	if f.wantsLookup(c) {
		known, err := f.session.(Renewer).KnowsLease(ctx, c.token, c.Answer)
		if err != nil {
			return nil, err
		}
		if !known { // at most once for each demand or hour, so without a pause
			return f.issue(ctx, r)
		}
		c = c.seen(f.now())
		f.set.put(c)
	}
	switch {
	case c.Kind == Once:
		due := !c.due.IsZero() && !f.now().Before(c.due)
		if due || f.request.Fresh && c.Asked.Before(f.began) {
			return f.issue(ctx, r)
		}
		return c, nil
	case !IsDue(c.due, c.ends, f.now()):
		return c, nil
	case c.token != nil && c.Answer.Renewable && !c.replace:
		next, err := f.renewLease(ctx, c)
		if err != nil {
			return nil, err
		}
		if next != nil { // noted too where another is to be issued, in case it cannot be had now
			f.set.put(next)
		}
		if next != nil && !next.replace {
			return next, nil
		}
	}
	return f.replace(ctx, r, c, false)
}

// refused tells that a credential that the service account shares was refused
// since it was issued, and so is not for a pod that does not have it yet.
func (f *issuer) refused(r *Request, c *Credential) bool {
	state := f.volume.now()
	if f.set == state.credentials || len(f.request.Current) > 0 {
		return false
	}
	return !state.group.recent.Allows(r.ID, c.Asked)
}

// wantsLookup tells whether to ask if the store still knows the lease: for an
// edit, a refresh by hand, and once an hour.
func (f *issuer) wantsLookup(c *Credential) bool {
	return c.token != nil && !c.token.Limited() &&
		(f.request.Fresh && c.known.Before(f.began) || !f.now().Before(c.known.Add(leaseUnseen)))
}

// replace issues a credential in the place of c, but not at once after c was
// issued. Where c ends with its token before that it is replaced in time, once.
func (f *issuer) replace(ctx context.Context, r *Request, c *Credential, ending bool) (*Credential, error) {
	due := NextIssue(c.At, c.life())
	early := f.now().Before(due)
	if early && (!ending || c.early) {
		return c.until(due), nil
	}
	next, err := f.issue(ctx, r)
	if err != nil || !early || next.Kind.Shareable() {
		return next, err
	}
	next = next.issuedEarly()
	f.set.put(next)
	return next, nil
}

// renewLease extends a lease. It returns nil where it was not renewed.
func (f *issuer) renewLease(ctx context.Context, c *Credential) (*Credential, error) {
	if !c.token.Take(usesToEnd) {
		return nil, nil // a renewal would be the token's end, and the lease's
	}
	began := time.Now()
	granted, err := f.session.(Renewer).RenewLease(ctx, c.token, c.Answer)
	f.caller.noteAccess(ctx, provider.AccessRenew, c.Answer.LeaseID, began, err)
	switch reason := fault.Of(err); {
	case err == nil:
		return c.renewed(f.now(), granted, f.chance()), nil
	case reason.Outage(), reason == fault.Canceled, reason == fault.Internal:
		return nil, err
	}
	f.config.Logger.Debug("a lease was not renewed, so it is replaced", logkey.Lease, c.Answer.LeaseID, logkey.Error, err)
	return nil, nil
}

// issue has the store make a credential: under a token of the set's own if it
// will have a lease that hangs on it, and else with the group's.
func (f *issuer) issue(ctx context.Context, r *Request) (*Credential, error) {
	if f.session.Leases(r) {
		return f.issueOwn(ctx, r)
	}
	state := f.volume.now()
	g := state.group
	if f.set != state.credentials && f.set != g.credentials { // it turned out to be for others
		return nil, errPodBound
	}
	rd, err := f.session.Issue(ctx, func(stale *Token) (*Token, error) { return f.token(ctx, g, stale) }, r)
	if err != nil {
		return nil, err
	}
	if rd.Kind == Leased && f.groups.revokesTokens {
		if !g.current.claim(rd.Token) {
			// Another volume's lease hangs on this token already. Ours ends by its
			// own TTL; the next one is under our own token.
			return f.issueOwn(ctx, r)
		}
		f.set.addToken(rd.Token)
	}
	return f.put(r, rd), nil
}

// issueOwn issues a credential under a token of the set's own.
func (f *issuer) issueOwn(ctx context.Context, r *Request) (*Credential, error) {
	rd, err := f.session.Issue(ctx, func(stale *Token) (*Token, error) {
		t, err := f.parent(ctx, stale)
		for err == nil && !t.Take(usesToEnd) {
			if t.unused() {
				return nil, fault.New(fault.Rejected, "the role gives Vault tokens for one request alone, and a lease takes two: to issue it, and to end it").WithHint(HintUses)
			}
			stale = t
			t, err = f.parent(ctx, stale)
		}
		return t, err
	}, r)
	if err != nil {
		return nil, err
	}
	return f.put(r, rd), nil
}

// HintUses is what to do about tokens that are given for too few requests.
const HintUses = "set token_num_uses of the role to 0, which is any number, or to 2 at the least"

func (f *issuer) put(r *Request, rd *Reading) *Credential {
	c := f.spec.newCredential(r, rd, f.groups.revokesTokens, f.chance())
	if !rd.Kind.Shareable() && !rd.Absent {
		f.set.put(c)
	}
	return c
}

// parent is the token for the set's next credential: the newest, kept alive, or
// that of a new login.
func (f *issuer) parent(ctx context.Context, stale *Token) (*Token, error) {
	t, _, err := f.set.logins.Do(ctx, struct{}{}, f.now, time.Time{}, func() (*Token, error) {
		if t := f.set.parent(f.now()); t != nil && t != stale {
			alive, err := f.keepAlive(ctx, f.set, t)
			if err != nil || alive {
				return t, err
			}
		}
		return f.logInFor(ctx, f.set)
	})
	return t, err
}

// extend renews a lease if it is due and can be renewed, and issues nothing.
func (f *issuer) extend(ctx context.Context, c *Credential) error {
	if c.token == nil {
		return nil
	}
	alive, err := f.keepAlive(ctx, f.set, c.token)
	if err != nil || !alive || !c.Answer.Renewable || c.replace || !IsDue(c.due, c.ends, f.now()) {
		return err
	}
	next, err := f.renewLease(ctx, c)
	if next != nil {
		f.set.put(next)
	}
	return err
}

// keepSuperseded keeps alive what the files hold while the new identity gets no
// answer.
func (f *run) keepSuperseded(ctx context.Context) {
	f.volume.mu.Lock()
	old := f.volume.superseded
	f.volume.mu.Unlock()
	if old == nil || old.spec == nil {
		return
	}
	earlier, err := f.open(ctx, f.request, old.spec, old.bearer)
	if err != nil {
		return
	}
	earlier.start(f.volume)
	i := &issuer{earlier, old.credentials}
	for _, c := range old.credentials.all() {
		if err := i.extend(ctx, c); err != nil {
			f.config.Logger.Debug("a lease of before the class's edit was not renewed", logkey.Volume, f.request.Volume, logkey.Error, err)
		}
	}
}
