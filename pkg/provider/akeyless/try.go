package akeyless

import (
	"context"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Trial is what came of trying a class without a volume.
type Trial struct {
	Need
	// Reached is the gateway that was asked.
	Reached string
	// Refused is why there is no login; Objects are empty then.
	Refused error
	Objects []Tried
}

// Tried is one object of a trial.
type Tried struct {
	Index    int
	Name     string
	Item     string
	Optional bool
	// Missing are the capabilities that the login lacks; Unasked is why it is not
	// known, nil if it is.
	Missing []string
	Unasked error
	// There tells that the item was described, and Type as what; Absent that there
	// is none.
	There, Absent bool
	Type          string
	// Read tells that the item was read or made, and Size how many bytes the file
	// would have.
	Read bool
	Size int
	// Failed is why it could not be.
	Failed error
}

// Try logs in as a pod would, and asks what the login may do with each item, and
// for its description. Only where read is set are the items read, and made; their
// values go nowhere, and dynamic credentials are ended. Akeyless has no way to end
// a login: its token ends by itself.
//
// The error is for a class that is refused before anything is asked, and for a
// gateway that is not reached.
func (p *Provider) Try(ctx context.Context, r provider.Request, read bool) (*Trial, error) {
	s, err := p.spec(r)
	if err != nil {
		return nil, err
	}
	trial := &Trial{Reached: s.login.Target.Address.String()}
	if trial.Need, err = p.Needs(r.Class); err != nil {
		return nil, err
	}
	e, err := p.endpoints.Get(ctx, s.login.Target, p.now())
	if err != nil {
		return trial, err
	}
	v, work, leave, err := p.volumes.Enter(ctx, r.Volume, func(id string) *volume { return newVolume(id, r.Pod.Namespace, p.config.Budget) })
	if err != nil {
		return trial, err
	}
	f := &fetch{Provider: p, request: r, spec: s, volume: v, endpoint: e, began: p.now(), results: map[*item]result{}}
	err = f.try(work, trial, read)
	leave()
	if released := p.Release(context.WithoutCancel(ctx), r.Volume); err == nil {
		err = released
	}
	return trial, err
}

func (f *fetch) try(ctx context.Context, trial *Trial, read bool) error {
	if err := f.join(); err != nil {
		return err
	}
	switch _, err := f.session(ctx, nil); {
	case err != nil && fault.Of(err).Outage():
		return err
	case err != nil:
		trial.Refused = err
		return nil
	}
	for _, o := range f.spec.objects {
		trial.Objects = append(trial.Objects, f.tryObject(ctx, o, trial.Rights))
	}
	if !read {
		return nil
	}
	if err := f.obtain(ctx); err != nil {
		return err
	}
	for i, o := range f.spec.objects {
		trial.Objects[i].outcome(o, f.results[o.item])
	}
	return nil
}

func (f *fetch) tryObject(ctx context.Context, o *object, rights []Right) Tried {
	tried := Tried{Index: o.index, Name: o.file, Item: o.item.name, Optional: o.optional}
	held, err := f.permissions(ctx, o.item.name)
	tried.Unasked = err
	i := slices.IndexFunc(rights, func(r Right) bool { return r.Item == o.item.name })
	for _, capability := range rights[i].Capabilities {
		if capability == "list" && o.item.kind == detected {
			continue // without it the item is taken for a static one, which works if it is
		}
		if err == nil && !slices.Contains(held, capability) {
			tried.Missing = append(tried.Missing, capability)
		}
	}
	d, err := f.describe(ctx, o.item.name)
	switch {
	case err == nil:
		tried.There, tried.Type = true, d.Type
	case fault.Of(err) == fault.NotFound:
		tried.Absent = true
	case fault.Of(err) == fault.Denied && tried.Unasked == nil && slices.Contains(held, "list"):
		tried.Absent = true // Akeyless answers so for what is not there
	}
	return tried
}

// permissions are what the login may do with an item, whether or not there is
// one.
func (f *fetch) permissions(ctx context.Context, name string) ([]string, error) {
	var answer struct {
		Permissions []string `json:"client_permissions"`
	}
	r, err := f.ask(ctx, call{path: "/describe-permissions", body: map[string]any{"path": name, "type": "item"}})
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if err := decode(r, f.endpoint.Address, &answer); err != nil {
		return nil, err
	}
	return answer.Permissions, nil
}

// outcome takes what came of a read.
func (t *Tried) outcome(o *object, r result) {
	switch {
	case r.err != nil:
		t.Failed = r.err
	case r.absent:
		t.Absent = true
	case r.kind == detected:
		t.Failed = fault.New(fault.Canceled, "it was not made, since another item could not be read")
	default:
		contents, err := o.contents(r.kind, r.value)
		switch {
		case err == nil:
			t.Read, t.Size = true, len(contents)
		case o.optional && fault.Of(err) == fault.NotFound:
			t.Absent = true
		default:
			t.Failed = err
		}
	}
}
