package session

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

func TestGroups(t *testing.T) {
	alice, bob := Identity{Login: host("h"), ServiceAccount: "alice"}, Identity{Login: host("h"), ServiceAccount: "bob"}
	all := groups{revokesTokens: true}
	a := all.join(alice, "v1")
	if all.join(alice, "v2") != a || all.find(alice) != a {
		t.Error("two volumes of an identity do not share")
	}
	if b := all.join(bob, "v3"); b == a || b.key != bob {
		t.Error("two identities share")
	}
	token := NewToken(host("h"), Grant{Value: "t"}, epoch, 0)
	a.current.Store(token)
	if all.leave(a, "v1") != nil || all.find(alice) != a {
		t.Error("the group ended with its first volume")
	}
	if list := all.leave(a, "v2"); len(list) != 1 || list[0].Token != token || all.find(alice) != nil {
		t.Errorf("the group outlives its last volume, which is to revoke %v", list)
	}
	again := all.join(alice, "v4")
	if again == a {
		t.Error("a group that ended comes back")
	}
	if all.leave(a, "v4") != nil || all.find(alice) != again {
		t.Error("who leaves the old group takes a volume out of the new one")
	}
}

func askedAt(at time.Time) *Reading { return &Reading{Asked: at, Absent: true} }

func TestAnswers(t *testing.T) {
	old, young := askedAt(epoch), askedAt(epoch.Add(time.Second))
	var r cache
	if r.last("a") != nil {
		t.Error("nothing is something")
	}
	r.put("a", young)
	r.put("a", old)
	r.put("b", old)
	if r.last("a") != young || r.last("b") != old {
		t.Error("an older answer took a newer one's place")
	}
	newest := askedAt(epoch.Add(time.Minute))
	r.put("a", newest)
	all := r.all()
	r.retain(map[string]bool{"a": true, "c": true})
	if r.last("a") != newest || r.last("b") != nil || len(all) != 2 || all["b"] != old {
		t.Errorf("have %v, had %v", r.all(), all)
	}
}

// TestRefusals: the cache gives a refused answer to no volume until the store has answered again, and
// keeps it for the files that have it.
func TestRefusals(t *testing.T) {
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	var r cache
	a, b := askedAt(at(1)), askedAt(at(1))
	r.put("a", a)
	r.put("b", b)
	r.refuse("a", at(2))
	r.refuse("a", at(1)) // told late
	if r.last("a") != nil || r.stored("a") != a || r.last("b") != b || r.allows("a", at(2)) || !r.allows("a", at(3)) || !r.allows("b", at(1)) {
		t.Errorf("a was refused: %v, %v, %v", r.last("a"), r.stored("a"), r.last("b"))
	}
	again := askedAt(at(3))
	r.put("a", again)
	if r.last("a") != again {
		t.Error("what is answered again is not given")
	}
	r.refuse(everything, at(4))
	if r.last("a") != nil || r.last("b") != nil || r.allows("c", at(4)) || !r.allows("c", at(5)) {
		t.Error("everything was refused")
	}
	r.retain(map[string]bool{"b": true})
	if got := r.refusals(); len(got) != 1 || !got[everything].Equal(at(4)) || r.stored("a") != nil || r.stored("b") != b {
		t.Errorf("kept are %v and %v", got, r.all())
	}
	r.dropRefused()
	if r.stored("b") != nil {
		t.Error("what was dropped is held")
	}
	for i := range 10_000 {
		r.refuse(fmt.Sprint(i), at(5))
	}
	if n := len(r.refusals()); n > 5000 || r.allows("1", at(5)) || r.allows("9999", at(5)) {
		t.Errorf("%d refusals are kept", n)
	}
	for reason, want := range map[fault.Reason]bool{fault.Denied: true, fault.Unverified: true, fault.NotFound: false, fault.Unavailable: false} {
		if isRefusal(fault.New(reason, "no")) != want {
			t.Errorf("%s is a refusal: %v", reason, !want)
		}
	}
	if isRefusal(nil) {
		t.Error("no error is a refusal")
	}
}

// TestMemoryIsBounded remembers more than it may.
func TestMemoryIsBounded(t *testing.T) {
	const many = 10_000
	var m Memory[int, string]
	var r cache
	for i := range many {
		m.Set(i, "x")
		r.put(fmt.Sprint(i), askedAt(epoch))
	}
	known := 0
	for i := range many {
		if m.Has(i) {
			known++
		}
	}
	if known > many/2 || len(r.all()) > many/2 || !m.Has(many-1) || r.last(fmt.Sprint(many-1)) == nil {
		t.Errorf("%d and %d are remembered", known, len(r.all()))
	}
	m.Set(1, "one")
	if v, ok := m.Get(1); v != "one" || !ok {
		t.Errorf("got %q", v)
	}
	if m.Forget(1); m.Has(1) {
		t.Error("not forgotten")
	}
}

// TestAnswersAreCharged: what volumes share gives way to what one needs, and only what is kept is
// charged.
func TestAnswersAreCharged(t *testing.T) {
	b := budget.New(budget.Limits{Node: 640})
	shared := newCache(b, budget.Owner{Namespace: "shop"})
	own := newCache(b, budget.Owner{Namespace: "shop", Volume: "v"})
	rd := askedAt(epoch)
	for i, step := range []struct {
		do    func() bool
		kept  bool
		bytes int64
	}{
		{func() bool { return shared.put("a", rd) }, true, 256},
		{func() bool { return shared.put("b", rd) }, true, 512},
		{func() bool { return own.put("a", rd) }, true, 512}, // shared a goes
		{func() bool { return shared.last("a") == nil && shared.last("b") == rd }, true, 512},
		{func() bool { return own.put("b", rd) }, true, 512}, // shared b goes
		{func() bool { return own.put("c", rd) }, false, 512},
		{func() bool { return shared.put("c", rd) }, false, 512},
		{func() bool { return own.put("a", askedAt(epoch.Add(time.Second))) }, false, 256}, // and the outdated one goes
		{func() bool { own.retain(map[string]bool{}); return len(own.all()) == 0 }, true, 0},
		{func() bool { own.close(); own.put("a", rd); return own.last("a") == nil }, true, 0},
	} {
		if got := step.do(); got != step.kept || b.Usage().Total != step.bytes {
			t.Errorf("step %d: %v, %d bytes, want %v, %d", i, got, b.Usage().Total, step.kept, step.bytes)
		}
	}
}

// whole is a class that takes all keys of a secret, in some directories.
func whole(dirs ...string) *Spec {
	s := &Spec{Requests: []*Request{{ID: "r", Name: "secret/app"}}}
	for i, dir := range dirs {
		s.Objects = append(s.Objects, &Object{Index: i, Name: dir, Every: true, Encoding: params.Plain, Request: s.Requests[0]})
	}
	setKeys(s.Objects)
	return s
}

// Many directories with all keys of a large secret are refused before they take
// much memory.
func TestFilesOfKeysAreBounded(t *testing.T) {
	e := New(&endpoint.Settings{}, nil, &issuing{})
	var body strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&body, `,"k%d":"v"`, i)
	}
	a := &Answer{Body: []byte("{" + body.String()[1:] + "}")}
	dirs := make([]string, 11)
	for i := range dirs {
		dirs[i] = fmt.Sprint("d", i)
	}
	answer := func(*Request) *Answer { return a }
	if all, err := e.contents(whole(dirs[:10]...), answer); err != nil || len(all) != 10 || len(all[9].files) != 1000 {
		t.Errorf("%d objects, %v", len(all), err)
	}
	if _, err := e.contents(whole(dirs...), answer); fault.Of(err) != fault.TooLarge || !strings.Contains(err.Error(), `objects[10] "d10/*"`) {
		t.Errorf("11000 files: %v", err)
	}
}

// An answer stands in only for files that the volume has.
func TestKeysInFiles(t *testing.T) {
	e := New(&endpoint.Settings{}, nil, &issuing{})
	s := whole("d")
	a := &Answer{Body: []byte(`{"a":"1","b":"2"}`)}
	for files, want := range map[string]bool{"d/a d/b": true, "d/a d/b other": true, "d/a": false, "a b": false, "": false} {
		var have []provider.Version
		for _, id := range strings.Fields(files) {
			have = append(have, provider.Version{ID: id})
		}
		if got := e.inFiles(s, s.Requests[0], a, have); got != want {
			t.Errorf("%q: %v", files, got)
		}
		if shown := strings.Contains(files, "d/"); s.shown(s.Requests[0], have) != shown {
			t.Errorf("%q is shown: %v", files, !shown)
		}
	}
}
