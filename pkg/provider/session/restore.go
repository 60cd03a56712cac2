package session

import (
	"encoding/json"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Import implements provider.Persister. It sends no request. It does not change a volume
// that is known already, whose state is newer. It returns an error if it cannot read the
// state; then the volume starts from nothing.
func (e *Engine) Import(id string, state secret.Bytes) error {
	if e.volumes.find(id) != nil {
		return nil
	}
	var s volumeState
	if json.Unmarshal(state.Reveal(), &s) != nil {
		return fault.New(fault.State, "reading the state of volume %s: it is not the JSON that was written (%d bytes)", id, state.Len())
	}
	if want := e.store.Traits().StateVersion; s.Version != want {
		return fault.New(fault.State, "reading the state of volume %s: it has version %d, this is made for %d", id, s.Version, want)
	}
	stamp, then := e.config.Stamp(), s.Stamp
	s = clock.Map(s, stamp.Restored(then))
	s.hastenCertificates(stamp.SetForward(then))
	v := newVolume(id, s.Pod.Namespace, &e.groups)
	if err := (&restorer{store: e.store, state: s}).restore(&e.groups, v); err != nil {
		e.groups.leave(v.current.group, id)
		return fault.New(fault.State, "reading the state of volume %s: %w", id, err)
	}
	e.volumes.restore(v)
	return nil
}

// restorer reads a state.
type restorer struct {
	store Store
	state volumeState
	login Login // of the identity
}

func (r *restorer) restore(gs *groups, v *volume) (err error) {
	s := r.state
	v.current.bearer = Bearer{Pod: s.Pod, Given: secret.NewString(s.Given)}
	if v.current.bearer.Tokens, err = s.Tokens.Tokens(); err != nil {
		return fault.New(fault.State, "a service account token is unusable")
	}
	if s.Identity != nil {
		if r.login, err = r.readLogin(s.Identity.Login); err != nil {
			return err
		}
		v.current.bearer.Audience = s.Identity.Audience
	}
	if v.revocations, err = r.revocations(s.Retired, s.Revocations); err != nil {
		return err
	}
	if err := r.into(v.current.credentials, s.Own); err != nil {
		return err
	}
	v.inFiles = map[string]bool{}
	for _, one := range s.Readings {
		rd, err := r.reading(one)
		if err != nil {
			return err
		}
		v.current.readings.Put(one.Request, rd)
		v.inFiles[one.Request] = true
	}
	for _, one := range s.Own.Held {
		v.inFiles[one.Reading.Request] = true
	}
	for id, at := range s.Refused {
		v.current.readings.Refuse(id, at)
	}
	if s.Identity == nil {
		return nil
	}
	return r.restoreGroup(gs, v)
}

func (r *restorer) restoreGroup(gs *groups, v *volume) error {
	i := r.state.Identity
	key := Identity{r.login, i.Namespace, i.ServiceAccount, i.ServiceAccountUID, i.Pod, i.Credential}
	if shared := r.store.Identify(&Spec{Login: r.login, Audience: v.current.bearer.Audience}, v.current.bearer, identity.Claims{ServiceAccountUID: i.ServiceAccountUID}); key.Pod != "" && shared.Pod == "" {
		gs.podBound.Set(r.login, struct{}{}) // a login has shown that it depends on the pod
	}
	g := gs.join(key, v.id)
	v.current.group = g
	if s := r.state.Session; s != nil {
		t, err := r.token(*s)
		if err != nil {
			return err
		}
		g.restore(t)
	}
	if err := r.into(g.credentials, r.state.Group); err != nil {
		return err
	}
	for id, at := range r.state.Refused {
		g.recent.Refuse(id, at)
	}
	for id, rd := range v.current.readings.All() {
		if rd.Kind.Shareable() {
			g.recent.Put(id, rd)
		}
	}
	return nil
}

// readLogin reads a login, or returns that of the identity if the state has none.
func (r *restorer) readLogin(raw json.RawMessage) (Login, error) {
	if len(raw) == 0 && r.login != nil {
		return r.login, nil
	}
	l, err := r.store.ReadLogin(raw)
	if err != nil {
		return nil, fault.New(fault.State, "a login: %w", err)
	}
	return l, nil
}

func (r *restorer) token(s tokenState) (*Token, error) {
	l, err := r.readLogin(s.Login)
	if err != nil {
		return nil, err
	}
	if s.Value == "" || endpoint.HasControl(s.Value) {
		return nil, fault.New(fault.State, "a token is empty or unusable")
	}
	t := &Token{
		Login: l, Value: secret.NewString(s.Value), At: s.At, born: s.Born, renewable: s.Renewable,
		ttl: s.TTL, due: s.Due, expires: s.Expires, final: s.Final, uses: s.Uses, counted: s.Counted, given: -1,
	}
	t.leased.Store(s.Leased)
	return t, nil
}

func (r *restorer) revocations(tokens []tokenState, list []revocationState) (out []Revocation, err error) {
	for _, s := range tokens {
		t, err := r.token(s)
		if err != nil {
			return nil, err
		}
		out = append(out, Revocation{Login: t.Login, Token: t})
	}
	for _, s := range list {
		l, err := r.readLogin(s.Login)
		if err != nil {
			return nil, err
		}
		if s.LeaseID == "" {
			return nil, fault.New(fault.State, "a credential to revoke has no lease id")
		}
		out = append(out, Revocation{Login: l, Name: s.Name, LeaseID: s.LeaseID, Expires: s.Expires})
	}
	return out, nil
}

func (r *restorer) reading(s readingState) (*Reading, error) {
	rd := &Reading{Kind: s.Kind, Asked: s.Asked, Read: s.Read, At: s.At, End: s.End, Due: s.Due, Absent: s.Absent}
	if s.Absent {
		return rd, nil
	}
	if s.Kind < Polled || s.Kind > Once {
		return nil, fault.New(fault.State, "an answer is of an unknown kind")
	}
	about := aboutState{}
	a := &Answer{Body: s.Body}
	switch {
	case s.Part != nil:
		if s.Part.Restore() != nil {
			return nil, fault.New(fault.State, "a value of an answer cannot be decoded")
		}
		a.Body, a.Part, about = nil, &s.Part.Part, s.Part.aboutState
	case s.About != nil:
		about = *s.About
	}
	a.Type, a.LeaseID, a.Duration, a.Renewable, a.Warnings = about.Type, about.LeaseID, about.Duration, about.Renewable, about.Warnings
	a.Revision = Revision{about.Version, about.Created, about.Rotated}
	if err := r.store.Restored(r.login, s.Request, s.Kind, a); err != nil {
		return nil, fault.New(fault.State, "an answer: %w", err)
	}
	rd.Answer = a
	return rd, nil
}

// into adds the parts that the credentials of a newer state lack: each volume of an
// identity exports the identity's.
func (r *restorer) into(s *credentials, state credentialsState) error {
	revocations, err := r.revocations(state.Tokens, state.Replaced)
	if err != nil {
		return err
	}
	tokens := make([]*Token, len(state.Tokens))
	for i := range tokens {
		tokens[i] = s.restoreToken(revocations[i].Token)
	}
	for _, one := range state.Held {
		rd, err := r.reading(one.Reading)
		if err != nil {
			return err
		}
		c := &Credential{Reading: rd, id: one.Reading.Request, name: one.Name, login: r.login, due: one.Due, ends: one.Ends, replace: one.Replace, known: rd.At}
		if len(one.Login) > 0 {
			if c.login, err = r.readLogin(one.Login); err != nil {
				return err
			}
		}
		switch {
		case one.Token >= 0 && one.Token < len(tokens):
			c.token = tokens[one.Token]
			c.token.leased.Store(true)
		case rd.Kind == Leased && r.store.Traits().RevokesTokens:
			continue // its token has expired, and so has it
		}
		if have := s.get(c.id); have == nil || have.olderThan(c) {
			s.put(c)
		}
	}
	s.restoreReplaced(revocations[len(tokens):])
	return nil
}

// restoreToken returns the token that another volume's state had already, or adds it.
func (s *credentials) restoreToken(t *Token) *Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.tokens {
		if have.Value.Reveal() == t.Value.Reveal() {
			have.catchUp(t)
			return have
		}
	}
	s.tokens = append(s.tokens, t)
	return t
}

// restoreReplaced adds revocations that are not known yet.
func (s *credentials) restoreReplaced(list []Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[string]bool{}
	for _, r := range s.replaced {
		known[r.LeaseID] = true
	}
	for _, c := range s.byID {
		if r, ok := c.revocation(); ok {
			known[r.LeaseID] = true
		}
	}
	for _, r := range list {
		if !known[r.LeaseID] {
			known[r.LeaseID] = true
			s.replaced = append(s.replaced, r)
		}
	}
}

// hastenCertificates lets certificates end by the wall clock if that was set forward:
// their end is a fixed time, and no duration since the issue.
func (s *volumeState) hastenCertificates(forward time.Duration) {
	for _, list := range [][]credentialState{s.Own.Held, s.Group.Held} {
		for i, h := range list {
			if h.Reading.Kind == Certificate {
				list[i].Due, list[i].Ends, list[i].Reading.End = h.Due.Add(-forward), h.Ends.Add(-forward), h.Reading.End.Add(-forward)
			}
		}
	}
}
