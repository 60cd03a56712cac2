package session_test

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// TestAnswersAreCharged: what volumes share gives way to what one needs, and
// nothing stays charged that is not kept.
func TestAnswersAreCharged(t *testing.T) {
	b := budget.New(budget.Limits{Node: 250})
	shared := session.NewCache[*answer](b, budget.Owner{Namespace: "shop"})
	own := session.NewCache[*answer](b, budget.Owner{Namespace: "shop", Volume: "v"})
	rd := &answer{start}
	for i, step := range []struct {
		do    func() bool
		kept  bool
		bytes int64
	}{
		{func() bool { return shared.Put("a", rd) }, true, 100},
		{func() bool { return shared.Put("b", rd) }, true, 200},
		{func() bool { return own.Put("a", rd) }, true, 200}, // shared a goes
		{func() bool { return shared.Last("a") == nil && shared.Last("b") == rd }, true, 200},
		{func() bool { return own.Put("b", rd) }, true, 200}, // shared b goes
		{func() bool { return own.Put("c", rd) }, false, 200},
		{func() bool { return shared.Put("c", rd) }, false, 200},
		{func() bool { return own.Put("a", &answer{start.Add(time.Second)}) }, false, 100}, // and the outdated one goes
		{func() bool { own.Retain(map[string]bool{}); return len(own.All()) == 0 }, true, 0},
		{func() bool { own.Close(); own.Put("a", rd); return own.Last("a") == nil }, true, 0},
	} {
		if got := step.do(); got != step.kept || b.Usage().Total != step.bytes {
			t.Errorf("step %d: %v, %d bytes, want %v, %d", i, got, b.Usage().Total, step.kept, step.bytes)
		}
	}
}
