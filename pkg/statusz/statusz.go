// Package statusz is the form of what a node tells of itself at GET /status: its
// volumes, the stores that they come from, and what failed last. There is no
// secret in it, and all text is printable. docs/status.md describes it.
package statusz

import "time"

// APIVersion is that of the form. Fields are added under the same version;
// readers pass over what they do not know.
const (
	APIVersion = "status.mayfly.dev/v1"
	Kind       = "NodeStatus"
)

// Port is where the driver serves it unless it is told otherwise, on the loopback
// interface of its pod.
const Port = 8096

// The paths.
const (
	StatusPath  = "/status"
	PagePath    = "/statusz"
	RefreshPath = "/refresh"
)

// Status is one answer. All but the volumes is in the first page alone.
type Status struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Now is the node's clock, by which all other times are.
	Now  time.Time `json:"now"`
	Node *Node     `json:"node,omitempty"`
	// Volumes are those that the query selects, in the order of their ids; Total
	// is how many there are of them on all pages.
	Volumes []Volume `json:"volumes"`
	Total   int      `json:"total"`
	// Continue is for the query of the next page; empty on the last.
	Continue string `json:"continue,omitempty"`

	// Failures are first publishes that failed, which leave no volume behind; the
	// latest first.
	Failures []Failure `json:"failures,omitempty"`
	Stores   []Store   `json:"stores,omitempty"`
	Plugins  []Plugin  `json:"plugins,omitempty"`
	Queues   []Queue   `json:"queues,omitempty"`
	// Leaving are volumes that are gone, and whose credentials are yet to be
	// ended; Leavings is how many there are.
	Leaving  []Leaving `json:"leaving,omitempty"`
	Leavings int       `json:"leavings,omitempty"`
	// Classes are those in use. Of these and of the queues, circuits and leaving
	// volumes there are at most 200, those with failures first.
	Classes []Class `json:"classes,omitempty"`
	// SetAside are files with what is known of records that could not be read.
	SetAside []string `json:"setAside,omitempty"`
}

// Node is the driver.
type Node struct {
	Name    string    `json:"name"`
	Driver  string    `json:"driver"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	// Volumes counts all volumes of the node, and Failing those whose last look at
	// the store failed.
	Volumes int `json:"volumes"`
	Failing int `json:"failing"`
	// MemoryUsed and MemoryLimit are the bytes of the node's budget for tenants; a
	// limit of 0 is none.
	MemoryUsed  int64 `json:"memoryUsed"`
	MemoryLimit int64 `json:"memoryLimit"`
	// NotReady is why the driver does not serve kubelet; empty if it does.
	NotReady string `json:"notReady,omitempty"`
}

// The states of a volume.
const (
	Publishing   = "Publishing"   // its first payload is waited for
	Fresh        = "Fresh"        // the last look at the store succeeded
	FromMemory   = "FromMemory"   // published while the store was away
	Failing      = "Failing"      // the last look at the store failed, the last good content stays
	Emptied      = "Emptied"      // a denial took the files, as the class asks
	Unpublishing = "Unpublishing" // kubelet takes it away
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
	// Store is the provider and the server that the next look asks.
	Store string `json:"store,omitempty"`
	// Objects are what the payload was made of, and MoreObjects how many are left
	// out.
	Objects     []Object `json:"objects,omitempty"`
	MoreObjects int      `json:"moreObjects,omitempty"`
	// PublishedAt is of the first payload; in the state Publishing it is when that
	// was first waited for.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	// RefreshedAt is when all of it was last read from the store, or found
	// unchanged there.
	RefreshedAt time.Time `json:"refreshedAt,omitzero"`
	// AsOf is how old the content is, in the state FromMemory.
	AsOf time.Time `json:"asOf,omitzero"`
	// NextAt is the next look at the store; Refreshing tells of one under way.
	NextAt     time.Time `json:"nextAt,omitzero"`
	Refreshing bool      `json:"refreshing,omitempty"`
	// ExpiresAt is when the first of the credentials in the volume ends, unless it
	// is renewed before.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// Failures counts those in a row; Failure is the last one.
	Failures int      `json:"failures,omitempty"`
	Failure  *Failure `json:"failure,omitempty"`
}

// Object is one object of a class in a volume.
type Object struct {
	ID        string    `json:"id"`
	Version   string    `json:"version,omitempty"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
}

// Failure is something that failed, in the words of the driver and the store. Pod
// and Class are left out where what it belongs to names them.
type Failure struct {
	At        time.Time `json:"at,omitzero"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	PodUID    string    `json:"podUID,omitempty"`
	Class     string    `json:"class,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message"`
	// Times is how often it failed in the same way.
	Times int `json:"times,omitempty"`
}

// Store is a server.
type Store struct {
	Provider string    `json:"provider"`
	Address  string    `json:"address"`
	UsedAt   time.Time `json:"usedAt,omitzero"`
	// Circuits are those that are open, the widest first; OpenCircuits is how many
	// there are.
	Circuits     []Circuit `json:"circuits,omitempty"`
	OpenCircuits int       `json:"openCircuits,omitempty"`
}

// Circuit is what the driver leaves alone for a while, after failures. Its scope
// is Server, StoreNamespace, Tenant, FailedPaths or Path.
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

// Plugin is a provider that runs as a process of its own.
type Plugin struct {
	Name      string `json:"name"`
	Answering bool   `json:"answering"`
}

// Queue is the work for one store.
type Queue struct {
	Store      string `json:"store"`
	Namespaces int    `json:"namespaces"`
	// Waiting volumes are not being worked on, and Overdue are those of them
	// whose time has come. Late ones have not ended in their time.
	Waiting int       `json:"waiting"`
	Overdue int       `json:"overdue"`
	Running int       `json:"running"`
	Late    int       `json:"late"`
	NextAt  time.Time `json:"nextAt,omitzero"`
}

// Leaving is a volume that is gone.
type Leaving struct {
	ID        string    `json:"id"`
	Namespace string    `json:"namespace"`
	Pod       string    `json:"pod"`
	Class     string    `json:"class"`
	Providers []string  `json:"providers,omitempty"`
	Tries     int       `json:"tries"`
	MostTries int       `json:"mostTries"`
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
	// Now is the node's clock when the volumes were made due.
	Now time.Time `json:"now"`
	// Volumes are their ids.
	Volumes []string `json:"volumes"`
}

// RefreshedKind is the kind of Refreshed.
const RefreshedKind = "VolumesRefreshed"
