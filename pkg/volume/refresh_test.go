package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// refreshed refreshes all volumes, and waits until so many refreshes in all have succeeded.
func (r *rig) refreshed(n int) {
	r.t.Helper()
	r.RefreshAll()
	testkit.Eventually(r.t, "the refresh is done", func() bool { return r.seen.count("refresh", false) == n })
}

// refreshFails refreshes all volumes, and waits until so many refreshes in all have failed.
func (r *rig) refreshFails(n int) {
	r.t.Helper()
	r.RefreshAll()
	testkit.Eventually(r.t, "the refresh has failed", func() bool { return r.seen.count("refresh", true) >= n })
}

func TestRefreshWritesInPlace(t *testing.T) {
	r := newRunning(t)
	req := r.request("a")
	r.store.files["stable"] = "same"
	r.publish(req)
	before := testkit.Value(os.Stat(req.Target))(t)
	r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
	r.refreshed(1)
	r.wantFile(req, "password", "two")
	after := testkit.Value(os.Stat(req.Target))(t)
	if !os.SameFile(before, after) {
		t.Error("the volume was mounted anew: a running pod would not see the change")
	}
}

func TestUnchangedRefreshTouchesNothing(t *testing.T) {
	r, req := newLive(t)
	stat := func() (st unix.Stat_t) {
		testkit.Must(t, unix.Stat(filepath.Join(req.Target, "password"), &st))
		return st
	}
	before := stat()
	for i := range 3 {
		r.refreshed(i + 1)
	}
	if after := stat(); after.Ino != before.Ino || after.Mtim != before.Mtim || after.Ctim != before.Ctim {
		t.Errorf("the file was touched: inode %d to %d", before.Ino, after.Ino)
	}
}

func TestFailedRefreshKeepsTheContent(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(s *fakeStore)
		want  fault.Reason
	}{
		{"outage", func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "Vault is sealed") }, fault.Unavailable},
		{"denied", func(s *fakeStore) { s.fail = fault.New(fault.Denied, "permission denied") }, fault.Denied},
		{"over the size limit", func(s *fakeStore) { s.files["password"] = strings.Repeat("x", 2<<20) }, fault.TooLarge},
		{"hostile name", func(s *fakeStore) { s.files["..data"] = "x" }, fault.InvalidClass},
		{"panic", func(s *fakeStore) { s.panics = true }, fault.Internal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, req := newLive(t)
			r.store.set(tc.spoil)
			r.refreshFails(1)
			r.wantFile(req, "password", "one")
			testkit.Equal(t, "volumes are failing", r.Failing(), 1)
			r.seen.mu.Lock()
			last := r.seen.outcomes[len(r.seen.outcomes)-1]
			r.seen.mu.Unlock()
			if last.Reason() != tc.want || last.Failures < 1 || !last.NextAt.After(time.Now().Add(-time.Minute)) {
				t.Errorf("the observer was told %+v", last)
			}
			r.publish(req) // kubelet's republish is not a reason to stop the pod
			r.store.set(func(s *fakeStore) { s.fail, s.panics, s.files = nil, false, map[string]string{"password": "two"} })
			r.RefreshAll()
			testkit.Eventually(t, "the volume has recovered", func() bool { return r.Failing() == 0 })
			r.wantFile(req, "password", "two")
		})
	}
}

func TestDeniedVolumeIsEmptiedWhereTheClassAsks(t *testing.T) {
	r := newRunning(t)
	r.classes.class.OnDenied = class.DeniedEmpty
	req := r.request("a")
	r.publish(req)
	for _, reason := range []fault.Reason{fault.Unavailable, fault.Unverified} { // they may be an outage
		r.store.set(func(s *fakeStore) { s.fail = fault.New(reason, "no") })
		if o := r.refreshNow(); o.Reason() != reason {
			t.Errorf("the refresh ended with %v, want %s", o.Err, reason)
		}
		r.wantFile(req, "password", "one")
	}
	r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "permission denied") })
	r.RefreshAll()
	testkit.Eventually(t, "the files are gone", func() bool {
		_, err := os.Lstat(filepath.Join(req.Target, "password"))
		return os.IsNotExist(err)
	})
	r.publish(req)
	r.store.set(func(s *fakeStore) { s.fail = nil })
	r.RefreshAll()
	testkit.Eventually(t, "the volume has recovered", func() bool { return r.Failing() == 0 })
	r.wantFile(req, "password", "one")
}

// fickle answers another version each time, and says that this means nothing.
type fickle struct {
	provider.Provider
	asked atomic.Int64
}

func (f *fickle) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	p, err := f.Provider.Fetch(ctx, r)
	if err == nil {
		p.Versions, p.SameFilesSameVersions = slices.Clone(p.Versions), true
		for i := range p.Versions {
			p.Versions[i].Version = fmt.Sprint(f.asked.Add(1))
		}
	}
	return p, err
}

// A version that changes where the files do not is no reason to restart a pod.
func TestRandomVersionsOfAPlugin(t *testing.T) {
	r := newRig(t)
	r.Providers = provider.Registry{"fake": &fickle{Provider: r.store}}
	r.background()
	req := r.request("a")
	r.publish(req)
	first := r.onlyRecord().Versions
	if len(first) == 0 {
		t.Fatal("there is no version")
	}
	r.refreshed(1)
	testkit.Equal(t, "the files are the same, and so the versions", r.onlyRecord().Versions, first)
	r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
	r.refreshed(2)
	if now := r.onlyRecord().Versions; slices.Equal(now, first) {
		t.Error("the files have changed, and the versions have not")
	}
}

func TestNewTokensWakeAFailingVolume(t *testing.T) {
	r, req := newLive(t)
	r.store.set(func(s *fakeStore) {
		s.fail = &fault.Error{Reason: fault.NoToken, Err: os.ErrDeadlineExceeded, RetryAfter: time.Hour}
	})
	r.RefreshAll()
	testkit.Eventually(t, "the refresh has failed", func() bool { return r.Failing() == 1 })
	r.store.set(func(s *fakeStore) { s.fail, s.files["password"] = nil, "two" })
	r.publish(req) // the same tokens: the failing volume waits its hour
	testkit.Equal(t, "fetches", r.store.count(), 2)
	req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("new")}}
	r.publish(req)
	testkit.Eventually(t, "the volume has recovered", func() bool { return r.Failing() == 0 })
	r.wantFile(req, "password", "two")
}

func TestClassEditRefreshes(t *testing.T) {
	r, req := newLive(t)
	r.classes.edit(func(c *class.Class) { c.SizeLimit = 4 << 20 })
	r.store.set(func(s *fakeStore) { s.files["password"] = strings.Repeat("x", 3<<20) })
	r.ClassVersion(class.Ref{Namespace: "other", Name: "secrets"}, "2")
	r.ClassVersion(req.Class, r.classes.version())
	testkit.Eventually(t, "the refresh is done", func() bool { return r.seen.count("refresh", false) == 1 })
	r.wantFile(req, "password", strings.Repeat("x", 3<<20))
	testkit.Equal(t, "fresh reads: an edited class needs the store's own answer", r.store.fresh, 1)
}

// A request for a refresh that comes during the work on a volume gets a refresh of its own.
func TestAskedDuringTheWork(t *testing.T) {
	for name, during := range map[string]func(r *rig, work func()){
		"first publish": func(_ *rig, work func()) { work() },
		"refresh":       func(r *rig, _ func()) { r.RefreshAll() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunning(t)
			req := r.request("a")
			if name == "refresh" {
				r.publish(req)
			}
			before := r.store.count()
			gate := make(chan struct{})
			r.store.set(func(s *fakeStore) { s.gate = gate })
			done := make(chan error, 1)
			during(r, func() { go func() { done <- r.Publish(t.Context(), req) }() })
			testkit.Eventually(t, "the store is asked", func() bool { return r.store.count() == before+1 })
			r.ClassVersion(req.Class, "edited")
			close(gate)
			testkit.Eventually(t, "the store is asked again", func() bool { return r.store.count() == before+2 })
			if name == "first publish" {
				testkit.Must(t, <-done)
			}
			testkit.Eventually(t, "the refresh is done", func() bool { return r.seen.count("refresh", false) == before+1 })
		})
	}
}

// If the class source reports the version that made the payload, the volume makes no request to the
// store, unless it is failing.
func TestNewsOfTheVersionInUse(t *testing.T) {
	for name, tc := range map[string]struct {
		fails bool
		fetch int
	}{
		"fine":    {false, 1},
		"failing": {true, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRunning(t)
				req := r.request("a")
				gate := make(chan struct{})
				r.store.set(func(s *fakeStore) { s.gate = gate })
				done := make(chan error, 1)
				go func() { done <- r.Publish(t.Context(), req) }()
				synctest.Wait()
				r.ClassVersion(req.Class, r.classes.version())
				close(gate)
				testkit.Must(t, <-done)
				if tc.fails {
					r.store.set(func(s *fakeStore) { s.fail = errors.New("boom") })
					r.RefreshAll()
					synctest.Wait()
					r.store.set(func(s *fakeStore) { s.fail = nil })
				}
				r.ClassVersion(req.Class, r.classes.version())
				time.Sleep(time.Second) // in the bubble's time; the interval is a minute
				synctest.Wait()
				if n := r.store.count(); n != tc.fetch || r.Failing() != 0 {
					t.Errorf("%d fetches, want %d; %d volumes are failing", n, tc.fetch, r.Failing())
				}
			})
		})
	}
}

func TestUnpublishDuringRefresh(t *testing.T) {
	r, req := newLive(t)
	r.store.set(func(s *fakeStore) { s.gate = make(chan struct{}) })
	r.RefreshAll()
	testkit.Eventually(t, "a refresh runs", func() bool { return r.store.count() == 2 })
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	testkit.Eventually(t, "the record is gone", func() bool { return len(r.records()) == 0 })
	r.wantNothing(req)
	testkit.Equal(t, "failed refreshes, though the pod has gone", r.seen.count("refresh", true), 0)
}

// The next process continues with what a refresh got before the driver stopped, whether the refresh
// ended or not.
func TestStopDuringRefresh(t *testing.T) {
	for _, tc := range []struct {
		name     string
		stubborn bool
		want     string
	}{{"cut short", false, "one"}, {"succeeds", true, "two!"}} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t)
			stop := r.background()
			req := r.request("a")
			r.publish(req)
			r.store.set(func(s *fakeStore) {
				s.gate, s.stubborn, s.files["password"], s.state = make(chan struct{}), tc.stubborn, "two!", "newer state"
			})
			r.RefreshAll()
			testkit.Eventually(t, "a refresh runs", func() bool { return r.store.count() == 2 })
			stop()
			testkit.Equal(t, "failed refreshes", r.seen.count("refresh", true), 0)
			r.wantFile(req, "password", tc.want)
			rec := r.onlyRecord()
			if got := string(rec.ProviderState.Reveal()); got != "newer state" || rec.Versions[0].Version != fmt.Sprint(len(tc.want)) || rec.Failures != 0 {
				t.Errorf("the next process gets the state %q, versions %v, %d failures", got, rec.Versions, rec.Failures)
			}
		})
	}
}

// An unpublish that cancels a refresh releases what the refresh got, at the latest in the next
// process.
func TestUnpublishDuringRefreshReleasesTheNewest(t *testing.T) {
	r := newRig(t)
	stop := r.background()
	req := r.request("a")
	r.publish(req)
	r.store.set(func(s *fakeStore) { s.gate, s.state, s.failRel = make(chan struct{}), "newer state", 100 })
	r.RefreshAll()
	testkit.Eventually(t, "a refresh runs", func() bool { return r.store.count() == 2 })
	testkit.Must(t, r.Unpublish(t.Context(), req.ID, req.Target))
	stop()
	if rec := r.onlyRecord(); !rec.Leaving || string(rec.ProviderState.Reveal()) != "newer state" {
		t.Errorf("the next process gets the state %q, leaving %t", rec.ProviderState.Reveal(), rec.Leaving)
	}
}

// Kubelet does not wait for a store that hangs, and the driver uses the tokens that kubelet passed
// meanwhile.
func TestRepublishDoesNotWaitForARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, req := newLive(t)
		gate := make(chan struct{})
		r.store.set(func(s *fakeStore) {
			s.gate = gate
			s.fail = &fault.Error{Reason: fault.NoToken, Err: os.ErrDeadlineExceeded, RetryAfter: time.Hour}
		})
		r.RefreshAll()
		synctest.Wait() // the refresh waits at the gate
		req.Tokens = identity.Tokens{"vault": {JWT: secret.NewString("new")}}
		req.Secrets = map[string]secret.String{"user": secret.NewString("new")}
		for range 2 {
			r.publish(req)
		}
		other := req
		other.Pod.UID = "another"
		testkit.Fails(t, r.Publish(t.Context(), other), fault.Conflict, "already published")
		if n := r.store.count(); n != 2 {
			t.Fatalf("%d fetches, want 2: the refresh was to wait at the gate", n)
		}
		close(gate)
		synctest.Wait()
		testkit.Equal(t, "fetches: a refresh that failed with the old tokens is repeated at once with the new", r.store.count(), 3)
		last := r.store.requests[len(r.store.requests)-1]
		if last.Tokens["vault"].JWT.Reveal() != "new" || last.Secrets["user"].Reveal() != "new" {
			t.Error("the refresh was made with the old tokens")
		}
		if rec := r.onlyRecord(); rec.Tokens["vault"].JWT.Reveal() != "new" || rec.Secrets["user"].Reveal() != "new" {
			t.Error("the record has the old tokens")
		}
	})
}

// A republish of a volume without a mount waits for the payload.
func TestRepublishOfALostMountWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, req := newLive(t)
		gate := make(chan struct{})
		r.store.set(func(s *fakeStore) { s.gate = gate })
		r.RefreshAll()
		synctest.Wait() // the refresh waits at the gate
		testkit.Must(t, unix.Unmount(req.Target, unix.MNT_DETACH))
		published := make(chan error, 1)
		go func() { published <- r.Publish(t.Context(), req) }()
		synctest.Wait()
		select {
		case err := <-published:
			t.Errorf("answered %v without a mount", err)
			published <- err
		default:
		}
		close(gate)
		testkit.Must(t, <-published)
		r.wantFile(req, "password", "one")
	})
}

// A provider that hangs delays only its own volumes.
func TestHangingProviderHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.classes.providers = map[string]string{"others": "other"}
		r.background()
		for i := range 12 {
			r.publish(r.request(fmt.Sprint("slow", i)))
		}
		good := r.request("good")
		good.Class.Name = "others"
		r.publish(good)
		r.store.set(func(s *fakeStore) { s.gate = make(chan struct{}) })
		r.RefreshAll()
		synctest.Wait()
		if n, hanging := r.other.count(), r.store.count()-12; n != 2 || hanging != 4 {
			t.Errorf("%d fetches from the provider that works, want 2; %d at once from the other, want 4", n, hanging)
		}
		r.RefreshAll() // those that hang have no worker left to wait with
		synctest.Wait()
		testkit.Equal(t, "fetches from the provider that works", r.other.count(), 3)
	})
}
