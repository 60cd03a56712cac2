// Package csi serves the driver to kubelet: the CSI Identity and Node services, the registration of
// the plugin, and the socket. It validates kubelet's requests, passes them to the volume package,
// and chooses the gRPC code of a failure.
package csi
