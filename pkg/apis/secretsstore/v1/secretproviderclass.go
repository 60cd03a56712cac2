package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SecretProviderClass names the objects of a secret store that a pod's volume
// contains. A pod names a class of its own namespace in the volumeAttributes of an
// inline CSI volume.
//
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:resource:path=secretproviderclasses,scope=Namespaced,shortName=spc
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.provider`
// +kubebuilder:printcolumn:name="Refresh",type=string,JSONPath=`.spec.parameters.refreshInterval`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SecretProviderClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec SecretProviderClassSpec `json:"spec"`

	// status is not used. It accepts any fields, so that objects of an older driver
	// can be applied unchanged.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Status SecretProviderClassStatus `json:"status,omitzero"`
}

// SecretProviderClassSpec describes the content of a volume.
//
// The rules refuse classes that could never be mounted. The provider checks the rest at
// the mount.
//
// +kubebuilder:validation:XValidation:rule="!(self.provider in ['vault', 'openbao']) || (has(self.parameters) && 'objects' in self.parameters && size(self.parameters['objects']) > 0)",message="parameters.objects is required: a YAML list of at least one object"
// +kubebuilder:validation:XValidation:rule="!(self.provider in ['vault', 'openbao']) || (has(self.parameters) && (self.provider == 'openbao' ? ['roleName', 'baoRoleName', 'openbaoRoleName', 'vaultRoleName'] : ['roleName']).exists(k, k in self.parameters && size(self.parameters[k]) > 0))",message="parameters.roleName is required: the role to log in as"
// +kubebuilder:validation:XValidation:rule="!has(self.parameters) || !('onUnavailable' in self.parameters) || size(self.parameters['onUnavailable']) == 0 || self.parameters['onUnavailable'] in ['fail', 'lastGood']",message="parameters.onUnavailable must be fail or lastGood"
// +kubebuilder:validation:XValidation:rule="!has(self.parameters) || !('onDenied' in self.parameters) || size(self.parameters['onDenied']) == 0 || self.parameters['onDenied'] in ['keep', 'empty']",message="parameters.onDenied must be keep or empty"
// +kubebuilder:validation:XValidation:rule="!has(self.parameters) || !('secretOwner' in self.parameters) || size(self.parameters['secretOwner']) == 0 || self.parameters['secretOwner'] in ['class', 'pods']",message="parameters.secretOwner must be class or pods"
// +kubebuilder:validation:XValidation:rule="!has(self.parameters) || !('credentialScope' in self.parameters) || size(self.parameters['credentialScope']) == 0 || self.parameters['credentialScope'] in ['pod', 'serviceAccount']",message="parameters.credentialScope must be pod or serviceAccount"
type SecretProviderClassSpec struct {
	// provider names the secret store's provider, such as vault.
	// +required
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9_-]{1,30}$`
	Provider string `json:"provider"`

	// parameters are the provider's settings, and those of the volume:
	// refreshInterval, volumeSizeLimit, volumeInodeLimit, credentialScope,
	// onUnavailable, onDenied, strict, secretOwner, secretTemplates, rolloutRestart,
	// templates, formats and permissions. All values are strings; objects, templates,
	// formats, permissions and secretTemplates are YAML lists in a string.
	// +optional
	Parameters map[string]string `json:"parameters,omitempty"`

	// secretObjects are the Kubernetes Secrets that the driver writes from the volume's
	// files, if the operator has switched that on.
	// +optional
	SecretObjects []SecretObject `json:"secretObjects,omitempty"`
}

// SecretObject is a Kubernetes Secret with the contents of a volume's files.
type SecretObject struct {
	// secretName is the name of the Kubernetes Secret.
	// +optional
	SecretName string `json:"secretName,omitempty"`

	// type is the type of the Kubernetes Secret, such as Opaque.
	// +optional
	Type string `json:"type,omitempty"`

	// labels of the Kubernetes Secret.
	// +optional
	Labels map[string]string `json:"labels,omitempty"`

	// annotations of the Kubernetes Secret.
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`

	// data maps files to keys.
	// +optional
	Data []SecretObjectData `json:"data,omitempty"`
}

// SecretObjectData maps one file of the volume to a key.
type SecretObjectData struct {
	// objectName is the path of the file in the volume.
	// +optional
	ObjectName string `json:"objectName,omitempty"`

	// key is the key in the Kubernetes Secret's data.
	// +optional
	Key string `json:"key,omitempty"`
}

// SecretProviderClassStatus is empty: each pod has a SecretProviderClassPodStatus.
type SecretProviderClassStatus struct{}

// SecretProviderClassList is a list of SecretProviderClass.
//
// +kubebuilder:object:root=true
type SecretProviderClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SecretProviderClass `json:"items"`
}
