// Package csi serves the driver to kubelet: the CSI Identity and Node
// services, the registration of the plugin, and the socket. It checks what
// kubelet sends, hands the work to the volume package, and is the one place
// where a failure becomes a gRPC code.
package csi
