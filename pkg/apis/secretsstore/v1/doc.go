// Package v1 holds the Kubernetes objects of the Secrets Store CSI ecosystem,
// API group secrets-store.csi.x-k8s.io, version v1: the SecretProviderClass,
// which people write, and the SecretProviderClassPodStatus, which the driver
// writes. Both are the same on the wire as those of secrets-store-csi-driver,
// so that one cluster can run either driver, or both, over the same objects.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
package v1
