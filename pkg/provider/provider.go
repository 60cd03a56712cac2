// Package provider is the contract between the volume pipeline and the secret stores. A
// provider logs in as the pod, reads the objects of the class, and says when to read
// them again.
package provider

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/setting"
)

// Provider fetches the complete payload of a volume, or returns an error; it never
// returns a part. If some objects fail at a refresh, the payload may have their last
// good content, and Payload.Partial is the error.
//
// Errors have a fault.Reason and the store's own words, and no secret. The reason Denied
// means that the store itself has denied the request: a class may want its files removed
// after that. If it may be an outage, the reason is Unverified.
//
// Calls for different volumes are concurrent, calls for one volume are not.
type Provider interface {
	Fetch(ctx context.Context, r Request) (*Payload, error)
}

// Releaser is a Provider that has credentials for a volume: leases, a login.
type Releaser interface {
	// Release revokes the credentials of one volume, which is the Request.Volume of
	// its Fetch. It is called after the volume is gone.
	Release(ctx context.Context, volume string) error
}

// Persister is a Provider with a state of each volume for the next process.
type Persister interface {
	// Export returns the state with which Import can continue without a request to
	// the store; empty for none.
	Export(volume string) secret.Bytes
	// Import accepts the state that an earlier process exported. It does not change a
	// volume that this process knows. It returns an error if it cannot read the state;
	// then the volume's next Fetch starts from nothing.
	Import(volume string, state secret.Bytes) error
}

// LastKnown is a Provider that keeps in memory what it has read.
type LastKnown interface {
	// Recall returns from memory the payload that Fetch would have returned at asOf.
	// It uses only answers of the store to the same identity: the same store, role and
	// service account (with its UID), never to a pod-bound identity. It returns false
	// if anything is missing or older than oldest, and never returns credentials of
	// another pod.
	Recall(r Request, oldest time.Time) (p *Payload, asOf time.Time, ok bool)
}

// Router is a Provider that asks more than one store.
type Router interface {
	// Destination returns the server, and the namespace in it, of the last request for
	// a volume, sent or not; empty for an unknown volume. It sends no request. Work for
	// one store does not wait for work for another.
	Destination(volume string) string
}

// Fallback is a Provider whose stores may have a second address.
type Fallback interface {
	// AnsweredBy is the second address if that answered last for a volume, since
	// the first was away; else empty. It asks nobody.
	AnsweredBy(volume string) string
}

// Validator is a Provider that can check a class without the store.
type Validator interface {
	// Validate returns warnings, and an error that names every wrong field.
	Validate(c *class.Class) (warnings []string, err error)
}

// Request asks for the payload of one volume.
type Request struct {
	// Volume is the CSI volume id.
	Volume string
	Pod    identity.Pod
	Tokens identity.Tokens
	// TokensInSecrets says that kubelet passed the tokens with the secrets. Only the
	// plugin protocol uses it.
	TokensInSecrets bool
	Class           *class.Class
	// Secrets are those of the pod's nodePublishSecretRef.
	Secrets map[string]secret.String
	// TargetPath is where the volume is mounted. Only the plugin protocol uses it.
	TargetPath string
	// Stager makes directories for a provider that can only write files; nil if there
	// are none.
	Stager Stager
	// Current are the versions in the volume; empty at the first publish.
	Current []Version
	// Fresh bypasses caches: after an edit of the class, or if a user asked for it.
	Fresh bool
	// Upkeep says that Class is not the current class but the one that made the files,
	// because the run by the current class has failed. The provider keeps the
	// credentials that it issued in that run for the next one.
	Upkeep bool
}

// Stager makes stages. A provider uses one at a time, and only during its Fetch.
type Stager interface {
	Stage() (Stage, error)
}

// Stage is an empty directory in memory for another process on the node. It is no part
// of the volume.
type Stage interface {
	// Path is the directory's path.
	Path() string
	// Files returns the files in the directory. It returns an error if there are more
	// than most files and directories, more than bytes bytes in all, or anything but
	// regular files.
	Files(most int, bytes int64) ([]File, error)
	// Close removes the directory. It must be called.
	Close() error
}

// Payload is the complete content of a volume.
type Payload struct {
	Files    []File
	Versions []Version
	// RefreshAt is when the store wants the next read; zero for the class's interval.
	RefreshAt time.Time
	// Leases are the credentials in the payload that expire.
	Leases []Lease
	// SameFilesSameVersions says that other versions mean no change if the files are
	// equal, because the provider cannot rely on the versions of its source.
	SameFilesSameVersions bool
	// Warnings are for users: unknown keys and the like.
	Warnings []string
	// Partial is the error of objects that failed while others were renewed or issued
	// again. The payload has the last good content of the failed objects, and the
	// pipeline writes it, so that the new credentials are in the volume. The refresh
	// counts as failed, and RefreshAt is when the credentials are due. For a volume
	// without content, Fetch returns the error instead.
	Partial error
}

// File is one file of the volume.
type File struct {
	// Path is relative to the volume and may contain directories.
	Path string
	Mode fs.FileMode // permission bits; 0 means the default, 0644
	// Owner is the owner of the file that the class asks for.
	Owner    atomicdir.Owner
	Contents secret.Bytes
	// ReadAt is the time before the request to the store for the contents; zero if this
	// Fetch sent the request.
	ReadAt time.Time
}

// Version is the version of an object in a volume. It is public, so it is the store's own
// version or a keyed hash, from which the secret cannot be guessed.
type Version struct {
	ID      string
	Version string
}

// Lease is a credential that expires.
type Lease struct {
	// Object is the ID of its Version.
	Object string
	// ID is the store's id of the lease; empty for a certificate.
	ID      string
	Expires time.Time
}

// Registry finds providers by the class's spec.provider.
type Registry map[string]Provider

// Get returns a provider, or an error with the reason UnknownProvider.
func (r Registry) Get(name string) (Provider, error) {
	if p, ok := r[name]; ok {
		return p, nil
	}
	return nil, fault.New(fault.UnknownProvider, "spec.provider: no provider %q on this node", name).
		WithHint("this node has %s; others run as provider plugins, which are switched off here: %s", list(r), setting.Name("--provider-volume"))
}

func list(r Registry) string {
	return fmt.Sprintf("%q", slices.Sorted(maps.Keys(r)))
}
