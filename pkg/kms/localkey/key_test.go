package localkey_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/localkey"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestSealAndOpen(t *testing.T) {
	key, seed, data := localkey.New(), []byte("a seed of thirty-two bytes......"), []byte("id")
	a := testkit.Value(localkey.Seal(key, seed, data))(t)
	b, _ := localkey.Seal(key, seed, data)
	if bytes.Equal(a, b) || bytes.Contains(a, seed[:8]) || len(a) > 100 {
		t.Errorf("sealed as %x and %x", a, b)
	}
	testkit.Equal(t, "the seed", string(testkit.Value(localkey.Open(key, a, data))(t)), string(seed))
	flipped := bytes.Clone(a)
	flipped[len(flipped)-1] ^= 1
	for what, try := range map[string]func() ([]byte, error){
		"another key":  func() ([]byte, error) { return localkey.Open(localkey.New(), a, data) },
		"another id":   func() ([]byte, error) { return localkey.Open(key, a, []byte("other")) },
		"flipped":      func() ([]byte, error) { return localkey.Open(key, flipped, data) },
		"cut":          func() ([]byte, error) { return localkey.Open(key, a[:len(a)-1], data) },
		"short":        func() ([]byte, error) { return localkey.Open(key, a[:5], data) },
		"empty":        func() ([]byte, error) { return localkey.Open(key, nil, data) },
		"the other IV": func() ([]byte, error) { return localkey.Open(key, append(bytes.Clone(b[:12]), a[12:]...), data) },
	} {
		if got, err := try(); !errors.Is(err, localkey.ErrOpen) || got != nil {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	if _, err := localkey.Seal(key[:16], seed, data); err == nil {
		t.Error("a short key seals")
	}
	if _, err := localkey.Open(nil, a, data); err == nil {
		t.Error("no key opens")
	}
}
