package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Trial is the result of trying a class without a volume.
type Trial struct {
	session.Trial
	Need
	// Policies are those of the Vault token; nil if the token may not read them.
	Policies []string
	// Unasked is why the token's rights are unknown; nil if they are known.
	Unasked error
	Objects []Tried
}

// Tried is one object of a trial.
type Tried struct {
	session.Tried
	Request string // the method and path, without arguments
	// Path is the request's, and Key the key of the answer; empty for all of it.
	Path, Key string
	// Missing are the rights that the token lacks.
	Missing []Right
	// WithData is the path that was meant if the path lacks data/ of a KV version 2
	// engine. Guessed says that the store did not say what is mounted there.
	WithData string
	Guessed  bool
}

// Try logs in as a pod would, and asks for the rights to each object and for the versions
// of KV version 2 secrets. Only with read it reads or issues the objects. At the end it
// revokes the login, and with it all leases. For the error see session.Engine.Try.
func (p *Provider) Try(ctx context.Context, r provider.Request, read bool) (*Trial, error) {
	s, err := p.newSpec(r.Class)
	if err != nil {
		return &Trial{}, err
	}
	trial := &Trial{Need: s.needs()}
	trial.Trial, err = p.Engine.Try(ctx, r, read, func(ctx context.Context, v session.Session, t *session.Token) (tried []*session.Tried) {
		c := v.(*vaultSession).conn //nolint:forcetypeassert // Open made it
		trial.Policies = c.policiesOf(ctx, t)
		var held map[string][]string
		held, trial.Unasked = c.capabilities(ctx, t, trial.Rights)
		trial.Objects = make([]Tried, len(s.Objects))
		for i, o := range s.Objects {
			trial.Objects[i] = c.tryObject(ctx, t, o, held)
			tried = append(tried, &trial.Objects[i].Tried)
		}
		return tried
	})
	if trial.NotRevoked == nil && p.unrevoked.Has(s.login) { // the release has recorded it
		trial.NotRevoked = fault.New(fault.Denied, "its policies do not let the Vault token revoke itself")
	}
	return trial, err
}

// policiesOf returns the policies of a token, which the default policy allows.
func (c *conn) policiesOf(ctx context.Context, t *session.Token) []string {
	if t.Limited() {
		return nil
	}
	reply, err := c.look(ctx, t, pathLookupSelf)
	if err != nil {
		return nil
	}
	defer reply.Release()
	var body struct {
		Data struct {
			Policies []string `json:"policies"`
		} `json:"data"`
	}
	if json.Unmarshal(reply.Body, &body) != nil {
		return nil
	}
	return body.Data.Policies
}

// capabilities asks for a token's capabilities, by path.
func (c *conn) capabilities(ctx context.Context, t *session.Token, rights []Right) (map[string][]string, error) {
	paths := make([]string, 0, len(rights))
	for _, r := range rights {
		paths = append(paths, r.Path)
	}
	t.Take(0)
	reply, err := c.keep(ctx, t, endpoint.OpCheck, "sys/capabilities-self", "", map[string]any{"paths": slices.Compact(paths)})
	if err != nil {
		return nil, fmt.Errorf("asking for the token's capabilities: %w", err)
	}
	defer reply.Release()
	var answer struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if json.Unmarshal(reply.Body, &answer) != nil || answer.Data == nil {
		return nil, fault.New(fault.BadAnswer, "asking for the token's capabilities: the answer of %s is not Vault's", c.login.Address)
	}
	held := make(map[string][]string, len(answer.Data))
	for path, raw := range answer.Data {
		var list []string
		if json.Unmarshal(raw, &list) == nil {
			held[path] = list
		}
	}
	return held, nil
}

func holds(held map[string][]string, path, capability string) bool {
	return slices.Contains(held[path], capability) || slices.Contains(held[path], "root")
}

// tryObject finds out what it can about an object without reading it.
func (c *conn) tryObject(ctx context.Context, t *session.Token, o *session.Object, held map[string][]string) Tried {
	q := queryOf(o.Request)
	tried := Tried{Tried: o.Tried(), Request: q.String(), Path: q.path, Key: o.Key}
	if held == nil {
		return tried
	}
	if q.public() {
		tried.Detail = "Vault answers it to anybody, if it is of the engine that the path looks like"
		return tried
	}
	path, needs := q.access()
	for _, capability := range needs {
		if !holds(held, path, capability) {
			tried.Missing = append(tried.Missing, Right{Path: path, Capability: capability, Purpose: Serve, Objects: []int{o.Index}})
		}
	}
	known, maybe := c.kvPath(ctx, t, q)
	if known == "" && len(tried.Missing) > 0 {
		known, tried.Guessed = maybe, maybe != ""
	}
	tried.WithData = known
	if len(tried.Missing) == 0 && tried.WithData == "" && !t.Limited() {
		tried.There, tried.Detail = c.presence(ctx, t, o.Request, held)
	}
	return tried
}

// presence reports whether a secret exists, as far as that can be known without reading
// it.
func (c *conn) presence(ctx context.Context, t *session.Token, r *session.Request, held map[string][]string) (there session.Presence, detail string) {
	path, ok := metadataPath(r)
	if !ok || !holds(held, path, "read") {
		return session.Unseen, ""
	}
	reply, err := c.look(ctx, t, path)
	switch {
	case fault.Of(err) == fault.NotFound && err != nil:
		return session.NotThere, fault.Cause(err)
	case err != nil:
		return session.Unseen, fault.Cause(err)
	}
	defer reply.Release()
	v := currentVersion(reply.Body, c.Now())
	if !v.Known() {
		return session.NotThere, "its current version is deleted"
	}
	return session.IsThere, "version " + v.Number
}
