package session

import (
	"fmt"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// mostSaid bounds the server's warnings with the answers of one volume.
const mostSaid = 20

// payload makes all files, or returns an error.
func (e *Engine) payload(s *Spec, c *class.Class, results []Result) (*provider.Payload, error) {
	out := &provider.Payload{Warnings: slices.Clone(s.Warnings)}
	of := make(map[*Request]Result, len(results))
	said := 0
	for i, r := range s.Requests {
		res := results[i]
		of[r] = res
		out.RefreshAt = clock.Earliest(out.RefreshAt, res.due)
		if res.Absent {
			continue
		}
		for _, w := range res.Answer.Warnings {
			if said++; said <= mostSaid {
				out.Warnings = append(out.Warnings, fmt.Sprintf("%s: %s: the server says: %s", s.names(r), params.Clip(r.Name), w))
			}
		}
	}
	if said > mostSaid {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the server says %d things more", said-mostSaid))
	}
	all, err := contents(e.store, s, func(r *Request) *Answer { return of[r].Answer })
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		hash := sync.OnceValue(func() string { return e.hasher.Version(c, m.of.Name, m.hashed()...) })
		for _, one := range m.files {
			res := of[one.Request]
			out.Files = append(out.Files, provider.File{Path: one.Name, Mode: one.Access.Mode, Owner: one.Access.Owner, Contents: secret.NewBytes(one.value), ReadAt: res.Asked})
			out.Versions = append(out.Versions, provider.Version{ID: one.Name, Version: e.store.Version(one.Object, res.Answer, hash)})
			if !res.ends.IsZero() {
				out.Leases = append(out.Leases, provider.Lease{Object: one.Name, ID: res.Answer.LeaseID, Expires: res.ends})
			}
		}
	}
	return out, nil
}
