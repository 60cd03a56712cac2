// Package class reads SecretProviderClass objects: which provider, which objects, and how a volume
// of the class behaves.
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

// Class is a parsed SecretProviderClass. It is immutable.
type Class struct {
	Ref
	UID string
	// ResourceVersion changes with every edit of the object.
	ResourceVersion string
	// Provider is spec.provider.
	Provider string
	// Parameters are the provider's: spec.parameters without Mayfly's own keys, which are the
	// fields below.
	Parameters map[string]string
	// RefreshInterval is parameters.refreshInterval; 0 means the flag's value.
	RefreshInterval time.Duration `json:",omitempty"`
	// SizeLimit is parameters.volumeSizeLimit in bytes; 0 means the flag's value.
	SizeLimit int64 `json:",omitempty"`
	// InodeLimit is parameters.volumeInodeLimit; 0 means the flag's value.
	InodeLimit int64 `json:",omitempty"`
	// CredentialScope is parameters.credentialScope; empty means the provider's default, a
	// credential for each pod.
	CredentialScope CredentialScope `json:",omitempty"`
	// OnUnavailable is parameters.onUnavailable; Parse never leaves it empty.
	OnUnavailable OnUnavailable `json:",omitempty"`
	// OnDenied is parameters.onDenied; Parse never leaves it empty.
	OnDenied OnDenied `json:",omitempty"`
	// Templates and Formats are the lists of files that are made of the objects,
	// as parameters.templates and parameters.formats have them; package rendered
	// reads them.
	Templates string `json:",omitempty"`
	Formats   string `json:",omitempty"`
	// Permissions is parameters.permissions, a list of modes and owners of files.
	Permissions string `json:",omitempty"`
	// Strict is parameters.strict: warnings refuse the class.
	Strict bool `json:",omitempty"`
	// Warnings and Suspects are the mistakes that Parse found and that do not stop the class from
	// working. Suspects are names that are near to known ones, so probably misspelt.
	Warnings []string `json:"-"`
	Suspects []string `json:"-"`
	// SecretObjects are those of spec.secretObjects that can become Kubernetes Secrets; Parse warns
	// of the others.
	SecretObjects []v1.SecretObject `json:",omitempty"`
	// SecretTemplates is parameters.secretTemplates, a list of what is rendered for
	// the Secrets of SecretObjects; package rendered reads it.
	SecretTemplates string `json:",omitempty"`
	// SecretOwner is parameters.secretOwner; empty means the class.
	SecretOwner SecretOwner `json:",omitempty"`
	// RolloutRestart is parameters.rolloutRestart: the workloads to restart when
	// a secret has rotated.
	RolloutRestart []Workload `json:",omitempty"`
}

// SecretOwner says with what the Kubernetes Secrets of secretObjects go.
type SecretOwner string

// The owners of the Kubernetes Secrets.
const (
	OwnerClass SecretOwner = "class" // they go with the class, and stay while no pod runs; the default
	OwnerPods  SecretOwner = "pods"  // they go with the last pod that mounts the class
)

// CredentialScope says who shares a dynamic credential.
type CredentialScope string

// The scopes of a dynamic credential.
const (
	ScopePod            CredentialScope = "pod"            // each pod has its own
	ScopeServiceAccount CredentialScope = "serviceAccount" // the service account's pods on a node share one
)

// OnUnavailable says what a new volume does while the store cannot answer.
type OnUnavailable string

// The values of onUnavailable.
const (
	UnavailableFail     OnUnavailable = "fail"     // the publish fails and kubelet retries it; the default
	UnavailableLastGood OnUnavailable = "lastGood" // start with the last good content in this node's memory, if it has any
)

// OnDenied says what happens to a live volume when the store denies access.
type OnDenied string

// The values of onDenied.
const (
	DeniedKeep  OnDenied = "keep"  // the last good content stays; the default
	DeniedEmpty OnDenied = "empty" // the driver removes the files
)
