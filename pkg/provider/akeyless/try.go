package akeyless

import (
	"context"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
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
	s, err := p.newSpec(r.Class)
	if err != nil {
		return nil, err
	}
	trial := &Trial{Reached: s.login.Target.Address.String()}
	if trial.Need, err = p.Needs(r.Class); err != nil {
		return nil, err
	}
	t := session.Trial{LoggedIn: func(ctx context.Context, v session.Session, _ *session.Token, err error) error {
		switch {
		case err != nil && fault.Of(err).Outage():
			return err
		case err != nil:
			trial.Refused = err
			return nil
		}
		as := v.(*akeylessSession) //nolint:forcetypeassert // Open made it
		for _, o := range s.objects {
			trial.Objects = append(trial.Objects, as.tryObject(ctx, o, trial.Rights))
		}
		return nil
	}}
	if read {
		t.Answered = func(results map[string]session.Result) {
			for i, o := range s.objects {
				trial.Objects[i].outcome(p, o, results[o.Request.ID])
			}
		}
	}
	left, err := p.Engine.Try(ctx, r, t)
	if err == nil {
		err = left
	}
	return trial, err
}

func (s *akeylessSession) tryObject(ctx context.Context, o *object, rights []Right) Tried {
	tried := Tried{Index: o.Index, Name: o.Name, Item: o.item.name, Optional: o.Optional}
	held, err := s.permissions(ctx, o.item.name)
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
	d, err := s.describe(ctx, o.item.name)
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
func (s *akeylessSession) permissions(ctx context.Context, name string) ([]string, error) {
	var answer struct {
		Permissions []string `json:"client_permissions"`
	}
	tokens := func(stale *session.Token) (*session.Token, error) { return s.caller.Token(ctx, stale) }
	r, err := s.ask(ctx, tokens, call{operation: endpoint.OpCheck, path: "/describe-permissions", body: map[string]any{"path": name, "type": "item"}})
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if err := decode(r, s.endpoint.Address, &answer); err != nil {
		return nil, err
	}
	return answer.Permissions, nil
}

// outcome takes what came of a read, and of its value the size alone.
func (t *Tried) outcome(p *Provider, o *object, res session.Result) {
	switch {
	case res.Err != nil:
		t.Failed = res.Err
	case res.Reading == nil:
		t.Failed = fault.New(fault.Canceled, "it was not made, since another item could not be read")
	case res.Absent:
		t.Absent = true
	default:
		value, err := p.File(&o.Object, res.Answer)
		switch {
		case err == nil:
			t.Read, t.Size = true, len(value)
		case o.Optional && fault.Of(err) == fault.NotFound:
			t.Absent = true
		default:
			t.Failed = err
		}
	}
}
