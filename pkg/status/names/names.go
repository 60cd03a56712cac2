// Package names has the names that package status uses in the cluster, for programs that read them:
// it builds on every platform, and package status builds only where the driver does.
package names

import (
	"crypto/sha256"
	"encoding/hex"
)

// The reasons of the Events on a pod.
const (
	MountFailed    = "MountFailed"    // a first publish failed; kubelet retries
	RefreshFailed  = "RefreshFailed"  // the volume keeps its last good content
	Rotated        = "Rotated"        // new content was written
	Recovered      = "Recovered"      // a refresh succeeded after failures
	LastGoodUsed   = "LastGoodUsed"   // the store is unavailable; the pod started with last good content
	ClassWarning   = "ClassWarning"   // something in the class is ignored; once for each version of the class and pod
	StoreSlow      = "StoreSlow"      // the store has not answered a first publish yet
	RecordSetAside = "RecordSetAside" // the saved state of the volume cannot be read; also on the node
	// SecretNotWritten says that a Kubernetes Secret of the class differs from secretObjects, and
	// SecretWritten that it no longer does; both are on the class too.
	SecretNotWritten = "SecretNotWritten"
	SecretWritten    = "SecretWritten"
	// RolloutRestarted is on a workload that was restarted for a rotation, and
	// RolloutNotRestarted on pod and class where that could not be done.
	RolloutRestarted    = "RolloutRestarted"
	RolloutNotRestarted = "RolloutNotRestarted"
)

// EventComponent is the source of the Events.
const EventComponent = "mayfly"

// The conditions of a SecretProviderClassPodStatus.
const (
	// Ready says that the volume is mounted with its complete payload.
	Ready = "Ready"
	// Fresh says that the last mount or refresh read the store.
	Fresh = "Fresh"
	// ClassValid says that the driver ignores nothing in the class or in the pod's volume
	// attributes.
	ClassValid = "ClassValid"
)

// EmptiedMessage is the message of the condition Ready when a denial removed the volume's files.
const EmptiedMessage = "the store refused the pod, and the class's onDenied has the volume emptied"

// The annotations of a failing volume, of a volume with last good content, of a status that leaves
// objects out, and of a node whose name is too long for a label.
const (
	ReasonAnnotation  = "mayfly.dev/failure-reason"
	MessageAnnotation = "mayfly.dev/failure-message"
	SinceAnnotation   = "mayfly.dev/failing-since"
	AsOfAnnotation    = "mayfly.dev/last-good-as-of"
	ObjectsAnnotation = "mayfly.dev/objects-left-out"
	// WarningsAnnotation lists what the driver ignores in the class.
	WarningsAnnotation = "mayfly.dev/class-warnings"
	NodeAnnotation     = "mayfly.dev/node-name"
)

// DigestID is the id of the one entry that replaces the objects of a status if they are too large.
// Its version changes when one of theirs does.
const DigestID = "mayfly.dev/digest"

// DriverLabel names the driver that wrote an object: another one on the same
// node, such as the Secrets Store CSI driver, sets the same NodeLabel.
const DriverLabel = "mayfly.dev/driver"

// MaxLabel is the API server's limit for the value of a label. A longer name of a node is truncated
// in its label.
const MaxLabel = 63

// ManagedLabel is on every Kubernetes Secret of a class, on those of the Secrets Store CSI driver too.
const ManagedLabel = "secrets-store.csi.k8s.io/managed"

// ClassLabel names the class of a Kubernetes Secret that this driver has made.
const ClassLabel = "mayfly.dev/class"

// The annotations of a Kubernetes Secret that this driver has made, besides NodeAnnotation: the node
// that wrote it last.
const (
	// DigestAnnotation is a slow hash of the class's entry and the contents, the same on every node.
	DigestAnnotation = "mayfly.dev/secret-digest"
	// ClassVersionAnnotation is the resourceVersion of the class.
	ClassVersionAnnotation = "mayfly.dev/class-version"
	// ReadAtAnnotation is when the store was asked for the oldest of the contents.
	ReadAtAnnotation = "mayfly.dev/read-at"
	// ExpiresAnnotation is when the first certificate ends.
	ExpiresAnnotation = "mayfly.dev/expires"
)

// RestartPrefix begins the annotation of a pod template by which a workload was
// restarted; the name of the class follows.
const RestartPrefix = "restart.mayfly.dev/"

// HashSuffix is what is put behind a truncated name, so that two long names stay apart.
func HashSuffix(of string) string {
	sum := sha256.Sum256([]byte(of))
	return "-" + hex.EncodeToString(sum[:5])
}

// Shorten truncates a text over limit bytes, and puts the HashSuffix of the whole behind it.
func Shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	suffix := HashSuffix(text)
	return text[:limit-len(suffix)] + suffix
}
