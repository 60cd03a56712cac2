// Package v1alpha1 is the deprecated first version of the objects of package v1. Only
// the name of the version differs. The CRDs still serve it, so manifests of that
// version stay valid.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
package v1alpha1
