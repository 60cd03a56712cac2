package akeyless

import (
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// payload makes the files: all of them, or an error.
func (f *fetch) payload() (*provider.Payload, error) {
	out := &provider.Payload{Warnings: append(slices.Clone(f.spec.warnings), f.hints()...), RefreshAt: f.horizon()}
	for _, it := range f.spec.items {
		out.RefreshAt = session.Earliest(out.RefreshAt, f.results[it].due)
	}
	for _, o := range f.spec.objects {
		res := f.results[o.item]
		if res.absent {
			continue
		}
		contents, err := o.contents(res.kind, res.value)
		if err != nil && o.optional && fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		f.add(out, o, res, contents)
	}
	return out, nil
}

func (f *fetch) add(out *provider.Payload, o *object, res result, contents []byte) {
	version := f.hasher.Version(f.request.Class, o.file, contents)
	if o.item.version != 0 {
		version = fmt.Sprintf("%d-%s", o.item.version, version)
	}
	out.Files = append(out.Files, provider.File{Path: o.file, Mode: o.mode, Contents: secret.NewBytes(contents)})
	out.Versions = append(out.Versions, provider.Version{ID: o.file, Version: version})
	if !res.ends.IsZero() {
		out.Leases = append(out.Leases, provider.Lease{Object: o.file, ID: res.id, Expires: res.ends})
	}
}

// horizon is when to look again so that there is always a way to end what the
// volume holds: before both the Akeyless token and the pod's service account
// token are over, kubelet has passed a new one of the latter. Zero where
// nothing needs it.
func (f *fetch) horizon() time.Time {
	now := f.now()
	if f.config.DisableRevocation || !(f.volume.holder.holds(now) || f.group.holder.holds(now)) {
		return time.Time{}
	}
	until := f.bearer.until(f.spec.login)
	if until.IsZero() {
		return time.Time{}
	}
	if t := f.group.login.Current(now, nil); t != nil && t.expires.After(until) {
		until = t.expires
	}
	due := session.TwoThirds(now, until, f.config.Jitter())
	if least := now.Add(leastHorizon); due.Before(least) {
		return least
	}
	return due
}
