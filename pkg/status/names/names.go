// Package names has what package status calls things in the cluster, for
// programs that read them: it builds on every platform, and the driver does
// not.
package names

// The reasons of the Events on a pod.
const (
	MountFailed    = "MountFailed"    // a first publish failed; kubelet tries again
	RefreshFailed  = "RefreshFailed"  // the volume keeps its last good content
	Rotated        = "Rotated"        // new content was written
	Recovered      = "Recovered"      // a refresh succeeded after failures
	LastGoodUsed   = "LastGoodUsed"   // the store is away; the pod started from the node's memory
	ClassWarning   = "ClassWarning"   // something in the class is ignored; once for each edition and pod
	StoreSlow      = "StoreSlow"      // the store has not answered a first publish yet
	RecordSetAside = "RecordSetAside" // what the driver knew of the volume cannot be read; also on the node
)

// EventComponent is the source of the Events.
const EventComponent = "mayfly"

// The conditions of a SecretProviderClassPodStatus.
const (
	// Ready tells that the volume is mounted with its complete payload.
	Ready = "Ready"
	// Fresh tells that the last mount or refresh read the store.
	Fresh = "Fresh"
	// ClassValid tells that nothing in the class or in the pod's volume
	// attributes is ignored.
	ClassValid = "ClassValid"
)

// EmptiedMessage is that of the condition Ready of a volume whose files a denial
// took.
const EmptiedMessage = "the store refused the pod, and the class's onDenied has the volume emptied"

// The annotations that make a failing volume visible, one that tells that the
// volume holds what the node had in memory, one that tells that objects are left
// out, and one for the name of a node that is too long for a label.
const (
	ReasonAnnotation  = "mayfly.dev/failure-reason"
	MessageAnnotation = "mayfly.dev/failure-message"
	SinceAnnotation   = "mayfly.dev/failing-since"
	AsOfAnnotation    = "mayfly.dev/last-good-as-of"
	ObjectsAnnotation = "mayfly.dev/objects-left-out"
	// WarningsAnnotation is what of the class is ignored.
	WarningsAnnotation = "mayfly.dev/class-warnings"
	NodeAnnotation     = "mayfly.dev/node-name"
)

// DriverLabel names the driver that wrote an object: another one on the same
// node, such as the Secrets Store CSI driver, sets the same NodeLabel.
const DriverLabel = "mayfly.dev/driver"

// MaxLabel is the API server's limit for the value of a label. The name of a
// node may be longer, and is then cut in its label.
const MaxLabel = 63
