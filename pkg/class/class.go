// Package class reads SecretProviderClass objects: which provider, which
// objects, and how a volume that mounts the class behaves.
package class

import (
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
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
	RefreshInterval time.Duration `json:",omitempty"`
	// SizeLimit is parameters.volumeSizeLimit in bytes; 0 leaves it to the flag.
	SizeLimit int64 `json:",omitempty"`
	// InodeLimit is parameters.volumeInodeLimit; 0 leaves it to the flag.
	InodeLimit int64 `json:",omitempty"`
	// CredentialScope is parameters.credentialScope; empty leaves it to the
	// provider, which keeps leased credentials to the pod.
	CredentialScope CredentialScope `json:",omitempty"`
	// OnUnavailable is parameters.onUnavailable; Parse never leaves it empty.
	OnUnavailable OnUnavailable `json:",omitempty"`
	// OnDenied is parameters.onDenied; Parse never leaves it empty.
	OnDenied OnDenied `json:",omitempty"`
	// Strict is parameters.strict: what is else a warning refuses the class.
	Strict bool `json:",omitempty"`
	// Warnings and Suspects are what Parse found that the class works without;
	// Suspects are names that are near to known ones, so probably mistakes.
	Warnings []string `json:"-"`
	Suspects []string `json:"-"`
	// SecretObjects are those of spec.secretObjects that can be made into
	// Kubernetes Secrets; Parse warns of the others.
	SecretObjects []v1.SecretObject `json:",omitempty"`
}

// CredentialScope says who shares a dynamic credential.
type CredentialScope string

// The scopes of a dynamic credential.
const (
	ScopePod            CredentialScope = "pod"            // each pod has its own
	ScopeServiceAccount CredentialScope = "serviceAccount" // the service account's pods on a node share one
)

// OnUnavailable says what a new volume does while the store cannot answer.
type OnUnavailable string

// The answers to a store that is down.
const (
	UnavailableFail     OnUnavailable = "fail"     // the publish fails and is tried again; the default
	UnavailableLastGood OnUnavailable = "lastGood" // start from what this node holds in memory, if it does
)

// OnDenied says what happens to a live volume when the store refuses it.
type OnDenied string

// The answers to a store that refuses a live volume.
const (
	DeniedKeep  OnDenied = "keep"  // the last good content stays; the default
	DeniedEmpty OnDenied = "empty" // the files are taken away
)
