package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

// Engine is a provider for a store: it implements provider.Provider, Releaser, Persister,
// LastKnown and Router. Its callers' goroutines do all work, except the issues of a
// Detacher.
type Engine struct {
	Classes
	config  *endpoint.Settings
	pool    *endpoint.Pool
	store   Store
	specs   params.Cache[*Spec]
	volumes volumes
	groups  groups
	hasher  provider.Hasher
}

var (
	_ provider.Provider  = (*Engine)(nil)
	_ provider.Releaser  = (*Engine)(nil)
	_ provider.Persister = (*Engine)(nil)
	_ provider.LastKnown = (*Engine)(nil)
	_ provider.Router    = (*Engine)(nil)
	_ provider.Fallback  = (*Engine)(nil)
	_ provider.Validator = (*Engine)(nil)
	_ provider.Watcher   = (*Engine)(nil)
)

// New makes an engine for a store, whose settings are complete, and whose servers pool has.
func New(c *endpoint.Settings, pool *endpoint.Pool, store Store) *Engine {
	return &Engine{
		Classes: Classes{store}, config: c, pool: pool, store: store, specs: params.Cache[*Spec]{Budget: c.Budget},
		volumes: volumes{byID: map[string]*volume{}},
		groups:  groups{budget: c.Budget, store: store, revokesTokens: store.Traits().RevokesTokens},
	}
}

// Fetch implements provider.Provider.
func (e *Engine) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	// 1. Parse the class, or find it parsed, and wait for the volume's turn.
	f, ctx, leave, err := e.begin(ctx, r)
	if err != nil {
		return nil, err
	}
	defer leave()
	// 2. Join the group of the volume's identity, whose token and answers it shares.
	if err := f.join(); err != nil {
		return nil, err
	}
	// 3. Answer each distinct request: from what the volume or the group has, by renewing
	// a lease, or with a request to the store. Credentials stay even if another request
	// fails, so that the next call issues no second one.
	f.volume.prune(f.began)
	if !r.Upkeep {
		f.volume.retain(f.spec)
	}
	results := f.obtain(ctx)
	// 4. If requests failed, use the volume's last good answers instead. If there are
	// none, fail.
	partial, err := failures(f.spec, r, results)
	e.config.Logger.Debug("fetched", logkey.Volume, r.Volume, logkey.Pod, r.Pod.String(), logkey.Class, f.spec.Class.String(),
		logkey.Address, f.spec.Login.Access().Address, logkey.Requests, len(f.spec.Requests), logkey.Correlation, f.caller.Correlation, logkey.Partial, partial, logkey.Error, err)
	if err != nil {
		f.keepSuperseded(ctx)
		return nil, err
	}
	for _, res := range results {
		provider.Asked(ctx, res.Correlation) // of another volume, if the answer is shared
	}
	// 5. Make the files from the answers.
	payload, err := e.payload(f.spec, r.Class, results)
	switch {
	case err != nil && partial != nil:
		return nil, fault.Join([]error{err, partial})
	case err != nil:
		return nil, err
	}
	payload.Warnings = append(payload.Warnings, f.session.Warnings()...)
	if f.spec.AsPod { // otherwise a login needs no token of kubelet
		payload.RefreshAt = clock.Earliest(payload.RefreshAt, f.logins.horizon())
	}
	payload.Partial = partial
	// 6. Record that the files are of the current identity and class.
	f.answered()
	f.logins.count()
	return payload, nil
}

// begin begins a run, and waits for the volume's turn, which ends with leave. The caller
// must use the returned context.
func (e *Engine) begin(ctx context.Context, r provider.Request) (f *run, work context.Context, leave func(), err error) {
	s, err := e.Spec(r)
	if err != nil {
		return nil, nil, nil, err
	}
	if f, err = e.open(ctx, r, s, bearerOf(r, s)); err != nil {
		return nil, nil, nil, err
	}
	v, work, leave, err := e.volumes.enter(ctx, r.Volume, func() *volume { return newVolume(r.Volume, r.Pod.Namespace, &e.groups) })
	if err != nil {
		return nil, nil, nil, err
	}
	f.start(v)
	return f, work, leave, nil
}

// Spec parses a class, or finds it parsed.
func (e *Engine) Spec(r provider.Request) (*Spec, error) {
	return e.specs.Get(r.Volume, r.Class, func(c *class.Class) (*Spec, error) { return e.store.Parse(c) })
}

// Stores implements provider.Watcher.
func (e *Engine) Stores() []stores.Store { return e.pool.Stores() }

// Close closes idle connections. The engine can still be used.
func (e *Engine) Close() { e.pool.CloseIdle() }

// bearerOf returns the pod with the credential from its Secret or, less privately, from
// the class.
func bearerOf(r provider.Request, s *Spec) Bearer {
	b := Bearer{Pod: r.Pod, Tokens: r.Tokens, Audience: s.Audience}
	if s.SecretKey != "" {
		if b.Given = r.Secrets[s.SecretKey]; b.Given.Empty() {
			b.Given = s.Given
		}
	}
	return b
}

// open prepares a run. It sends no request.
func (e *Engine) open(ctx context.Context, r provider.Request, s *Spec, b Bearer) (*run, error) {
	f := &run{engine: e, request: r, spec: s}
	f.caller = &Caller{
		Bearer: b, Volume: r.Volume, Login: s.Login, Fresh: r.Fresh, Live: len(r.Current) > 0,
		Correlation: correlationOf(ctx), run: f,
	}
	var err error
	f.session, err = e.store.Open(ctx, f.caller)
	f.logins = &logins{config: e.config, groups: &e.groups, caller: f.caller, session: f.session}
	return f, err
}

// correlationOf returns the id of the requests in the store's audit log: that of the work,
// or a random one.
func correlationOf(ctx context.Context) string {
	if id := provider.Correlation(ctx); id != "" {
		return id
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

// AnsweredBy implements provider.Fallback.
func (e *Engine) AnsweredBy(id string) string {
	if v := e.volumes.find(id); v != nil {
		return v.now().group.second()
	}
	return ""
}

// Destination implements provider.Router.
func (e *Engine) Destination(id string) string {
	v := e.volumes.find(id)
	if v == nil {
		return ""
	}
	g := v.now().group
	if g == nil {
		return ""
	}
	return g.key.Login.Destination()
}
