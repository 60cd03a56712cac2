package endpoint_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

func TestCircuits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	down := fault.New(fault.Unavailable, "down")
	record := func(b *endpoint.Breaker, o endpoint.Outcome, tenant, place string) {
		for range 3 {
			b.Record(now, o, endpoint.Caller{Namespace: "team", Tenant: tenant, Path: place + "\nof its engine"}, 0, down)
		}
	}
	for name, c := range map[string]struct {
		make func(b *endpoint.Breaker)
		want []string
	}{
		"none":   {func(b *endpoint.Breaker) { record(b, endpoint.Answered, "shop", "a") }, nil},
		"path":   {func(b *endpoint.Breaker) { record(b, endpoint.BrokenPath, "shop", "a") }, []string{"Path team shop a"}},
		"tenant": {func(b *endpoint.Breaker) { record(b, endpoint.Outage, "shop", "a") }, []string{"Tenant team shop "}},
		"all tenants": {
			func(b *endpoint.Breaker) {
				record(b, endpoint.Outage, "shop", "a")
				record(b, endpoint.Outage, "bank", "b")
			},
			[]string{"StoreNamespace team  ", "Tenant team bank ", "Tenant team shop "},
		},
		"paths together": {
			func(b *endpoint.Breaker) {
				for _, path := range []string{"a", "b", "c"} {
					b.Record(now, endpoint.BrokenPath, endpoint.Caller{Namespace: "team", Tenant: "shop", Path: path}, 0, down)
				}
			},
			[]string{"FailedPaths team shop "},
		},
		"server": {func(b *endpoint.Breaker) { record(b, endpoint.Unreachable, "shop", "a") }, []string{"Server   "}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &endpoint.Breaker{}
			c.make(b)
			var got []string
			open, all := b.Circuits(10)
			for _, o := range open {
				got = append(got, fmt.Sprintf("%s %s %s %s", o.Scope, o.Namespace, o.Tenant, o.Path))
				if o.Failures < 3 || !o.Since.Equal(now) || !o.ProbeAt.After(now) || o.Last != "down" {
					t.Errorf("%+v", o)
				}
			}
			if !slices.Equal(got, c.want) || all != len(c.want) {
				t.Errorf("%d circuits %q, want %q", all, got, c.want)
			}
		})
	}
}

func TestCircuitsAreBounded(t *testing.T) {
	b := &endpoint.Breaker{}
	now := time.Now()
	for i := range 100 {
		for range 3 {
			b.Record(now, endpoint.BrokenPath, endpoint.Caller{Tenant: "shop", Path: fmt.Sprint(i)}, 0, fault.New(fault.Unavailable, "down"))
		}
	}
	open, all := b.Circuits(stores.MaxCircuits)
	if len(open) != stores.MaxCircuits || all != 101 { // and the paths together
		t.Errorf("%d of %d", len(open), all)
	}
}
