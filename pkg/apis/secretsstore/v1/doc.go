// Package v1 has the Kubernetes objects of the Secrets Store CSI ecosystem, API group
// secrets-store.csi.x-k8s.io, version v1: the SecretProviderClass, which users write,
// and the SecretProviderClassPodStatus, which the driver writes. Both have the same wire
// format as those of secrets-store-csi-driver, so one cluster can run either driver, or
// both, with the same objects.
//
// +kubebuilder:object:generate=true
// +groupName=secrets-store.csi.x-k8s.io
package v1
