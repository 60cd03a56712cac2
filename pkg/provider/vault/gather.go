package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// obtainAll answers all requests. One that fails does not end the others: they
// may be making credentials, which would be lost.
//
// What makes the volume's first credentials comes last, and only where the rest
// will do, so that a publish that keeps failing leaves none behind.
//
// Where the volume has a last good answer to a request that fails, that stands
// in for it, so that the others' answers get into the files. partial tells of
// such failures.
func (f *fetch) obtainAll(ctx context.Context) (_ map[*request]result, partial, err error) {
	results := f.answers(ctx)
	if err := f.failure(results, func(r result) error { return r.err }); err != nil {
		return nil, nil, err
	}
	partial = f.failure(results, func(r result) error { return r.stale })
	switch {
	case partial == nil:
	case !slices.ContainsFunc(results, func(r result) bool { return r.stale == nil }):
		return nil, nil, partial // there is nothing new
	case fault.Of(partial) == fault.Denied && f.request.Class.OnDenied == class.DeniedEmpty:
		return nil, nil, partial
	}
	byRequest := make(map[*request]result, len(results))
	for i, r := range f.spec.requests {
		byRequest[r] = results[i]
	}
	return byRequest, partial, nil
}

// answers are those to all requests, in their order. A request that was not made,
// because another one failed, has neither a reading nor an error.
func (f *fetch) answers(ctx context.Context) []result {
	results := make([]result, len(f.spec.requests))
	var first, last []int
	for i, r := range f.spec.requests {
		if f.mints(r) && f.holder().get(r.id) == nil {
			last = append(last, i)
		} else {
			first = append(first, i)
		}
	}
	f.obtainSome(ctx, results, first)
	if !slices.ContainsFunc(results, func(r result) bool { return r.err != nil }) {
		f.obtainSome(ctx, results, last)
	}
	return results
}

// obtainSome answers some requests, and finds what stands in for failures.
func (f *fetch) obtainSome(ctx context.Context, results []result, which []int) {
	session.InParallel(which, func(i int) { results[i] = f.obtain(ctx, f.spec.requests[i]) })
	if slices.ContainsFunc(which, func(i int) bool { return results[i].err == nil }) {
		// One of them was the probe that closed the circuit.
		again := slices.DeleteFunc(slices.Clone(which), func(i int) bool { return !errors.Is(results[i].err, endpoint.ErrNotAsked) })
		session.InParallel(again, func(i int) { results[i] = f.obtain(ctx, f.spec.requests[i]) })
	}
	// What did not fit the memory beside the others may fit by itself. A
	// credential is not asked for again: the store may have made it.
	for _, i := range which {
		if r := f.spec.requests[i]; fault.Of(results[i].err) == fault.Exhausted && !f.mints(r) {
			results[i] = f.obtain(ctx, r)
		}
	}
	for _, i := range which {
		results[i] = f.standIn(f.spec.requests[i], results[i])
	}
}

// standIn is the volume's last good answer in place of a failure. It must be in
// the files already: what the store refuses gets into no other.
func (f *fetch) standIn(r *request, failed result) result {
	if failed.err == nil || fault.Of(failed.err) == fault.Canceled || !f.inFiles(r) {
		return failed
	}
	if c := f.holder().get(r.id); c != nil && c.reading.answers(r) && (c.ends.IsZero() || c.ends.After(f.now())) {
		return result{reading: c.reading, ends: c.ends, stale: failed.err}
	}
	if rd := f.volume.answers().Held(r.id); rd.answers(r) && !rd.absent {
		return result{reading: rd, stale: failed.err}
	}
	return failed
}

// inFiles tells whether the volume holds all objects of a request, but those
// that may be missing.
func (f *fetch) inFiles(r *request) bool {
	for _, o := range f.spec.objects {
		if o.request != r {
			continue
		}
		there := false
		for _, v := range f.request.Current {
			there = there || v.ID == o.name
		}
		if !there && !o.optional {
			return false
		}
	}
	return len(f.request.Current) > 0
}

// failure is what failed, of one kind; nil if nothing did.
func (f *fetch) failure(results []result, of func(result) error) error {
	var failed []error
	loggedIn := true
	for i, r := range f.spec.requests {
		err := of(results[i])
		switch {
		case err == nil:
		case !singleflight.IsOwn(err):
			failed = append(failed, fmt.Errorf("%s: %w", f.names(r), err))
		case loggedIn: // it is the volume's, and the same for every object
			failed = slices.Insert(failed, 0, err)
			loggedIn = false
		}
	}
	return fault.Join(failed)
}
