package v1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of the objects.
const GroupName = "secrets-store.csi.x-k8s.io"

// Version is the API version of this package, which the API server stores.
const Version = "v1"

// The resources, as in the API server's paths.
const (
	SecretProviderClassResource          = "secretproviderclasses"
	SecretProviderClassPodStatusResource = "secretproviderclasspodstatuses"
)

// GroupVersion returns the group and version of the objects.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: GroupName, Version: Version}
}

// AddToScheme registers the objects with a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion(),
		&SecretProviderClass{}, &SecretProviderClassList{},
		&SecretProviderClassPodStatus{}, &SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}
