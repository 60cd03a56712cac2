package vault

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// errPodBound tells that the identity turned out to be the pod's own.
var errPodBound = errors.New("the login is bound to the pod")

// errNotShared tells that another volume's answer is not for this one.
var errNotShared = errors.New("the answer was made for another volume")

// maxTurns bounds how often a request changes its way as answers teach what
// it is.
const maxTurns = 4

// obtain answers one request, with as little work as will do.
func (f *fetch) obtain(ctx context.Context, r *request) (res result) {
	for range maxTurns {
		res = f.obtainOnce(ctx, r)
		switch {
		case errors.Is(res.err, errPodBound):
			f.rejoin()
		case !errors.Is(res.err, errNotShared):
			res = f.unlessLive(r, f.certain(ctx, r, res))
			if session.Refused(res.err) {
				session.NoteRefusal(res.err, r.id, f.now(), f.volume.answers(), f.volume.currentGroup().recent)
			}
			return res
		}
	}
	return result{err: fault.New(fault.Internal, "reading %s: its kind keeps changing", r)}
}

func (f *fetch) obtainOnce(ctx context.Context, r *request) result {
	h := f.holder()
	if h.get(r.id) != nil {
		return f.held(ctx, h, r)
	}
	if rd := f.volume.answers().Last(r.id); rd.answers(r) && !f.request.Fresh && (!rd.absent || f.optional(r)) {
		if due := f.dueOf(r, rd); recentEnough(rd.kind, rd.asked, due, f.began, true) {
			return result{reading: rd, due: due}
		}
	}
	if f.mints(r) {
		return f.held(ctx, h, r)
	}
	rd, err := f.shared(ctx, r)
	if err != nil {
		return result{err: err}
	}
	if !rd.kind.shareable() { // what we led made a credential: it is ours
		return f.held(ctx, h, r)
	}
	f.volume.answers().Keep(r.id, rd)
	return result{reading: rd, due: f.dueOf(r, rd)}
}

// dueOf is when a polled or static reading is to be had anew.
func (f *fetch) dueOf(r *request, rd *reading) time.Time {
	p := f.pace(r)
	if rd.kind == static { // but a rotation by hand shows within the interval
		return session.Earliest(rd.due, rd.asked.Add(p.interval))
	}
	return dueAt(rd.kind, rd.asked, rd.end, p, 0)
}

// holder is whose a credential would be.
func (f *fetch) holder() *holder {
	if f.spec.scope == class.ScopeServiceAccount {
		return f.volume.currentGroup().holder
	}
	return f.volume.holder
}

// mints tells whether the request is made for a holder alone: it is known to
// make a credential, or it may, since it is not a GET.
func (f *fetch) mints(r *request) bool {
	if k, ok := f.learned.kindOf(f.spec.login, r); ok {
		return !k.shareable() || r.method != http.MethodGet
	}
	return r.method != http.MethodGet || looksLeased(r)
}

// leases tells whether the answer will have a lease, as far as is known.
func (f *fetch) leases(r *request) bool {
	if k, ok := f.learned.kindOf(f.spec.login, r); ok {
		return k == leased
	}
	return looksLeased(r)
}

// looksLeased recognises <mount>/creds/<role>, which is how the engines of
// databases, clouds and brokers name what they lease.
func looksLeased(r *request) bool {
	elements := strings.Split(r.path, "/")
	n := len(elements)
	return n >= 3 && elements[n-2] == "creds" && !strings.Contains(r.path, "/data/")
}

// shared answers a request whose answer is alike for the whole group.
func (f *fetch) shared(ctx context.Context, r *request) (*reading, error) {
	g := f.volume.currentGroup()
	var since time.Time
	if f.request.Fresh {
		since = f.began
	}
	if rd := f.fromGroup(g, r); rd != nil {
		return rd, nil
	}
	rd, led, err := g.reads.Do(ctx, r.flight, f.now, since, func() (*reading, error) {
		if rd := f.fromGroup(g, r); rd != nil {
			return rd, nil
		}
		return f.readShared(ctx, g, r)
	})
	switch {
	case err != nil && fault.Of(err) == fault.NotFound && !isUnmounted(err) && !led && f.optional(r):
		return absent(f.now(), nil), nil // the leader minded
	case err != nil:
		return nil, err
	case !led && (!rd.kind.shareable() || (rd.absent && !f.optional(r))):
		return nil, errNotShared
	}
	return rd, nil
}

// fromGroup is an answer that another volume of the group had lately.
func (f *fetch) fromGroup(g *group, r *request) *reading {
	rd := g.recent.Last(r.id)
	if !rd.answers(r) || !rd.kind.shareable() || (rd.absent && !f.optional(r)) {
		return nil
	}
	if f.request.Fresh {
		if rd.asked.After(f.began) {
			return rd
		}
		return nil
	}
	if recentEnough(rd.kind, rd.asked, f.dueOf(r, rd), f.now(), false) {
		return rd
	}
	return nil
}

// readShared asks the store: for the version only where that will do.
func (f *fetch) readShared(ctx context.Context, g *group, r *request) (*reading, error) {
	rd, refused := f.unchanged(ctx, g, r)
	if rd != nil {
		g.recent.Keep(r.id, rd)
		return rd, nil
	}
	rd, err := f.readWithLogin(ctx, g, r)
	if err != nil {
		return nil, err
	}
	if refused != nil && rd.token == refused { // the token is good, so it was the policy
		g.noMetadata.Set(r.id, struct{}{})
	}
	if rd.kind.shareable() {
		g.recent.Keep(r.id, rd)
		return rd, nil
	}
	f.take(g, r, rd)
	return rd, nil
}

// take makes a credential that came unexpectedly the volume's own. The token
// that it hangs on goes with it, so that it can be revoked with the volume.
// Where another holder has that token already, the credential would end with
// that one: it is left to its own end, and made anew under a token of ours.
func (f *fetch) take(g *group, r *request, rd *reading) {
	h := f.holder()
	if h != f.volume.holder && h != g.holder {
		return // the identity turned out to be the pod's: this is another's
	}
	if rd.kind == leased && !h.has(rd.token) {
		if !g.login.Claim(rd.token) {
			return
		}
		h.add(rd.token)
	}
	h.put(r.id, newHeld(rd, rd.token, f.pace(r), f.chance()))
}
