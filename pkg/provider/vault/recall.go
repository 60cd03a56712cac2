package vault

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Recall implements provider.LastKnown. The identity's group exists only
// while the store has answered it for a volume that still lives on this node.
// A pod-bound identity has no group but its own.
func (p *Provider) Recall(r provider.Request, oldest time.Time) (*provider.Payload, time.Time, bool) {
	s, err := p.spec(r)
	if err != nil {
		return nil, time.Time{}, false
	}
	now := p.config.Now()
	token, err := r.Tokens.For(s.login.audience, now)
	if err != nil {
		return nil, time.Time{}, false
	}
	key := p.learned.identify(s.login, r.Pod, token.Claims)
	g := p.groups.Find(key)
	if key.pod != "" || g == nil {
		return nil, time.Time{}, false
	}
	f := &fetch{Provider: p, request: r, spec: s, began: now}
	asOf := now
	results := make(map[*request]result, len(s.requests))
	for _, q := range s.requests {
		rd := f.remembered(g, q, oldest)
		if rd == nil {
			return nil, time.Time{}, false
		}
		if rd.at.Before(asOf) {
			asOf = rd.at
		}
		results[q] = result{reading: rd, due: now}
	}
	payload, err := f.payload(results)
	return payload, asOf, err == nil
}

// remembered is the group's own answer to a request. A credential that was
// made for one pod is in no group.
func (f *fetch) remembered(g *group, r *request, oldest time.Time) *reading {
	if rd := g.recent.Last(r.id); rd.answers(r) && rd.kind.shareable() && !rd.at.Before(oldest) && (!rd.absent || f.optional(r)) {
		return rd
	}
	if f.spec.scope != class.ScopeServiceAccount {
		return nil
	}
	if c := g.holder.get(r.id); c != nil && c.reading.answers(r) && g.recent.Allows(r.id, c.asked) && (c.ends.IsZero() || c.ends.After(f.began)) && !c.at.Before(oldest) {
		return c.reading
	}
	return nil
}
