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
func (s *statuses) removeOrphans(ctx context.Context) {
	select {
	case <-time.After(orphansAfter + rand.N(orphansSpread)):
	case <-ctx.Done():
		return
	}
	found, err := s.API.ListStatuses(ctx, nodeLabel(s.Node))
	if err != nil {
		s.Logger.Warn("listing this node's SecretProviderClassPodStatuses failed; those of removed volumes are deleted with their pods", logkey.Error, err)
		return
	}
	known := s.knownNames()
	for i := range found {
		have := &found[i]
		if have.Labels[DriverLabel] != s.Driver || have.Annotations[NodeAnnotation] != nodeAnnotation(s.Node) || known[nameOf(have)] {
			continue
		}
		if err := s.delete(ctx, have); err != nil {
			s.Logger.Warn("deleting the SecretProviderClassPodStatus of a removed volume failed", logkey.Namespace, have.Namespace, logkey.Name, have.Name, logkey.Error, err)
		}
	}
}

type objectName struct{ namespace, name string }

func nameOf(s *v1.SecretProviderClassPodStatus) objectName { return objectName{s.Namespace, s.Name} }

// knownNames are the names of the volumes' objects, or both possible names of an object if it is
// unknown which one it has.
func (s *statuses) knownNames() map[objectName]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := map[objectName]bool{}
	for id, st := range s.volumes {
		if st.have != nil {
			known[nameOf(st.have)] = true
			continue
		}
		known[nameOf(st.want)] = true
		known[nameOf(withSuffix(st.want, id))] = true
	}
	return known
}
