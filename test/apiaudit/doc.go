// Package apiaudit tries deploy/audit-policy.yaml on a real API server. Its tests
// run by make kms, beside those of the other control planes.
package apiaudit
