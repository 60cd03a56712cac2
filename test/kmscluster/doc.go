// Package kmscluster has the tests of mayfly-kms with real parts: etcd, API servers, a controller
// manager and Vault, all as programs. They run with the build tag e2e (make kms), as root.
package kmscluster
