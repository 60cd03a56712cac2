package akeyless

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const keptVersion = 1

// keptVolume is what Export writes. It is as secret as the tokens in it.
type keptVolume struct {
	session.State
	Identity *identityKey        `json:"identity,omitempty"`
	Pod      identity.Pod        `json:"pod"`
	Tokens   identity.Plain      `json:"tokens,omitempty"` // of the pod
	Given    string              `json:"given,omitempty"`
	Session  *keptToken          `json:"session,omitempty"`
	Readings map[string]*reading `json:"readings,omitempty"`
	Own      keptHolder          `json:"own"`
	Group    keptHolder          `json:"group"`
	// Refused is when the store last refused each item.
	Refused map[string]time.Time `json:"refused,omitempty"`
}

type keptToken struct {
	Value   string    `json:"value"`
	Born    time.Time `json:"born"`
	Due     time.Time `json:"due"`
	Expires time.Time `json:"expires"`
}

type keptHolder struct {
	Held     []*minted `json:"held,omitempty"`
	Replaced []*minted `json:"replaced,omitempty"`
}

// Export implements provider.Persister: the volume's identity, answers,
// credentials and tokens, as versioned JSON.
func (p *Provider) Export(id string) secret.Bytes {
	v := p.volumes.Find(id)
	if v == nil {
		return secret.Bytes{}
	}
	now := v.answered()
	g, b := now.group, now.bearer
	if g == nil {
		return secret.Bytes{}
	}
	stamp := p.config.Stamp()
	k := keptVolume{
		State: session.State{Version: keptVersion, Stamp: stamp}, Identity: &g.key, Pod: b.pod, Given: b.given.Reveal(),
		Readings: keepReadings(now.readings.All()), Refused: now.readings.Refusals(), Own: keepHolder(now.holder), Group: keepHolder(g.holder),
	}
	if tried := v.current().holder; tried != now.holder { // what an edit had made is not used again, and ended
		held, replaced := tried.all()
		for _, m := range append(held, replaced...) {
			k.Own.Replaced = append(k.Own.Replaced, m.ended())
		}
	}
	if account, ok := b.tokens[g.key.Login.Audience]; ok && g.key.Login.Type.asPod() {
		k.Tokens = identity.Tokens{g.key.Login.Audience: account}.Reveal()
	}
	if t := g.login.Current(p.now(), nil); t != nil {
		k.Session = &keptToken{t.value.Reveal(), t.born, t.due, t.expires}
	}
	return session.WriteState(id, clock.Map(k, stamp.Written), p.config.Logger)
}

// maxKept bounds the answers in one volume's state. They save a read after a
// restart and no more, and the states of all volumes share a small memory.
const maxKept = 64 << 10

// keepReadings keeps the small answers. A large one is read again when the
// volume is next due.
func keepReadings(readings map[string]*reading) map[string]*reading {
	ids := slices.SortedFunc(maps.Keys(readings), func(a, b string) int {
		return cmp.Or(cmp.Compare(readings[a].Size(), readings[b].Size()), cmp.Compare(a, b))
	})
	out := make(map[string]*reading, len(ids))
	size := int64(0)
	for _, id := range ids {
		if size += readings[id].kept(); size > maxKept {
			break
		}
		out[id] = readings[id]
	}
	return out
}

func keepHolder(h *holder) keptHolder {
	held, replaced := h.all()
	return keptHolder{held, replaced}
}

// Import implements provider.Persister. It asks nobody. A volume that is known
// already has a newer state, so it is left alone. What cannot be read is an
// error, and the volume begins anew.
func (p *Provider) Import(id string, state secret.Bytes) error {
	if p.volumes.Find(id) != nil {
		return nil
	}
	var k keptVolume
	if err := session.ReadState(id, state, keptVersion, &k); err != nil {
		return err
	}
	tokens, err := k.Tokens.Tokens()
	if err != nil || !k.sound() {
		return fault.New(fault.State, "reading the state of volume %s: a part is missing or malformed", id)
	}
	stamp, then := p.config.Stamp(), k.Stamp
	k = clock.Map(k, stamp.Restored(then))
	k.hastenCertificates(stamp.SetForward(then))
	v := newVolume(id, k.Pod.Namespace, p.config.Budget)
	g := p.groups.join(*k.Identity, id)
	v.setIdentity(g, bearer{pod: k.Pod, tokens: tokens, given: secret.NewString(k.Given)})
	if s := k.Session; s != nil {
		g.login.Restore(&token{secret.NewString(s.Value), s.Born, s.Due, s.Expires})
	}
	for id, at := range k.Refused {
		v.readings.Refuse(id, at)
		g.recent.Refuse(id, at)
	}
	v.inFiles = map[string]bool{}
	for _, m := range k.Own.Held {
		v.inFiles[m.Item] = true
	}
	for id, rd := range k.Readings {
		v.inFiles[id] = true
		v.readings.Keep(id, rd)
		g.recent.Keep(id, rd)
	}
	k.Own.restore(v.holder)
	k.Group.restore(g.holder)
	p.volumes.Put(id, v)
	return nil
}

// hastenCertificates has certificates end by the wall clock where that was set
// forward: their end is a fixed time, and not so long after their issue.
func (k *keptVolume) hastenCertificates(forward time.Duration) {
	for _, list := range [][]*minted{k.Own.Held, k.Group.Held} {
		for _, m := range list {
			if m.Kind == pki {
				m.Due, m.Ends = m.Due.Add(-forward), m.Ends.Add(-forward)
			}
		}
	}
}

// sound tells whether the state is one that Export could have written.
func (k keptVolume) sound() bool {
	if k.Identity == nil || (k.Session != nil && (k.Session.Value == "" || k.Session.Expires.IsZero())) {
		return false
	}
	for _, rd := range k.Readings {
		if rd == nil || (!rd.Absent && !rd.sound()) {
			return false
		}
	}
	for _, list := range [][]*minted{k.Own.Held, k.Own.Replaced, k.Group.Held, k.Group.Replaced} {
		for _, m := range list {
			if m == nil || m.Item == "" || !m.Kind.mints() {
				return false
			}
		}
	}
	for _, list := range [][]*minted{k.Own.Held, k.Group.Held} {
		for _, m := range list {
			if !m.sound() {
				return false
			}
		}
	}
	return true
}

// restore adds what the holder does not have: volumes of one identity each
// kept what the identity has.
func (k keptHolder) restore(h *holder) {
	for _, m := range k.Held {
		if have := h.get(m.Item); have == nil || have.At.Before(m.At) {
			h.put(m)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	known := map[string]bool{}
	for _, m := range h.replaced {
		known[m.ID] = true
	}
	for _, m := range h.held {
		known[m.ID] = true
	}
	for _, m := range k.Replaced {
		if !known[m.ID] {
			h.replaced = append(h.replaced, m)
		}
	}
}
