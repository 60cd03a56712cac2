package kms_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
)

// hostile are values that were changed, out of one with a local key and one
// without.
func hostile(a, b value) map[string]*kmsv2.DecryptRequest {
	with := func(base value, change func(*kmsv2.DecryptRequest)) *kmsv2.DecryptRequest {
		q := &kmsv2.DecryptRequest{Ciphertext: bytes.Clone(base.sealed.GetCiphertext()), KeyId: base.sealed.GetKeyId(), Annotations: maps.Clone(base.sealed.GetAnnotations()), Uid: "3"}
		change(q)
		return q
	}
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }
	otherID := strings.Map(func(c rune) rune {
		if c == '0' {
			return '1'
		}
		return c
	}, a.sealed.GetKeyId())
	if otherID == a.sealed.GetKeyId() {
		id := a.sealed.GetKeyId()
		otherID = id[:len(id)-1] + map[bool]string{true: "e", false: "f"}[strings.HasSuffix(id, "f")]
	}
	return map[string]*kmsv2.DecryptRequest{
		"no ciphertext":         with(a, func(q *kmsv2.DecryptRequest) { q.Ciphertext = nil }),
		"long ciphertext":       with(a, func(q *kmsv2.DecryptRequest) { q.Ciphertext = make([]byte, 1025) }),
		"no key id":             with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = "" }),
		"foreign key id":        with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = "1" }),
		"long key id":           with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = strings.Repeat("x", 1025) }),
		"altered key id":        with(a, func(q *kmsv2.DecryptRequest) { q.KeyId = otherID }),
		"altered key id, plain": with(b, func(q *kmsv2.DecryptRequest) { q.KeyId = otherID }),
		"flipped":               with(a, func(q *kmsv2.DecryptRequest) { q.Ciphertext = flip(q.Ciphertext) }),
		"no annotation":         with(a, func(q *kmsv2.DecryptRequest) { q.Annotations = nil }),
		"empty annotation":      with(a, func(q *kmsv2.DecryptRequest) { q.Annotations[key.AnnotationLocalKey] = nil }),
		"other annotation":      with(a, func(q *kmsv2.DecryptRequest) { q.Annotations["a.b"] = []byte("x") }),
		"seed as local key":     with(a, func(q *kmsv2.DecryptRequest) { q.Annotations[key.AnnotationLocalKey] = b.sealed.GetCiphertext() }),
		"local key as seed":     with(b, func(q *kmsv2.DecryptRequest) { q.Ciphertext = a.sealed.GetAnnotations()[key.AnnotationLocalKey] }),
		"JSON in it":            with(b, func(q *kmsv2.DecryptRequest) { q.Ciphertext = []byte(`vault:v1:AAAA","plaintext":"AAAA`) }),
		"other version": with(b, func(q *kmsv2.DecryptRequest) {
			q.Ciphertext = bytes.Replace(q.Ciphertext, []byte("vault:v1:"), []byte("vault:v2:"), 1)
		}),
		"huge annotation": with(a, func(q *kmsv2.DecryptRequest) {
			q.Annotations[key.AnnotationLocalKey] = bytes.Repeat([]byte("x"), 32<<10)
		}),
	}
}

// TestHostile: changed or invented values from etcd decrypt to nothing, and are refused with an
// error about the value.
func TestHostile(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	local, plain := r.Start(), r.Start("--local-key=false")
	local.Ready()
	plain.Ready()
	a, b := encrypt(t, local, "1"), encrypt(t, plain, "2")
	for name, q := range hostile(a, b) {
		for _, p := range []*kmsrig.Plugin{local, plain} {
			_, err := p.Client.Decrypt(t.Context(), q)
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
			for _, private := range []string{"127.0.0.1", r.Key, "auth/"} {
				if strings.Contains(fmt.Sprint(err), private) {
					t.Errorf("%s: the error shows %q: %v", name, private, err)
				}
			}
		}
	}
	for size, want := range map[int]codes.Code{0: codes.InvalidArgument, 1: codes.OK, 512: codes.OK, 513: codes.InvalidArgument} {
		_, err := plain.Client.Encrypt(t.Context(), &kmsv2.EncryptRequest{Plaintext: make([]byte, size), Uid: "\r\nX-Vault-Token: x"})
		if status.Code(err) != want {
			t.Errorf("a plaintext of %d bytes: %v", size, err)
		}
	}
	huge := &kmsv2.DecryptRequest{Ciphertext: a.sealed.GetCiphertext(), KeyId: a.sealed.GetKeyId(), Uid: strings.Repeat("x", 1<<20)}
	if _, err := local.Client.Decrypt(t.Context(), huge); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of 1 MiB: %v", err)
	}
	mustDecrypt(t, local, a)
	mustDecrypt(t, plain, b)
}
