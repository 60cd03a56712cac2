// Package e2e tests the driver on a real node: its image, installed by its chart, serves pods of a
// real kubelet with secrets of a real Vault, which asks the real API server about their service
// account tokens. The tests need root and the build tag e2e; README.md describes them.
package e2e
