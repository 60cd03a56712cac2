package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeLabel is the label of a SecretProviderClassPodStatus that names the
// node whose driver writes it.
const NodeLabel = "internal.secrets-store.csi.k8s.io/node-name"

// SecretProviderClassPodStatus says what one pod's volume of one class holds.
// The driver writes it, and owns it through the pod.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:resource:path=secretproviderclasspodstatuses,scope=Namespaced,shortName=spcps
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.status.podName`
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.status.secretProviderClassName`
// +kubebuilder:printcolumn:name="Mounted",type=boolean,JSONPath=`.status.mounted`
// +kubebuilder:printcolumn:name="Failing",type=boolean,JSONPath=`.status.failing`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Fresh")].reason`
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.conditions[?(@.type=="Fresh")].lastTransitionTime`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.metadata.labels.internal\.secrets-store\.csi\.k8s\.io/node-name`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SecretProviderClassPodStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status SecretProviderClassPodStatusStatus `json:"status,omitzero"`
}

// SecretProviderClassPodStatusStatus is the state of one volume.
type SecretProviderClassPodStatusStatus struct {
	// podName is the pod that mounts the volume.
	// +optional
	PodName string `json:"podName,omitempty"`

	// secretProviderClassName is the class of the volume.
	// +optional
	SecretProviderClassName string `json:"secretProviderClassName,omitempty"`

	// mounted tells whether the volume is mounted with its complete payload. It
	// is false while the first mount fails, and after a denial has emptied the
	// volume.
	// +optional
	Mounted bool `json:"mounted,omitempty"`

	// targetPath is where the node has the volume mounted.
	// +optional
	TargetPath string `json:"targetPath,omitempty"`

	// failing tells whether the last mount or refresh failed. A volume that
	// fails to refresh keeps its last good content.
	// +optional
	Failing bool `json:"failing"`

	// conditions say how the volume is.
	//
	// Ready: it is mounted with its complete payload. Fresh: the last mount or
	// refresh read the store. ClassValid: nothing in the class, or in the pod's
	// volume attributes, is ignored. A condition that is False has the reason and
	// says what to do.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// objects are the versions that the volume holds.
	// +optional
	Objects []SecretProviderClassObject `json:"objects,omitempty"`
}

// SecretProviderClassObject is the version of one object in a volume.
type SecretProviderClassObject struct {
	// id names the object, as the provider does.
	// +optional
	ID string `json:"id,omitempty"`

	// version changes whenever the object's contents do.
	// +optional
	Version string `json:"version,omitempty"`
}

// SecretProviderClassPodStatusList is a list of SecretProviderClassPodStatus.
//
// +kubebuilder:object:root=true
type SecretProviderClassPodStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SecretProviderClassPodStatus `json:"items"`
}
