package status

import (
	"context"
	"math/rand/v2"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// For a list of one node's statuses the API server goes through those of all nodes. So a process
// lists them once, and a fleet that starts at once spreads its lists over an hour.
const (
	orphansAfter  = 5 * time.Minute
	orphansSpread = time.Hour
)

// removeOrphans deletes the statuses that this driver wrote on this node for volumes that are gone.
// They are left over when a process ends between an unpublish and the delete while the pod lives
// on. Kubernetes deletes those of gone pods.
func (r *Reporter) removeOrphans(ctx context.Context) {
	select {
	case <-time.After(orphansAfter + rand.N(orphansSpread)):
	case <-ctx.Done():
		return
	}
	found, err := r.API.ListStatuses(ctx, nodeLabel(r.Node))
	if err != nil {
		r.Logger.Warn("listing this node's SecretProviderClassPodStatuses failed; those of gone volumes go with their pods", logkey.Error, err)
		return
	}
	known := r.knownNames()
	for i := range found {
		s := &found[i]
		if s.Labels[DriverLabel] != r.Driver || s.Annotations[NodeAnnotation] != nodeAnnotation(r.Node) || known[nameOf(s)] {
			continue
		}
		if err := r.deleteStatus(ctx, s); err != nil {
			r.Logger.Warn("deleting the SecretProviderClassPodStatus of a gone volume failed", logkey.Namespace, s.Namespace, logkey.Name, s.Name, logkey.Error, err)
		}
	}
}

type objectName struct{ namespace, name string }

func nameOf(s *v1.SecretProviderClassPodStatus) objectName { return objectName{s.Namespace, s.Name} }

// knownNames are the names of the volumes' objects, or both possible names of an object if it is
// unknown which one it has.
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
