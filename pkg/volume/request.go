package volume

import (
	"maps"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Identity identifies a volume and its pod.
type Identity struct {
	// ID is the CSI volume id.
	ID string `json:"id"`
	// Target is the path where kubelet wants the volume mounted.
	Target string       `json:"target"`
	Pod    identity.Pod `json:"pod"`
	Class  class.Ref    `json:"class"`
}

// Credentials are what kubelet passes with each call.
type Credentials struct {
	Tokens identity.Tokens `json:"-"`
	// TokensInSecrets says that kubelet passed the tokens with the secrets, and not in
	// the volume's context. Plugins get them in the same place.
	TokensInSecrets bool                     `json:"tokensInSecrets,omitempty"`
	Secrets         map[string]secret.String `json:"-"`
}

// Equal reports whether two calls passed the same credentials.
func (c Credentials) Equal(o Credentials) bool {
	return c.TokensInSecrets == o.TokensInSecrets && c.Tokens.Equal(o.Tokens) &&
		maps.EqualFunc(c.Secrets, o.Secrets, func(a, b secret.String) bool { return a.Reveal() == b.Reveal() })
}

// Request is a NodePublishVolume call, checked and parsed.
type Request struct {
	Identity
	Credentials
	// GID is the pod's fsGroup; nil for none.
	GID *int `json:"gid,omitempty"`
	// SELinuxContext is the label that kubelet wants the mount to have.
	SELinuxContext string `json:"selinuxContext,omitempty"`
	// Ignored are the unknown volume attributes, sorted.
	Ignored []string `json:"ignored,omitempty"`
}

// conflict refuses a request with the id of a live volume and another target, pod or
// class.
func (i Identity) conflict(r Identity) error {
	switch {
	case i.Target != r.Target:
		return fault.New(fault.Conflict, "volume %s is already published at %q, not at %q", r.ID, i.Target, r.Target)
	case i.Pod.UID != r.Pod.UID:
		return fault.New(fault.Conflict, "volume %s is already published for pod %s (uid %s), not for %s (uid %s)", r.ID, i.Pod, i.Pod.UID, r.Pod, r.Pod.UID)
	case i.Class != r.Class:
		return fault.New(fault.Conflict, "volume %s is already published from class %s, not from %s", r.ID, i.Class, r.Class)
	}
	return nil
}

// KeptError is a failure after which the volume keeps its last good content. The
// caller must not return it as final: kubelet would unmount the volume.
type KeptError struct{ Err error }

func (e *KeptError) Error() string { return e.Err.Error() + "; the volume keeps its last good content" }

// Unwrap returns the failure.
func (e *KeptError) Unwrap() error { return e.Err }
