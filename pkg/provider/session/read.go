package session

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/parallel"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// mostChecks is how many requests of a batch are checked for changes one by one. A larger
// batch is read again.
const mostChecks = 4

// reader reads for all volumes of an identity.
type reader struct {
	run   *run
	group *group
}

func newReader(f *run) *reader { return &reader{run: f, group: f.volume.now().group} }

// read answers shareable requests of one batch.
func (d *reader) read(ctx context.Context, batch []*Request) []Result {
	var since time.Time
	if d.run.request.Fresh {
		since = d.run.began
	}
	flights := make([]string, len(batch))
	for i, r := range batch {
		flights[i] = r.Flight
	}
	got, led, err := d.group.reads.Do(ctx, strings.Join(flights, "\n\n"), d.run.now, since, func() (map[string]Read, error) { return d.batch(ctx, batch) })
	out := make([]Result, len(batch))
	for i, r := range batch {
		one := got[r.ID]
		if err != nil {
			one = Read{Err: err}
		}
		out[i] = d.taken(ctx, r, one, led)
		if !led && out[i].Err == nil {
			d.count(true)
		}
	}
	return out
}

// count counts a read that the volume needed, and whether another volume's read served it.
func (d *reader) count(shared bool) { d.run.engine.config.OnShared(endpoint.OpRead, shared) }

// taken stores the answer of a read, of this run or another one, as the volume's own.
func (d *reader) taken(ctx context.Context, r *Request, got Read, led bool) Result {
	rd, err := got.Reading, got.Err
	switch {
	case err != nil && fault.Of(err) == fault.NotFound && !IsNotServed(err) && !led && d.run.spec.optional(r):
		rd = Absent(d.run.now(), nil) // it is not optional for the leader
	case err != nil:
		return Result{Err: err}
	case rd == nil:
		return Result{Err: fault.New(fault.Internal, "reading %s: it was not asked for", r.Name)}
	case !led && (!rd.Kind.Shareable() || rd.Absent && !d.run.spec.optional(r)):
		return Result{Err: ErrAgain} // it was issued for another volume, or lacks keys
	case !rd.Kind.Shareable(): // this volume's read has created it
		return d.run.issued(ctx, r)
	}
	d.run.volume.now().readings.Put(r.ID, rd)
	return d.run.spec.result(r, rd)
}

// batch answers requests from recent answers of the group, by checking that nothing has
// changed, or by reading.
func (d *reader) batch(ctx context.Context, batch []*Request) (map[string]Read, error) {
	out := make(map[string]Read, len(batch))
	var rest []*Request
	for _, r := range batch {
		if rd := d.recent(r); rd != nil {
			out[r.ID] = Read{Reading: rd}
			d.count(true)
		} else {
			rest = append(rest, r)
		}
	}
	if len(rest) <= mostChecks {
		rest = d.check(ctx, rest, out)
	}
	if len(rest) == 0 {
		return out, nil
	}
	tokens := func(stale *Token) (*Token, error) { return d.run.logins.token(ctx, d.group, stale) }
	read, err := d.run.session.Read(ctx, tokens, rest)
	if err != nil {
		return nil, err
	}
	for r, one := range read {
		out[r.ID] = one
		switch {
		case one.Err != nil:
		case one.Kind.Shareable():
			d.count(false)
			d.group.recent.Put(r.ID, one.Reading)
		default:
			d.keep(r, one.Reading)
		}
	}
	return out, nil
}

// recent returns a recent answer to another volume of the group.
func (d *reader) recent(r *Request) *Reading {
	rd := d.group.recent.Last(r.ID)
	switch {
	case !rd.answers(r), !rd.Kind.Shareable(), rd.Absent && !d.run.spec.optional(r):
		return nil
	case d.run.request.Fresh && !rd.Asked.After(d.run.began):
		return nil
	case !d.run.request.Fresh && !recentEnough(rd.Kind, rd.Asked, d.run.spec.readingDue(r, rd), d.run.now(), false):
		return nil
	}
	return rd
}

// check asks the store which of the earlier answers have not changed. It returns the other
// requests.
func (d *reader) check(ctx context.Context, list []*Request, out map[string]Read) (rest []*Request) {
	s, ok := d.run.session.(Checker)
	if !ok || d.run.request.Fresh {
		return list
	}
	var mu sync.Mutex
	parallel.Each(list, func(r *Request) {
		var rd *Reading
		if before := d.before(r); before != nil && !before.Absent {
			rd = s.Unchanged(ctx, r, before)
		}
		mu.Lock()
		defer mu.Unlock()
		if rd == nil {
			rest = append(rest, r)
			return
		}
		d.count(false)
		d.group.recent.Put(r.ID, rd)
		out[r.ID] = Read{Reading: rd}
	})
	return rest
}

// before returns the newest answer that the volume or its group has.
func (d *reader) before(r *Request) *Reading {
	own, shared := d.run.volume.now().readings.Last(r.ID), d.group.recent.Last(r.ID)
	switch {
	case !own.answers(r) && !shared.answers(r):
		return nil
	case !own.answers(r), shared.answers(r) && shared.Asked.After(own.Asked):
		return shared
	}
	return own
}

// keep makes an unexpected credential the volume's own, together with its token, so that
// it is revoked with the volume. If the token has leases of another volume, the credential
// would end with those: then it is left to its TTL, and issued again with a token of its
// own login.
func (d *reader) keep(r *Request, rd *Reading) {
	s := d.run.credentials()
	if s != d.run.volume.now().credentials && s != d.group.credentials {
		return // the login has changed the identity
	}
	if rd.Kind == Leased && d.run.engine.groups.revokesTokens && !s.hasToken(rd.Token) {
		if !d.group.claim(rd.Token) {
			return
		}
		s.addToken(rd.Token)
	}
	s.put(d.run.spec.newCredential(r, rd, d.run.engine.groups.revokesTokens, d.run.chance()))
}
