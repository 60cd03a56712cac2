package akeyless

import (
	"context"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Trial is the result of trying a class without a volume.
type Trial struct {
	session.Trial
	Need
	Objects []Tried
}

// Tried is the result of one object. Its Detail is the item's type.
type Tried struct {
	session.Tried
	Item string
	// Missing are the capabilities that the login lacks; Unasked is why they are unknown,
	// nil if they are known.
	Missing []string
	Unasked error
}

// Try logs in as a pod would, and asks for the capabilities and the description of each
// item. Only with read it reads or issues the items, and revokes dynamic credentials.
// Akeyless cannot revoke a login: its token expires. For the error see session.Engine.Try.
func (p *Provider) Try(ctx context.Context, r provider.Request, read bool) (*Trial, error) {
	s, err := p.newSpec(r.Class)
	if err != nil {
		return &Trial{}, err
	}
	trial := &Trial{Need: s.needs()}
	trial.Trial, err = p.Engine.Try(ctx, r, read, func(ctx context.Context, v session.Session, _ *session.Token) (tried []*session.Tried) {
		c := v.(*akeylessSession).conn //nolint:forcetypeassert // Open made it
		trial.Objects = make([]Tried, len(s.Objects))
		for i, o := range s.Objects {
			trial.Objects[i] = c.tryObject(ctx, o, trial.Rights)
			tried = append(tried, &trial.Objects[i].Tried)
		}
		return tried
	})
	if err == nil {
		err = trial.NotRevoked
	}
	return trial, err
}

// tryObject finds out what it can about an object without reading it.
func (c *conn) tryObject(ctx context.Context, o *session.Object, rights []Right) Tried {
	it := itemOf(o.Request)
	tried := Tried{Tried: o.Tried(), Item: it.name}
	held, err := c.permissions(ctx, it.name)
	tried.Unasked = err
	i := slices.IndexFunc(rights, func(r Right) bool { return r.Item == it.name })
	for _, capability := range rights[i].Capabilities {
		if capability == "list" && it.kind == detected {
			continue // without it the item counts as a static secret
		}
		if err == nil && !slices.Contains(held, capability) {
			tried.Missing = append(tried.Missing, capability)
		}
	}
	d, err := c.describe(ctx, it.name)
	switch {
	case err == nil:
		tried.There, tried.Detail = session.IsThere, d.Type
	case fault.Of(err) == fault.NotFound:
		tried.There = session.NotThere
	case fault.Of(err) == fault.Denied && tried.Unasked == nil && slices.Contains(held, "list"):
		tried.There = session.NotThere // Akeyless' answer for an item that does not exist
	}
	return tried
}

// permissions returns the login's capabilities for an item, also for one that does not
// exist.
func (c *conn) permissions(ctx context.Context, name string) ([]string, error) {
	var answer struct {
		Permissions []string `json:"client_permissions"`
	}
	err := c.look(ctx, "/describe-permissions", map[string]any{"path": name, "type": "item"}, &answer)
	return answer.Permissions, err
}
