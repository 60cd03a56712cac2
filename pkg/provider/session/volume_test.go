package session

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// begin makes a volume that has something to revoke.
func begin() *volume {
	v := newVolume("v", "shop", &groups{})
	v.add([]Revocation{{Name: "made for v"}})
	return v
}

func namesOf(list []Revocation) (names []string) {
	for _, r := range list {
		names = append(names, r.Name)
	}
	return names
}

// pay revokes what a volume has, except for what cannot be revoked.
func pay(paid *[]string, unpayable ...string) func(*volume) ([]Revocation, error) {
	return func(v *volume) ([]Revocation, error) {
		var left []Revocation
		var err error
		for _, r := range v.take() {
			if slices.Contains(unpayable, r.Name) {
				left, err = append(left, r), fault.New(fault.Unavailable, "%s cannot be ended", r.Name)
				continue
			}
			*paid = append(*paid, r.Name)
		}
		return left, err
	}
}

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := volumes{byID: map[string]*volume{}}
		v, _, leave, err := all.enter(t.Context(), "v", begin)
		if err != nil || all.find("v") != v {
			t.Fatal(v, err)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, _, err := all.enter(soon, "v", begin); fault.Of(err) != fault.Timeout {
			t.Errorf("two at once, or no patience: %v", err)
		}
		_, _, leaveOther, err := all.enter(t.Context(), "other", func() *volume { return newVolume("other", "shop", &groups{}) })
		if err != nil {
			t.Errorf("another volume waits: %v", err)
		}
		leaveOther()
		next := make(chan *volume)
		go func() {
			v, _, leave, _ := all.enter(t.Context(), "v", begin)
			leave()
			next <- v
		}()
		leave()
		if <-next != v {
			t.Error("the next one got another volume")
		}
	})
}

// TestReleaseEndsWork releases a volume while one fetch works and another waits.
func TestReleaseEndsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := volumes{byID: map[string]*volume{}}
		var paid []string
		ended := make(chan error, 2)
		fetch := func() {
			_, work, leave, err := all.enter(t.Context(), "v", begin)
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
		if err := all.release(t.Context(), "v", pay(&paid)); err != nil {
			t.Errorf("last volume: %v", err)
		}
		for range 2 {
			if err := <-ended; fault.Of(err) != fault.Canceled || err.Error() != "the volume is going away" {
				t.Errorf("a fetch ended with %v", err)
			}
		}
		if !slices.Equal(paid, []string{"made for v"}) || all.find("v") != nil {
			t.Errorf("paid %q", paid)
		}
		if err := all.release(t.Context(), "v", pay(&paid)); err != nil || len(paid) != 1 {
			t.Errorf("again: %v, paid %q", err, paid)
		}
	})
}

func TestReleaseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := volumes{byID: map[string]*volume{}}
		_, _, leave, _ := all.enter(t.Context(), "v", begin)
		defer leave()
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		testkit.Fails(t, all.release(soon, "v", nil), fault.Timeout)
		if all.find("v") == nil {
			t.Error("its revocations are forgotten")
		}
	})
}

// TestRevocationsAreKept has a revocation that fails at first: by the volume
// itself, and by the one that comes back under its id.
func TestRevocationsAreKept(t *testing.T) {
	for _, back := range []bool{false, true} {
		all := volumes{byID: map[string]*volume{}}
		var paid []string
		_, _, leave, _ := all.enter(t.Context(), "v", begin)
		leave()
		for range 2 {
			err := all.release(t.Context(), "v", pay(&paid, "made for v"))
			if fault.Of(err) != fault.Unavailable || len(paid) != 0 {
				t.Fatalf("%v, paid %q", err, paid)
			}
		}
		want := []string{"made for v"}
		if back {
			_, work, leave, err := all.enter(t.Context(), "v", begin)
			if err != nil || work.Err() != nil {
				t.Fatalf("the new volume: %v, %v", err, work.Err())
			}
			leave()
			want = append(want, "made for v")
		}
		if err := all.release(t.Context(), "v", pay(&paid)); err != nil || !slices.Equal(paid, want) {
			t.Errorf("%v, paid %q, want %q", err, paid, want)
		}
	}
}

// TestVolumeComesBackMeanwhile has a new volume of the same id while the driver revokes for the old one.
func TestVolumeComesBackMeanwhile(t *testing.T) {
	all := volumes{byID: map[string]*volume{}}
	_, _, leave, _ := all.enter(t.Context(), "v", begin)
	leave()
	var later *volume
	err := all.release(t.Context(), "v", func(v *volume) ([]Revocation, error) {
		left := v.take()
		var leave func()
		later, _, leave, _ = all.enter(t.Context(), "v", begin)
		leave()
		return left, errors.New("away")
	})
	if err == nil || all.find("v") != later || !slices.Equal(namesOf(later.revocations), []string{"made for v", "made for v"}) {
		t.Errorf("%v, revocations %q", err, namesOf(later.revocations))
	}
}

func TestRevokeAll(t *testing.T) {
	odd := errors.New("odd")
	left, err := revokeAll([]Revocation{{Name: "1"}, {Name: "2"}, {Name: "3"}, {Name: "4"}}, func(r Revocation) error {
		if r.Name == "1" || r.Name == "3" {
			return odd
		}
		return nil
	})
	names := namesOf(left)
	slices.Sort(names)
	if !slices.Equal(names, []string{"1", "3"}) || !errors.Is(err, odd) {
		t.Errorf("left %v, %v", left, err)
	}
	if left, err := revokeAll(nil, func(Revocation) error { return odd }); left != nil || err != nil {
		t.Errorf("nothing to revoke: %v, %v", left, err)
	}
}

// third is a store whose state has version 3, of which only that is asked.
type third struct{ Store }

func (third) Traits() Traits { return Traits{StateVersion: 3} }

func (third) ReadLogin(raw json.RawMessage) (Login, error) {
	var h host
	return h, json.Unmarshal(raw, &h)
}

// TestState takes a volume's token over a restart, and refuses what Export did not
// write, without quoting it.
func TestState(t *testing.T) {
	var settings endpoint.Settings
	testkit.Must(t, settings.Complete())
	e := New(&settings, nil, third{})
	text := `{"version":3,"pod":{},"own":{"tokens":[{"login":"h","value":"marker","born":"2026-01-01T00:00:00Z","ttl":0,"due":"0001-01-01T00:00:00Z","expires":"0001-01-01T00:00:00Z"}]},"group":{}}`
	testkit.Must(t, e.Import("v", secret.NewBytes([]byte(text))))
	var back volumeState
	if err := json.Unmarshal(e.Export("v").Reveal(), &back); err != nil || back.Version != 3 || len(back.Own.Tokens) != 1 || back.Own.Tokens[0].Value != "marker" {
		t.Errorf("exported %+v, %v", back, err)
	}
	for name, bad := range map[string]string{
		"another version": strings.Replace(text, "3", "4", 1), "no version": strings.Replace(text, `"version":3,`, "", 1), "null": "null",
		"empty": "", "cut off": text[:len(text)-1], "another shape": `["marker"]`, "wrong type": `{"version":"marker"}`,
		"no token": strings.Replace(text, "marker", "", 1), "a token with a line end": strings.Replace(text, "marker", `marker\n`, 1),
	} {
		err := e.Import("other", secret.NewBytes([]byte(bad)))
		if fault.Of(err) != fault.State || strings.Contains(err.Error(), "marker") || !strings.Contains(err.Error(), "volume other") {
			t.Errorf("%s: %s: %v", name, fault.Of(err), err)
		}
		testkit.Equal(t, name+": the length of the state", e.Export("other").Len(), 0)
	}
}

// A volume that is fetched again before its release has ended leaves nothing: no charge for its
// answers, and no group of an identity that it had.
func TestNextVolumeOfAnIDEndsTheReleasedOne(t *testing.T) {
	b := budget.New(budget.Limits{})
	gs := &groups{budget: b, revokesTokens: true}
	vs := volumes{byID: map[string]*volume{}}
	begin := func() *volume { return newVolume("v", "shop", gs) }
	first, other := Identity{Login: host("first")}, Identity{Login: host("other")}
	old := vs.get("v", begin)
	old.enter(first, Bearer{})
	old.now().readings.Put("a", &Reading{Absent: true})
	token := NewToken(host("first"), Grant{Value: "t"}, epoch, 0)
	old.now().group.current.Store(token)
	old.enter(other, Bearer{})
	old.now().readings.Put("a", &Reading{Absent: true})
	old.end()
	next := vs.get("v", begin)
	if used := b.Usage().Total; next == old || used != 0 {
		t.Errorf("%d bytes are still charged", used)
	}
	if gs.find(first) != nil || gs.find(other) != nil {
		t.Error("a group outlives its volume")
	}
	if list := next.take(); len(list) != 1 || list[0].Token != token {
		t.Errorf("the next volume revokes %v", list)
	}
}
