package provider_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func classOf(uid, name string) *class.Class {
	return &class.Class{UID: uid, Ref: class.Ref{Namespace: "shop", Name: name}}
}

// TestVersionIsTheSameOnEveryNode has two nodes and whatever must tell versions
// apart.
func TestVersionIsTheSameOnEveryNode(t *testing.T) {
	var here, there provider.Hasher
	seen := map[string]string{}
	for name, version := range map[string]func(h *provider.Hasher) string{
		"plain":          func(h *provider.Hasher) string { return h.Version(classOf("u", "a"), "o", []byte("s")) },
		"other contents": func(h *provider.Hasher) string { return h.Version(classOf("u", "a"), "o", []byte("t")) },
		"other object":   func(h *provider.Hasher) string { return h.Version(classOf("u", "a"), "p", []byte("s")) },
		"other class":    func(h *provider.Hasher) string { return h.Version(classOf("u", "b"), "o", []byte("s")) },
		"class anew":     func(h *provider.Hasher) string { return h.Version(classOf("v", "a"), "o", []byte("s")) },
		"in two parts":   func(h *provider.Hasher) string { return h.Version(classOf("u", "a"), "o", []byte("s"), nil) },
	} {
		a, b := version(&here), version(&there)
		if a != b || a != version(&here) || len(a) != 24 {
			t.Errorf("%s: %q here, %q there", name, a, b)
		}
		if other, ok := seen[a]; ok {
			t.Errorf("%s has the version of %s", name, other)
		}
		seen[a] = name
	}
}

func TestVersionsAtOnce(t *testing.T) {
	var h provider.Hasher
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() { h.Version(classOf("u", "a"), "o", []byte("s")) })
	}
	g.Wait()
}

func TestTrail(t *testing.T) {
	provider.Asked(t.Context(), "nobody listens")
	trail := &provider.Trail{}
	ctx, cancel := context.WithCancel(provider.WithTrail(t.Context(), trail))
	defer cancel()
	provider.Asked(ctx, "b")
	for _, id := range []string{"a", "b", ""} {
		provider.Asked(ctx, id)
	}
	first := trail.IDs()
	testkit.Equal(t, "the trail", first, []string{"b", "a"})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { provider.Asked(ctx, "c") })
	}
	wg.Wait()
	if got := trail.IDs(); !slices.Equal(got, []string{"b", "a", "c"}) || len(first) != 2 {
		t.Errorf("the trail holds %q, it was %q", got, first)
	}
}
