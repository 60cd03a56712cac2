package kms_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/test/kmsrig"
)

// Wrong set-ups have an error in the log that says what to do, and work once they are corrected.
func TestWrongSetUps(t *testing.T) {
	for name, tc := range map[string]struct {
		wrong, right func(r *kmsrig.Rig)
		words        []string
	}{
		"key of RSA": {
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, map[string]any{"type": "rsa-2048"}) },
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, nil) },
			[]string{"rsa-2048", "aes256-gcm96", "--transit-key"},
		},
		"derived key": {
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, map[string]any{"derived": true}) },
			func(r *kmsrig.Rig) { r.DeleteKey(); r.Write("transit/keys/"+r.Key, nil) },
			[]string{"derived=false"},
		},
		"no key": {
			func(r *kmsrig.Rig) { r.DeleteKey() },
			func(r *kmsrig.Rig) { r.Write("transit/keys/"+r.Key, nil) },
			[]string{"there is no key", "--transit-key", "--transit-mount"},
		},
		"no policy": {
			func(r *kmsrig.Rig) { r.SetPolicy(`path "sys/nothing" { capabilities = ["read"] }`) },
			func(r *kmsrig.Rig) { r.SetPolicy(kmsrig.LeastPolicy(r.Key)) },
			[]string{`must grant \"read\" on transit/keys/`},
		},
		"no right to encrypt": {
			func(r *kmsrig.Rig) {
				r.SetPolicy(fmt.Sprintf(`path "transit/keys/%s" { capabilities = ["read"] }`, r.Key))
			},
			func(r *kmsrig.Rig) { r.SetPolicy(kmsrig.LeastPolicy(r.Key)) },
			[]string{`must grant \"update\" on transit/encrypt/`},
		},
		"no right to decrypt": {
			func(r *kmsrig.Rig) {
				r.SetPolicy(strings.ReplaceAll(kmsrig.LeastPolicy(r.Key), "transit/decrypt", "transit/rewrap"))
			},
			func(r *kmsrig.Rig) { r.SetPolicy(kmsrig.LeastPolicy(r.Key)) },
			[]string{`must grant \"update\" on transit/decrypt/`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := kmsrig.New(t, vault)
			tc.wrong(r)
			p := r.Start()
			for _, words := range tc.words {
				p.Eventually("the log says "+words, func() bool { return strings.Contains(p.Log.String(), words) })
			}
			if _, err := p.Status(); status.Code(err) != codes.Unavailable {
				t.Errorf("Status answers %v", err)
			}
			tc.right(r)
			mustDecrypt(t, waitReady(p), encrypt(t, p, "1"))
		})
	}
}

func TestAbsentMount(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	r.SetPolicy(`path "nowhere/*" { capabilities = ["read", "update"] }`)
	p := r.Start("--transit-mount=nowhere")
	p.Eventually("the log names the setting", func() bool { return strings.Contains(p.Log.String(), "--transit-mount") })
}

// With a policy with create, Vault would silently create a deleted key again.
func TestPolicyWithCreate(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	good := r.Start()
	good.Ready()
	if good.Condition().MayCreate {
		t.Error("the least policy is taken for one with create")
	}
	r.SetPolicy(strings.Replace(kmsrig.LeastPolicy(r.Key), `["update"]`, `["create", "update"]`, 1))
	p := r.Start()
	p.Ready()
	p.Eventually("the log says what to grant", func() bool {
		return strings.Contains(p.Log.String(), "grant only update") && p.Condition().MayCreate
	})
}
