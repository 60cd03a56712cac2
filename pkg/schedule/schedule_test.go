package schedule_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// shopAt is the work of one tenant at a store.
func shopAt(store string) schedule.Where { return schedule.Where{Store: store, Namespace: "shop"} }

// plan is a Scheduler at work, and what it began: "<id>@<time since then>".
type plan struct {
	*schedule.Scheduler
	began time.Time
	stop  func()

	mu    sync.Mutex
	begun []string
	late  []string
}

// newPlan runs do, which may be nil, for each due schedule.
func newPlan(t *testing.T, workers int, limit time.Duration, do func(ctx context.Context, id string)) *plan {
	t.Helper()
	p := &plan{Scheduler: schedule.New(), began: time.Now()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	p.stop = func() { cancel(); testkit.Must(t, <-done) }
	note := func(list *[]string, id string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		*list = append(*list, fmt.Sprintf("%s@%s", id, time.Since(p.began)))
	}
	w := schedule.Work{Workers: workers, Limit: limit, Late: func(id string) { note(&p.late, id) }, Do: func(ctx context.Context, id string) {
		note(&p.begun, id)
		if do != nil {
			do(ctx, id)
		}
	}}
	go func() { done <- p.Run(ctx, w) }()
	return p
}

// of are the entries that begin with a prefix.
func (p *plan) of(list *[]string, prefix string) (some []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range *list {
		if strings.HasPrefix(one, prefix) {
			some = append(some, one)
		}
	}
	return some
}

// A queue that is behind still moves. Stalled counts from the last work that began or ended.
func TestSchedulerStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := newPlan(t, 1, 30*24*time.Hour, func(context.Context, string) { <-gate })
		want := func(d time.Duration) {
			t.Helper()
			synctest.Wait()
			testkit.Equal(t, "stands still for", p.Stalled(time.Now()), d)
		}
		for i := range 5 {
			p.Set(fmt.Sprint(i), shopAt("vault"), time.Now())
		}
		p.Set("later", shopAt("akeyless"), time.Now().Add(24*time.Hour))
		for range 3 { // each takes its time, and the rest are ever later
			time.Sleep(9 * time.Minute)
			want(9 * time.Minute)
			gate <- struct{}{}
			want(0)
		}
		time.Sleep(time.Hour)
		want(time.Hour)
		close(gate)
		want(0) // nothing is due
		p.stop()
	})
}

func TestSchedulerOrderAndReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 1, time.Hour, nil)
		began := p.began
		p.Set("c", shopAt("vault"), began.Add(3*time.Second))
		p.Set("a", shopAt("vault"), began.Add(time.Hour))
		p.Set("b", shopAt("vault"), began.Add(2*time.Second))
		p.Set("gone", shopAt("vault"), began.Add(time.Second))
		p.Set("a", shopAt("vault"), began.Add(time.Second))      // brought forward
		p.Hasten("b", shopAt("vault"), began.Add(8*time.Second)) // which is no sooner
		p.Hasten("d", shopAt("vault"), began.Add(time.Hour))
		p.Hasten("d", shopAt("vault"), began.Add(4*time.Second))
		p.Remove("gone")
		p.Remove("unknown")
		time.Sleep(10 * time.Second) // in the bubble's time
		if got, want := p.of(&p.begun, ""), []string{"a@1s", "b@2s", "c@3s", "d@4s"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		p.stop()
	})
}

func TestSchedulerBoundsItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 4, time.Hour, func(context.Context, string) { time.Sleep(time.Second) }) // a slow store
		for i := range 50 {
			p.Set(fmt.Sprint(i), shopAt("vault"), p.began)
		}
		time.Sleep(time.Minute)
		all, at := p.of(&p.begun, ""), map[string]int{}
		for _, one := range all {
			_, when, _ := strings.Cut(one, "@")
			at[when]++
		}
		for when, n := range at {
			if n > 4 {
				t.Errorf("%d begun at %s, want at most 4", n, when)
			}
		}
		if len(all) != 50 || len(at) != 13 {
			t.Errorf("%d begun in %d rounds, want 50 in 13", len(all), len(at))
		}
		p.stop()
	})
}

// A store that hangs does not delay the volumes of another.
func TestSchedulerKeepsStoresApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 2, time.Hour, func(ctx context.Context, id string) {
			if strings.HasPrefix(id, "hangs") {
				<-ctx.Done()
			}
		})
		for i := range 20 {
			p.Set(fmt.Sprint("hangs", i), shopAt("plugin"), p.began)
		}
		p.Set("moved", shopAt("plugin"), p.began.Add(time.Second)) // its class has been edited
		p.Set("moved", shopAt("vault"), p.began.Add(2*time.Second))
		p.Set("a", shopAt("vault"), p.began.Add(time.Second))
		time.Sleep(time.Minute)
		got := append(p.of(&p.begun, "a"), p.of(&p.begun, "moved")...)
		testkit.Equal(t, "what was done", got, []string{"a@1s", "moved@2s"})
		p.stop()
		testkit.Equal(t, "begun of the store that hangs, and none after the stop", len(p.of(&p.begun, "hangs")), 2)
	})
}

// One tenant's many slow volumes take no turn of another's, at the same store.
func TestSchedulerNamespacesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 2, time.Minute, func(_ context.Context, id string) {
			if strings.HasPrefix(id, "evil") {
				time.Sleep(6 * time.Second)
			}
		})
		evil, good := schedule.Where{Store: "vault", Namespace: "evil"}, schedule.Where{Store: "vault", Namespace: "good"}
		for i := range 24 {
			p.Set(fmt.Sprint("evil", i), evil, p.began)
		}
		time.Sleep(time.Second)
		for i := range 3 { // due later, and at once all the same
			p.Set(fmt.Sprint("good", i), good, time.Now().Add(time.Duration(i)))
		}
		time.Sleep(time.Second)
		if got, want := p.of(&p.begun, "good"), []string{"good0@1s", "good1@1.000000001s", "good2@1.000000002s"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		testkit.Equal(t, "of the slow tenant at once", len(p.of(&p.begun, "evil")), 2)
		time.Sleep(time.Hour)
		testkit.Equal(t, "of the slow tenant in all", len(p.of(&p.begun, "evil")), 24)
		testkit.Equal(t, "queues, tenants and volumes are remembered that nothing uses", p.Known(), 0)
		p.stop()
	})
}

// What is free beyond the first of each goes to those with the fewest.
func TestSchedulerSharesWhatIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 4, time.Minute, func(context.Context, string) { time.Sleep(time.Second) })
		due := p.began.Add(time.Millisecond) // when all are set
		for i := range 40 {
			p.Set(fmt.Sprint("a", i), schedule.Where{Store: "vault", Namespace: "a"}, due)
		}
		for i := range 6 {
			p.Set(fmt.Sprint("b", i), schedule.Where{Store: "vault", Namespace: "b"}, due)
		}
		time.Sleep(2500 * time.Millisecond)
		testkit.Equal(t, "of b within three rounds", len(p.of(&p.begun, "b")), 6)
		testkit.Equal(t, "of a within three rounds", len(p.of(&p.begun, "a")), 6)
		time.Sleep(time.Minute)
		testkit.Equal(t, "queues, tenants and volumes are remembered that nothing uses", p.Known(), 0)
		p.stop()
	})
}

// A worker is given back when its time is over, whatever the work hangs in, and
// the volume is not worked on twice.
func TestSchedulerGivesWorkersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := newPlan(t, 2, time.Minute, func(_ context.Context, id string) {
			if strings.HasPrefix(id, "hangs") {
				<-gate
			}
		})
		evil, good := schedule.Where{Store: "vault", Namespace: "evil"}, schedule.Where{Store: "vault", Namespace: "good"}
		for i := range 10 {
			p.Set(fmt.Sprint("hangs", i), evil, p.began.Add(time.Duration(i)*time.Millisecond))
		}
		p.Set("ok", evil, p.began.Add(3*time.Minute))
		time.Sleep(90 * time.Second)
		p.Set("hangs0", evil, time.Now()) // it is still worked on
		p.Set("good", good, time.Now())
		time.Sleep(time.Hour)
		if got, want := p.of(&p.begun, "hangs"), []string{"hangs0@0s", "hangs1@1ms", "hangs2@1m0s", "hangs3@1m0.001s"}; !slices.Equal(sorted(got), want) {
			t.Errorf("begun: %v, want %v, and no more of what does not end", got, want)
		}
		if got, want := p.of(&p.late, ""), []string{"hangs0@1m0s", "hangs1@1m0.001s", "hangs2@2m0s", "hangs3@2m0.001s"}; !slices.Equal(sorted(got), want) {
			t.Errorf("late: %v, want %v", got, want)
		}
		if got, want := p.of(&p.begun, "good"), []string{"good@1m30s"}; !slices.Equal(got, want) {
			t.Errorf("another tenant: %v, want %v", got, want)
		}
		p.Set("good", good, time.Now())
		synctest.Wait()
		testkit.Equal(t, "stands still, while another tenant's work goes on", p.Stalled(time.Now()), 0)
		time.Sleep(time.Hour)
		testkit.Equal(t, "stands still, as nothing moves at all", p.Stalled(time.Now()), time.Hour)
		close(gate)
		synctest.Wait()
		testkit.Equal(t, "begun: all 10, and one of them again", len(p.of(&p.begun, "hangs")), 11)
		testkit.Equal(t, "begun of the tenant's other volume once they ended", len(p.of(&p.begun, "ok")), 1)
		testkit.Equal(t, "queues, tenants and volumes are remembered that nothing uses", p.Known(), 0)
		p.stop()
	})
}

func sorted(list []string) []string { slices.Sort(list); return list }

// What is set while a volume is worked on counts once that has ended.
func TestSchedulerSetsWhatIsWorkedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlan(t, 2, time.Minute, func(context.Context, string) { time.Sleep(10 * time.Second) })
		p.Set("a", shopAt("vault"), p.began)
		p.Set("b", shopAt("vault"), p.began)
		time.Sleep(time.Second)
		p.Set("a", shopAt("elsewhere"), time.Now())
		p.Hasten("a", shopAt("elsewhere"), p.began.Add(time.Hour))
		p.Set("b", shopAt("vault"), time.Now())
		p.Remove("b")
		time.Sleep(time.Hour)
		if got, want := p.of(&p.begun, "a"), []string{"a@0s", "a@10s"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if got, want := p.of(&p.begun, "b"), []string{"b@0s"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		testkit.Equal(t, "queues, tenants and volumes are remembered that nothing uses", p.Known(), 0)
		p.stop()
	})
}

// A stop does not wait for ever for work that does not end.
func TestSchedulerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		p := newPlan(t, 2, time.Hour, func(context.Context, string) { <-gate })
		p.Set("a", shopAt("vault"), p.began)
		time.Sleep(time.Second)
		p.stop()
		if took := time.Since(p.began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
		close(gate)
		synctest.Wait()
	})
}

func TestQueues(t *testing.T) {
	now := time.Now()
	s := schedule.New()
	s.Set("a", schedule.Where{Store: "vault", Namespace: "shop"}, now.Add(-time.Second))
	s.Set("b", schedule.Where{Store: "vault", Namespace: "bank"}, now.Add(time.Minute))
	s.Set("c", schedule.Where{Store: "aws", Namespace: "shop"}, now.Add(time.Minute))
	want := map[string]schedule.Queue{
		"vault": {Store: "vault", Namespaces: 2, Waiting: 2, Overdue: 1, NextAt: now.Add(-time.Second)},
		"aws":   {Store: "aws", Namespaces: 1, Waiting: 1, NextAt: now.Add(time.Minute)},
	}
	got := s.QueuesAt(now)
	if len(got) != 2 {
		t.Errorf("%+v", got)
	}
	for _, q := range got {
		testkit.Equal(t, "the queue of "+q.Store, q, want[q.Store])
	}
}
