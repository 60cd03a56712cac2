package session

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// mostChecks is how many requests of a batch are checked for changes one by
// one. More of them are read again in one.
const mostChecks = 4

// read answers requests whose answers are alike for the whole group, and that
// the store answers together.
func (f *run) read(ctx context.Context, batch []*Request) []Result {
	g := f.volume.now().group
	var since time.Time
	if f.request.Fresh {
		since = f.began
	}
	flights := make([]string, len(batch))
	for i, r := range batch {
		flights[i] = r.Flight
	}
	got, led, err := g.reads.Do(ctx, strings.Join(flights, "\n\n"), f.now, since, func() (map[string]Read, error) {
		return (&reader{f, g}).batch(ctx, batch)
	})
	out := make([]Result, len(batch))
	for i, r := range batch {
		one := got[r.ID]
		if err != nil {
			one = Read{Err: err}
		}
		out[i] = f.taken(ctx, r, one, led)
	}
	return out
}

// taken makes the volume's own what a read gave, be it of this run or another's.
func (f *run) taken(ctx context.Context, r *Request, got Read, led bool) Result {
	rd, err := got.Reading, got.Err
	switch {
	case err != nil && fault.Of(err) == fault.NotFound && !IsNotServed(err) && !led && f.spec.optional(r):
		rd = Absent(f.now(), nil) // the leader minded
	case err != nil:
		return Result{Err: err}
	case rd == nil:
		return Result{Err: fault.New(fault.Internal, "reading %s: it was not asked for", r.Name)}
	case !led && (!rd.Kind.Shareable() || rd.Absent && !f.spec.optional(r)):
		return Result{Err: ErrAgain} // it was issued for another volume, or is missing for it
	case !rd.Kind.Shareable(): // what we led was issued: it is ours
		return f.issued(ctx, r)
	}
	f.volume.now().readings.Put(r.ID, rd)
	return f.result(r, rd)
}

// reader reads for all volumes of an identity.
type reader struct {
	*run
	group *group
}

// batch answers requests: from what the group had lately, by finding that
// nothing has changed, or by reading.
func (f *reader) batch(ctx context.Context, batch []*Request) (map[string]Read, error) {
	out := make(map[string]Read, len(batch))
	var rest []*Request
	for _, r := range batch {
		if rd := f.recent(r); rd != nil {
			out[r.ID] = Read{Reading: rd}
		} else {
			rest = append(rest, r)
		}
	}
	if len(rest) <= mostChecks {
		rest = f.check(ctx, rest, out)
	}
	if len(rest) == 0 {
		return out, nil
	}
	tokens := func(stale *Token) (*Token, error) { return f.token(ctx, f.group, stale) }
	read, err := f.session.Read(ctx, tokens, rest)
	if err != nil {
		return nil, err
	}
	for r, one := range read {
		out[r.ID] = one
		switch {
		case one.Err != nil:
		case one.Kind.Shareable():
			f.group.recent.Put(r.ID, one.Reading)
		default:
			f.keep(r, one.Reading)
		}
	}
	return out, nil
}

// recent is an answer that another volume of the group had lately.
func (f *reader) recent(r *Request) *Reading {
	rd := f.group.recent.Last(r.ID)
	switch {
	case !rd.answers(r), !rd.Kind.Shareable(), rd.Absent && !f.spec.optional(r):
		return nil
	case f.request.Fresh && !rd.Asked.After(f.began):
		return nil
	case !f.request.Fresh && !recentEnough(rd.Kind, rd.Asked, f.spec.readingDue(r, rd), f.now(), false):
		return nil
	}
	return rd
}

// check has the store say which of the requests it would answer as before. It
// returns the others.
func (f *reader) check(ctx context.Context, list []*Request, out map[string]Read) (rest []*Request) {
	s, ok := f.session.(Checker)
	if !ok || f.request.Fresh {
		return list
	}
	var mu sync.Mutex
	InParallel(list, func(r *Request) {
		var rd *Reading
		if before := f.before(r); before != nil && !before.Absent {
			rd = s.Unchanged(ctx, r, before)
		}
		mu.Lock()
		defer mu.Unlock()
		if rd == nil {
			rest = append(rest, r)
			return
		}
		f.group.recent.Put(r.ID, rd)
		out[r.ID] = Read{Reading: rd}
	})
	return rest
}

// before is the newest answer that the volume or its group has.
func (f *reader) before(r *Request) *Reading {
	own, shared := f.volume.now().readings.Last(r.ID), f.group.recent.Last(r.ID)
	switch {
	case !own.answers(r) && !shared.answers(r):
		return nil
	case !own.answers(r), shared.answers(r) && shared.Asked.After(own.Asked):
		return shared
	}
	return own
}

// keep makes what was issued unexpectedly the volume's own. The token that it
// hangs on goes with it, so that it can be revoked with the volume. Where that
// token has leases of another volume already, the credential would end with
// those: it is left to its own end, and issued again under a token of ours.
func (f *reader) keep(r *Request, rd *Reading) {
	s := f.credentials()
	if s != f.volume.now().credentials && s != f.group.credentials {
		return // the identity turned out to be the pod's: this is another's
	}
	if rd.Kind == Leased && f.groups.revokesTokens && !s.hasToken(rd.Token) {
		if !f.group.current.claim(rd.Token) {
			return
		}
		s.addToken(rd.Token)
	}
	s.put(f.spec.newCredential(r, rd, f.groups.revokesTokens, f.chance()))
}
