package bounded_test

import (
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
)

func TestMapIsBounded(t *testing.T) {
	const many = 10_000
	for most, want := range map[int]int{0: 4096, 100: 100} {
		m := bounded.Map[int, string]{Most: most}
		for i := range many {
			m.Set(i, "x")
		}
		known := 0
		for i := range many {
			if m.Has(i) {
				known++
			}
		}
		if known > want || !m.Has(many-1) {
			t.Errorf("%d of %d are remembered, want at most %d and the last", known, many, want)
		}
		m.Set(1, "one")
		if v, ok := m.Get(1); v != "one" || !ok {
			t.Errorf("got %q", v)
		}
		if m.Forget(1); m.Has(1) {
			t.Error("not forgotten")
		}
	}
}
