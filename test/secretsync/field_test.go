//go:build e2e

package secretsync

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/compat"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// testField plays the manifests of package compat, from which docs/compatibility.md is made.
func testField(t *testing.T, r *rig) {
	cases, err := compat.LoadSecrets("../compat/secrets")
	testkit.Must(t, err)
	pair := newPair(t)
	for _, c := range cases {
		if c.Class == "" {
			continue // a test of this name shows it
		}
		t.Run(c.Name, func(t *testing.T) { playField(t, r.in(t), c, pair) })
	}
}

func playField(t *testing.T, r *rig, c compat.SecretCase, pair *strings.Replacer) {
	spc := &v1.SecretProviderClass{}
	testkit.Must(t, yaml.UnmarshalStrict([]byte(c.Class), spc))
	for name, text := range c.Files {
		c.Files[name] = pair.Replace(text)
	}
	n := r.node("node-a")
	f := n.mount(r.put(http.MethodPost, classPath(namespace), spc), "a", c.Files)
	if len(c.Refused) > 0 {
		n.refused(f, c.Refused...)
		if got := r.read(c.Name); got != nil {
			t.Errorf("Secret %+v", got)
		}
		return
	}
	n.follow(f)
	for name, want := range c.Want {
		got := r.read(name)
		if got == nil {
			t.Fatalf("no Secret %s\n%s", name, n.log)
		}
		if string(got.Type) != want.Type || len(got.Data) != len(want.Data) {
			t.Errorf("Secret %s of type %s with %d keys", name, got.Type, len(got.Data))
		}
		for key, text := range want.Data {
			if string(got.Data[key]) != pair.Replace(text) {
				t.Errorf("key %s of Secret %s is %q", key, name, got.Data[key])
			}
		}
		for what, maps := range map[string][2]map[string]string{"labels": {got.Labels, want.Labels}, "annotations": {got.Annotations, want.Annotations}} {
			if !contains(maps[0], maps[1]) {
				t.Errorf("%s of Secret %s: %v, want %v", what, name, maps[0], maps[1])
			}
		}
	}
}

func contains(all, some map[string]string) bool {
	merged := maps.Clone(all)
	maps.Copy(merged, some)
	return maps.Equal(all, merged)
}

// newPair replaces the words for a certificate and its private key, both as PEM.
func newPair(t *testing.T) *strings.Replacer {
	t.Helper()
	authority, _, err := pki.NewAuthority("field")
	testkit.Must(t, err)
	pair, err := authority.Issue(pki.Identity{Name: "ingress"})
	testkit.Must(t, err)
	return strings.NewReplacer("$CERTIFICATE", string(pair.Cert), "$KEY", string(pair.Key))
}
