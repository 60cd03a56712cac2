package akeyless

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Recall implements provider.LastKnown: the payload out of what the volumes
// of the same identity on this node were answered. An identity that is the
// pod's own has nothing to recall, and so has an item of which every pod gets a
// credential of its own.
func (p *Provider) Recall(r provider.Request, oldest time.Time) (*provider.Payload, time.Time, bool) {
	s, err := p.spec(r)
	if err != nil {
		return nil, time.Time{}, false
	}
	f := &fetch{Provider: p, request: r, spec: s, volume: newVolume(r.Volume, r.Pod.Namespace, nil), began: p.now(), results: map[*item]result{}}
	f.bearer = bearer{pod: r.Pod, tokens: r.Tokens, given: f.given()}
	key := p.identify(s.login, f.bearer)
	if f.group = p.groups.Find(key); f.group == nil || key.Pod != "" {
		return nil, time.Time{}, false
	}
	asOf := f.began
	for _, it := range s.items {
		res, at, ok := f.recallItem(it)
		if !ok || at.Before(oldest) {
			return nil, time.Time{}, false
		}
		if at.Before(asOf) {
			asOf = at
		}
		f.results[it] = res
	}
	payload, err := f.payload()
	return payload, asOf, err == nil
}

// recallItem is the group's last answer to an item.
func (f *fetch) recallItem(it *item) (result, time.Time, bool) {
	if m := f.group.holder.get(it.id); m != nil && m.has(it.keys) {
		ours := f.spec.scope == class.ScopeServiceAccount && m.alive(f.began) && f.group.recent.Allows(m.Item, m.At)
		return resultOf(m), f.began, ours // it is as good as new while it lives
	}
	rd := f.group.recent.Last(it.id)
	if !rd.answers(it) || (rd.Absent && !f.optional(it)) || (!rd.Ends.IsZero() && !f.began.Before(rd.Ends)) {
		return result{}, time.Time{}, false
	}
	return f.result(rd), rd.Asked, true
}
