// Package provider is the contract between the volume pipeline and the secret
// stores. A provider logs in as the pod, reads what the class asks for, and
// says when to look again.
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

// Provider fetches a volume's complete payload: all of it or an error, never
// a part. What the store does not give now may be the volume's last good
// content, which Payload.Partial says. Its errors carry a fault.Reason and the
// store's own words, and no secret. The reason Denied is for a denial that is
// certain, since a class may have a live volume emptied for it: what may be an
// outage is Unverified. It is called by many volumes at once, and
// for one volume by one caller at a time.
type Provider interface {
	Fetch(ctx context.Context, r Request) (*Payload, error)
}

// Releaser is a Provider that holds something for a volume: leases, a login.
type Releaser interface {
	// Release ends what the provider holds for the volume alone. It is
	// called once the volume is gone, and knows volumes by Request.Volume.
	Release(ctx context.Context, volume string) error
}

// Persister is a Provider whose state for a volume outlives the process.
type Persister interface {
	// Export returns what Import needs to go on with the volume without a
	// request to the store; nil when there is nothing to keep.
	Export(volume string) secret.Bytes
	// Import takes back what an earlier process exported. A volume that is
	// known by now is left as it is. State that cannot be read is an error,
	// and the volume's next Fetch starts again.
	Import(volume string, state secret.Bytes) error
}

// LastKnown is a Provider that still has in memory what it read for others.
type LastKnown interface {
	// Recall gives the payload that Fetch would have given at AsOf, from
	// memory alone, and only where the store has answered this very
	// identity: the same store, role and service account (UID included),
	// never another's and never a pod-bound identity's. It answers false
	// where anything is missing or older than oldest. Credentials made for
	// one pod are never recalled for another.
	Recall(r Request, oldest time.Time) (p *Payload, asOf time.Time, ok bool)
}

// Router is a Provider that asks more than one store.
type Router interface {
	// Destination names the server and the namespace in it that the provider
	// asked last, or was about to ask, for a volume; empty where it knows
	// nothing of the volume. It asks nobody. Work that goes to one store waits
	// for none that goes to another.
	Destination(volume string) string
}

// Validator is a Provider that can judge a class without the store.
type Validator interface {
	// Validate returns warnings, and an error that names every bad field.
	Validate(c *class.Class) (warnings []string, err error)
}

// Request is one volume's wish.
type Request struct {
	// Volume is the CSI volume id: the key of what is kept for the volume.
	Volume string
	Pod    identity.Pod
	Tokens identity.Tokens
	// TokensInSecrets tells that kubelet passed the tokens beside the secrets.
	// In-process providers have no use for it; the plugin protocol passes it
	// on.
	TokensInSecrets bool
	Class           *class.Class
	// Secrets are those of the pod's nodePublishSecretRef.
	Secrets map[string]secret.String
	// TargetPath is where the volume is mounted. In-process providers have
	// no use for it; the plugin protocol passes it on.
	TargetPath string
	// Stager gives a provider that can only write files a place for it; nil
	// where there is none.
	Stager Stager
	// Current are the versions that the volume holds now; empty at first.
	Current []Version
	// Fresh asks for a read from the store where a recent answer would
	// otherwise do: after an edit of the class, or on a person's demand.
	Fresh bool
	// Upkeep tells that Class is not the class as it is now, but the one that
	// the files are of: the pass by the present one has failed. What that one
	// had made is not to be made again at its next try.
	Upkeep bool
}

// Stager makes places to write to. A provider uses one at a time, and only
// while its Fetch runs.
type Stager interface {
	Stage() (Stage, error)
}

// Stage is an empty place in memory that other processes on the node see, and
// that nobody reads for a volume.
type Stage interface {
	// Path is where they find it.
	Path() string
	// Files are what lies there: regular files alone, most of them and their
	// directories, and so many bytes in all. Anything else is an error.
	Files(most int, bytes int64) ([]File, error)
	// Close takes the place away. It must be called.
	Close() error
}

// Payload is everything that a volume shall hold.
type Payload struct {
	Files    []File
	Versions []Version
	// RefreshAt is the store's word on when to look again; zero leaves it
	// to the class's interval.
	RefreshAt time.Time
	// Leases are the credentials in the payload that end by themselves.
	Leases []Lease
	// SameFilesSameVersions tells that versions which differ from the volume's
	// mean nothing where the files are the same: the provider cannot rely on
	// its source for them.
	SameFilesSameVersions bool
	// Warnings are for people: unknown keys and the like.
	Warnings []string
	// Partial tells why some of the payload is what the volume held before,
	// in place of what the store has now: one object failed while others were
	// renewed or made anew, and those must reach the volume. The payload is
	// complete all the same, and is written; RefreshAt is when what it holds
	// is due. The refresh counts as failed. A volume that holds nothing yet
	// gets an error instead: there is nothing to put in place.
	Partial error
}

// File is one file of the volume.
type File struct {
	// Path is relative to the volume and may hold directories.
	Path string
	Mode fs.FileMode // permission bits; 0 means the default, 0644
	// Owner is whom the class wants the file to belong to.
	Owner    atomicdir.Owner
	Contents secret.Bytes
	// ReadAt is when the store was asked for the contents, before the request
	// left; zero means by this Fetch.
	ReadAt time.Time
}

// Version says which state of an object a volume holds. It is written to
// places that anybody may read, so it is the store's own version or a keyed
// hash, never something from which the secret could be guessed.
type Version struct {
	ID      string
	Version string
}

// Lease is a credential with an end.
type Lease struct {
	// Object is the id of the Version that it belongs to.
	Object string
	// ID is the store's name for the lease; empty for a certificate.
	ID      string
	Expires time.Time
}

// Registry finds providers by the class's spec.provider.
type Registry map[string]Provider

// Get finds a provider.
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
