package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

func TestGroups(t *testing.T) {
	type group struct{ of string }
	begin := func(key string) *group { return &group{key} }
	var all session.Groups[string, group]
	a := all.Join("alice", "v1", begin)
	if all.Join("alice", "v2", begin) != a || all.Find("alice") != a {
		t.Error("two volumes of an identity do not share")
	}
	if b := all.Join("bob", "v3", begin); b == a || b.of != "bob" {
		t.Error("two identities share")
	}
	if all.Leave("alice", a, "v1") || all.Find("alice") != a {
		t.Error("the group ended with its first volume")
	}
	if !all.Leave("alice", a, "v2") || all.Find("alice") != nil {
		t.Error("the group outlives its last volume")
	}
	again := all.Join("alice", "v4", begin)
	if again == a {
		t.Error("a group that ended comes back")
	}
	if !all.Leave("alice", a, "v4") || all.Find("alice") != again {
		t.Error("who leaves the old group takes a volume out of the new one")
	}
}

type answer struct{ asked time.Time }

func (a *answer) AskedAt() time.Time { return a.asked }
func (a *answer) Size() int64        { return 100 }

func TestAnswers(t *testing.T) {
	old, young := &answer{start}, &answer{start.Add(time.Second)}
	var r session.Cache[*answer]
	if r.Last("a") != nil {
		t.Error("nothing is something")
	}
	r.Put("a", young)
	r.Put("a", old)
	r.Put("b", old)
	if r.Last("a") != young || r.Last("b") != old {
		t.Error("an older answer took a newer one's place")
	}
	newest := &answer{start.Add(time.Minute)}
	r.Put("a", newest)
	all := r.All()
	r.Retain(map[string]bool{"a": true, "c": true})
	if r.Last("a") != newest || r.Last("b") != nil || len(all) != 2 || all["b"] != old {
		t.Errorf("have %v, had %v", r.All(), all)
	}
}

// TestRefusals: what was refused is given to nobody until it was answered again,
// and stays for the files that have it.
func TestRefusals(t *testing.T) {
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var r session.Cache[*answer]
	a, b := &answer{at(1)}, &answer{at(1)}
	r.Put("a", a)
	r.Put("b", b)
	r.Refuse("a", at(2))
	r.Refuse("a", at(1)) // told late
	if r.Last("a") != nil || r.Stored("a") != a || r.Last("b") != b || r.Allows("a", at(2)) || !r.Allows("a", at(3)) || !r.Allows("b", at(1)) {
		t.Errorf("a was refused: %v, %v, %v", r.Last("a"), r.Stored("a"), r.Last("b"))
	}
	again := &answer{at(3)}
	r.Put("a", again)
	if r.Last("a") != again {
		t.Error("what is answered again is not given")
	}
	r.Refuse(session.Everything, at(4))
	if r.Last("a") != nil || r.Last("b") != nil || r.Allows("c", at(4)) || !r.Allows("c", at(5)) {
		t.Error("everything was refused")
	}
	r.Retain(map[string]bool{"b": true})
	if got := r.Refusals(); len(got) != 1 || !got[session.Everything].Equal(at(4)) || r.Stored("a") != nil || r.Stored("b") != b {
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
	for reason, want := range map[fault.Reason]bool{fault.Denied: true, fault.Unverified: true, fault.NotFound: false, fault.Unavailable: false} {
		if session.Refused(fault.New(reason, "no")) != want {
			t.Errorf("%s is a refusal: %v", reason, !want)
		}
	}
	if session.Refused(nil) {
		t.Error("no error is a refusal")
	}
}

// TestMemoryIsBounded remembers more than it may.
func TestMemoryIsBounded(t *testing.T) {
	const many = 10_000
	var m session.Memory[int, string]
	var r session.Cache[*answer]
	for i := range many {
		m.Set(i, "x")
		r.Put(fmt.Sprint(i), &answer{start})
	}
	known := 0
	for i := range many {
		if m.Has(i) {
			known++
		}
	}
	if known > many/2 || len(r.All()) > many/2 || !m.Has(many-1) || r.Last(fmt.Sprint(many-1)) == nil {
		t.Errorf("%d and %d are remembered", known, len(r.All()))
	}
	m.Set(1, "one")
	if v, ok := m.Get(1); v != "one" || !ok {
		t.Errorf("got %q", v)
	}
	if m.Forget(1); m.Has(1) {
		t.Error("not forgotten")
	}
}
