package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Recall implements provider.LastKnown. The identity's group exists only while
// the store has answered it for a volume that still lives on this node. An
// identity that is the pod's own has no group but its own.
func (e *Engine) Recall(r provider.Request, oldest time.Time) (*provider.Payload, time.Time, bool) {
	s, err := e.Spec(r)
	if err != nil {
		return nil, time.Time{}, false
	}
	f := &run{Engine: e, request: r, spec: s, began: e.config.Now()}
	var claims identity.Claims
	if s.AsPod {
		token, err := r.Tokens.For(s.Audience, f.began)
		if err != nil {
			return nil, time.Time{}, false
		}
		claims = token.Claims
	}
	key := e.identify(s, bearerOf(r, s), claims)
	g := e.groups.Find(key)
	if key.Pod != "" || g == nil {
		return nil, time.Time{}, false
	}
	asOf := f.began
	results := make([]Result, len(s.Requests))
	for i, q := range s.Requests {
		res, ok := f.remembered(g, q, oldest)
		if !ok {
			return nil, time.Time{}, false
		}
		if res.At.Before(asOf) {
			asOf = res.At
		}
		results[i] = res
	}
	payload, err := f.payload(results)
	return payload, asOf, err == nil
}

// remembered is the group's own answer to a request. A credential that was
// issued for one pod is in no group.
func (f *run) remembered(g *group, r *Request, oldest time.Time) (Result, bool) {
	rd := g.recent.Last(r.ID)
	if rd.answers(r) && rd.Kind.Shareable() && !rd.At.Before(oldest) && (!rd.Absent || f.spec.optional(r)) && (rd.expires().IsZero() || rd.expires().After(f.began)) {
		return Result{Reading: rd, due: f.began, ends: rd.expires()}, true
	}
	if f.spec.Scope != class.ScopeServiceAccount {
		return Result{}, false
	}
	if c := g.credentials.get(r.ID); c != nil && c.answers(r) && g.recent.Allows(r.ID, c.Asked) && c.valid(f.began) && !c.At.Before(oldest) {
		return Result{Reading: c.Reading, due: f.began, ends: c.ends}, true
	}
	return Result{}, false
}
