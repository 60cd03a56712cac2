package vault

import (
	"encoding/json"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Export implements provider.Keeper: the volume's identity, answers,
// credentials and Vault tokens, as versioned JSON. It is as secret as they
// are.
func (p *Provider) Export(id string) secret.Bytes {
	v := p.volumes.find(id)
	if v == nil {
		return secret.Bytes{}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	k := keptVolume{Version: keptVersion, Pod: v.pod, Own: keepHolder(v.holder), Retired: keepTokens(v.retired)}
	for id, rd := range v.readings {
		k.Readings = append(k.Readings, keepReading(id, rd))
	}
	if g := v.group; g != nil {
		key := g.key
		k.Identity = &keptIdentity{keepLogin(key.login), key.namespace, key.serviceAccount, key.serviceAccountUID, key.pod}
		k.Group = keepHolder(g.holder)
		if t := g.current(p.config.Now(), nil); t != nil {
			session := keepToken(t)
			k.Session = &session
		}
	}
	out, err := json.Marshal(k)
	if err != nil { // the bodies are JSON: they were decoded
		p.config.Logger.Error("writing the state of a volume", "volume", id, "error", err)
		return secret.Bytes{}
	}
	return secret.NewBytes(out)
}

// Import implements provider.Keeper. It asks nobody. A volume that is known
// already has a newer state, so it is left alone. What cannot be read is an
// error, and the volume begins anew.
func (p *Provider) Import(id string, state secret.Bytes) error {
	if p.volumes.find(id) != nil {
		return nil
	}
	var k keptVolume
	if json.Unmarshal(state.Reveal(), &k) != nil {
		return fault.New(fault.State, "reading the state of volume %s: it is not the JSON that was written (%d bytes)", id, state.Len())
	}
	if k.Version != keptVersion {
		return fault.New(fault.State, "reading the state of volume %s: it has version %d, this is made for %d", id, k.Version, keptVersion)
	}
	v := newVolume(id)
	if err := p.restore(v, k); err != nil {
		p.groups.leave(v.group, id)
		return fault.New(fault.State, "reading the state of volume %s: %w", id, err)
	}
	p.volumes.put(v)
	return nil
}

func (p *Provider) restore(v *volume, k keptVolume) (err error) {
	v.pod = k.Pod
	if v.retired, err = restoreTokens(k.Retired); err != nil {
		return err
	}
	if err := k.Own.restoreInto(v.holder); err != nil {
		return err
	}
	for _, kr := range k.Readings {
		rd, err := kr.restore()
		if err != nil {
			return err
		}
		v.readings[kr.Request] = rd
	}
	if k.Identity == nil {
		return nil
	}
	return p.restoreGroup(v, k)
}

func (p *Provider) restoreGroup(v *volume, k keptVolume) error {
	l, err := k.Identity.Login.restore()
	if err != nil {
		return err
	}
	key := identityKey{l, k.Identity.Namespace, k.Identity.ServiceAccount, k.Identity.ServiceAccountUID, k.Identity.Pod}
	if key.pod != "" && key.serviceAccountUID != "" && l.sharing == shareAuto {
		p.learned.setBound(l)
	}
	g := p.groups.join(key, v.id)
	v.group = g
	if k.Session != nil {
		t, err := k.Session.restore()
		if err != nil {
			return err
		}
		g.restore(t)
	}
	if err := k.Group.restoreInto(g.holder); err != nil {
		return err
	}
	for _, kr := range k.Readings {
		if rd := v.readings[kr.Request]; rd.kind.shareable() && g.isNewer(kr.Request, rd) {
			g.remember(kr.Request, rd)
		}
	}
	p.learn(l, k)
	return nil
}

// learn takes from the state what the answers taught the last process.
func (p *Provider) learn(l login, k keptVolume) {
	readings := k.Readings
	for _, h := range append(k.Own.Held, k.Group.Held...) {
		readings = append(readings, h.Reading)
	}
	for _, kr := range readings {
		if r, ok := kr.request(); ok && !kr.Absent {
			p.learned.setKind(l, r, kr.Kind)
		}
	}
}

// restore takes the token that lives longest of those that the volumes kept.
func (g *group) restore(t *token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == nil || (!g.token.expires.IsZero() && (t.expires.IsZero() || t.expires.After(g.token.expires))) {
		g.token = t
	}
}

func (g *group) isNewer(id string, rd *reading) bool {
	have := g.lastReading(id)
	return have == nil || have.asked.Before(rd.asked)
}
