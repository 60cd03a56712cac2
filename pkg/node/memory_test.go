package node

import (
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

const mi = 1 << 20

func TestLimits(t *testing.T) {
	auto := Config{MemoryBudget: Auto, NamespaceMemory: Auto, VolumeMemory: Auto, NamespaceState: Auto, StateSize: 64 * mi}
	with := func(change func(*Config)) Config { c := auto; change(&c); return c }
	for _, tc := range []struct {
		name   string
		config Config
		limit  int64
		want   budget.Limits
	}{
		{"the chart's limit", auto, 192 * mi, budget.Limits{Node: 128 * mi, Namespace: 64 * mi, Volume: 128 * mi / 3}},
		{"much", auto, 1024 * mi, budget.Limits{Node: 768 * mi, Namespace: 384 * mi, Volume: 256 * mi}},
		{"little", auto, 60 * mi, budget.Limits{Node: 20 * mi, Namespace: 10 * mi, Volume: 20 * mi / 3}},
		{"no limit", auto, 0, budget.Limits{}},
		{"no limit, and a budget", with(func(c *Config) { c.MemoryBudget = 30 * mi }), 0, budget.Limits{Node: 30 * mi, Namespace: 15 * mi, Volume: 10 * mi}},
		{"no budget", with(func(c *Config) { c.MemoryBudget = 0 }), 192 * mi, budget.Limits{}},
		{"all given", with(func(c *Config) { c.MemoryBudget, c.NamespaceMemory, c.VolumeMemory = 3, 2, 0 }), 192 * mi, budget.Limits{Node: 3, Namespace: 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Records = budget.Share{Node: 56 * mi, Namespace: 16 * mi}
			if got := tc.config.limits(tc.limit); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// The heap and everything that the budget allows outside of it fit the limit.
func TestHeapLimit(t *testing.T) {
	for _, limit := range []int64{192 * mi, 256 * mi, 1024 * mi, 16384 * mi} {
		most := budgetFor(limit)
		for _, outside := range []int64{0, most / 2, most} {
			if heap := heapLimit(limit, outside); heap+outside > limit || heap < 48*mi {
				t.Errorf("under %d Mi with %d Mi in files the heap may take %d Mi", limit/mi, outside/mi, heap/mi)
			}
		}
	}
	if heap := heapLimit(192*mi, 500*mi); heap != 48*mi {
		t.Errorf("beyond the limit the heap may take %d Mi", heap/mi)
	}
}
