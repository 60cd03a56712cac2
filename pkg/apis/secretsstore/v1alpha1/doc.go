// Package v1alpha1 is the deprecated first version of the objects of package
// v1, of which it differs in nothing but the name. It exists so that the CRDs
// go on serving it: manifests of that version stay valid.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
package v1alpha1
