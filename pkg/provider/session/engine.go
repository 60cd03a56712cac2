package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// Engine is a provider on a store: it implements provider.Provider, Releaser,
// Persister, LastKnown and Router. It has no goroutines of its own but for what
// a Detacher issues: all work is done by its callers.
type Engine struct {
	config  *endpoint.Settings
	store   Store
	specs   params.Cache[*Spec]
	volumes Volumes[*volume, Revocation]
	groups  groups
	// bound are the logins that the store took for a pod's own.
	bound  Memory[Login, struct{}]
	hasher provider.Hasher
}

var (
	_ provider.Provider  = (*Engine)(nil)
	_ provider.Releaser  = (*Engine)(nil)
	_ provider.Persister = (*Engine)(nil)
	_ provider.LastKnown = (*Engine)(nil)
	_ provider.Router    = (*Engine)(nil)
)

// New makes an engine on a store, whose settings are complete.
func New(c *endpoint.Settings, store Store) *Engine {
	return &Engine{
		config: c, store: store, specs: params.Cache[*Spec]{Budget: c.Budget},
		groups: groups{budget: c.Budget, revokesTokens: store.Traits().RevokesTokens},
	}
}

// Fetch implements provider.Provider.
//
//  1. The class is parsed, or found parsed.
//  2. The volume waits for its turn.
//  3. It joins the group of its identity, whose token and answers it shares.
//  4. Each distinct request is answered (run.obtain): from what the volume or
//     the group has, by renewing a lease, or by the store.
//  5. The files are made of the answers, and of the volume's last good ones
//     where some requests fail (Payload.Partial).
//
// What step 4 achieved is kept when a part of it fails, so that the next call
// issues no second credential.
func (e *Engine) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	f, v, ctx, leave, err := e.enterVolume(ctx, r)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := f.join(v); err != nil {
		return nil, err
	}
	return f.fetch(ctx)
}

// enterVolume begins a run, and waits for the volume's turn, which leave ends. The
// work is to be done with the context that it returns.
func (e *Engine) enterVolume(ctx context.Context, r provider.Request) (f *run, v *volume, work context.Context, leave func(), err error) {
	s, err := e.Spec(r)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	if f, err = e.open(ctx, r, s, bearerOf(r, s)); err != nil {
		return nil, nil, nil, nil, err
	}
	v, work, leave, err = e.volumes.Enter(ctx, r.Volume, e.newVolume(r.Pod))
	return f, v, work, leave, err
}

// Spec parses a class, or finds it parsed.
func (e *Engine) Spec(r provider.Request) (*Spec, error) {
	return e.specs.Get(r.Volume, r.Class, func(c *class.Class) (*Spec, error) { return e.store.Parse(c) })
}

func (e *Engine) newVolume(pod identity.Pod) func(id string) *volume {
	return func(id string) *volume { return newVolume(id, pod.Namespace, e.config.Budget) }
}

// bearerOf is the pod with the credential that comes from its Secret or, less
// privately, from the class.
func bearerOf(r provider.Request, s *Spec) Bearer {
	b := Bearer{Pod: r.Pod, Tokens: r.Tokens, Audience: s.Audience}
	if s.SecretKey != "" {
		if b.Given = r.Secrets[s.SecretKey]; b.Given.Empty() {
			b.Given = s.Given
		}
	}
	return b
}

// open begins a run. It asks nobody.
func (e *Engine) open(ctx context.Context, r provider.Request, s *Spec, b Bearer) (*run, error) {
	f := &run{Engine: e, request: r, spec: s}
	f.caller = &Caller{
		Bearer: b, Volume: r.Volume, Login: s.Login, Fresh: r.Fresh, Live: len(r.Current) > 0,
		Correlation: correlationOf(ctx), run: f,
	}
	f.start(nil)
	var err error
	f.session, err = e.store.Open(ctx, f.caller)
	return f, err
}

// start gives the run its volume, whose turn it is.
func (f *run) start(v *volume) {
	f.volume, f.began = v, f.now()
	f.caller.Began = f.began
}

// correlationOf is the id that joins our log with the store's audit: that of the
// work, or a random one.
func correlationOf(ctx context.Context) string {
	if id := provider.Correlation(ctx); id != "" {
		return id
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

// join puts the volume into the group of its identity. A volume that is in one
// already needs no valid service account token, until it has to log in.
func (f *run) join(v *volume) error {
	f.start(v)
	var claims identity.Claims
	if f.spec.AsPod {
		token, err := f.caller.Tokens.For(f.spec.Audience, f.began)
		if err != nil {
			old := f.volume.now()
			if old.group == nil || old.group.key.Login != f.spec.Login || old.bearer.Pod != f.request.Pod {
				return err
			}
			if _, passed := f.caller.Tokens[f.spec.Audience]; !passed {
				f.caller.Bearer = old.bearer
			}
			return nil
		}
		claims = token.Claims
	}
	f.enter(f.volume, f.identify(f.spec, f.caller.Bearer, claims), f.caller.Bearer)
	return nil
}

// identify makes the key of a bearer's identity. Where it is not yet known how
// the store sees it, the service account is tried first: the answer to the login
// corrects it.
func (e *Engine) identify(s *Spec, b Bearer, claims identity.Claims) Identity {
	key := e.store.Identify(s, b, claims)
	if e.bound.Has(s.Login) {
		key.Pod = b.Pod.UID
	}
	return key
}

// Destination implements provider.Router.
func (e *Engine) Destination(id string) string {
	v := e.volumes.Find(id)
	if v == nil {
		return ""
	}
	g := v.now().group
	if g == nil {
		return ""
	}
	return g.key.Login.Destination()
}

// Trial is a class that is tried without a volume.
type Trial struct {
	// LoggedIn is called with what came of the login. Its error ends the trial.
	LoggedIn func(ctx context.Context, s Session, t *Token, err error) error
	// Answered is called with the answers of all requests, by their ids; nil where none are to
	// be made.
	Answered func(results map[string]Result)
}

// Try logs in as a pod would. In the end what was issued is revoked; left is why
// it could not be.
func (e *Engine) Try(ctx context.Context, r provider.Request, trial Trial) (left, err error) {
	f, v, work, leave, err := e.enterVolume(ctx, r)
	if err != nil {
		return nil, err
	}
	err = f.try(work, v, trial)
	leave()
	return e.Release(context.WithoutCancel(ctx), r.Volume), err
}

func (f *run) try(ctx context.Context, v *volume, trial Trial) error {
	if err := f.join(v); err != nil {
		return err
	}
	t, err := f.token(ctx, v.now().group, nil)
	if isPodBound(err) {
		t, err = f.token(ctx, f.rejoin(), nil)
	}
	if err := trial.LoggedIn(ctx, f.session, t, err); err != nil || t == nil || trial.Answered == nil {
		return err
	}
	results := make(map[string]Result, len(f.spec.Requests))
	for i, res := range f.obtain(ctx) {
		results[f.spec.Requests[i].ID] = res
	}
	trial.Answered(results)
	return nil
}
