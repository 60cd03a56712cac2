package session

import (
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// mostSaid bounds what the server says beside the answers of one volume.
	mostSaid = 20
	// leastHorizon keeps a volume whose means to log in run out from being looked
	// at without a pause.
	leastHorizon = time.Minute
)

// payload makes the files: all of them, or an error.
func (f *run) payload(results []Result) (*provider.Payload, error) {
	out := &provider.Payload{Warnings: slices.Clone(f.spec.Warnings)}
	of := make(map[*Request]Result, len(results))
	said := 0
	for i, r := range f.spec.Requests {
		res := results[i]
		of[r] = res
		out.RefreshAt = clock.Earliest(out.RefreshAt, res.due)
		if res.Absent {
			continue
		}
		for _, w := range res.Answer.Warnings {
			if said++; said <= mostSaid {
				out.Warnings = append(out.Warnings, fmt.Sprintf("%s: %s: the server says: %s", f.spec.names(r), params.Clip(r.Name), w))
			}
		}
	}
	if said > mostSaid {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the server says %d things more", said-mostSaid))
	}
	for _, o := range f.spec.Objects {
		res := of[o.Request]
		if res.Absent {
			continue
		}
		value, err := f.store.File(o, res.Answer)
		if err != nil && o.Optional && fault.Of(err) == fault.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o, err)
		}
		f.add(out, o, res, value)
	}
	return out, nil
}

func (f *run) add(out *provider.Payload, o *Object, res Result, value []byte) {
	version := f.store.Version(o, res.Answer, func() string { return f.hasher.Version(f.request.Class, o.Name, value) })
	out.Files = append(out.Files, provider.File{Path: o.Name, Mode: o.Mode, Contents: secret.NewBytes(value), ReadAt: res.Asked})
	out.Versions = append(out.Versions, provider.Version{ID: o.Name, Version: version})
	if !res.ends.IsZero() {
		out.Leases = append(out.Leases, provider.Lease{Object: o.Name, ID: res.Answer.LeaseID, Expires: res.ends})
	}
}

// horizon is when to look again so that there is always a way to revoke what
// the volume holds: before both the store's token and the pod's service account
// token have expired, kubelet has passed a new one of the latter. Zero where
// nothing needs it.
func (f *run) horizon() time.Time {
	now, state := f.now(), f.volume.now()
	if f.config.DisableRevocation || !f.spec.AsPod || !(state.credentials.revocable(now) || state.group.credentials.revocable(now)) {
		return time.Time{}
	}
	until := f.caller.Tokens[f.caller.Audience].Expires
	if until.IsZero() {
		return time.Time{}
	}
	if t := state.group.current.get(now, nil); t != nil && t.Expires().After(until) {
		until = t.Expires()
	}
	due := TwoThirds(now, until, f.chance())
	if least := now.Add(leastHorizon); due.Before(least) {
		return least
	}
	return due
}
