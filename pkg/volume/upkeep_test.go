package volume_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// If a class can no longer be used, the credentials that a running pod has by it live on.
func TestUnusableClassKeepsTheVolumeUp(t *testing.T) {
	edit := func(change func(*class.Class)) func(*rig) {
		return func(r *rig) { r.classes.edit(change) }
	}
	broken := func(reason fault.Reason) func(*rig) {
		return func(r *rig) { r.classes.spoil(fault.New(reason, "the class is of no use")) }
	}
	for _, tc := range []struct {
		name  string
		spoil func(*rig)
		want  fault.Reason
	}{
		{"deleted", broken(fault.ClassNotFound), fault.ClassNotFound},
		{"invalid", broken(fault.InvalidClass), fault.InvalidClass},
		{"unknown provider", edit(func(c *class.Class) { c.Provider = "nosuch" }), fault.UnknownProvider},
		{"refused by the store", edit(func(c *class.Class) { c.Parameters = map[string]string{"roleName": "refused"} }), fault.Denied},
		{"too small a volume", edit(func(c *class.Class) { c.SizeLimit = 1 }), fault.TooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRunning(t)
			r.store.refuse = map[string]error{"refused": fault.New(fault.Denied, "permission denied")}
			r.store.refresh = 20 * time.Second // less than the interval: a lease
			req := r.request("a")
			r.publish(req)
			tc.spoil(r)
			for i := range 6 {
				value := fmt.Sprintf("value-%d", i)
				r.store.set(func(s *fakeStore) { s.files["password"] = value })
				asked := time.Now()
				r.refreshFails(i + 1)
				r.wantFile(req, "password", value)
				o := r.seen.last("refresh")
				if o.Reason() != tc.want || o.Failures != i+1 || !o.Changed {
					t.Errorf("the observer was told %+v, want reason %s", o, tc.want)
				}
				if o.NextAt.After(asked.Add(25 * time.Second)) {
					t.Errorf("the next look is %s later, when the lease has ended", o.NextAt.Sub(asked))
				}
			}
			testkit.Equal(t, "volumes are failing", r.Failing(), 1)
			r.classes.spoil(nil)
			r.classes.edit(func(c *class.Class) { c.Provider, c.SizeLimit, c.Parameters = "fake", 0, nil })
			r.ClassVersion(req.Class, r.classes.version())
			testkit.Eventually(t, "the volume has recovered", func() bool { return r.seen.count("refresh", false) == 1 })
			if o := r.seen.last("refresh"); o.Failures != 6 || o.Changed {
				t.Errorf("the observer was told %+v, want the end of 6 failures, with nothing new", o)
			}
		})
	}
}

// If the store is unavailable too, the error has both reasons, that of the class first.
func TestUpkeepFailsToo(t *testing.T) {
	r, req := newLive(t)
	r.classes.spoil(fault.New(fault.ClassNotFound, "the class is gone"))
	r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "Vault is sealed") })
	r.refreshFails(1)
	testkit.Fails(t, r.seen.last("refresh").Err, fault.ClassNotFound, "the class is gone", "Vault is sealed")
	r.wantFile(req, "password", "one")
}

// The current class decides what a denial does to the files.
func TestEditOfOnDeniedCountsAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name     string
		old, now class.OnDenied
		emptied  bool
	}{
		{"keep", class.DeniedEmpty, class.DeniedKeep, false},
		{"empty", class.DeniedKeep, class.DeniedEmpty, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRunning(t)
			r.classes.class.OnDenied = tc.old
			req := r.request("a")
			r.publish(req)
			r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Denied, "permission denied") })
			r.classes.edit(func(c *class.Class) { c.OnDenied = tc.now })
			r.ClassVersion(req.Class, r.classes.version())
			testkit.Eventually(t, "the refresh has failed", func() bool { return r.seen.count("refresh", true) > 0 })
			_, err := os.Lstat(filepath.Join(req.Target, "password"))
			if o := r.seen.last("refresh"); os.IsNotExist(err) != tc.emptied || o.Emptied != tc.emptied || o.Reason() != fault.Denied {
				t.Errorf("the file is gone: %t; the observer was told %+v", os.IsNotExist(err), o)
			}
		})
	}
}

// A limit below the current content takes effect once that content is gone.
func TestSmallerLimitTakesEffectInTime(t *testing.T) {
	r := newRunning(t)
	req := r.request("a")
	r.store.files["password"] = string(make([]byte, 900<<10))
	r.publish(req)
	before := testkit.Value(r.Stats(req.ID, req.Target))(t)
	r.store.set(func(s *fakeStore) { s.files["password"] = "small" })
	r.classes.edit(func(c *class.Class) { c.SizeLimit = 64 << 10 })
	testkit.Eventually(t, "the smaller limit is in force", func() bool {
		n := r.seen.count("refresh", true) + r.seen.count("refresh", false)
		r.RefreshAll()
		testkit.Eventually(t, "a refresh is done", func() bool { return r.seen.count("refresh", true)+r.seen.count("refresh", false) > n })
		return r.Failing() == 0
	})
	r.wantFile(req, "password", "small")
	after := testkit.Value(r.Stats(req.ID, req.Target))(t)
	if after.Bytes.Total >= before.Bytes.Total {
		t.Errorf("the volume has room for %d bytes, before it was %d", after.Bytes.Total, before.Bytes.Total)
	}
}

// While the store fails, the driver retries before a short lease ends and does not wait for the
// interval.
func TestRetriesComeInTimeForLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.Interval = 2 * time.Minute
		r.store.refresh, r.store.lease = 40*time.Second, time.Minute
		r.background()
		began := time.Now()
		r.publish(r.request("a"))
		r.store.set(func(s *fakeStore) { s.fail = fault.New(fault.Unavailable, "Vault is sealed") })
		for range 8 { // by itself, the pause is now a minute at the least
			r.RefreshAll()
			synctest.Wait()
		}
		atDue := func() int {
			time.Sleep(time.Until(began.Add(39 * time.Second))) // in the bubble's time
			return r.store.count()
		}()
		time.Sleep(time.Until(began.Add(59 * time.Second)))
		synctest.Wait()
		if n := r.store.count() - atDue; atDue != 9 || n < 4 {
			t.Errorf("%d fetches before the lease was due and %d until it ended, want 9 and at least 4", atDue, n)
		}
	})
}

// The driver writes what it renewed or replaced although another object failed, and reports the
// failure.
func TestPartialPayloadIsWrittenAndFails(t *testing.T) {
	r, req := newLive(t)
	r.store.set(func(s *fakeStore) {
		s.partial, s.refresh = fault.New(fault.NotFound, "secret/data/gone: no such secret"), 20*time.Second
	})
	for i, want := range []string{"two", "three", "four", "five", "six", "seven"} {
		r.store.set(func(s *fakeStore) { s.files["password"] = want })
		asked := time.Now()
		r.refreshFails(i + 1)
		r.wantFile(req, "password", want)
		o := r.seen.last("refresh")
		if o.Failures != i+1 || !o.Changed || o.Emptied {
			t.Errorf("the observer was told %+v", o)
		}
		testkit.Fails(t, o.Err, fault.NotFound, "secret/data/gone")
		if o.NextAt.After(asked.Add(25 * time.Second)) {
			t.Errorf("the next look is %s later, when what the volume holds has ended", o.NextAt.Sub(asked))
		}
	}
	r.restart() // what was written is on record
	if rec := r.onlyRecord(); rec.Failures != 6 || rec.LastFailure == "" || rec.Versions[0].Version != "5" {
		t.Errorf("the record has %d failures (%s) and versions %v", rec.Failures, rec.LastFailure, rec.Versions)
	}
	r.background()
	r.store.set(func(s *fakeStore) { s.partial = nil })
	r.refreshed(1)
	if o := r.seen.last("refresh"); o.Failures != 6 || o.Changed {
		t.Errorf("the observer was told %+v, want the end of 6 failures, with nothing new", o)
	}
}

func TestPartialDenialEmptiesWhereTheClassAsks(t *testing.T) {
	for _, tc := range []struct {
		reason  fault.Reason
		emptied bool
	}{{fault.Denied, true}, {fault.Unavailable, false}} {
		t.Run(string(tc.reason), func(t *testing.T) {
			r := newRunning(t)
			r.classes.class.OnDenied = class.DeniedEmpty
			req := r.request("a")
			r.publish(req)
			r.store.set(func(s *fakeStore) { s.partial = fault.New(tc.reason, "one object failed") })
			r.refreshFails(1)
			_, err := os.Lstat(filepath.Join(req.Target, "password"))
			if o := r.seen.last("refresh"); os.IsNotExist(err) != tc.emptied || o.Emptied != tc.emptied || o.Reason() != tc.reason {
				t.Errorf("the file is gone: %t; the observer was told %+v", os.IsNotExist(err), o)
			}
		})
	}
}
