package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// ErrAgain is in the error of a request of which the store's code has learned
// something new, so that it is to be made again, in another way.
var ErrAgain = errors.New("the request is to be made in another way")

// maxTurns bounds how often a request changes its way as answers teach what it
// is.
const maxTurns = 4

// run is one Fetch of one volume.
type run struct {
	engine  *Engine
	request provider.Request
	spec    *Spec
	caller  *Caller
	session Session
	logins  *logins
	volume  *volume
	began   time.Time
}

func (f *run) now() time.Time  { return f.engine.config.Now() }
func (f *run) chance() float64 { return f.engine.config.Jitter() }

// start gives the run its volume, whose turn it is.
func (f *run) start(v *volume) {
	f.volume, f.logins.volume, f.began = v, v, f.now()
	f.caller.Began = f.began
}

// join puts the volume into the group of its identity. A volume that is in one
// already needs no valid service account token, until it has to log in.
func (f *run) join() error {
	key, err := f.engine.groups.identify(f.spec, f.caller.Bearer, f.began)
	if err == nil {
		f.volume.enter(key, f.caller.Bearer)
		return nil
	}
	old := f.volume.now()
	if old.group == nil || old.group.key.Login != f.spec.Login || old.bearer.Pod != f.request.Pod {
		return err
	}
	if _, passed := f.caller.Tokens[f.spec.Audience]; !passed {
		f.caller.Bearer = old.bearer
	}
	return nil
}

// credentials are those that what is issued for the volume goes to.
func (f *run) credentials() *credentials {
	if f.spec.Scope == class.ScopeServiceAccount {
		return f.volume.now().group.credentials
	}
	return f.volume.now().credentials
}

// answered notes that the files are of the present identity and class.
func (f *run) answered() {
	f.volume.endSuperseded()
	f.volume.answered(f.spec)
	if !f.request.Upkeep {
		f.volume.inFiles = f.spec.ids()
		f.volume.retain(f.spec, f.began)
	}
}

// obtain answers all requests, in their order. One that fails does not end the
// others: they may be issuing credentials, which would be lost.
//
//  1. What has to be found out of a request first is asked.
//  2. What can be read is read, and what is issued already is kept alive. Where
//     that teaches that a request is of another kind, it is made again so.
//  3. The volume's first credentials are issued last, and only where the rest
//     will do, so that a publish that keeps failing leaves none behind.
//
// Where the volume has a last good answer to a request that fails, that takes
// its place, so that the others' answers get into the files.
func (f *run) obtain(ctx context.Context) []Result {
	results := make([]Result, len(f.spec.Requests))
	pending := f.prepare(ctx, results)
	for turn := 1; len(pending) > 0; turn++ {
		now, later := f.split(pending)
		if len(now) == 0 {
			if slices.ContainsFunc(results, func(r Result) bool { return r.Err != nil }) {
				break
			}
			now, later = later, nil
		}
		f.obtainSome(ctx, results, now, turn < maxTurns)
		pending = later
		for _, i := range now {
			if errors.Is(results[i].Err, ErrAgain) {
				results[i], pending = Result{}, append(pending, i)
			}
		}
	}
	return results
}

// prepare finds out what has to be known of requests that the volume's answers
// will not do for. It returns which requests are left to make.
func (f *run) prepare(ctx context.Context, results []Result) (pending []int) {
	var list []*Request
	for i, r := range f.spec.Requests {
		if res, ok := f.fromVolume(r); ok {
			results[i] = f.finish(ctx, r, res)
			continue
		}
		pending, list = append(pending, i), append(list, r)
	}
	s, ok := f.session.(Preparer)
	if !ok || len(list) == 0 {
		return pending
	}
	failed := s.Prepare(ctx, list)
	return slices.DeleteFunc(pending, func(i int) bool {
		r := f.spec.Requests[i]
		if failed[r] != nil {
			results[i] = f.lastGood(r, f.finish(ctx, r, Result{Err: failed[r]}))
		}
		return failed[r] != nil
	})
}

// split tells which requests to make now, and which issue first credentials.
func (f *run) split(pending []int) (now, later []int) {
	for _, i := range pending {
		if r := f.spec.Requests[i]; f.session.Issues(r) && f.credentials().get(r.ID) == nil {
			later = append(later, i)
		} else {
			now = append(now, i)
		}
	}
	return now, later
}

// obtainSome makes some requests, and finds what takes the place of failures.
func (f *run) obtainSome(ctx context.Context, results []Result, which []int, again bool) {
	f.ask(ctx, results, which, again)
	if slices.ContainsFunc(which, func(i int) bool { return results[i].Err == nil }) {
		// One of them was the probe that closed the circuit.
		f.ask(ctx, results, slices.DeleteFunc(slices.Clone(which), func(i int) bool { return !errors.Is(results[i].Err, endpoint.ErrNotAsked) }), again)
	}
	// What did not fit the memory beside the others may fit by itself. A
	// credential is not asked for again: the store may have issued it.
	for _, i := range which {
		if fault.Of(results[i].Err) == fault.Exhausted && !f.session.Issues(f.spec.Requests[i]) {
			f.ask(ctx, results, []int{i}, again)
		}
	}
	for _, i := range which {
		if !errors.Is(results[i].Err, ErrAgain) {
			results[i] = f.lastGood(f.spec.Requests[i], results[i])
		}
	}
}

// ask makes requests, several at a time: those that the store answers together
// in one. again tells that there is another turn.
func (f *run) ask(ctx context.Context, results []Result, which []int, again bool) {
	at := make(map[*Request]int, len(which))
	var reads []*Request
	var work []func()
	for _, i := range which {
		r := f.spec.Requests[i]
		at[r] = i
		if f.session.Issues(r) || f.credentials().get(r.ID) != nil {
			work = append(work, func() { results[i] = f.issued(ctx, r) })
			continue
		}
		reads = append(reads, r)
	}
	for _, batch := range f.session.Batches(reads) {
		work = append(work, func() {
			for i, res := range f.reader().read(ctx, batch) {
				results[at[batch[i]]] = res
			}
		})
	}
	InParallel(work, func(do func()) { do() })
	InParallel(which, func(i int) {
		r, res := f.spec.Requests[i], results[i]
		if errors.Is(res.Err, errPodBound) {
			f.logins.rejoin()
			res.Err = fmt.Errorf("%w: %w", ErrAgain, res.Err)
		}
		switch {
		case !errors.Is(res.Err, ErrAgain):
			res = f.finish(ctx, r, res)
		case !again:
			res.Err = fault.New(fault.Internal, "reading %s: its kind keeps changing", r.Name)
		}
		results[i] = res
	})
}

// issued answers a request with what is issued for the volume.
func (f *run) issued(ctx context.Context, r *Request) Result {
	return (&issuer{run: f, set: f.credentials()}).result(ctx, r)
}

func (f *run) reader() *reader { return &reader{run: f, group: f.volume.now().group} }

// fromVolume is the volume's own answer while it is recent enough.
func (f *run) fromVolume(r *Request) (Result, bool) {
	if f.request.Fresh || f.credentials().get(r.ID) != nil {
		return Result{}, false
	}
	rd := f.volume.now().readings.last(r.ID)
	if !rd.answers(r) || rd.Absent && !f.spec.optional(r) || !recentEnough(rd.Kind, rd.Asked, f.spec.readingDue(r, rd), f.began, true) {
		return Result{}, false
	}
	return f.spec.result(r, rd), true
}

// finish judges what came of a request.
func (f *run) finish(ctx context.Context, r *Request, res Result) Result {
	res = f.certain(ctx, r, res)
	if IsNotServed(res.Err) && f.spec.optional(r) && !f.spec.shown(r, f.request.Current) {
		res = f.spec.result(r, Absent(f.now(), nil))
	}
	if isRefusal(res.Err) {
		f.volume.now().refused(res.Err, r.ID, f.now())
	}
	return res
}

// certain is the result of a request of a live volume. A refused read counts
// as a denial once the server knows the token and refuses the read all the same,
// or where the refusal is repeated some seconds later. Until then it is
// Unverified. A login that is refused with the store's reason is certain by
// itself.
func (f *run) certain(ctx context.Context, r *Request, res Result) Result {
	if res.Err == nil {
		f.volume.doubts.answered(r.ID)
		return res
	}
	if !deniedRead(res.Err) || singleflight.IsOwn(res.Err) || len(f.request.Current) == 0 {
		return res
	}
	if f.tokenIsKnown(ctx, r) {
		// The server may have learned of it after it refused.
		again := []Result{{}}
		if f.session.Issues(r) || f.credentials().get(r.ID) != nil {
			again[0] = f.issued(ctx, r)
		} else {
			again = f.reader().read(ctx, []*Request{r})
		}
		if again[0].Err == nil || deniedRead(again[0].Err) {
			return again[0]
		}
	}
	if wait := f.volume.doubts.refused(r.ID, f.now()); wait > 0 {
		res.Err = unverified(res.Err, wait)
	}
	return res
}

// deniedRead tells whether the store refused a read, which a new login may mend.
func deniedRead(err error) bool { return err != nil && fault.Of(err) == fault.Denied }

// tokenIsKnown tells whether the server knows the token that the request was
// made with.
func (f *run) tokenIsKnown(ctx context.Context, r *Request) bool {
	s, ok := f.session.(Verifier)
	if !ok {
		return false
	}
	g, now := f.volume.now().group, f.now()
	t := g.current.get(now, nil)
	if f.session.Leases(r) {
		t = f.credentials().parent(now)
	}
	if t == nil || t.Limited() {
		return false
	}
	known, _, err := g.lookups.Do(ctx, t, f.now, time.Time{}, func() (bool, error) { return s.KnowsToken(ctx, t), nil })
	return known && err == nil
}

// lastGood is the volume's last good answer in place of a failure. It must be
// in the files already: what the store refuses gets into no other.
func (f *run) lastGood(r *Request, res Result) Result {
	if res.Err == nil || fault.Of(res.Err) == fault.Canceled {
		return res
	}
	inFiles := func(rd *Reading) bool { return f.engine.inFiles(f.spec, r, rd.Answer, f.request.Current) }
	if c := f.credentials().get(r.ID); c != nil && c.answers(r) && c.valid(f.now()) && inFiles(c.Reading) {
		return Result{Reading: c.Reading, ends: c.ends, failed: res.Err}
	}
	if rd := f.volume.now().readings.stored(r.ID); rd.answers(r) && (!rd.Absent || f.spec.optional(r)) && inFiles(rd) {
		return Result{Reading: rd, ends: rd.expires(), failed: res.Err}
	}
	return res
}

// failures tells why there is no payload, or else what in it is the volume's
// last good content.
func failures(s *Spec, r provider.Request, results []Result) (partial, err error) {
	if err := s.failure(results, func(r Result) error { return r.Err }); err != nil {
		return nil, err
	}
	partial = s.failure(results, func(r Result) error { return r.failed })
	switch {
	case partial == nil:
	case !slices.ContainsFunc(results, func(r Result) bool { return r.failed == nil }):
		return nil, partial // there is nothing new
	case fault.Of(partial) == fault.Denied && r.Class.OnDenied == class.DeniedEmpty:
		return nil, partial
	}
	return partial, nil
}

// failure is one error of all that failed; nil if nothing did. What was canceled
// is told only where nothing else is.
func (s *Spec) failure(results []Result, of func(Result) error) error {
	var failed []error
	var canceled error
	loggedIn := true
	for i, r := range s.Requests {
		err := of(results[i])
		switch {
		case err == nil:
		case singleflight.IsOwn(err):
			if loggedIn { // it is the volume's, and the same for every object
				failed = slices.Insert(failed, 0, err)
			}
			loggedIn = false
		case fault.Of(err) == fault.Canceled && canceled == nil:
			canceled = fmt.Errorf("%s: %w", s.names(r), err)
		case fault.Of(err) != fault.Canceled:
			failed = append(failed, fmt.Errorf("%s: %w", s.names(r), err))
		}
	}
	if len(failed) == 0 {
		return canceled
	}
	return fault.Join(failed)
}
