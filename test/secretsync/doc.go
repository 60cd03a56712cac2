// Package secretsync holds the tests of what the driver writes into other people's
// objects, Kubernetes Secrets and annotations of workloads, on a real API server with
// the chart's rights and policies and a real garbage collector. They run with the
// build tag e2e (make e2e), as root.
package secretsync
