package volume_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// The driver writes what it renewed or replaced although another object failed, and reports the
// failure.
func TestPartialPayloadIsWrittenAndFails(t *testing.T) {
	r := newRig(t)
	r.background()
	req := r.request("a")
	r.publish(req)
	r.store.set(func(s *fakeStore) {
		s.partial, s.refresh = fault.New(fault.NotFound, "secret/data/gone: no such secret"), 20*time.Second
	})
	for i, want := range []string{"two", "three", "four", "five", "six", "seven"} {
		r.store.set(func(s *fakeStore) { s.files["password"] = want })
		asked := time.Now()
		r.RefreshAll()
		testkit.Eventually(t, "the refresh has failed", func() bool { return r.seen.count("refresh", true) > i })
		r.wantFile(req, "password", want)
		o := r.seen.last("refresh")
		if o.Failures != i+1 || !o.Changed || o.Emptied {
			t.Errorf("the observer was told %+v", o)
		}
		wantReason(t, o.Err, fault.NotFound, "secret/data/gone")
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
	r.RefreshAll()
	testkit.Eventually(t, "the volume has recovered", func() bool { return r.seen.count("refresh", false) == 1 })
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
			r := newRig(t)
			r.background()
			r.classes.class.OnDenied = class.DeniedEmpty
			req := r.request("a")
			r.publish(req)
			r.store.set(func(s *fakeStore) { s.partial = fault.New(tc.reason, "one object failed") })
			r.RefreshAll()
			testkit.Eventually(t, "the refresh has failed", func() bool { return r.seen.count("refresh", true) > 0 })
			_, err := os.Lstat(filepath.Join(req.Target, "password"))
			if o := r.seen.last("refresh"); os.IsNotExist(err) != tc.emptied || o.Emptied != tc.emptied || o.Reason() != tc.reason {
				t.Errorf("the file is gone: %t; the observer was told %+v", os.IsNotExist(err), o)
			}
		})
	}
}
