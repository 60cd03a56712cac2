package cache_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/provider/session/cache"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// answer is one of 256 bytes.
type answer struct{ asked time.Time }

func (a *answer) Size() int64        { return 256 }
func (a *answer) AskedAt() time.Time { return a.asked }

func askedAt(at time.Time) *answer { return &answer{at} }

func TestAnswers(t *testing.T) {
	old, young := askedAt(epoch), askedAt(epoch.Add(time.Second))
	var r cache.Cache[*answer]
	if r.Last("a") != nil {
		t.Error("nothing is something")
	}
	r.Put("a", young)
	r.Put("a", old)
	r.Put("b", old)
	if r.Last("a") != young || r.Last("b") != old {
		t.Error("an older answer took a newer one's place")
	}
	newest := askedAt(epoch.Add(time.Minute))
	r.Put("a", newest)
	all := r.All()
	r.Retain(map[string]bool{"a": true, "c": true})
	if r.Last("a") != newest || r.Last("b") != nil || len(all) != 2 || all["b"] != old {
		t.Errorf("have %v, had %v", r.All(), all)
	}
}

// TestRefusals: the cache gives a refused answer to no volume until the store has answered again, and
// keeps it for the files that have it.
func TestRefusals(t *testing.T) {
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	var r cache.Cache[*answer]
	a, b := askedAt(at(1)), askedAt(at(1))
	r.Put("a", a)
	r.Put("b", b)
	r.Refuse("a", at(2))
	r.Refuse("a", at(1)) // told late
	if r.Last("a") != nil || r.Stored("a") != a || r.Last("b") != b || r.Allows("a", at(2)) || !r.Allows("a", at(3)) || !r.Allows("b", at(1)) {
		t.Errorf("a was refused: %v, %v, %v", r.Last("a"), r.Stored("a"), r.Last("b"))
	}
	again := askedAt(at(3))
	r.Put("a", again)
	if r.Last("a") != again {
		t.Error("what is answered again is not given")
	}
	r.Refuse(cache.Everything, at(4))
	if r.Last("a") != nil || r.Last("b") != nil || r.Allows("c", at(4)) || !r.Allows("c", at(5)) {
		t.Error("everything was refused")
	}
	r.Retain(map[string]bool{"b": true})
	if got := r.Refusals(); len(got) != 1 || !got[cache.Everything].Equal(at(4)) || r.Stored("a") != nil || r.Stored("b") != b {
		t.Errorf("kept are %v and %v", got, r.All())
	}
	r.DropRefused()
	if r.Stored("b") != nil {
		t.Error("what was dropped is held")
	}
	for i := range 10_000 {
		r.Refuse(fmt.Sprint(i), at(5))
	}
	if n := len(r.Refusals()); n > 5000 || r.Allows("1", at(5)) || r.Allows("9999", at(5)) {
		t.Errorf("%d refusals are kept", n)
	}
}

// TestCacheIsBounded keeps fewer answers than are put.
func TestCacheIsBounded(t *testing.T) {
	const many = 10_000
	var r cache.Cache[*answer]
	for i := range many {
		r.Put(fmt.Sprint(i), askedAt(epoch))
	}
	if len(r.All()) > many/2 || r.Last(fmt.Sprint(many-1)) == nil {
		t.Errorf("%d are cached", len(r.All()))
	}
}

// TestAnswersAreCharged: what volumes share gives way to what one needs, and only what is kept is
// charged.
func TestAnswersAreCharged(t *testing.T) {
	b := budget.New(budget.Limits{Node: 640})
	shared := cache.New[*answer](b, budget.Owner{Namespace: "shop"})
	own := cache.New[*answer](b, budget.Owner{Namespace: "shop", Volume: "v"})
	rd := askedAt(epoch)
	for i, step := range []struct {
		do    func() bool
		kept  bool
		bytes int64
	}{
		{func() bool { return shared.Put("a", rd) }, true, 256},
		{func() bool { return shared.Put("b", rd) }, true, 512},
		{func() bool { return own.Put("a", rd) }, true, 512}, // shared a goes
		{func() bool { return shared.Last("a") == nil && shared.Last("b") == rd }, true, 512},
		{func() bool { return own.Put("b", rd) }, true, 512}, // shared b goes
		{func() bool { return own.Put("c", rd) }, false, 512},
		{func() bool { return shared.Put("c", rd) }, false, 512},
		{func() bool { return own.Put("a", askedAt(epoch.Add(time.Second))) }, false, 256}, // and the outdated one goes
		{func() bool { own.Retain(map[string]bool{}); return len(own.All()) == 0 }, true, 0},
		{func() bool { own.Close(); own.Put("a", rd); return own.Last("a") == nil }, true, 0},
	} {
		if got := step.do(); got != step.kept || b.Usage().Total != step.bytes {
			t.Errorf("step %d: %v, %d bytes, want %v, %d", i, got, b.Usage().Total, step.kept, step.bytes)
		}
	}
}
