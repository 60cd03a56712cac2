package session

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// TestAnswersAreCharged: what volumes share gives way to what one needs, and
// nothing stays charged that is not kept.
func TestAnswersAreCharged(t *testing.T) {
	b := budget.New(budget.Limits{Node: 640})
	shared := newCache(b, budget.Owner{Namespace: "shop"})
	own := newCache(b, budget.Owner{Namespace: "shop", Volume: "v"})
	rd := askedAt(epoch)
	for i, step := range []struct {
		do    func() bool
		kept  bool
		bytes int64
	}{
		{func() bool { return shared.put("a", rd) }, true, 256},
		{func() bool { return shared.put("b", rd) }, true, 512},
		{func() bool { return own.put("a", rd) }, true, 512}, // shared a goes
		{func() bool { return shared.last("a") == nil && shared.last("b") == rd }, true, 512},
		{func() bool { return own.put("b", rd) }, true, 512}, // shared b goes
		{func() bool { return own.put("c", rd) }, false, 512},
		{func() bool { return shared.put("c", rd) }, false, 512},
		{func() bool { return own.put("a", askedAt(epoch.Add(time.Second))) }, false, 256}, // and the outdated one goes
		{func() bool { own.retain(map[string]bool{}); return len(own.all()) == 0 }, true, 0},
		{func() bool { own.close(); own.put("a", rd); return own.last("a") == nil }, true, 0},
	} {
		if got := step.do(); got != step.kept || b.Usage().Total != step.bytes {
			t.Errorf("step %d: %v, %d bytes, want %v, %d", i, got, b.Usage().Total, step.kept, step.bytes)
		}
	}
}
