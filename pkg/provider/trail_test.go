package provider_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider"
)

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
	if !slices.Equal(first, []string{"b", "a"}) {
		t.Errorf("the trail holds %q", first)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { provider.Asked(ctx, "c") })
	}
	wg.Wait()
	if got := trail.IDs(); !slices.Equal(got, []string{"b", "a", "c"}) || len(first) != 2 {
		t.Errorf("the trail holds %q, it was %q", got, first)
	}
}
