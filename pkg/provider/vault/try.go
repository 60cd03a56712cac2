package vault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Trial is what came of trying a class without a volume.
type Trial struct {
	Need
	// Reached is the server that was asked.
	Reached string
	// Refused is why there is no login; what follows is empty then.
	Refused error
	// Policies are those that the role gave the Vault token; nil where it may not be
	// asked.
	Policies []string
	// Unasked is why nothing is known of the token's rights; nil if they are.
	Unasked error
	Objects []Tried
	// Kept is why the Vault token lives on; nil if it was revoked.
	Kept error
}

// Tried is one object of a trial.
type Tried struct {
	Index   int
	Name    string
	Request string // the method and path, without arguments
	// Path is the request's, and Key the value that is taken of the answer; empty
	// for all of it.
	Path, Key string
	Optional  bool
	// Missing are the rights that the token lacks.
	Missing []Right
	// WithData is the path that was meant, where a KV version 2 engine is asked for
	// another one. Guessed tells that the store did not say what is mounted there.
	WithData string
	Guessed  bool
	// There is whether the store has the object.
	There Presence
	// Detail says more of it, such as the version.
	Detail string
	// Read tells that the object was read or made, and Size how many bytes the file
	// would have.
	Read bool
	Size int
	// Failed is why it could not be.
	Failed error
}

// Presence is whether something is there.
type Presence string

// The answers; Unseen where only a read would tell.
const (
	Unseen Presence = "unseen"
	There  Presence = "there"
	Absent Presence = "absent"
)

// Try logs in as a pod would, and asks what the login may do with each object,
// and for the versions of KV version 2 secrets. Only where read is set are the
// objects read, and made; their values go nowhere. In the end the login is
// revoked, and with it all that was leased.
//
// The error is for a class that is refused before anything is asked, and for a
// server that is not reached.
func (p *Provider) Try(ctx context.Context, r provider.Request, read bool) (*Trial, error) {
	s, err := p.newSpec(r.Class)
	if err != nil {
		return nil, err
	}
	trial := &Trial{Reached: s.login.target.Address.String()}
	if trial.Need, err = p.Needs(r.Class); err != nil {
		return nil, err
	}
	left, err := p.Engine.Try(ctx, r, p.trial(s, trial, read))
	trial.Kept = left
	if trial.Kept == nil && p.unrevoked.Has(s.login) { // it was noted by the release
		trial.Kept = fault.New(fault.Denied, "its policies do not let the Vault token revoke itself")
	}
	return trial, err
}

// trial is what is done with a login: the token's rights are asked for, and with
// read the objects.
func (p *Provider) trial(s *spec, trial *Trial, read bool) session.Trial {
	t := session.Trial{LoggedIn: func(ctx context.Context, v session.Session, t *session.Token, err error) error {
		switch {
		case err != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NotAllowed):
			return err
		case err != nil:
			trial.Refused = err
			return nil
		}
		vs := v.(*vaultSession) //nolint:forcetypeassert // Open made it
		trial.Policies = vs.policiesOf(ctx, t)
		held, err := vs.capabilities(ctx, t, trial.Rights)
		trial.Unasked = err
		for _, o := range s.objects {
			trial.Objects = append(trial.Objects, vs.tryObject(ctx, t, o, held))
		}
		return nil
	}}
	if read {
		t.Answered = func(results map[string]session.Result) {
			for i, o := range s.objects {
				trial.Objects[i].outcome(p, o, results[o.Request.ID])
			}
		}
	}
	return t
}

// policiesOf are the policies of a token, which the default policy lets it ask.
func (s *vaultSession) policiesOf(ctx context.Context, t *session.Token) []string {
	if t.Limited() {
		return nil
	}
	reply, err := s.client.do(ctx, s.call(t, http.MethodGet, "auth/token/lookup-self", nil, nil))
	if err != nil {
		return nil
	}
	defer reply.Release()
	var body struct {
		Data struct {
			Policies []string `json:"policies"`
		} `json:"data"`
	}
	if json.Unmarshal(reply.Body, &body) != nil {
		return nil
	}
	return body.Data.Policies
}

// capabilities asks what a token may do, by path.
func (s *vaultSession) capabilities(ctx context.Context, t *session.Token, rights []Right) (map[string][]string, error) {
	paths := make([]string, 0, len(rights))
	for _, r := range rights {
		paths = append(paths, r.Path)
	}
	body, err := json.Marshal(map[string][]string{"paths": slices.Compact(paths)})
	if err != nil {
		return nil, fault.New(fault.Internal, "asking for the token's capabilities: the request cannot be written")
	}
	t.Take(0)
	reply, err := s.client.do(ctx, s.call(t, http.MethodPost, "sys/capabilities-self", nil, body))
	if err != nil {
		return nil, fmt.Errorf("asking for the token's capabilities: %w", err)
	}
	defer reply.Release()
	var answer struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if json.Unmarshal(reply.Body, &answer) != nil || answer.Data == nil {
		return nil, fault.New(fault.BadAnswer, "asking for the token's capabilities: the answer of %s is not Vault's", s.endpoint.Address)
	}
	held := make(map[string][]string, len(answer.Data))
	for path, raw := range answer.Data {
		var list []string
		if json.Unmarshal(raw, &list) == nil {
			held[path] = list
		}
	}
	return held, nil
}

func holds(held map[string][]string, path, capability string) bool {
	return slices.Contains(held[path], capability) || slices.Contains(held[path], "root")
}

func (s *vaultSession) tryObject(ctx context.Context, t *session.Token, o *object, held map[string][]string) Tried {
	tried := Tried{Index: o.Index, Name: o.Name, Request: o.request.String(), Path: o.request.path, Key: o.Key, Optional: o.Optional, There: Unseen}
	if held == nil {
		return tried
	}
	if o.request.public() {
		tried.Detail = "Vault answers it to anybody, if it is of the engine that the path looks like"
		return tried
	}
	path, needs := o.request.access()
	for _, capability := range needs {
		if !holds(held, path, capability) {
			tried.Missing = append(tried.Missing, Right{Path: path, Capability: capability, Purpose: Serve, Objects: []int{o.Index}})
		}
	}
	known, maybe := s.kvPath(ctx, t, o.request)
	if known == "" && len(tried.Missing) > 0 {
		known, tried.Guessed = maybe, maybe != ""
	}
	tried.WithData = known
	if len(tried.Missing) == 0 && tried.WithData == "" && !t.Limited() {
		tried.There, tried.Detail = s.presence(ctx, t, o.request, held)
	}
	return tried
}

// presence tells whether there is a secret, as far as its value need not be read
// for it.
func (s *vaultSession) presence(ctx context.Context, t *session.Token, r *request, held map[string][]string) (there Presence, detail string) {
	path, ok := metadataPath(r)
	if !ok || !holds(held, path, "read") {
		return Unseen, ""
	}
	reply, err := s.client.do(ctx, s.call(t, http.MethodGet, path, nil, nil))
	switch {
	case fault.Of(err) == fault.NotFound && err != nil:
		return Absent, fault.Cause(err)
	case err != nil:
		return Unseen, fault.Cause(err)
	}
	defer reply.Release()
	v := currentVersion(reply.Body, s.now())
	if !v.Known() {
		return Absent, "its current version is deleted"
	}
	return There, "version " + v.Number
}

// outcome takes what came of a read, and of its value the size alone.
func (t *Tried) outcome(p *Provider, o *object, res session.Result) {
	switch {
	case res.Err != nil:
		t.Failed = res.Err
	case res.Reading == nil:
		t.Failed = fault.New(fault.Canceled, "it was not made, since another object could not be read")
	case res.Absent:
		t.There = Absent
	default:
		value, err := p.File(&o.Object, res.Answer)
		switch {
		case err == nil:
			t.Read, t.There, t.Size = true, There, len(value)
		case o.Optional && fault.Of(err) == fault.NotFound:
			t.There = Absent
		default:
			t.Failed = err
		}
	}
}
