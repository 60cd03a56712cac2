// Package class reads SecretProviderClass objects: which provider, which
// objects, and how a volume that mounts the class behaves.
package class

import (
	"time"
)

// Ref names a class.
type Ref struct {
	Namespace string
	Name      string
}

// String is namespace/name, as people write it.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// Class is a parsed SecretProviderClass. It is never changed once made.
type Class struct {
	Ref
	UID string
	// ResourceVersion changes with every edit of the object.
	ResourceVersion string
	// Provider is spec.provider.
	Provider string
	// Parameters are the provider's: spec.parameters without the keys that
	// are Mayfly's own, which are the fields below.
	Parameters map[string]string
	// RefreshInterval is parameters.refreshInterval; 0 leaves it to the flag.
	RefreshInterval time.Duration
	// SizeLimit is parameters.volumeSizeLimit in bytes; 0 leaves it to the flag.
	SizeLimit int64
	// InodeLimit is parameters.volumeInodeLimit; 0 leaves it to the flag.
	InodeLimit int64
}
