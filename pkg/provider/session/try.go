package session

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Trial is the result of trying a class without a volume.
type Trial struct {
	// Reached is the server that answered.
	Reached string
	// Refused is why the login failed. Then nothing is known of the objects.
	Refused error
	// Unfit is why the objects make no volume although each was read: names of files that
	// collide.
	Unfit error
	// NotRevoked is why the credentials were not revoked; nil if they were.
	NotRevoked error
}

// Tried is the result of one object.
type Tried struct {
	Index    int
	Name     string
	Optional bool
	// There says whether the store has the object; Detail has more, such as the version.
	There  Presence
	Detail string
	// Read says that the object was read or issued; Files is the number of files, and Size
	// their bytes.
	Read  bool
	Files int
	Size  int
	// Failed is why it could not be read.
	Failed error
}

// Tried returns the result for an object of which nothing is known.
func (o *Object) Tried() Tried {
	return Tried{Index: o.Index, Name: o.Files(), Optional: o.Optional, There: Unseen}
}

// Presence says whether something exists.
type Presence string

// The values; Unseen if only a read would show it.
const (
	Unseen   Presence = "unseen"
	IsThere  Presence = "there"
	NotThere Presence = "absent"
)

// Try logs in as a pod would. look checks the rights of the login for the objects of the
// class, and returns a result for each. Only with read the objects are read or issued;
// their values are discarded. At the end everything that was issued is revoked.
//
// The error is for a class that is refused before any request, and for a server that is
// not reached.
func (e *Engine) Try(ctx context.Context, r provider.Request, read bool, look func(context.Context, Session, *Token) []*Tried) (Trial, error) {
	s, err := e.Spec(r)
	if err != nil {
		return Trial{}, err
	}
	trial := Trial{Reached: s.Login.Access().Address}
	f, work, leave, err := e.begin(ctx, r)
	if err != nil {
		return trial, err
	}
	err = f.try(work, &trial, read, look)
	trial.Reached = cmp.Or(e.AnsweredBy(r.Volume), trial.Reached)
	leave()
	trial.NotRevoked = e.Release(context.WithoutCancel(ctx), r.Volume)
	return trial, err
}

func (f *run) try(ctx context.Context, trial *Trial, read bool, look func(context.Context, Session, *Token) []*Tried) error {
	if err := f.join(); err != nil {
		return err
	}
	t, err := f.token(ctx, nil)
	if errors.Is(err, errPodBound) {
		f.logins.rejoin()
		t, err = f.token(ctx, nil)
	}
	switch {
	case err != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NotAllowed):
		return err
	case err != nil:
		trial.Refused = err
		return nil
	}
	tried := look(ctx, f.session, t)
	if !read {
		return nil
	}
	results := make(map[*Request]Result, len(f.spec.Requests))
	for i, res := range f.obtain(ctx) {
		results[f.spec.Requests[i]] = res
	}
	for i, o := range f.spec.Objects {
		tried[i].answered(f.engine.store, o, results[o.Request])
	}
	if !slices.ContainsFunc(tried, func(t *Tried) bool { return t.Failed != nil }) {
		_, trial.Unfit = contents(f.engine.store, f.spec, func(r *Request) *Answer { return results[r].Answer })
	}
	return nil
}

// answered records a read, and only the size of its value.
func (t *Tried) answered(store Store, o *Object, res Result) {
	switch {
	case res.Err != nil:
		t.Failed = res.Err
	case res.Reading == nil:
		t.Failed = fault.New(fault.Canceled, "it was not made, since another object could not be read")
	case res.Absent:
		t.There = NotThere
	default:
		made, err := filesOf(store, o, res.Answer)
		switch {
		case err == nil:
			t.Read, t.There, t.Files = true, IsThere, len(made.files)
			for _, one := range made.files {
				t.Size += len(one.value)
			}
		case o.Optional && fault.Of(err) == fault.NotFound:
			t.There = NotThere
		default:
			t.Failed = err
		}
	}
}
