package scan_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const marker = "the-plaintext"

// sealed is a value under a KMS provider.
func sealed(name, keyID string) []byte {
	b := []byte("k8s:enc:kms:v2:" + name + ":")
	for i, field := range []string{"sealed", keyID, "vault:v1:seed"} {
		b = protowire.AppendString(protowire.AppendTag(b, protowire.Number(i+1), protowire.BytesType), field)
	}
	return protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), 1)
}

func plain() []byte { return []byte("k8s\x00" + marker) }

// memory is a source in memory.
type memory map[string][]byte

func (m memory) Each(_ context.Context, prefixes []string, visit func(string, []byte)) error {
	for key, value := range m {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
			visit(key, value)
		}
	}
	return nil
}

func (memory) Revision() int64 { return 7 }
func (memory) String() string  { return "memory" }

func options(keyIDs ...string) scan.Options {
	return scan.Options{
		Keys: scan.NewKeys("/registry"), Resources: scan.Selection{"secrets", "configmaps"}, Names: 3,
		Want: func(r scan.Resource) (scan.Want, bool) {
			return scan.Want{Name: "mayfly", KeyIDs: keyIDs}, r.Name == "secrets"
		},
		Version: func(v stored.Value) (int, bool) { return 1, v.Provider == stored.KMSv2 },
	}
}

func TestRun(t *testing.T) {
	source := memory{
		"/registry/secrets/a/new1":    sealed("mayfly", "id-2"),
		"/registry/secrets/a/new2":    sealed("mayfly", "id-2"),
		"/registry/secrets/a/new3":    sealed("mayfly", "id-2"),
		"/registry/secrets/a/old1":    sealed("mayfly", "id-1"),
		"/registry/secrets/a/old2":    sealed("mayfly", "id-1"),
		"/registry/secrets/b/plain":   plain(),
		"/registry/secrets/b/damaged": []byte("k8s:enc:kms:v2:mayfly:\xff" + marker),
		"/registry/configmaps/a/b":    plain(), // not judged
		"/registry/pods/a/b":          plain(),
	}
	got, err := scan.Run(t.Context(), source, options("id-2"))
	testkit.Must(t, err)
	under := func(name, id string, n int, wanted bool) scan.Under {
		return scan.Under{Provider: stored.KMSv2, Name: name, KeyID: id, Version: 1, Values: n, Wanted: wanted}
	}
	if len(got.Resources) != 1 {
		t.Fatalf("%+v", got)
	}
	f := got.Resources[0]
	if len(f.Under) != 4 || !reflect.DeepEqual(f.Under[:2], []scan.Under{under("mayfly", "id-2", 3, true), under("mayfly", "id-1", 2, false)}) {
		t.Errorf("under %+v", f.Under)
	}
	if f.Values != 7 || f.StragglerCount != 4 || len(f.Stragglers) != 3 || got.Stragglers() != 4 || got.Values() != 7 || got.Revision != 7 {
		t.Errorf("%+v", got)
	}
	if text := fmt.Sprintf("%+v", got); strings.Contains(text, marker) {
		t.Errorf("the plaintext is in %s", text)
	}
}

// TestRunWithoutKeyID: where the current key id is not known, every value under
// the provider is as wanted, and no other.
func TestRunWithoutKeyID(t *testing.T) {
	source := memory{
		"/registry/secrets/a/1": sealed("mayfly", "id-1"),
		"/registry/secrets/a/2": sealed("mayfly", "id-2"),
		"/registry/secrets/a/3": sealed("other", "id-2"),
	}
	got, err := scan.Run(t.Context(), source, options())
	testkit.Must(t, err)
	if f := got.Resources[0]; !slices.Equal(f.Stragglers, []string{"a/3"}) {
		t.Errorf("%+v", f)
	}
}

// TestRunIsBounded: untrusted content of etcd does not fill the memory.
func TestRunIsBounded(t *testing.T) {
	source := memory{}
	for i := range 3000 {
		source[fmt.Sprintf("/registry/secrets/a/%d", i)] = sealed("mayfly", fmt.Sprintf("id-%d", i))
	}
	got, err := scan.Run(t.Context(), source, options("id"))
	testkit.Must(t, err)
	f, sum := got.Resources[0], 0
	for _, u := range f.Under {
		sum += u.Values
	}
	if len(f.Under) > 1001 || len(f.Stragglers) != 3 || f.StragglerCount != 3000 || sum != 3000 {
		t.Errorf("%d lines of %d values, %d names, %d stragglers", len(f.Under), sum, len(f.Stragglers), f.StragglerCount)
	}
}
