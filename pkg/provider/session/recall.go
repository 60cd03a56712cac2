package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Recall implements provider.LastKnown. The group of an identity exists only while a
// volume on this node has answers of the store to that identity. A pod-bound identity has
// a group of its own.
func (e *Engine) Recall(r provider.Request, oldest time.Time) (*provider.Payload, time.Time, bool) {
	s, err := e.Spec(r)
	if err != nil {
		return nil, time.Time{}, false
	}
	now := e.config.Now()
	key, err := e.groups.identify(s, bearerOf(r, s), now)
	if err != nil {
		return nil, time.Time{}, false
	}
	g := e.groups.find(key)
	if key.Pod != "" || g == nil {
		return nil, time.Time{}, false
	}
	asOf := now
	results := make([]Result, len(s.Requests))
	for i, q := range s.Requests {
		res, ok := g.remembered(s, q, oldest, now)
		if !ok {
			return nil, time.Time{}, false
		}
		if res.At.Before(asOf) {
			asOf = res.At
		}
		results[i] = res
	}
	payload, err := e.payload(s, r.Class, results)
	return payload, asOf, err == nil
}

// remembered returns the group's answer to a request. A credential that was issued for one
// pod is in no group.
func (g *group) remembered(s *Spec, r *Request, oldest, now time.Time) (Result, bool) {
	rd := g.recent.Last(r.ID)
	if rd.answers(r) && rd.Kind.Shareable() && !rd.At.Before(oldest) && (!rd.Absent || s.optional(r)) && (rd.expires().IsZero() || rd.expires().After(now)) {
		return Result{Reading: rd, due: now, ends: rd.expires()}, true
	}
	if s.Scope != class.ScopeServiceAccount {
		return Result{}, false
	}
	if c := g.credentials.get(r.ID); c != nil && c.answers(r) && g.recent.Allows(r.ID, c.Asked) && c.valid(now) && !c.At.Before(oldest) {
		return Result{Reading: c.Reading, due: now, ends: c.ends}, true
	}
	return Result{}, false
}
