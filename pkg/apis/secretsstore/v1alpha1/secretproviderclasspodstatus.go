package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// SecretProviderClassPodStatus describes the volume of one pod and class.
//
// +kubebuilder:object:root=true
// +kubebuilder:deprecatedversion:warning="secrets-store.csi.x-k8s.io/v1alpha1 SecretProviderClassPodStatus is deprecated; use v1"
// +kubebuilder:resource:path=secretproviderclasspodstatuses,scope=Namespaced,shortName=spcps
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.status.podName`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.status.secretProviderClassName`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SecretProviderClassPodStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status v1.SecretProviderClassPodStatusStatus `json:"status,omitzero"`
}

// SecretProviderClassPodStatusList is a list of SecretProviderClassPodStatus.
//
// +kubebuilder:object:root=true
type SecretProviderClassPodStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SecretProviderClassPodStatus `json:"items"`
}
