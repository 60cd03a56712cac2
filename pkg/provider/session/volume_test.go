package session_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// volume has words to revoke.
type volume struct{ revocations []string }

func newVolume(id string) *volume { return &volume{[]string{"made for " + id}} }

func (v *volume) Add(list []string) { v.revocations = append(v.revocations, list...) }

func (v *volume) Take() []string {
	all := v.revocations
	v.revocations = nil
	return all
}

type volumes = session.Volumes[*volume, string]

// pay ends all that a volume owes but what cannot be ended.
func pay(paid *[]string, unpayable ...string) func(*volume) ([]string, error) {
	return func(v *volume) ([]string, error) {
		var left []string
		var err error
		for _, d := range v.Take() {
			if slices.Contains(unpayable, d) {
				left, err = append(left, d), fault.New(fault.Unavailable, "%s cannot be ended", d)
				continue
			}
			*paid = append(*paid, d)
		}
		return left, err
	}
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all volumes
		v, _, leave, err := all.Enter(t.Context(), "v", newVolume)
		if err != nil || all.Find("v") != v {
			t.Fatal(v, err)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, _, err := all.Enter(soon, "v", newVolume); fault.Of(err) != fault.Timeout {
			t.Errorf("two at once, or no patience: %v", err)
		}
		_, _, leaveOther, err := all.Enter(t.Context(), "other", newVolume)
		if err != nil {
			t.Errorf("another volume waits: %v", err)
		}
		leaveOther()
		next := make(chan *volume)
		go func() {
			v, _, leave, _ := all.Enter(t.Context(), "v", newVolume)
			leave()
			next <- v
		}()
		leave()
		if <-next != v {
			t.Error("the next one got another volume")
		}
	})
}

// TestReleaseEndsWork releases a volume that two fetches want: the one that
// works, and the one that waits.
func TestReleaseEndsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all volumes
		var paid []string
		ended := make(chan error, 2)
		fetch := func() {
			_, work, leave, err := all.Enter(t.Context(), "v", newVolume)
			if err == nil {
				<-work.Done()
				err = fault.Ended(work)
				leave()
			}
			ended <- err
		}
		go fetch()
		synctest.Wait()
		go fetch()
		synctest.Wait()
		if err := all.Release(t.Context(), "v", pay(&paid)); err != nil {
			t.Errorf("last volume: %v", err)
		}
		for range 2 {
			if err := <-ended; fault.Of(err) != fault.Canceled || err.Error() != "the volume is going away" {
				t.Errorf("a fetch ended with %v", err)
			}
		}
		if !slices.Equal(paid, []string{"made for v"}) || all.Find("v") != nil {
			t.Errorf("paid %q", paid)
		}
		if err := all.Release(t.Context(), "v", pay(&paid)); err != nil || len(paid) != 1 {
			t.Errorf("again: %v, paid %q", err, paid)
		}
	})
}

func TestReleaseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all volumes
		_, _, leave, _ := all.Enter(t.Context(), "v", newVolume)
		defer leave()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := all.Release(soon, "v", nil); fault.Of(err) != fault.Timeout {
			t.Errorf("a fetch that does not end: %v", err)
		}
		if all.Find("v") == nil {
			t.Error("its revocations are forgotten")
		}
	})
}

// TestRevocationsAreKept has a revocation that fails at first: by the volume
// itself, and by the one that comes back under its id.
func TestRevocationsAreKept(t *testing.T) {
	for _, back := range []bool{false, true} {
		var all volumes
		var paid []string
		_, _, leave, _ := all.Enter(t.Context(), "v", newVolume)
		leave()
		for range 2 {
			err := all.Release(t.Context(), "v", pay(&paid, "made for v"))
			if fault.Of(err) != fault.Unavailable || len(paid) != 0 {
				t.Fatalf("%v, paid %q", err, paid)
			}
		}
		want := []string{"made for v"}
		if back {
			_, work, leave, err := all.Enter(t.Context(), "v", newVolume)
			if err != nil || work.Err() != nil {
				t.Fatalf("the new volume: %v, %v", err, work.Err())
			}
			leave()
			want = append(want, "made for v")
		}
		if err := all.Release(t.Context(), "v", pay(&paid)); err != nil || !slices.Equal(paid, want) {
			t.Errorf("%v, paid %q, want %q", err, paid, want)
		}
	}
}

// TestVolumeComesBackMeanwhile has a new volume of the id while the old one's
// revocations are being ended.
func TestVolumeComesBackMeanwhile(t *testing.T) {
	var all volumes
	_, _, leave, _ := all.Enter(t.Context(), "v", newVolume)
	leave()
	var later *volume
	err := all.Release(t.Context(), "v", func(v *volume) ([]string, error) {
		left := v.Take()
		var leave func()
		later, _, leave, _ = all.Enter(t.Context(), "v", newVolume)
		leave()
		return left, errors.New("away")
	})
	if err == nil || all.Find("v") != later || !slices.Equal(later.revocations, []string{"made for v", "made for v"}) {
		t.Errorf("%v, revocations %q", err, later.revocations)
	}
}

func TestRevokeAll(t *testing.T) {
	odd := errors.New("odd")
	left, err := session.RevokeAll([]int{1, 2, 3, 4}, func(n int) error {
		if n%2 == 1 {
			return odd
		}
		return nil
	})
	slices.Sort(left)
	if !slices.Equal(left, []int{1, 3}) || !errors.Is(err, odd) {
		t.Errorf("left %v, %v", left, err)
	}
	if left, err := session.RevokeAll(nil, func(int) error { return odd }); left != nil || err != nil {
		t.Errorf("nothing to revoke: %v, %v", left, err)
	}
}
