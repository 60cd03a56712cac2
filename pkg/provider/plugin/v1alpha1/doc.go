// Package v1alpha1 is the protocol that Secrets Store CSI drivers and their
// providers speak over a unix socket, generated from service.proto by
// hack/generate-proto.sh.
//
// Its messages hold service account tokens and secrets and print them when
// asked to: nothing may format one.
package v1alpha1
