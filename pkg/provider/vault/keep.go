package vault

import (
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Export implements provider.Persister: the volume's identity, answers,
// credentials and Vault tokens, as versioned JSON. It is as secret as they
// are.
func (p *Provider) Export(id string) secret.Bytes {
	v := p.volumes.Find(id)
	if v == nil {
		return secret.Bytes{}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := stand{v.group, v.holder, v.readings, nil}
	stamp := p.config.Stamp()
	k := keptVolume{State: session.State{Version: keptVersion, Stamp: stamp}, Pod: v.pod, Retired: keepTokens(v.retired)}
	if s := v.aside.Kept(); s != nil { // the new identity was not answered yet: it begins from nothing
		now = *s
		k.Retired = append(k.Retired, keepHolder(v.holder).Tokens...)
	}
	k.Own, k.Refused = keepHolder(now.holder), now.readings.Refusals()
	k.Readings = keepReadings(now.readings.All())
	if g := now.group; g != nil {
		key := g.key
		k.Identity = &keptIdentity{keepLogin(key.login), key.namespace, key.serviceAccount, key.serviceAccountUID, key.pod}
		k.Group = keepHolder(g.holder)
		if t := g.login.Current(p.config.Now(), nil); t != nil {
			kept := keepToken(t)
			k.Session = &kept
		}
	}
	return session.WriteState(id, clock.Map(k, stamp.Written), p.config.Logger)
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
	stamp, then := p.config.Stamp(), k.Stamp
	k = clock.Map(k, stamp.Restored(then))
	k.hastenCertificates(stamp.SetForward(then))
	v := newVolume(id, k.Pod.Namespace, p.config.Budget)
	if err := p.restore(v, k); err != nil {
		p.groups.leave(v.group, id)
		return fault.New(fault.State, "reading the state of volume %s: %w", id, err)
	}
	p.volumes.Put(id, v)
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
	v.inFiles = map[string]bool{}
	for _, kr := range k.Readings {
		rd, err := kr.restore()
		if err != nil {
			return err
		}
		v.readings.Keep(kr.Request, rd)
		v.inFiles[kr.Request] = true
	}
	for _, kh := range k.Own.Held {
		v.inFiles[kh.Reading.Request] = true
	}
	for id, at := range k.Refused {
		v.readings.Refuse(id, at)
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
		g.login.Restore(t)
	}
	if err := k.Group.restoreInto(g.holder); err != nil {
		return err
	}
	for id, at := range k.Refused {
		g.recent.Refuse(id, at)
	}
	for id, rd := range v.readings.All() {
		if rd.kind.shareable() {
			g.recent.Keep(id, rd)
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
