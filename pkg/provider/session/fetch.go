package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
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
	*Engine
	request provider.Request
	spec    *Spec
	volume  *volume
	caller  *Caller
	session Session
	began   time.Time

	rejoining sync.Mutex
	mu        sync.Mutex
	// loginRefused is why the store refused the login; nil if it did not.
	loginRefused error
}

// Result is the answer to one request, and when to look again. It has neither a
// reading nor an error where the request was not made, because another failed.
type Result struct {
	*Reading
	Err error

	due  time.Time
	ends time.Time // of what was issued; zero for what has no end
	// failed is why this is the last good answer and not the store's present one.
	failed error
}

func (f *run) now() time.Time  { return f.config.Now() }
func (f *run) chance() float64 { return f.config.Jitter() }

// credentials are those that what is issued for the volume goes to.
func (f *run) credentials() *credentials {
	if f.spec.Scope == class.ScopeServiceAccount {
		return f.volume.now().group.credentials
	}
	return f.volume.now().credentials
}

// fetch is the run.
func (f *run) fetch(ctx context.Context) (*provider.Payload, error) {
	f.volume.prune(f.began)
	if !f.request.Upkeep {
		f.volume.retain(f.spec, f.began)
	}
	results := f.obtain(ctx)
	partial, err := f.failures(results)
	f.config.Logger.Debug("fetched", logkey.Volume, f.request.Volume, logkey.Pod, f.request.Pod.String(), logkey.Class, f.spec.Class.String(),
		logkey.Address, f.spec.Login.Access().Address, logkey.Requests, len(f.spec.Requests), logkey.Correlation, f.caller.Correlation, logkey.Partial, partial, logkey.Error, err)
	if err != nil {
		f.keepSuperseded(ctx)
		return nil, err
	}
	for _, res := range results {
		provider.Asked(ctx, res.Correlation) // another volume's, where it is shared
	}
	payload, err := f.payload(results)
	if err != nil {
		return nil, joined(err, partial)
	}
	payload.Warnings = append(payload.Warnings, f.session.Warnings()...)
	payload.RefreshAt = clock.Earliest(payload.RefreshAt, f.horizon())
	payload.Partial = partial
	f.answered()
	return payload, nil
}

func joined(err, partial error) error {
	if partial == nil {
		return err
	}
	return fault.Join([]error{err, partial})
}

// answered notes that the files are of the present identity and class.
func (f *run) answered() {
	f.endSuperseded(f.volume)
	f.volume.mu.Lock()
	f.volume.spec = f.spec.withoutObjects()
	f.volume.mu.Unlock()
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
			for i, res := range f.read(ctx, batch) {
				results[at[batch[i]]] = res
			}
		})
	}
	InParallel(work, func(do func()) { do() })
	InParallel(which, func(i int) {
		r, res := f.spec.Requests[i], results[i]
		if errors.Is(res.Err, errPodBound) {
			f.rejoin()
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
	return (&issuer{f, f.credentials()}).result(ctx, r)
}

// fromVolume is the volume's own answer while it is recent enough.
func (f *run) fromVolume(r *Request) (Result, bool) {
	if f.request.Fresh || f.credentials().get(r.ID) != nil {
		return Result{}, false
	}
	rd := f.volume.now().readings.Last(r.ID)
	if !rd.answers(r) || rd.Absent && !f.spec.optional(r) || !recentEnough(rd.Kind, rd.Asked, f.spec.readingDue(r, rd), f.began, true) {
		return Result{}, false
	}
	return f.result(r, rd), true
}

func (f *run) result(r *Request, rd *Reading) Result {
	return Result{Reading: rd, due: f.spec.readingDue(r, rd), ends: rd.expires()}
}

// finish judges what came of a request.
func (f *run) finish(ctx context.Context, r *Request, res Result) Result {
	res = f.certain(ctx, r, res)
	if IsNotServed(res.Err) && f.spec.optional(r) && !f.shown(r) {
		res = f.result(r, Absent(f.now(), nil))
	}
	if Refused(res.Err) {
		state := f.volume.now()
		NoteRefusal(res.Err, r.ID, f.now(), state.readings, state.group.recent)
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
		f.volume.doubts.Answered(r.ID)
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
			again = f.read(ctx, []*Request{r})
		}
		if again[0].Err == nil || deniedRead(again[0].Err) {
			return again[0]
		}
	}
	if wait := f.volume.doubts.Refused(r.ID, f.now()); wait > 0 {
		res.Err = Unverified(res.Err, wait)
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
	if res.Err == nil || fault.Of(res.Err) == fault.Canceled || !f.inFiles(r) {
		return res
	}
	if c := f.credentials().get(r.ID); c != nil && c.answers(r) && c.valid(f.now()) {
		return Result{Reading: c.Reading, ends: c.ends, failed: res.Err}
	}
	if rd := f.volume.now().readings.Stored(r.ID); rd.answers(r) && (!rd.Absent || f.spec.optional(r)) {
		return Result{Reading: rd, ends: rd.expires(), failed: res.Err}
	}
	return res
}

// failures tells why there is no payload, or else what in it is the volume's
// last good content.
func (f *run) failures(results []Result) (partial, err error) {
	if err := f.failure(results, func(r Result) error { return r.Err }); err != nil {
		return nil, err
	}
	partial = f.failure(results, func(r Result) error { return r.failed })
	switch {
	case partial == nil:
	case !slices.ContainsFunc(results, func(r Result) bool { return r.failed == nil }):
		return nil, partial // there is nothing new
	case fault.Of(partial) == fault.Denied && f.request.Class.OnDenied == class.DeniedEmpty:
		return nil, partial
	}
	return partial, nil
}

// failure is one error of all that failed; nil if nothing did. What was canceled
// is told only where nothing else is.
func (f *run) failure(results []Result, of func(Result) error) error {
	var failed []error
	var canceled error
	loggedIn := true
	for i, r := range f.spec.Requests {
		err := of(results[i])
		switch {
		case err == nil:
		case singleflight.IsOwn(err):
			if loggedIn { // it is the volume's, and the same for every object
				failed = slices.Insert(failed, 0, err)
			}
			loggedIn = false
		case fault.Of(err) == fault.Canceled && canceled == nil:
			canceled = fmt.Errorf("%s: %w", f.spec.names(r), err)
		case fault.Of(err) != fault.Canceled:
			failed = append(failed, fmt.Errorf("%s: %w", f.spec.names(r), err))
		}
	}
	if len(failed) == 0 {
		return canceled
	}
	return fault.Join(failed)
}
