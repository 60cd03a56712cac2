package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
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
	s, err := p.spec(r)
	if err != nil {
		return nil, err
	}
	trial := &Trial{Reached: s.login.target.Address.String()}
	if trial.Need, err = p.Needs(r.Class); err != nil {
		return nil, err
	}
	e, err := p.endpoints.Get(ctx, s.login.target, p.config.Now())
	if err != nil {
		return trial, err
	}
	v, work, leave, err := p.volumes.Enter(ctx, r.Volume, func(id string) *volume { return newVolume(id, r.Pod.Namespace, p.config.Budget) })
	if err != nil {
		return trial, err
	}
	f := &fetch{Provider: p, request: r, spec: s, volume: v, endpoint: e, began: p.config.Now(), correlation: newCorrelation()}
	err = f.try(work, trial, read)
	leave()
	trial.Kept = p.Release(context.WithoutCancel(ctx), r.Volume)
	if trial.Kept == nil && !p.learned.firstUnrevoked(s.login) { // it was noted by the release
		trial.Kept = fault.New(fault.Denied, "its policies do not let the Vault token revoke itself")
	}
	return trial, err
}

func (f *fetch) try(ctx context.Context, trial *Trial, read bool) error {
	if err := f.join(); err != nil {
		return err
	}
	t, err := f.session(ctx, f.volume.currentGroup(), nil)
	if errors.Is(err, errPodBound) {
		t, err = f.session(ctx, f.rejoin(), nil)
	}
	switch {
	case err != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NotAllowed):
		return err
	case err != nil:
		trial.Refused = err
		return nil
	}
	trial.Policies = f.policiesOf(ctx, t)
	held, err := f.capabilities(ctx, t, trial.Rights)
	trial.Unasked = err
	for _, o := range f.spec.objects {
		trial.Objects = append(trial.Objects, f.tryObject(ctx, t, o, held))
	}
	if read {
		f.readAll(ctx, trial.Objects)
	}
	return nil
}

// policiesOf are the policies of a token, which the default policy lets it ask.
func (f *fetch) policiesOf(ctx context.Context, t *token) []string {
	if t.limited() {
		return nil
	}
	reply, err := f.client.do(ctx, f.call(t, http.MethodGet, "auth/token/lookup-self", nil, nil))
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
func (f *fetch) capabilities(ctx context.Context, t *token, rights []Right) (map[string][]string, error) {
	paths := make([]string, 0, len(rights))
	for _, r := range rights {
		paths = append(paths, r.Path)
	}
	body, err := json.Marshal(map[string][]string{"paths": slices.Compact(paths)})
	if err != nil {
		return nil, fault.New(fault.Internal, "asking for the token's capabilities: the request cannot be written")
	}
	t.take(0)
	reply, err := f.client.do(ctx, f.call(t, http.MethodPost, "sys/capabilities-self", nil, body))
	if err != nil {
		return nil, fmt.Errorf("asking for the token's capabilities: %w", err)
	}
	defer reply.Release()
	var answer struct {
		Data map[string]json.RawMessage `json:"data"`
	}
	if json.Unmarshal(reply.Body, &answer) != nil || answer.Data == nil {
		return nil, fault.New(fault.BadAnswer, "asking for the token's capabilities: the answer of %s is not Vault's", f.endpoint.Address)
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

func (f *fetch) tryObject(ctx context.Context, t *token, o *object, held map[string][]string) Tried {
	tried := Tried{Index: o.index, Name: o.name, Request: o.request.String(), Path: o.request.path, Key: o.key, Optional: o.optional, There: Unseen}
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
			tried.Missing = append(tried.Missing, Right{Path: path, Capability: capability, Purpose: Serve, Objects: []int{o.index}})
		}
	}
	known, maybe := f.kvPath(ctx, t, o.request)
	if known == "" && len(tried.Missing) > 0 {
		known, tried.Guessed = maybe, maybe != ""
	}
	tried.WithData = known
	if len(tried.Missing) == 0 && tried.WithData == "" && !t.limited() {
		tried.There, tried.Detail = f.presence(ctx, t, o.request, held)
	}
	return tried
}

// presence tells whether there is a secret, as far as its value need not be read
// for it.
func (f *fetch) presence(ctx context.Context, t *token, r *request, held map[string][]string) (there Presence, detail string) {
	path, ok := metadataPath(r)
	if !ok || !holds(held, path, "read") {
		return Unseen, ""
	}
	reply, err := f.client.do(ctx, f.call(t, http.MethodGet, path, nil, nil))
	switch {
	case fault.Of(err) == fault.NotFound && err != nil:
		return Absent, fault.Cause(err)
	case err != nil:
		return Unseen, fault.Cause(err)
	}
	defer reply.Release()
	v := currentVersion(reply.Body, f.now())
	if !v.known() {
		return Absent, "its current version is deleted"
	}
	return There, "version " + v.number
}

// readAll reads the objects as a pod's volume would, and keeps their sizes alone.
func (f *fetch) readAll(ctx context.Context, objects []Tried) {
	results := f.answers(ctx)
	for i, o := range f.spec.objects {
		res := results[slices.Index(f.spec.requests, o.request)]
		tried := &objects[i]
		switch {
		case res.err != nil:
			tried.Failed = res.err
		case res.reading == nil:
			tried.Failed = fault.New(fault.Canceled, "it was not made, since another object could not be read")
		case res.absent:
			tried.There = Absent
		default:
			value, err := res.answer.value(o)
			switch {
			case err == nil:
				tried.Read, tried.There, tried.Size = true, There, len(value)
			case o.optional && fault.Of(err) == fault.NotFound:
				tried.There = Absent
			default:
				tried.Failed = err
			}
		}
	}
}
