//go:build lifetimes

package kms_test

// These tests wait for the plugin's own pauses: make lifetimes.

import (
	"testing"

	"google.golang.org/grpc/codes"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/test/kmsrig"
)

// Pinned versions: min_encryption_version above the announced version is followed
// at the next look, and nothing is encrypted with another one in between.
func TestLifetimeOfVersionBelowMinimum(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	p := r.Start("--local-key=false", "--poll-interval=10m")
	first := p.Ready()
	r.Rotate()
	r.Write("transit/keys/"+r.Key+"/config", map[string]any{"min_encryption_version": 2})
	_, err := p.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: seed(), Uid: "1"})
	wantCode(t, err, codes.InvalidArgument, "Vault cannot be used")
	p.Eventually("the failed call had the key looked at", func() bool { return p.Ready() != first })
	mustDecrypt(t, p, encrypt(t, p, "2"))
}
