package session

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// volumeState is the form of Export. It has tokens and secrets in plain text.
type volumeState struct {
	// Version changes when an older process could not read the state.
	Version int `json:"version"`
	// Stamp is when the state was written.
	Stamp clock.Stamp `json:"stamp,omitzero"`

	Pod      identity.Pod     `json:"pod"`
	Identity *identityKey     `json:"identity,omitempty"`
	Tokens   identity.Plain   `json:"tokens,omitempty"` // of the pod, if a revocation needs a login
	Given    string           `json:"given,omitempty"`
	Session  *tokenState      `json:"session,omitempty"`
	Readings []readingState   `json:"readings,omitempty"`
	Own      credentialsState `json:"own"`
	Group    credentialsState `json:"group"`
	// Retired and Revocations must be revoked with the volume.
	Retired     []tokenState      `json:"retired,omitempty"`
	Revocations []revocationState `json:"revocations,omitempty"`
	// Refused has the time of the last refusal of each request.
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
	// Uses is the number of uses that are left of a token with limited uses, which Counted
	// says.
	Uses    int  `json:"uses,omitempty"`
	Counted bool `json:"counted,omitempty"`
	// Leased says that something was issued with the token.
	Leased bool `json:"leased,omitempty"`
	// At is the address that gave the token, if the store has two.
	At endpoint.Address `json:"at,omitzero"`
}

type readingState struct {
	Request string          `json:"request"`
	Body    json.RawMessage `json:"body,omitempty"`
	About   *aboutState     `json:"about,omitempty"` // of a whole answer
	Part    *partState      `json:"part,omitempty"`  // if only a part is kept
	Kind    Kind            `json:"kind"`
	Asked   time.Time       `json:"asked"`
	Read    time.Time       `json:"read"`
	At      time.Time       `json:"at,omitzero"`
	End     time.Time       `json:"end,omitzero"`
	Due     time.Time       `json:"due,omitzero"`
	Absent  bool            `json:"absent,omitempty"`
}

// aboutState has the facts about an answer, without its values.
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

// partState is the part of an answer that the class uses.
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
	Token   int             `json:"token"` // the index in the tokens; -1 for none
	Replace bool            `json:"replace,omitempty"`
}

// revocationState is a credential that must be revoked by its lease id.
type revocationState struct {
	Login   json.RawMessage `json:"login"`
	Name    string          `json:"name"`
	LeaseID string          `json:"leaseID"`
	Expires time.Time       `json:"expires"`
}

// Export implements provider.Persister: the volume's identity, answers, credentials and
// tokens, as versioned JSON in plain text.
func (e *Engine) Export(id string) secret.Bytes {
	v := e.volumes.find(id)
	if v == nil {
		return secret.Bytes{}
	}
	traits, stamp := e.store.Traits(), e.config.Stamp()
	v.mu.Lock()
	now, tried, revocations := v.current, []Revocation(nil), slices.Clone(v.revocations)
	if v.superseded != nil { // the new identity has no answer yet: it starts from nothing
		now, tried = *v.superseded, v.current.credentials.revocations()
	}
	v.mu.Unlock()
	s := volumeState{
		Version: traits.StateVersion, Stamp: stamp, Pod: now.bearer.Pod, Own: now.credentials.state(),
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
		if t := g.token(e.config.Now(), nil); t != nil {
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
	out, err := json.Marshal(clock.Map(s, stamp.Written))
	if err != nil { // its parts are valid JSON
		e.config.Logger.Error("writing the state of a volume", logkey.Volume, id, logkey.Error, err)
		return secret.Bytes{}
	}
	return secret.NewBytes(out)
}

// rawOf returns a login as JSON, which cannot fail: its parts are strings.
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
	return tokenState{rawOf(t.Login), t.Value.Reveal(), t.born, t.renewable, t.ttl, t.due, t.expires, t.final, t.uses, t.counted, t.leased.Load(), t.At}
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

// size is the approximate size of the answer in the state, in bytes.
func (s readingState) size() int {
	if s.Part != nil {
		return s.Part.Size()
	}
	return len(s.Body)
}

// mostState bounds the answers in one volume's state, in bytes. They only save a read
// after a restart, and the states of all volumes share a small memory.
const mostState = 64 << 10

// readingsOf returns the small answers. A large one is read again when the volume is next
// due.
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
