package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// Version is the API version of this package.
const Version = "v1alpha1"

// SecretProviderClass names the objects of a secret store that a pod's volume
// contains.
//
// +kubebuilder:object:root=true
// +kubebuilder:deprecatedversion:warning="secrets-store.csi.x-k8s.io/v1alpha1 SecretProviderClass is deprecated; use v1"
// +kubebuilder:resource:path=secretproviderclasses,scope=Namespaced,shortName=spc
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.provider`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SecretProviderClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec v1.SecretProviderClassSpec `json:"spec"`

	// status is not used. It takes anything, so that an object which was
	// written by an older driver can be applied as it is.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Status v1.SecretProviderClassStatus `json:"status,omitzero"`
}

// SecretProviderClassList is a list of SecretProviderClass.
//
// +kubebuilder:object:root=true
type SecretProviderClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SecretProviderClass `json:"items"`
}
