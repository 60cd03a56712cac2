package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeLabel is the label of a SecretProviderClassPodStatus with the name of the node
// whose driver writes it.
const NodeLabel = "internal.secrets-store.csi.k8s.io/node-name"

// SecretProviderClassPodStatus describes the volume of one pod and class. The driver
// writes it, and the pod owns it.
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

	// mounted is true if the volume is mounted with its complete payload. It is false
	// while the first mount fails, and after a denial has emptied the volume.
	// +optional
	Mounted bool `json:"mounted,omitempty"`

	// targetPath is the path on the node where the volume is mounted.
	// +optional
	TargetPath string `json:"targetPath,omitempty"`

	// failing is true if the last mount or refresh failed. A volume keeps its last good
	// content after a failed refresh.
	// +optional
	Failing bool `json:"failing"`

	// conditions are the volume's conditions.
	//
	// Ready: the volume is mounted with its complete payload. Fresh: the last mount or
	// refresh read the store. ClassValid: nothing in the class, or in the pod's volume
	// attributes, is ignored. A condition that is False has the reason and says what to
	// do.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// objects are the versions of the objects in the volume.
	// +optional
	Objects []SecretProviderClassObject `json:"objects,omitempty"`
}

// SecretProviderClassObject is the version of one object in a volume.
type SecretProviderClassObject struct {
	// id is the provider's name of the object.
	// +optional
	ID string `json:"id,omitempty"`

	// version changes whenever the object's content changes.
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
