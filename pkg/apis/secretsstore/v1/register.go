package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the objects.
const GroupName = "secrets-store.csi.x-k8s.io"

// Version is the API version that this package holds, and that is stored.
const Version = "v1"

// The resources, as they stand in the API server's paths.
const (
	SecretProviderClassResource          = "secretproviderclasses"
	SecretProviderClassPodStatusResource = "secretproviderclasspodstatuses"
)

// GroupVersion gives the group and version of the objects.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: GroupName, Version: Version}
}

// AddToScheme makes the objects known to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(),
		&SecretProviderClass{}, &SecretProviderClassList{},
		&SecretProviderClassPodStatus{}, &SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}
