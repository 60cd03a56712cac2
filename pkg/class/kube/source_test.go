package kube_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/class/kube"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var db = class.Ref{Namespace: "shop", Name: "db"}

// fixture is a source before a double, with a clock that the test sets. A
// pause of the source lasts until the test takes it from pauses.
type fixture struct {
	*testing.T
	api     *double
	source  *kube.Source
	logs    *testkit.Log
	changes chan class.Ref // told of, but for the first sight of each
	pausing chan struct{}  // told when a pause begins
	pauses  chan time.Duration

	mu  sync.Mutex
	now time.Time
}

func setUp(t *testing.T, c kube.Config) *fixture {
	t.Helper()
	f := &fixture{T: t, api: newDouble(t), logs: &testkit.Log{}, changes: make(chan class.Ref, 1000), pausing: make(chan struct{}, 1<<16), pauses: make(chan time.Duration), now: time.Unix(1e9, 0)}
	if c.REST == nil {
		c.REST = f.api.config()
	}
	c.Logger = slog.New(slog.NewTextHandler(f.logs, nil))
	first, known := c.OnVersion, sync.Map{}
	c.OnVersion = func(r class.Ref, version string) {
		if _, again := known.LoadOrStore(r, true); again {
			f.changes <- r
		} else if first != nil {
			first(r, version)
		}
	}
	var err error
	if f.source, err = kube.New(c); err != nil {
		t.Fatal(err)
	}
	f.source.SetTime(f.time, func(ctx context.Context, d time.Duration, wake <-chan struct{}) {
		f.pausing <- struct{}{}
		select {
		case <-ctx.Done():
		case <-wake:
		case f.pauses <- d:
		}
	})
	return f
}

func (f *fixture) time() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func (f *fixture) run() (stop func()) { return testkit.Background(f, f.source.Run) }

func (f *fixture) opened() request { f.Helper(); return testkit.Receive(f, f.api.opened, "a watch") }
func (f *fixture) closed() request {
	f.Helper()
	return testkit.Receive(f, f.api.closed, "the end of a watch")
}
func (f *fixture) changed()             { f.Helper(); testkit.Receive(f, f.changes, "a change") }
func (f *fixture) pause() time.Duration { f.Helper(); return testkit.Receive(f, f.pauses, "a pause") }

// unchanged checks that no change was told; a later event must have been.
func (f *fixture) unchanged() {
	f.Helper()
	select {
	case r := <-f.changes:
		f.Errorf("told of a change of %s", r)
	default:
	}
}

func (f *fixture) role(want string) {
	f.Helper()
	c, err := f.source.Get(f.Context(), db)
	if err != nil {
		f.Fatalf("getting %s: %v", db, err)
	}
	if got := c.Parameters["roleName"]; got != want {
		f.Errorf("got role %q, want %q", got, want)
	}
}

func (f *fixture) refused(reason fault.Reason, texts ...string) error {
	f.Helper()
	c, err := f.source.Get(f.Context(), db)
	if err == nil {
		f.Fatalf("got %+v, want a refusal", c)
	}
	testkit.Fails(f, err, reason, texts...)
	return err
}

func (f *fixture) asked(lists, watches int) {
	f.Helper()
	if l, w := f.api.counts(); l != lists || w != watches {
		f.Errorf("asked for %d lists and %d watches, want %d and %d", l, w, lists, watches)
	}
}

func TestNew(t *testing.T) {
	if _, err := kube.New(kube.Config{}); err == nil {
		t.Error("no API server was accepted")
	}
	for want, qps := range map[float32]float32{50: 0, 7: 7} {
		s := testkit.Value(kube.New(kube.Config{REST: &rest.Config{Host: "http://127.0.0.1:1", QPS: 5}, QPS: qps}))(t)
		testkit.Equal(t, "requests a second", s.Rate(), want)
	}
}

func TestGet(t *testing.T) {
	f := setUp(t, kube.Config{})
	f.refused(fault.ClassNotFound, "failed to get secretproviderclass shop/db: ", `"db" not found`, "namespace of the pod, shop")
	f.api.put(db, "r1") // nothing is retained: the next Get asks again
	f.role("r1")
	c, err := f.source.Get(t.Context(), db)
	if err != nil || c.Ref != db || c.UID != "uid" || c.ResourceVersion != "101" || c.Provider != "vault" {
		t.Errorf("got %+v, %v", c, err)
	}
	f.api.put(db, "r2")
	f.role("r2")
	f.asked(4, 0)
}

func TestGetInvalid(t *testing.T) {
	f := setUp(t, kube.Config{})
	f.api.edit(db, func(o *v1.SecretProviderClass) { o.Spec.Parameters = map[string]string{"refreshInterval": "5"} })
	f.refused(fault.InvalidClass, "shop/db: spec.parameters.refreshInterval: Invalid value")
}

func TestGetOfAnImpossibleName(t *testing.T) {
	f := setUp(t, kube.Config{})
	for _, ref := range []class.Ref{
		{Namespace: "shop", Name: ""}, {Namespace: "", Name: "db"}, {Namespace: "shop", Name: "db,metadata.name!=x"},
		{Namespace: "../shop", Name: "db"}, {Namespace: "shop", Name: strings.Repeat("x", 300)}, {Namespace: "shop", Name: "a/b"},
	} {
		_, err := f.source.Get(t.Context(), ref)
		testkit.Fails(t, err, fault.ClassNotFound, "failed to get secretproviderclass")
		f.source.Retain(ref)
		f.source.Release(ref)
	}
	f.asked(0, 0)
}

func TestWarnsOncePerVersion(t *testing.T) {
	f := setUp(t, kube.Config{})
	odd := func(o *v1.SecretProviderClass) { o.Spec.Parameters = map[string]string{"refreshinterval": "5"} }
	for i := range 2 {
		f.api.edit(db, odd)
		for range 3 {
			testkit.Value(f.source.Get(t.Context(), db))(t)
		}
		if n := f.logs.Count("did you mean refreshInterval"); n != i+1 {
			t.Errorf("version %d: warned %d times", i, n)
		}
	}
}

func TestListFails(t *testing.T) {
	type answer = func(w http.ResponseWriter, r request, ctx context.Context) bool
	refuse := func(code int, reason metav1.StatusReason, text string) answer {
		return func(w http.ResponseWriter, _ request, _ context.Context) bool {
			if code == http.StatusTooManyRequests || code >= 500 {
				w.Header().Set("Retry-After", "7")
			}
			status(w, code, reason, text)
			return true
		}
	}
	for name, tc := range map[string]struct {
		answer answer
		reason fault.Reason
		text   string
		after  time.Duration
	}{
		"forbidden":    {refuse(403, metav1.StatusReasonForbidden, "no"), fault.NotAllowed, "needs the verbs list and watch on secretproviderclasses.secrets-store", 0},
		"unauthorized": {refuse(401, metav1.StatusReasonUnauthorized, "no"), fault.NotAllowed, "does not accept the driver's own credentials", 0},
		"no CRD":       {refuse(404, metav1.StatusReasonNotFound, "no"), fault.ClassNotFound, "is the CustomResourceDefinition", 0},
		"overloaded":   {refuse(429, metav1.StatusReasonTooManyRequests, "slow"), fault.RateLimited, "slow", 7 * time.Second},
		"internal":     {refuse(500, metav1.StatusReasonInternalError, "etcd is lost"), fault.Unavailable, "etcd is lost", 7 * time.Second},
		"unavailable":  {refuse(503, metav1.StatusReasonServiceUnavailable, "starting"), fault.Unavailable, "starting", 7 * time.Second},
		"bad request":  {refuse(400, metav1.StatusReasonBadRequest, "what"), fault.BadAnswer, "what", 0},
		"fairness": {func(w http.ResponseWriter, _ request, _ context.Context) bool { // no Status here
			w.Header().Set("Retry-After", "1")
			http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
			return true
		}, fault.RateLimited, "", time.Second},
		"garbage": {func(w http.ResponseWriter, _ request, _ context.Context) bool {
			_, _ = w.Write([]byte("<html>a proxy</html>"))
			return true
		}, fault.Unavailable, "", 0},
		"cut": {func(w http.ResponseWriter, _ request, _ context.Context) bool {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"kind":"SecretProviderClassList",`))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, fault.Unavailable, "", 0},
		"hanging": {func(_ http.ResponseWriter, _ request, ctx context.Context) bool {
			<-ctx.Done()
			return true
		}, fault.Timeout, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t, kube.Config{Timeout: 500 * time.Millisecond})
			f.api.fault(tc.answer)
			err := f.refused(tc.reason, "failed to get secretproviderclass shop/db: ", tc.text)
			testkit.Equal(t, "come back after", fault.RetryAfter(err), tc.after)
		})
	}
}

func TestGetCanceled(t *testing.T) {
	f := setUp(t, kube.Config{})
	asked := make(chan struct{}, 1)
	f.api.fault(func(_ http.ResponseWriter, _ request, ctx context.Context) bool {
		asked <- struct{}{}
		<-ctx.Done()
		return true
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := f.source.Get(ctx, db)
		done <- err
	}()
	testkit.Receive(f, asked, "the request")
	cancel()
	testkit.Fails(t, testkit.Receive(f, done, "Get"), fault.Canceled)
}

// TestManyAtOnce has 50 pods ask for a class while its first list is on.
func TestManyAtOnce(t *testing.T) {
	for name, want := range map[string]int{"present": 1, "absent": 2} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t, kube.Config{})
			if name == "present" {
				f.api.put(db, "r")
			}
			begun, gate := make(chan struct{}, 50), make(chan struct{})
			f.api.fault(func(http.ResponseWriter, request, context.Context) bool {
				begun <- struct{}{}
				<-gate
				return false
			})
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					_, err := f.source.Get(context.Background(), db)
					testkit.Equal(t, "Get succeeds", err == nil, name == "present")
				})
			}
			for range want { // who is told of no class asks once more
				<-begun
				waiting(f, 50)
				gate <- struct{}{}
			}
			close(gate)
			wg.Wait()
			if lists, _ := f.api.counts(); lists > want {
				t.Errorf("%d lists for 50 pods, want at most %d", lists, want)
			}
		})
	}
}

// Slow look-ups of one namespace do not delay those of another.
func TestLookUpsTakeTurns(t *testing.T) {
	f := setUp(t, kube.Config{QPS: 10000, Burst: 10000})
	f.api.put(db, "r")
	f.api.fault(func(_ http.ResponseWriter, r request, ctx context.Context) bool {
		if r.ref.Namespace == "evil" {
			<-ctx.Done()
		}
		return r.ref.Namespace == "evil"
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for i := range 60 {
		wg.Go(func() {
			_, _ = f.source.Get(ctx, class.Ref{Namespace: "evil", Name: fmt.Sprint("missing-", i)})
		})
	}
	waiting(f, 60)
	f.role("r")
	if lists, _ := f.api.counts(); lists > 9 {
		t.Errorf("%d lists, of which at most 8 may be one namespace's", lists)
	}
}

// waiting returns once so many goroutines wait for a list.
func waiting(f *fixture, n int) {
	testkit.Eventually(f, fmt.Sprintf("%d wait for a list", n), func() bool {
		var b bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
		found := 0
		for g := range strings.SplitSeq(b.String(), "\n\n") {
			if strings.Contains(g, "[select") && strings.Contains(g, "kube.(*Source).look(") {
				found++
			}
		}
		return found == n
	})
}

func TestConcurrentUse(t *testing.T) {
	f := setUp(t, kube.Config{QPS: 10000, Burst: 10000})
	f.changes = make(chan class.Ref, 1<<20)
	stop := f.run()
	refs := make([]class.Ref, 4)
	for i := range refs {
		refs[i] = class.Ref{Namespace: "shop", Name: fmt.Sprintf("c%d", i)}
		f.api.put(refs[i], "r")
	}
	go func() {
		for range f.pauses { // never in the way
		}
	}()
	t.Cleanup(func() { close(f.pauses) })
	t.Cleanup(stop)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ref := refs[i%len(refs)]
			for n := range 20 {
				f.source.Retain(ref)
				if _, err := f.source.Get(context.Background(), ref); err != nil {
					t.Error(err)
				}
				if n%5 == 0 {
					f.api.put(ref, fmt.Sprint(n))
				}
				f.source.Release(ref)
			}
		})
	}
	wg.Wait()
}
