package status

import (
	"context"
	"math/rand/v2"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// The API server goes through the statuses of all nodes for a list of one
// node's, so a process asks once, and a fleet that starts at once asks over an
// hour.
const (
	orphansAfter  = 5 * time.Minute
	orphansSpread = time.Hour
)

// removeOrphans deletes the statuses that this driver wrote on this node for
// volumes that are gone. There are some where a process ended between an
// unpublish and the delete and the pod lives on; those of a gone pod are the
// garbage collector's.
func (r *Reporter) removeOrphans(ctx context.Context) {
	select {
	case <-time.After(orphansAfter + rand.N(orphansSpread)):
	case <-ctx.Done():
		return
	}
	found, err := r.API.ListStatuses(ctx, nodeLabel(r.Node))
	if err != nil {
		r.Logger.Warn("listing this node's SecretProviderClassPodStatuses failed; those of gone volumes go with their pods", "error", err)
		return
	}
	known := r.knownNames()
	for i := range found {
		s := &found[i]
		if s.Labels[DriverLabel] != r.Driver || s.Annotations[NodeAnnotation] != nodeAnnotation(r.Node) || known[nameOf(s)] {
			continue
		}
		if err := r.deleteStatus(ctx, s); err != nil {
			r.Logger.Warn("deleting the SecretProviderClassPodStatus of a gone volume failed", "namespace", s.Namespace, "name", s.Name, "error", err)
		}
	}
}

type objectName struct{ namespace, name string }

func nameOf(s *v1.SecretProviderClassPodStatus) objectName { return objectName{s.Namespace, s.Name} }

// knownNames are those of the volumes' objects, as far as it is known which of
// two names one has, and else both.
func (r *Reporter) knownNames() map[objectName]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := map[objectName]bool{}
	for id, st := range r.volumes {
		if st.have != nil {
			known[nameOf(st.have)] = true
			continue
		}
		known[nameOf(st.want)] = true
		known[nameOf(withSuffix(st.want, id))] = true
	}
	return known
}
