package session

import (
	"context"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// usesToEnd is how many uses of a token with limited uses stay reserved for the revocation
// of what was issued with it.
const usesToEnd = 1

// issuer issues credentials and renews them.
type issuer struct {
	run *run
	set *credentials
}

// result returns the credential for a request, after renewing or replacing it if it is
// due.
func (i *issuer) result(ctx context.Context, r *Request) Result {
	c, err := i.credential(ctx, r)
	switch {
	case err != nil && fault.Of(err) == fault.NotFound && !IsNotServed(err) && !singleflight.IsOwn(err) && i.run.spec.optional(r):
		return i.run.spec.result(r, Absent(i.run.now(), nil))
	case err != nil:
		return Result{Err: err}
	case c.Absent, c.Kind.Shareable(): // the answer has no lifetime
		i.run.volume.now().readings.Put(r.ID, c.Reading)
		return i.run.spec.result(r, c.Reading)
	case !c.Answer.Has(r.Keys):
		return Result{Err: ErrAgain} // it was issued for another volume
	}
	return Result{Reading: c.Reading, due: c.dueTime(), ends: c.ends}
}

// credential calls advance once for all volumes that want the credential. With a Detacher,
// advance continues if the caller's context ends, and the volume's release waits for it.
func (i *issuer) credential(ctx context.Context, r *Request) (*Credential, error) {
	if _, ok := i.run.session.(Detacher); !ok {
		c, _, err := i.set.issues.Do(ctx, r.ID, i.run.now, time.Time{}, func() (*Credential, error) { return i.advance(ctx, r) })
		return c, err
	}
	c, ended, err := i.set.issues.DoDetached(ctx, r.ID, i.run.now, func() (c *Credential, err error) {
		defer fault.Recover(&err, i.run.engine.config.Logger, "issuing a credential of "+r.Name, logkey.Volume, i.run.volume.id)
		c, err = i.advance(ctx, r)
		i.revokeOrphans()
		return c, err
	})
	if err != nil {
		i.run.volume.detached.add(ended)
	}
	return c, err
}

// advance does what is due for a credential:
//
//  1. There is none, or it lacks keys that the class needs, or the store has refused it
//     for a new pod: issue one.
//  2. The token of the lease cannot be renewed any more: issue another one under a new
//     token. The old one stays valid until it expires.
//  3. The store does not know the lease any more: issue another one.
//  4. It is not due: keep it.
//  5. The lease can be extended: renew it.
//  6. The lease was extended for less than requested, or not at all, or it is a
//     certificate: issue another one while the old one is valid.
//
// There is always a pause between two issues; see replace.
func (i *issuer) advance(ctx context.Context, r *Request) (*Credential, error) {
	c := i.set.get(r.ID)
	if c == nil || !c.Answer.Has(r.Keys) || i.refused(r, c) {
		return i.issue(ctx, r)
	}
	if c.token != nil {
		alive, err := i.run.logins.keepAlive(ctx, i.set, c.token)
		if err != nil {
			return nil, err
		}
		if !alive {
			return i.replace(ctx, r, c, true)
		}
	}
	if i.wantsLookup(c) {
		known, err := i.run.session.(Renewer).KnowsLease(ctx, c.token, c.Answer)
		if err != nil {
			return nil, err
		}
		if !known { // no pause: it happens at most once for each user's request or hour
			return i.issue(ctx, r)
		}
		seen := *c
		seen.known = i.run.now()
		c = &seen
		i.set.put(c)
	}
	switch {
	case c.Kind == Once:
		due := !c.due.IsZero() && !i.run.now().Before(c.due)
		if due || i.run.request.Fresh && c.Asked.Before(i.run.began) {
			return i.issue(ctx, r)
		}
		return c, nil
	case !isDue(c.due, c.ends, i.run.now()):
		return c, nil
	case c.token != nil && c.Answer.Renewable && !c.replace:
		next, err := i.renewLease(ctx, c)
		if err != nil {
			return nil, err
		}
		if next != nil { // also if another one is due: its issue may fail
			i.set.put(next)
		}
		if next != nil && !next.replace {
			return next, nil
		}
	}
	return i.replace(ctx, r, c, false)
}

// refused reports whether the store has refused a shared credential since it was issued,
// and this pod does not have it yet.
func (i *issuer) refused(r *Request, c *Credential) bool {
	state := i.run.volume.now()
	if i.set == state.credentials || len(i.run.request.Current) > 0 {
		return false
	}
	return !state.group.recent.Allows(r.ID, c.Asked)
}

// wantsLookup reports whether to look the lease up: after an edit, if a user asked for a
// refresh, and once an hour.
func (i *issuer) wantsLookup(c *Credential) bool {
	return c.token != nil && !c.token.Limited() &&
		(i.run.request.Fresh && c.known.Before(i.run.began) || !i.run.now().Before(c.known.Add(leaseUnseen)))
}

// replace issues a credential instead of c, but not soon after the issue of c. If c ends
// with its token before that, it is replaced in time, but only once.
func (i *issuer) replace(ctx context.Context, r *Request, c *Credential, ending bool) (*Credential, error) {
	due := nextIssue(c.At, c.life())
	early := i.run.now().Before(due)
	if early && (!ending || c.early) {
		later := *c
		later.due, later.token = due, nil // the token does not change the due time
		return &later, nil
	}
	next, err := i.issue(ctx, r)
	if err != nil || !early || next.Kind.Shareable() {
		return next, err
	}
	issued := *next
	issued.early = true
	i.set.put(&issued)
	return &issued, nil
}

// renewLease extends a lease. It returns nil if the store did not renew it.
func (i *issuer) renewLease(ctx context.Context, c *Credential) (*Credential, error) {
	if !c.token.Take(usesToEnd) {
		return nil, nil // the renewal would use the token up, which ends the lease
	}
	began := time.Now()
	granted, err := i.run.session.(Renewer).RenewLease(ctx, c.token, c.Answer)
	i.run.caller.noteAccess(ctx, provider.AccessRenew, c.Answer.LeaseID, began, err)
	switch reason := fault.Of(err); {
	case err == nil:
		return c.renewed(i.run.now(), granted, i.run.chance()), nil
	case reason.Outage(), reason == fault.Canceled, reason == fault.Internal:
		return nil, err
	}
	i.run.engine.config.Logger.Debug("a lease was not renewed, so it is replaced", logkey.Lease, c.Answer.LeaseID, logkey.Error, err)
	return nil, nil
}

// issue issues a credential: with a token of its own login if the credential will have a
// lease, else with the group's token.
func (i *issuer) issue(ctx context.Context, r *Request) (*Credential, error) {
	if i.run.session.Leases(r) {
		return i.issueOwn(ctx, r)
	}
	state := i.run.volume.now()
	g := state.group
	if i.set != state.credentials && i.set != g.credentials { // the login has changed the identity
		return nil, errPodBound
	}
	rd, err := i.run.session.Issue(ctx, func(stale *Token) (*Token, error) { return i.run.logins.token(ctx, g, stale) }, r)
	if err != nil {
		return nil, err
	}
	if rd.Kind == Leased && i.run.engine.groups.revokesTokens {
		if !g.claim(rd.Token) {
			// The token has a lease of another volume already. This lease expires by
			// its TTL; the next one gets a token of its own login.
			return i.issueOwn(ctx, r)
		}
		i.set.addToken(rd.Token)
	}
	return i.put(r, rd), nil
}

// issueOwn issues a credential with a token of its own login.
func (i *issuer) issueOwn(ctx context.Context, r *Request) (*Credential, error) {
	rd, err := i.run.session.Issue(ctx, func(stale *Token) (*Token, error) {
		t, err := i.run.logins.parent(ctx, i.set, stale)
		for err == nil && !t.Take(usesToEnd) {
			if t.unused() {
				return nil, fault.New(fault.Rejected, "the role gives Vault tokens for one request alone, and a lease takes two: to issue it, and to end it").WithHint(HintUses)
			}
			stale = t
			t, err = i.run.logins.parent(ctx, i.set, stale)
		}
		return t, err
	}, r)
	if err != nil {
		return nil, err
	}
	return i.put(r, rd), nil
}

// HintUses is the hint about tokens with too few uses.
const HintUses = "set token_num_uses of the role to 0, which is any number, or to 2 at the least"

func (i *issuer) put(r *Request, rd *Reading) *Credential {
	c := i.run.spec.newCredential(r, rd, i.run.engine.groups.revokesTokens, i.run.chance())
	if !rd.Kind.Shareable() && !rd.Absent {
		i.set.put(c)
	}
	return c
}

// extend renews a lease if it is due and renewable. It issues nothing.
func (i *issuer) extend(ctx context.Context, c *Credential) error {
	if c.token == nil {
		return nil
	}
	alive, err := i.run.logins.keepAlive(ctx, i.set, c.token)
	if err != nil || !alive || !c.Answer.Renewable || c.replace || !isDue(c.due, c.ends, i.run.now()) {
		return err
	}
	next, err := i.renewLease(ctx, c)
	if next != nil {
		i.set.put(next)
	}
	return err
}

// revokeOrphans revokes what was issued for a volume that is gone, or gives it to the new
// volume with its id.
func (i *issuer) revokeOrphans() {
	state := i.run.volume.now()
	v := i.run.engine.volumes.find(i.run.volume.id)
	switch {
	case v == i.run.volume && v.owns(i.set), state.group != nil && i.set == state.group.credentials && i.run.engine.groups.find(state.group.key) == state.group:
		return
	case v != nil:
		v.add(i.set.take())
		return
	case i.run.engine.config.DisableRevocation:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), i.run.engine.config.ReleaseTimeout)
	defer cancel()
	r := i.run.engine.newRevoker(ctx, i.run.volume, state)
	for _, one := range i.set.take() {
		if err := r.revoke(ctx, one); err != nil {
			i.run.engine.config.Logger.Warn("a credential that was issued after its volume had gone could not be revoked", logkey.Name, one.Name, logkey.Lease, one.LeaseID, logkey.Ends, one.Expires, logkey.Error, err)
		}
	}
}
