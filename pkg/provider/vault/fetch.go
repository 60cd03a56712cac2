package vault

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// fetch is one run over one volume.
type fetch struct {
	*Provider
	request     provider.Request
	spec        *spec
	volume      *volume
	endpoint    *endpoint.Endpoint
	began       time.Time
	correlation string

	rejoining sync.Mutex
}

// result is the answer to one request, and when to look again.
type result struct {
	*reading
	due  time.Time
	ends time.Time // of a credential; zero for what has no end
	err  error
	// stale is why this is the last good answer and not the store's present one.
	stale error
}

func (f *fetch) now() time.Time  { return f.config.Now() }
func (f *fetch) chance() float64 { return f.config.Jitter() }

func (f *fetch) run(ctx context.Context) (*provider.Payload, error) {
	if err := f.join(); err != nil {
		return nil, err
	}
	f.volume.prune(f.began)
	if !f.request.Upkeep {
		f.volume.forget(f.spec)
	}
	results, partial, err := f.obtainAll(ctx)
	f.config.Logger.Debug("fetched", "volume", f.request.Volume, "pod", f.request.Pod.String(), "class", f.spec.class.String(),
		"address", f.spec.login.target.Address.String(), "requests", len(f.spec.requests), "correlation", f.correlation, "partial", partial, "error", err)
	if err != nil {
		f.tend(ctx)
		return nil, err
	}
	for _, res := range results {
		provider.Asked(ctx, res.correlation) // another volume's, where it is shared
	}
	payload, err := f.payload(results)
	switch {
	case err != nil && partial != nil:
		return nil, fault.Join([]error{err, partial})
	case err != nil:
		return nil, err
	}
	payload.Partial = partial
	f.settle()
	if !f.request.Upkeep {
		f.volume.inFiles = f.spec.ids()
		f.volume.forget(f.spec)
	}
	return payload, nil
}

// join puts the volume into the group of its identity. A volume that is in
// one already needs no valid service account token, until it has to log in.
func (f *fetch) join() error {
	token, err := f.request.Tokens.For(f.spec.login.audience, f.began)
	claims := token.Claims
	old := f.volume.currentGroup()
	if err != nil {
		if old == nil || old.key.login != f.spec.login || f.volume.pod != f.request.Pod {
			return err
		}
		return nil
	}
	f.enter(f.learned.identify(f.spec.login, f.request.Pod, claims))
	return nil
}

// enter changes the volume's group if the key is another one.
func (f *fetch) enter(key identityKey) {
	v := f.volume
	old := v.currentGroup()
	if old != nil && old.key == key && v.pod == f.request.Pod {
		return
	}
	// Another view of the same identity, as after the first login with a
	// pod-bound role, does not touch what the volume holds by itself.
	var left []*token
	switch {
	case old == nil:
	case v.pod != f.request.Pod:
		f.settle()
		left = f.groups.leave(old, v.id)
		v.retire()
	case sameIdentity(old.key, key):
		left = f.groups.leave(old, v.id)
	default:
		f.change(key)
		if now := v.currentGroup(); now != nil && now.key != key {
			left = f.groups.leave(now, v.id)
		}
	}
	v.Owe(left) // to be revoked with the volume
	g := f.groups.join(key, v.id)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.group, v.pod = g, f.request.Pod
}

func sameIdentity(a, b identityKey) bool {
	a.pod, b.pod = "", ""
	return a == b
}

// rejoin follows what a login taught about the identity.
func (f *fetch) rejoin() *group {
	f.rejoining.Lock()
	defer f.rejoining.Unlock()
	key := f.volume.currentGroup().key
	if f.learned.isBound(key.login) {
		key.pod = f.request.Pod.UID
	}
	f.enter(key)
	return f.volume.currentGroup()
}

// names are the objects that a request is made for.
func (f *fetch) names(r *request) string {
	for _, o := range f.spec.objects {
		if o.request == r {
			return o.String()
		}
	}
	return "spec.parameters.objects"
}

// optional tells whether all that the request is made for may be missing.
func (f *fetch) optional(r *request) bool {
	return !slices.ContainsFunc(f.spec.objects, func(o *object) bool { return o.request == r && !o.optional })
}

// payload makes the files: all of them, or an error.
func (f *fetch) payload(results map[*request]result) (*provider.Payload, error) {
	out := &provider.Payload{Warnings: slices.Clone(f.spec.warnings)}
	f.note(out, results)
	for _, o := range f.spec.objects {
		res := results[o.request]
		if res.absent {
			continue
		}
		value, err := res.answer.value(o)
		if err != nil && o.optional && fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		f.add(out, o, res, value)
	}
	return out, nil
}

// maxNoted bounds what the server says beside the answers of one volume.
const maxNoted = 20

// note takes from the answers what is not in the files.
func (f *fetch) note(out *provider.Payload, results map[*request]result) {
	noted := 0
	for _, r := range f.spec.requests {
		res := results[r]
		out.RefreshAt = session.Earliest(out.RefreshAt, res.due)
		if res.absent {
			continue
		}
		for _, w := range res.answer.warnings {
			if noted++; noted <= maxNoted {
				out.Warnings = append(out.Warnings, fmt.Sprintf("%s: %s: the server says: %s", f.names(r), params.Clip(r.String()), scrub(w, nil)))
			}
		}
	}
	if noted > maxNoted {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the server says %d things more", noted-maxNoted))
	}
}

func (f *fetch) add(out *provider.Payload, o *object, res result, value []byte) {
	version := f.versionOf(f.request.Class, o, res.answer, value)
	out.Files = append(out.Files, provider.File{Path: o.name, Mode: o.mode, Contents: secret.NewBytes(value)})
	out.Versions = append(out.Versions, provider.Version{ID: o.name, Version: version})
	if !res.ends.IsZero() {
		out.Leases = append(out.Leases, provider.Lease{Object: o.name, ID: res.answer.leaseID, Expires: res.ends})
	}
}

// serviceAccountToken is the pod's newest one.
func (f *fetch) serviceAccountToken() (identity.Token, error) {
	t, err := f.request.Tokens.For(f.spec.login.audience, f.now())
	if err != nil {
		return t, fmt.Errorf("logging in to %s: %w", f.spec.login.target.Address, err)
	}
	return t, nil
}
