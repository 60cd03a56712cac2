package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/class/kube"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// watching sets up a source that watches db, whose role is r1.
func watching(t *testing.T, c kube.Config) *fixture {
	t.Helper()
	f := setUp(t, c)
	f.api.put(db, "r1")
	f.source.Retain(db)
	f.run()
	f.opened()
	return f
}

func TestRetainedComesFromMemory(t *testing.T) {
	f := watching(t, kube.Config{})
	for range 100 {
		f.role("r1")
	}
	f.asked(1, 1)

	f.api.put(db, "r2")
	f.changed()
	f.role("r2")
	f.asked(1, 1)

	f.api.remove(db)
	f.changed()
	f.refused(fault.ClassNotFound, "failed to get secretproviderclass shop/db")

	f.api.put(db, "r3")
	f.changed()
	f.role("r3")
	f.unchanged()
	f.asked(2, 1) // a class that is gone is asked for, lest it was just created
}

// TestPublish does what a publish does: retain, then get. It costs one list
// and one watch, whichever comes first.
func TestPublish(t *testing.T) {
	f := setUp(t, kube.Config{})
	f.api.put(db, "r1")
	stop := f.run()
	gate := make(chan struct{})
	f.api.fault(func(_ http.ResponseWriter, r request, _ context.Context) bool {
		if !r.watch {
			<-gate
		}
		return false
	})
	f.source.Retain(db)
	got := make(chan error)
	go func() {
		_, err := f.source.Get(context.Background(), db)
		got <- err
	}()
	waiting(f, 2) // the watch, and Get
	close(gate)
	testkit.Must(t, testkit.Receive(f, got, "Get"))
	f.opened()
	f.asked(1, 1)
	f.source.Release(db)
	f.closed()
	stop()
	f.unchanged()
}

func TestRetainIsCounted(t *testing.T) {
	f := watching(t, kube.Config{})
	f.source.Retain(db)
	f.source.Release(db)
	f.api.put(db, "r2")
	f.changed()
	f.source.Release(db)
	f.closed()
	f.role("r2")
	f.asked(2, 1)
	f.source.Release(db) // once too often
	f.source.Retain(db)
	f.opened()
}

// TestLinger has pods follow one another: the next one makes no request.
func TestLinger(t *testing.T) {
	f := watching(t, kube.Config{Linger: time.Hour})
	f.source.Release(db)
	f.source.Release(db) // once too often
	f.api.put(db, "r2")
	f.changed()
	f.source.Retain(db)
	f.role("r2")
	f.asked(1, 1)
}

func TestLingerEnds(t *testing.T) {
	f := watching(t, kube.Config{Linger: time.Nanosecond})
	f.source.Release(db)
	f.closed()
	f.role("r1")
	f.asked(2, 1)
}

// TestLingerIsForClassesThatExist keeps a pod's author from leaving watches
// behind for names that never were.
func TestLingerIsForClassesThatExist(t *testing.T) {
	f := setUp(t, kube.Config{Linger: time.Hour})
	f.source.Retain(db)
	f.run()
	f.opened()
	f.source.Release(db)
	f.closed()
}

func TestRunEnds(t *testing.T) {
	f := setUp(t, kube.Config{})
	f.source.Retain(db)
	stop := f.run()
	f.opened()
	if err := f.source.Run(t.Context()); err == nil {
		t.Error("Run ran twice")
	}
	stop()
	f.closed()
	f.source.Release(db)
	f.source.Retain(db) // no watch any more, and no panic
	f.asked(1, 1)
}

// TestEditBetweenGetAndWatch edits the class after Get has seen it and before
// the watch begins.
func TestEditBetweenGetAndWatch(t *testing.T) {
	f := setUp(t, kube.Config{})
	f.api.put(db, "r1")
	f.source.Retain(db)
	f.role("r1")
	f.api.put(db, "r2")
	f.run()
	f.changed()
	f.role("r2")
}

func TestCutWatchGoesOnWhereItWas(t *testing.T) {
	f := watching(t, kube.Config{})
	f.api.put(db, "r2")
	f.changed()
	reached := f.api.bookmark(db)
	f.api.put(class.Ref{Namespace: "shop", Name: "other"}, "r1") // not sent to this watch
	f.api.put(db, "r3")
	f.changed()
	bookmarked := f.api.bookmark(db)
	// The bookmark is read once the edit after it is.
	f.api.put(db, "r4")
	f.changed()
	if reached == bookmarked {
		t.Fatal("the double's versions stand still")
	}
	f.api.cut()
	f.closed()
	f.pause() // it had not lasted
	if q := f.opened(); q.version <= bookmarked {
		t.Errorf("resumed from %s, but %s had been reached", q.version, bookmarked)
	}
	f.asked(1, 2)
	f.unchanged()

	f.advance(time.Minute) // this one has lasted: no pause
	f.api.cut()
	f.closed()
	f.opened()
	f.api.put(db, "r5")
	f.changed()
	f.role("r5")
	f.asked(1, 3)
}

// TestBookmarkIsResumedFrom has other objects change while the class does not.
func TestBookmarkIsResumedFrom(t *testing.T) {
	f := watching(t, kube.Config{})
	for range 5 {
		f.api.put(class.Ref{Namespace: "shop", Name: "other"}, "r")
	}
	version := f.api.bookmark(db)
	f.advance(time.Minute)
	f.api.cut()
	for {
		if q := f.opened(); q.version == version {
			break
		}
		// The cut overtook the bookmark; it is sent again.
		f.api.cut()
	}
	f.unchanged()
}

func TestEditWhileCutOff(t *testing.T) {
	f := watching(t, kube.Config{})
	f.api.cut()
	f.closed()
	f.api.put(db, "r2")
	testkit.Receive(f, f.pausing, "a pause")
	f.role("r2") // not live: asked for
	f.pause()
	f.opened()
	f.changed()
	f.role("r2")
	f.asked(2, 2)
}

func TestTooOldVersion(t *testing.T) {
	for name, refuse := range map[string]func(http.ResponseWriter){"when opened": expired, "when open": expiredEvent} {
		for _, edited := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, edited %t", name, edited), func(t *testing.T) {
				f := watching(t, kube.Config{})
				var once atomic.Bool
				f.api.fault(func(w http.ResponseWriter, r request, _ context.Context) bool {
					if !r.watch || once.Swap(true) {
						return false
					}
					refuse(w)
					return true
				})
				if edited {
					f.api.edit(db, func(*v1.SecretProviderClass) {}) // told before the cut, or found by the list
				}
				f.advance(time.Minute)
				f.api.cut()
				f.opened() // no pause before
				f.asked(2, 3)
				if edited {
					f.changed()
				}
				f.role("r1")
				f.unchanged()
			})
		}
	}
}

// TestCompaction has a watch end after its version was compacted.
func TestCompaction(t *testing.T) {
	f := watching(t, kube.Config{})
	f.api.compact()
	f.advance(time.Minute)
	f.api.cut()
	f.opened()
	f.asked(2, 3)
	f.api.put(db, "r2")
	f.changed()
	f.role("r2")
}

// TestNoHotLoop has every watch fail: each attempt waits, and longer.
func TestNoHotLoop(t *testing.T) {
	refuse := func(code int, reason metav1.StatusReason) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "9")
			status(w, code, reason, "no")
		}
	}
	for name, tc := range map[string]struct {
		answer  func(http.ResponseWriter)
		atLeast time.Duration
		quick   int // how many go without a pause first
	}{
		"always too old":    {expired, 0, 1},
		"too old once open": {expiredEvent, 0, 1},
		"rate limited":      {refuse(429, metav1.StatusReasonTooManyRequests), 9 * time.Second, 0},
		"internal":          {refuse(500, metav1.StatusReasonInternalError), 9 * time.Second, 0},
		"forbidden":         {func(w http.ResponseWriter) { status(w, 403, metav1.StatusReasonForbidden, "no") }, 0, 0},
		"ends at once":      {func(w http.ResponseWriter) { w.Header().Set("Content-Type", "application/json") }, 0, 0},
		"cut at once":       {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 0, 0},
		"garbage":           {func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) }, 0, 0},
		"no version": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"type":"ADDED","object":{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"db"}}}`))
		}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t, kube.Config{})
			f.api.put(db, "r1")
			f.api.fault(func(w http.ResponseWriter, r request, _ context.Context) bool {
				if r.watch {
					tc.answer(w)
				}
				return r.watch
			})
			f.source.Retain(db)
			f.run()
			for i := range 8 {
				d := f.pause()
				if _, watches := f.api.counts(); watches > i+2+tc.quick {
					t.Fatalf("%d watches after %d pauses", watches, i)
				}
				if least := min(250*time.Millisecond<<i, 15*time.Second) + tc.atLeast; d < least || d > 30*time.Second+tc.atLeast {
					t.Errorf("pause %d is %s, want %s at least", i+1, d, least)
				}
			}
			f.role("r1")
		})
	}
}

func TestPause(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: 500 * time.Millisecond, 2: time.Second, 6: 16 * time.Second, 7: 30 * time.Second, 1000000: 30 * time.Second} {
		if low, high := kube.Pause(failures, 0, 1), kube.Pause(failures, 0, 0); low != want/2 || high != want {
			t.Errorf("after %d failures from %s to %s, want %s to %s", failures, low, high, want/2, want)
		}
	}
	if d := kube.Pause(1, time.Minute, 0); d < time.Minute {
		t.Errorf("%s is less than the server asked for", d)
	}
}

// TestServerDown stops the API server while a class is in use, edits the class, and starts the server
// again.
func TestServerDown(t *testing.T) {
	f := watching(t, kube.Config{Timeout: testkit.Patience})
	f.advance(time.Minute)
	f.api.down()
	f.pause()
	for range 100 {
		f.role("r1")
	}
	f.advance(time.Minute)
	f.role("r1") // asks again, in vain
	testkit.Equal(t, "times that the log says it", f.logs.Count("the API server does not answer"), 1)
	testkit.Failure(f.source.Get(t.Context(), class.Ref{Namespace: "shop", Name: "other"}))(t, fault.Unavailable)

	f.api.put(db, "r2")
	f.api.up()
	f.advance(time.Minute)
	f.role("r2") // asks, and wakes the watch
	f.opened()
	f.changed()
	f.role("r2")
	testkit.Equal(t, "times that the log says it", f.logs.Count("the API server answers again"), 1)
}

// TestServerDownFromTheStart is a driver that restarts during an outage.
func TestServerDownFromTheStart(t *testing.T) {
	f := setUp(t, kube.Config{})
	f.api.put(db, "r1")
	f.api.down()
	f.source.Retain(db)
	f.run()
	f.pause()
	f.refused(fault.Unavailable, "failed to get secretproviderclass shop/db: ")
	f.api.up()
	f.role("r1") // and wakes the watch
	f.opened()
	f.api.put(db, "r2")
	f.changed()
	f.role("r2")
}

// TestServerHangs has the API server take requests and never answer.
func TestServerHangs(t *testing.T) {
	f := watching(t, kube.Config{Timeout: 200 * time.Millisecond})
	f.api.fault(func(_ http.ResponseWriter, _ request, ctx context.Context) bool {
		<-ctx.Done()
		return true
	})
	f.advance(time.Minute)
	f.api.cut() // the watch cannot be opened again
	f.pause()
	f.role("r1")
	lists, _ := f.api.counts()
	f.advance(time.Minute)
	f.role("r1") // asks in vain, and falls back
	for range 100 {
		f.role("r1") // does not even ask
	}
	if now, _ := f.api.counts(); now > lists+1 {
		t.Errorf("%d lists of a server that hangs", now-lists)
	}
}

// TestForbiddenLater removes the right to read a class in use: the class stays.
func TestForbiddenLater(t *testing.T) {
	f := watching(t, kube.Config{})
	f.api.fault(func(w http.ResponseWriter, _ request, _ context.Context) bool {
		status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "no")
		return true
	})
	f.api.cut()
	f.pause()
	f.role("r1")
	f.pause()
	if f.logs.Count("level=WARN") == 0 {
		t.Error("nothing was logged")
	}
}

// TestOnVersionHoldsNoLock calls back into the source, as the volumes do.
func TestOnVersionHoldsNoLock(t *testing.T) {
	api := newDouble(t)
	api.put(db, "r1")
	got := make(chan string)
	var source *kube.Source
	source, err := kube.New(kube.Config{REST: api.config(), OnVersion: func(r class.Ref, version string) {
		source.Retain(r)
		c, err := source.Get(context.Background(), r)
		source.Release(r)
		got <- fmt.Sprint(c.Parameters["roleName"], err, version == c.ResourceVersion)
	}})
	testkit.Must(t, err)
	f := &fixture{T: t, api: api, source: source}
	source.Retain(db)
	f.run()
	for _, role := range []string{"r1", "r2"} {
		api.put(db, role)
		testkit.Equal(t, "the version", testkit.Receive(f, got, "a version"), role+"<nil> true")
		if role == "r1" {
			f.opened()
		}
	}
}

// TestFirstSight: the source reports each retained class once, whether Get or the watch sees it first,
// and before any change of it.
func TestFirstSight(t *testing.T) {
	for name, first := range map[string]func(f *fixture){
		"by the watch": func(f *fixture) { f.run(); f.opened() },
		"by Get":       func(f *fixture) { f.role("r1"); f.run(); f.opened() },
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan string, 10)
			f := setUp(t, kube.Config{OnVersion: func(r class.Ref, version string) { seen <- r.String() + " " + version }})
			f.api.put(db, "r1")
			f.source.Retain(db)
			first(f)
			got := testkit.Receive(f, seen, "the first sight")
			c, err := f.source.Get(t.Context(), db)
			if err != nil || got != db.String()+" "+c.ResourceVersion {
				t.Errorf("told of %q, the class is %+v (%v)", got, c, err)
			}
			f.unchanged()
			f.api.put(db, "r2")
			f.changed()
			if len(seen) > 0 {
				t.Errorf("told again of %s", <-seen)
			}
		})
	}
}
