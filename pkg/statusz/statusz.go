// Package statusz defines the answer to GET /status: the node's volumes, the stores that they come
// from, and the latest failures. It contains no secret, and all text is printable. docs/status.md
// describes it.
package statusz

import "time"

// APIVersion is the version of the format. New fields do not change it; readers ignore fields that
// they do not know.
const (
	APIVersion = "status.mayfly.dev/v1"
	Kind       = "NodeStatus"
)

// Port is the default port of the driver's status, on the loopback interface of its pod.
const Port = 8096

// The paths.
const (
	StatusPath  = "/status"
	PagePath    = "/statusz"
	RefreshPath = "/refresh"
)

// Status is one answer. Only the first page has more than the volumes.
type Status struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Now is the node's clock, which all other times refer to.
	Now  time.Time `json:"now"`
	Node *Node     `json:"node,omitempty"`
	// Volumes are those that the query selects, in the order of their ids; Total is their number on
	// all pages.
	Volumes []Volume `json:"volumes"`
	Total   int      `json:"total"`
	// Continue is the parameter for the next page; empty on the last.
	Continue string `json:"continue,omitempty"`

	// Failures are failed first publishes, which leave no volume behind; the latest first.
	Failures []Failure `json:"failures,omitempty"`
	Stores   []Store   `json:"stores,omitempty"`
	Plugins  []Plugin  `json:"plugins,omitempty"`
	Queues   []Queue   `json:"queues,omitempty"`
	// Leaving are gone volumes whose credentials are not revoked yet; Leavings is their number.
	Leaving  []Leaving `json:"leaving,omitempty"`
	Leavings int       `json:"leavings,omitempty"`
	// Classes are those in use. There are at most 200 entries of each of classes, queues, circuits
	// and leaving volumes, those with failures first.
	Classes []Class `json:"classes,omitempty"`
	// SetAside names the files with records that could not be read.
	SetAside []string `json:"setAside,omitempty"`
}

// Node is the driver.
type Node struct {
	Name    string    `json:"name"`
	Driver  string    `json:"driver"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Volumes counts all volumes of the node, and Failing those whose last read from the store
	// failed.
	Volumes int `json:"volumes"`
	Failing int `json:"failing"`
	// MemoryUsed and MemoryLimit are in bytes, of the node's budget for tenants; a limit of 0 means
	// none.
	MemoryUsed  int64 `json:"memoryUsed"`
	MemoryLimit int64 `json:"memoryLimit"`
	// NotReady is why the driver does not serve kubelet; empty if it does.
	NotReady string `json:"notReady,omitempty"`
}

// The states of a volume.
const (
	Publishing   = "Publishing"   // waits for its first payload
	Fresh        = "Fresh"        // the last read from the store succeeded
	FromMemory   = "FromMemory"   // published with last good content while the store was unavailable
	Failing      = "Failing"      // the last read from the store failed, the last good content stays
	Emptied      = "Emptied"      // a denial removed the files, as the class asks
	Unpublishing = "Unpublishing" // kubelet is removing it
)

// Volume is one volume of one pod.
type Volume struct {
	ID             string `json:"id"`
	State          string `json:"state"`
	Target         string `json:"target"` // where it is mounted, as kubelet names it
	Namespace      string `json:"namespace"`
	Pod            string `json:"pod"`
	PodUID         string `json:"podUID"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	Class          string `json:"class"`
	// ClassVersion is the resourceVersion of the class that made the payload.
	ClassVersion string `json:"classVersion,omitempty"`
	Provider     string `json:"provider,omitempty"`
	// Store is the provider and the server that the next refresh reads from.
	Store string `json:"store,omitempty"`
	// AnsweredBy is the second address of the store if that answered last, because the first was
	// away.
	AnsweredBy string `json:"answeredBy,omitempty"`
	// Objects are the objects of the payload, and MoreObjects how many the list leaves out.
	Objects     []Object `json:"objects,omitempty"`
	MoreObjects int      `json:"moreObjects,omitempty"`
	// PublishedAt is when the first payload was published, or in the state Publishing when that
	// publish began.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	// RefreshedAt is when the whole payload was last read from the store, or found unchanged there.
	RefreshedAt time.Time `json:"refreshedAt,omitzero"`
	// AsOf is how old the content is, in the state FromMemory.
	AsOf time.Time `json:"asOf,omitzero"`
	// NextAt is the next refresh; Refreshing says that one is running.
	NextAt     time.Time `json:"nextAt,omitzero"`
	Refreshing bool      `json:"refreshing,omitempty"`
	// ExpiresAt is when the first of the volume's credentials expires unless it is renewed.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// Failures counts consecutive failures; Failure is the last one.
	Failures int      `json:"failures,omitempty"`
	Failure  *Failure `json:"failure,omitempty"`
}

// Object is one object of a class in a volume.
type Object struct {
	ID        string    `json:"id"`
	Version   string    `json:"version,omitempty"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// Failure is a failure, in the words of the driver and the store. Pod and Class are left out if the
// enclosing object names them.
type Failure struct {
	At        time.Time `json:"at,omitzero"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	PodUID    string    `json:"podUID,omitempty"`
	Class     string    `json:"class,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message"`
	// Times is how often the same failure occurred.
	Times int `json:"times,omitempty"`
}

// Store is a server.
type Store struct {
	Provider string    `json:"provider"`
	Address  string    `json:"address"`
	UsedAt   time.Time `json:"usedAt,omitzero"`
	// Circuits are the open ones, the widest first; OpenCircuits is their number.
	Circuits     []Circuit `json:"circuits,omitempty"`
	OpenCircuits int       `json:"openCircuits,omitempty"`
}

// Circuit blocks requests for a while, after failures. Its scope is Server, StoreNamespace, Tenant,
// FailedPaths or Path.
type Circuit struct {
	Scope          string    `json:"scope"`
	StoreNamespace string    `json:"storeNamespace,omitempty"`
	Namespace      string    `json:"namespace,omitempty"`
	Path           string    `json:"path,omitempty"`
	Failures       int       `json:"failures"`
	Since          time.Time `json:"since"`
	ProbeAt        time.Time `json:"probeAt"`
	Message        string    `json:"message,omitempty"`
}

// Plugin is a provider in a process of its own.
type Plugin struct {
	Name      string `json:"name"`
	Answering bool   `json:"answering"`
}

// Queue is the work for one store.
type Queue struct {
	Store      string `json:"store"`
	Namespaces int    `json:"namespaces"`
	// Waiting counts volumes that no worker has taken, Overdue those of them that are due. Late
	// counts workers that have passed their deadline.
	Waiting int       `json:"waiting"`
	Overdue int       `json:"overdue"`
	Running int       `json:"running"`
	Late    int       `json:"late"`
	NextAt  time.Time `json:"nextAt,omitzero"`
}

// Leaving is a gone volume.
type Leaving struct {
	ID        string    `json:"id"`
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Class     string    `json:"class"`
	Providers []string  `json:"providers,omitempty"`
	Tries     int       `json:"tries"`
	MaxTries  int       `json:"mostTries"`
	Since     time.Time `json:"since"`
	NextAt    time.Time `json:"nextAt,omitzero"`
}

// Class is a class in use.
type Class struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Provider  string `json:"provider,omitempty"`
	// Versions are the resourceVersions that made the volumes' payloads.
	Versions []string `json:"versions,omitempty"`
	Volumes  int      `json:"volumes"`
	Failing  int      `json:"failing"`
}

// Refreshed is the answer to POST /refresh.
type Refreshed struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Now is the node's clock when the volumes became due.
	Now time.Time `json:"now"`
	// Volumes are their ids.
	Volumes []string `json:"volumes"`
}

// RefreshedKind is the kind of Refreshed.
const RefreshedKind = "VolumesRefreshed"
