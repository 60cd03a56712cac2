package budget_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var (
	a1 = budget.Owner{Namespace: "a", Volume: "1"}
	a2 = budget.Owner{Namespace: "a", Volume: "2"}
	b1 = budget.Owner{Namespace: "b", Volume: "1"}
)

func TestLevels(t *testing.T) {
	for _, tc := range []struct {
		name   string
		owner  budget.Owner
		bytes  int64
		reason fault.Reason
		says   string
	}{
		{"fits", b1, 40, "", ""},
		{"volume, never", b1, 51, fault.TooLarge, "memory of the volume"},
		{"volume, now", a1, 31, fault.Exhausted, "--volume-memory-limit"},
		{"namespace, now", a2, 41, fault.Exhausted, "memory of the namespace a: 20 of 60 bytes"},
		{"namespace, never", budget.Owner{Namespace: "b"}, 61, fault.TooLarge, "--namespace-memory-limit"},
		{"node, now", b1, 50, fault.Exhausted, "--memory-budget"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := budget.New(budget.Limits{Node: 65, Namespace: 60, Volume: 50})
			testkit.Value(b.Acquire(a1, budget.Contents, 20))(t)
			_, err := b.Acquire(tc.owner, budget.Answers, tc.bytes)
			if tc.reason == "" {
				testkit.Must(t, err)
				return
			}
			testkit.Fails(t, err, tc.reason, tc.says)
			if u := b.Usage(); u.Total != 20 || u.ByKind[budget.Answers] != 0 {
				t.Errorf("a refused charge counts: %+v", u)
			}
		})
	}
}

func TestResizeAndRelease(t *testing.T) {
	b := budget.New(budget.Limits{Node: 100})
	c := testkit.Value(b.Acquire(a1, budget.Contents, 10))(t)
	if err := c.Resize(101); fault.Of(err) != fault.TooLarge || c.Bytes() != 10 {
		t.Errorf("%v, charged %d", err, c.Bytes())
	}
	testkit.Must(t, c.Resize(100))
	if err := c.Resize(3); err != nil || b.Usage().Total != 3 {
		t.Error(err, b.Usage())
	}
	c.Release()
	c.Release()
	if err := c.Resize(5); err != nil || b.Usage().Total != 0 {
		t.Error("a released charge counts:", err, b.Usage())
	}
}

// TestCachesGiveWay fills the levels with caches and then acquires.
func TestCachesGiveWay(t *testing.T) {
	b := budget.New(budget.Limits{Node: 100, Namespace: 60})
	var dropped []string
	keep := func(o budget.Owner, name string, n int64) *budget.Charge {
		t.Helper()
		return testkit.Value(b.AcquireCache(o, n, func() { dropped = append(dropped, name) }))(t)
	}
	keep(a1, "a-old", 20)
	used := keep(a2, "a-used", 20)
	keep(b1, "b", 20)
	keep(a2, "a-new", 20)
	used.Used()
	if _, err := b.Acquire(a1, budget.Contents, 30); err != nil { // the namespace is full
		t.Fatal(err)
	}
	testkit.Equal(t, "dropped", strings.Join(dropped, " "), "a-old a-new")
	if _, err := b.Acquire(b1, budget.Contents, 60); err != nil { // the node is full
		t.Fatal(err)
	}
	if u := b.Usage(); u.ByKind[budget.Cache] != 0 || u.Total != 90 {
		t.Errorf("%+v, dropped %q", u, dropped)
	}
	testkit.Failure(b.AcquireCache(b1, 61, func() {}))(t, fault.TooLarge)
}

// TestAdopt charges memory beyond every limit: new charges are refused until there is space, and
// shrinking ones are not.
func TestAdopt(t *testing.T) {
	b := budget.New(budget.Limits{Node: 100, Namespace: 60, Volume: 50})
	c := b.Adopt(a1, budget.Contents, 120)
	if u := b.Usage(); u.Total != 120 {
		t.Fatalf("%+v", u)
	}
	testkit.Failure(b.Acquire(b1, budget.Contents, 1))(t, fault.Exhausted)
	if err := c.Resize(90); err != nil {
		t.Errorf("shrinking: %v", err)
	}
	if _, err := b.Acquire(b1, budget.Contents, 10); err != nil {
		t.Error(err)
	}
	c.Set(200)
	c.Release()
	c.Set(5)
	testkit.Equal(t, "bytes in use", b.Usage().Total, 10)
}

// TestRecords: the state has limits of its own, and also counts for the node.
func TestRecords(t *testing.T) {
	for _, tc := range []struct {
		name   string
		owner  budget.Owner
		kind   budget.Kind
		bytes  int64
		reason fault.Reason
		says   string
	}{
		{"fits", b1, budget.Records, 20, "", ""},
		{"namespace, now", a2, budget.Records, 11, fault.Exhausted, "--namespace-state-limit"},
		{"namespace, never", b1, budget.Records, 31, fault.TooLarge, "state of namespace b"},
		{"node, now", b1, budget.Records, 30, fault.Exhausted, "--state-size-limit"},
		{"another kind", a2, budget.Contents, 35, "", ""},
		{"counts for all", a2, budget.Contents, 41, fault.Exhausted, "--namespace-memory-limit"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := budget.New(budget.Limits{Node: 100, Namespace: 60, Records: budget.Share{Node: 45, Namespace: 30}})
			testkit.Value(b.Acquire(a1, budget.Records, 20))(t)
			_, err := b.Acquire(tc.owner, tc.kind, tc.bytes)
			if tc.reason == "" && err != nil || tc.reason != "" && (fault.Of(err) != tc.reason || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%v, want %s %q", err, tc.reason, tc.says)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	b := budget.New(budget.Limits{})
	b.Adopt(a1, budget.Records, 3)
	var told []int64
	b.Follow(10, func(n int64) { told = append(told, n) }, budget.Contents, budget.Records)
	c := b.Adopt(a1, budget.Contents, 9)
	b.Adopt(a2, budget.Answers, 50)
	c.Set(10)
	c.Set(19)
	c.Set(25)
	c.Release()
	testkit.Equal(t, "told", told, []int64{3, 13, 28, 3})
}

func TestNothingIsLostAtOnce(t *testing.T) {
	b := budget.New(budget.Limits{Node: 1000, Namespace: 500, Volume: 300})
	var g sync.WaitGroup
	for i := range 8 {
		o := []budget.Owner{a1, a2, b1}[i%3]
		g.Go(func() {
			for range 200 {
				kept, _ := b.AcquireCache(o, 90, func() {})
				c, err := b.Acquire(o, budget.Answers, 50)
				if err == nil {
					_ = c.Resize(120)
					c.Release()
				}
				kept.Release()
			}
		})
	}
	g.Wait()
	if u := b.Usage(); u.Total != 0 || u.ByKind[budget.Answers] != 0 {
		t.Errorf("left: %+v", u)
	}
}

func TestNilRefusesNothing(t *testing.T) {
	var b *budget.Budget
	c, err := b.Acquire(a1, budget.Contents, 1<<60)
	if err != nil || c.Resize(1<<61) != nil || c.Bytes() != 0 {
		t.Error(err)
	}
	c.Used()
	c.Set(1)
	c.Release()
	b.Adopt(a1, budget.Contents, 1).Release()
	b.Follow(1, func(int64) { t.Error("a nil Budget tells of bytes") }, budget.Contents)
	testkit.Equal(t, "bytes in use", b.Usage().Total, 0)
}
