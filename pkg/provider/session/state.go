package session

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// State begins what is kept of a volume over a restart.
type State struct {
	// Version changes when an older process could not read what we write.
	Version int `json:"version"`
	// Stamp is when the state was written.
	Stamp clock.Stamp `json:"stamp,omitzero"`
}

func (s State) version() int { return s.Version }

// volumeState is what Export writes. It is as secret as the tokens in it.
type volumeState struct {
	State
	Pod      identity.Pod     `json:"pod"`
	Identity *identityKey     `json:"identity,omitempty"`
	Tokens   identity.Plain   `json:"tokens,omitempty"` // of the pod, where a revocation needs a login
	Given    string           `json:"given,omitempty"`
	Session  *tokenState      `json:"session,omitempty"`
	Readings []readingState   `json:"readings,omitempty"`
	Own      credentialsState `json:"own"`
	Group    credentialsState `json:"group"`
	// Retired and Revocations are to be revoked with the volume.
	Retired     []tokenState      `json:"retired,omitempty"`
	Revocations []revocationState `json:"revocations,omitempty"`
	// Refused is when the store last refused each request.
	Refused map[string]time.Time `json:"refused,omitempty"`
}

type identityKey struct {
	Login             json.RawMessage `json:"login"`
	Namespace         string          `json:"namespace"`
	ServiceAccount    string          `json:"serviceAccount"`
	ServiceAccountUID string          `json:"serviceAccountUID"`
	Pod               string          `json:"pod,omitempty"`
	Credential        string          `json:"credential,omitempty"`
	Audience          string          `json:"audience,omitempty"`
}

type tokenState struct {
	Login     json.RawMessage `json:"login"`
	Value     string          `json:"value"`
	Born      time.Time       `json:"born"`
	Renewable bool            `json:"renewable,omitempty"`
	TTL       time.Duration   `json:"ttl"`
	Due       time.Time       `json:"due"`
	Expires   time.Time       `json:"expires"`
	Final     bool            `json:"final,omitempty"`
	// Uses are those that are left, of a token that Counted says has a number.
	Uses    int  `json:"uses,omitempty"`
	Counted bool `json:"counted,omitempty"`
}

type readingState struct {
	Request string          `json:"request"`
	Body    json.RawMessage `json:"body,omitempty"`
	About   *aboutState     `json:"about,omitempty"` // of a whole answer
	Part    *partState      `json:"part,omitempty"`  // where not all is kept
	Kind    Kind            `json:"kind"`
	Asked   time.Time       `json:"asked"`
	Read    time.Time       `json:"read"`
	At      time.Time       `json:"at,omitzero"`
	End     time.Time       `json:"end,omitzero"`
	Due     time.Time       `json:"due,omitzero"`
	Absent  bool            `json:"absent,omitempty"`
}

// aboutState is what is known of an answer beside its values.
type aboutState struct {
	Type      string        `json:"type,omitempty"`
	LeaseID   string        `json:"leaseID,omitempty"`
	Duration  time.Duration `json:"duration,omitempty"`
	Renewable bool          `json:"renewable,omitempty"`
	Warnings  []string      `json:"warnings,omitempty"`
	Version   string        `json:"version,omitempty"`
	Created   string        `json:"created,omitempty"`
	Rotated   string        `json:"rotated,omitempty"`
}

// partState is an answer of which the class takes a part.
type partState struct {
	params.Part
	aboutState
}

type credentialsState struct {
	Tokens   []tokenState      `json:"tokens,omitempty"`
	Held     []credentialState `json:"held,omitempty"`
	Replaced []revocationState `json:"replaced,omitempty"`
}

type credentialState struct {
	Reading readingState    `json:"reading"`
	Name    string          `json:"name,omitempty"`
	Login   json.RawMessage `json:"login,omitempty"`
	Due     time.Time       `json:"due"`
	Ends    time.Time       `json:"ends"`
	Token   int             `json:"token"` // the place in the tokens; -1 for none
	Replace bool            `json:"replace,omitempty"`
}

// revocationState is a credential that is to be revoked by its lease id.
type revocationState struct {
	Login   json.RawMessage `json:"login"`
	Name    string          `json:"name"`
	LeaseID string          `json:"leaseID"`
	Expires time.Time       `json:"expires"`
}

// WriteState writes a volume's state as JSON. It is as secret as the tokens in
// it.
func WriteState(volume string, state interface{ version() int }, log *slog.Logger) secret.Bytes {
	out, err := json.Marshal(state)
	if err != nil { // its parts were decoded from JSON
		log.Error("writing the state of a volume", logkey.Volume, volume, logkey.Error, err)
		return secret.Bytes{}
	}
	return secret.NewBytes(out)
}

// ReadState reads what WriteState wrote, if it is of the version. No error
// quotes it.
func ReadState(volume string, written secret.Bytes, version int, state interface{ version() int }) error {
	if json.Unmarshal(written.Reveal(), state) != nil {
		return fault.New(fault.State, "reading the state of volume %s: it is not the JSON that was written (%d bytes)", volume, written.Len())
	}
	if got := state.version(); got != version {
		return fault.New(fault.State, "reading the state of volume %s: it has version %d, this is made for %d", volume, got, version)
	}
	return nil
}

// Export implements provider.Persister: the volume's identity, answers,
// credentials and tokens, as versioned JSON. It is as secret as they are.
func (e *Engine) Export(id string) secret.Bytes {
	v := e.volumes.Find(id)
	if v == nil {
		return secret.Bytes{}
	}
	traits, stamp := e.store.Traits(), e.config.Stamp()
	v.mu.Lock()
	now, tried, revocations := v.identityState, []Revocation(nil), slices.Clone(v.revocations)
	if v.superseded != nil { // the new identity was not answered yet: it starts from nothing
		now, tried = *v.superseded, v.credentials.revocations()
	}
	v.mu.Unlock()
	s := volumeState{
		State: State{Version: traits.StateVersion, Stamp: stamp}, Pod: now.bearer.Pod, Own: now.credentials.state(),
		Readings: readingsOf(now.readings.All()), Refused: now.readings.Refusals(),
	}
	for _, r := range append(revocations, tried...) {
		if r.Token != nil {
			s.Retired = append(s.Retired, r.Token.state())
		} else {
			s.Revocations = append(s.Revocations, r.state())
		}
	}
	if g := now.group; g != nil {
		key := g.key
		s.Identity = &identityKey{rawOf(key.Login), key.Namespace, key.ServiceAccount, key.ServiceAccountUID, key.Pod, key.Credential, now.bearer.Audience}
		s.Group = g.credentials.state()
		if t := g.current.get(e.config.Now(), nil); t != nil {
			token := t.state()
			s.Session = &token
		}
	}
	if !traits.RevokesTokens {
		s.Given = now.bearer.Given.Reveal()
		if account, ok := now.bearer.Tokens[now.bearer.Audience]; ok {
			s.Tokens = identity.Tokens{now.bearer.Audience: account}.Reveal()
		}
	}
	return WriteState(id, clock.Map(s, stamp.Written), e.config.Logger)
}

// rawOf is a login as JSON; its parts are texts, so that it has a form.
func rawOf(l Login) json.RawMessage {
	raw, err := json.Marshal(l)
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}

func (t *Token) state() tokenState {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tokenState{rawOf(t.Login), t.Value.Reveal(), t.born, t.renewable, t.ttl, t.due, t.expires, t.final, t.uses, t.counted}
}

func (r Revocation) state() revocationState {
	return revocationState{rawOf(r.Login), r.Name, r.LeaseID, r.Expires}
}

func (s *credentials) state() credentialsState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := credentialsState{}
	for _, t := range s.tokens {
		out.Tokens = append(out.Tokens, t.state())
	}
	for id, c := range s.byID {
		one := credentialState{Reading: stateOf(id, c.Reading), Due: c.due, Ends: c.ends, Token: slices.Index(s.tokens, c.token), Replace: c.replace}
		if _, ok := c.revocation(); ok {
			one.Name, one.Login = c.name, rawOf(c.login)
		}
		out.Held = append(out.Held, one)
	}
	for _, r := range s.replaced {
		out.Replaced = append(out.Replaced, r.state())
	}
	return out
}

func stateOf(id string, rd *Reading) readingState {
	s := readingState{Request: id, Kind: rd.Kind, Asked: rd.Asked, Read: rd.Read, At: rd.At, End: rd.End, Due: rd.Due, Absent: rd.Absent}
	a := rd.Answer
	if a == nil {
		return s
	}
	about := aboutState{a.Type, a.LeaseID, a.Duration, a.Renewable, a.Warnings, a.Revision.Number, a.Revision.Changed, a.Revision.Rotated}
	if a.Part == nil {
		s.Body, s.About = a.Body, &about
	} else {
		s.Part = &partState{*a.Part, about}
	}
	return s
}

// size is about how many bytes the answer takes in the state.
func (s readingState) size() int {
	if s.Part != nil {
		return s.Part.Size()
	}
	return len(s.Body)
}

// mostState bounds the answers in one volume's state. They save a read after a
// restart and no more, and the states of all volumes share a small memory.
const mostState = 64 << 10

// readingsOf are the small answers. A large one is read again when the volume is
// next due.
func readingsOf(readings map[string]*Reading) []readingState {
	var out []readingState
	for id, rd := range readings {
		out = append(out, stateOf(id, rd))
	}
	slices.SortFunc(out, func(a, b readingState) int {
		return cmp.Or(cmp.Compare(a.size(), b.size()), cmp.Compare(a.Request, b.Request))
	})
	size := 0
	for i, s := range out {
		if size += s.size(); size > mostState {
			return out[:i]
		}
	}
	return out
}

// hastenCertificates has certificates end by the wall clock where that was set
// forward: their end is a fixed time, and not so long after their issue.
func (s *volumeState) hastenCertificates(forward time.Duration) {
	for _, list := range [][]credentialState{s.Own.Held, s.Group.Held} {
		for i, h := range list {
			if h.Reading.Kind == Certificate {
				list[i].Due, list[i].Ends, list[i].Reading.End = h.Due.Add(-forward), h.Ends.Add(-forward), h.Reading.End.Add(-forward)
			}
		}
	}
}

// Import implements provider.Persister. It asks nobody. A volume that is known
// already has a newer state, so it is left alone. What cannot be read is an
// error, and the volume starts again.
func (e *Engine) Import(id string, state secret.Bytes) error {
	if e.volumes.Find(id) != nil {
		return nil
	}
	var s volumeState
	if err := ReadState(id, state, e.store.Traits().StateVersion, &s); err != nil {
		return err
	}
	stamp, then := e.config.Stamp(), s.Stamp
	s = clock.Map(s, stamp.Restored(then))
	s.hastenCertificates(stamp.SetForward(then))
	v := newVolume(id, s.Pod.Namespace, e.config.Budget)
	if err := (&restorer{e.store, s, nil}).restore(e, v); err != nil {
		e.groups.leave(v.group, id)
		return fault.New(fault.State, "reading the state of volume %s: %w", id, err)
	}
	e.volumes.Put(id, v)
	return nil
}

// restorer reads a state.
type restorer struct {
	store Store
	state volumeState
	login Login // of the identity
}

func (r *restorer) restore(e *Engine, v *volume) (err error) {
	s := r.state
	v.bearer = Bearer{Pod: s.Pod, Given: secret.NewString(s.Given)}
	if v.bearer.Tokens, err = s.Tokens.Tokens(); err != nil {
		return fault.New(fault.State, "a service account token is unusable")
	}
	if s.Identity != nil {
		if r.login, err = r.readLogin(s.Identity.Login); err != nil {
			return err
		}
		v.bearer.Audience = s.Identity.Audience
	}
	if v.revocations, err = r.revocations(s.Retired, s.Revocations); err != nil {
		return err
	}
	if err := r.into(v.credentials, s.Own); err != nil {
		return err
	}
	v.inFiles = map[string]bool{}
	for _, one := range s.Readings {
		rd, err := r.reading(one)
		if err != nil {
			return err
		}
		v.readings.Put(one.Request, rd)
		v.inFiles[one.Request] = true
	}
	for _, one := range s.Own.Held {
		v.inFiles[one.Reading.Request] = true
	}
	for id, at := range s.Refused {
		v.readings.Refuse(id, at)
	}
	if s.Identity == nil {
		return nil
	}
	return r.restoreGroup(e, v)
}

func (r *restorer) restoreGroup(e *Engine, v *volume) error {
	i := r.state.Identity
	key := Identity{r.login, i.Namespace, i.ServiceAccount, i.ServiceAccountUID, i.Pod, i.Credential}
	if shared := e.store.Identify(&Spec{Login: r.login, Audience: v.bearer.Audience}, v.bearer, identity.Claims{ServiceAccountUID: i.ServiceAccountUID}); key.Pod != "" && shared.Pod == "" {
		e.bound.Set(r.login, struct{}{}) // a login showed that it is the pod's
	}
	g := e.groups.join(key, v.id)
	v.group = g
	if s := r.state.Session; s != nil {
		t, err := r.token(*s)
		if err != nil {
			return err
		}
		g.current.restore(t)
	}
	if err := r.into(g.credentials, r.state.Group); err != nil {
		return err
	}
	for id, at := range r.state.Refused {
		g.recent.Refuse(id, at)
	}
	for id, rd := range v.readings.All() {
		if rd.Kind.Shareable() {
			g.recent.Put(id, rd)
		}
	}
	return nil
}

// readLogin reads a login; that of the identity where the state has none.
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
	return &Token{
		Login: l, Value: secret.NewString(s.Value), born: s.Born, renewable: s.Renewable,
		ttl: s.TTL, due: s.Due, expires: s.Expires, final: s.Final, uses: s.Uses, counted: s.Counted, given: -1,
	}, nil
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

// into adds what credentials do not have in a newer state: volumes of one
// identity each export what the identity has.
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
		case rd.Kind == Leased && r.store.Traits().RevokesTokens:
			continue // its token is gone, and it with that
		}
		if have := s.get(c.id); have == nil || have.olderThan(c) {
			s.put(c)
		}
	}
	s.restoreReplaced(revocations[len(tokens):])
	return nil
}

// restoreToken finds the token that another volume's state had already, or adds
// it.
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
