package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/parallel"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// ErrAgain is in the error of a request that must be sent again in another form, because
// the store's code has learned something about it.
var ErrAgain = errors.New("the request is to be made in another way")

// maxTurns bounds how often the form of a request changes in one run.
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

// start sets the run's volume, whose turn it is.
func (f *run) start(v *volume) {
	f.volume, f.logins.volume, f.began = v, v, f.now()
	f.caller.Began = f.began
}

// join puts the volume into the group of its identity. A volume that is in one already
// needs no valid service account token until it must log in.
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

// token returns the identity's token, and another one than stale.
func (f *run) token(ctx context.Context, stale *Token) (*Token, error) {
	return f.logins.token(ctx, f.volume.now().group, stale)
}

// credentials returns the set for the credentials of the volume.
func (f *run) credentials() *credentials {
	if f.spec.Scope == class.ScopeServiceAccount {
		return f.volume.now().group.credentials
	}
	return f.volume.now().credentials
}

// answered records that the files are of the current identity and class.
func (f *run) answered() {
	f.volume.endSuperseded()
	f.volume.answered(f.spec)
	if !f.request.Upkeep {
		f.volume.inFiles = f.spec.ids()
		f.volume.retain(f.spec)
	}
}

// obtain answers all requests, in their order. If one fails, the others continue: they may
// be issuing credentials, which would be lost.
//
//  1. Find out what must be known of a request before it is sent.
//  2. Read, and renew credentials. If that shows that a request is of another kind,
//     send it again in that form.
//  3. Issue the volume's first credentials last, and only if all else succeeded, so that
//     a publish that fails again and again leaves none behind.
//
// If the volume has a last good answer to a request that failed, that is used, so that the
// other answers get into the files.
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

// prepare finds out what must be known of the requests that the volume's own answers do
// not satisfy. It returns the requests that are left.
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

// split separates the requests to send now from those that issue first credentials.
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

// obtainSome sends some requests, and replaces failures with last good answers.
func (f *run) obtainSome(ctx context.Context, results []Result, which []int, again bool) {
	f.ask(ctx, results, which, again)
	if slices.ContainsFunc(which, func(i int) bool { return results[i].Err == nil }) {
		// One of them was the probe that closed the circuit.
		f.ask(ctx, results, slices.DeleteFunc(slices.Clone(which), func(i int) bool { return !fault.NotAsked(results[i].Err) }), again)
	}
	// A request that did not fit the memory next to the others may fit alone. Credentials
	// are not requested again: the store may have issued them.
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

// ask sends requests, several at a time, and those of one batch together. again says that
// there is another turn.
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
			for i, res := range newReader(f).read(ctx, batch) {
				results[at[batch[i]]] = res
			}
		})
	}
	parallel.Each(work, func(do func()) { do() })
	parallel.Each(which, func(i int) {
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

// issued answers a request with a credential of the volume.
func (f *run) issued(ctx context.Context, r *Request) Result {
	return (&issuer{run: f, set: f.credentials()}).result(ctx, r)
}

// fromVolume returns the volume's own answer while it is recent enough.
func (f *run) fromVolume(r *Request) (Result, bool) {
	if f.request.Fresh || f.credentials().get(r.ID) != nil {
		return Result{}, false
	}
	rd := f.volume.now().readings.Last(r.ID)
	if !rd.answers(r) || rd.Absent && !f.spec.optional(r) || !recentEnough(rd.Kind, rd.Asked, f.spec.readingDue(r, rd), f.began, true) {
		return Result{}, false
	}
	return f.spec.result(r, rd), true
}

// finish completes the result of a request.
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

// certain returns the result of a request of a live volume. A refused read counts as a
// denial if the server knows the token, or if the refusal is repeated some seconds later.
// Until then it is Unverified. A refused login with the store's reason is certain at once.
func (f *run) certain(ctx context.Context, r *Request, res Result) Result {
	if res.Err == nil {
		f.volume.doubts.Forget(r.ID)
		return res
	}
	if !deniedRead(res.Err) || singleflight.IsOwn(res.Err) || len(f.request.Current) == 0 {
		return res
	}
	if f.tokenIsKnown(ctx, r) {
		// The server may have learned of the login after it refused.
		again := []Result{{}}
		if f.session.Issues(r) || f.credentials().get(r.ID) != nil {
			again[0] = f.issued(ctx, r)
		} else {
			again = newReader(f).read(ctx, []*Request{r})
		}
		if again[0].Err == nil || deniedRead(again[0].Err) {
			return again[0]
		}
	}
	if wait := f.volume.doubt(r.ID, f.now()); wait > 0 {
		res.Err = unverified(res.Err, wait)
	}
	return res
}

// deniedRead reports whether the store refused a read, which a new login may allow.
func deniedRead(err error) bool { return err != nil && fault.Of(err) == fault.Denied }

// tokenIsKnown reports whether the server knows the token of the request.
func (f *run) tokenIsKnown(ctx context.Context, r *Request) bool {
	s, ok := f.session.(Verifier)
	if !ok {
		return false
	}
	g, now := f.volume.now().group, f.now()
	t := g.token(now, nil)
	if f.session.Leases(r) {
		t = f.credentials().parent(now)
	}
	if t == nil || t.Limited() {
		return false
	}
	known, _, err := g.lookups.Do(ctx, t, f.now, time.Time{}, func() (bool, error) { return s.KnowsToken(ctx, t), nil })
	return known && err == nil
}

// lastGood returns the volume's last good answer instead of a failure. The answer must be
// in the files already: a refused object never enters the files.
func (f *run) lastGood(r *Request, res Result) Result {
	if res.Err == nil || fault.Of(res.Err) == fault.Canceled {
		return res
	}
	isInFiles := func(rd *Reading) bool { return inFiles(f.engine.store, f.spec, r, rd.Answer, f.request.Current) }
	if c := f.credentials().get(r.ID); c != nil && c.answers(r) && c.valid(f.now()) && isInFiles(c.Reading) {
		return Result{Reading: c.Reading, ends: c.ends, failed: res.Err}
	}
	if rd := f.volume.now().readings.Stored(r.ID); rd.answers(r) && (!rd.Absent || f.spec.optional(r)) && isInFiles(rd) {
		return Result{Reading: rd, ends: rd.expires(), failed: res.Err}
	}
	return res
}

// failures returns why there is no payload, or why a part of it is the volume's last good
// content.
func failures(s *Spec, r provider.Request, results []Result) (partial, err error) {
	if err := s.failure(results, func(r Result) error { return r.Err }); err != nil {
		return nil, err
	}
	partial = s.failure(results, func(r Result) error { return r.failed })
	switch {
	case partial == nil:
	case !slices.ContainsFunc(results, func(r Result) bool { return r.failed == nil }):
		return nil, partial // nothing is new
	case fault.Of(partial) == fault.Denied && r.Class.OnDenied == class.DeniedEmpty:
		return nil, partial
	}
	return partial, nil
}

// failure joins all errors; nil if there is none. It leaves out canceled requests if there
// is another error.
func (s *Spec) failure(results []Result, of func(Result) error) error {
	var failed []error
	var canceled error
	loggedIn := true
	for i, r := range s.Requests {
		err := of(results[i])
		switch {
		case err == nil:
		case singleflight.IsOwn(err):
			if loggedIn { // the login failed for the whole volume
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

// keepSuperseded renews the leases in the files while the new identity gets no answer.
func (f *run) keepSuperseded(ctx context.Context) {
	f.volume.mu.Lock()
	old := f.volume.superseded
	f.volume.mu.Unlock()
	if old == nil || old.spec == nil {
		return
	}
	earlier, err := f.engine.open(ctx, f.request, old.spec, old.bearer)
	if err != nil {
		return
	}
	earlier.start(f.volume)
	i := &issuer{run: earlier, set: old.credentials}
	for _, c := range old.credentials.all() {
		if err := i.extend(ctx, c); err != nil {
			f.engine.config.Logger.Debug("a lease of before the class's edit was not renewed", logkey.Volume, f.request.Volume, logkey.Error, err)
		}
	}
}
