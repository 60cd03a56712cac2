package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/test/testkit"
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

// TestRefusalReasons: another attempt after these does no harm.
func TestRefusalReasons(t *testing.T) {
	for reason, want := range map[fault.Reason]bool{fault.Denied: true, fault.Unverified: true, fault.NotFound: false, fault.Unavailable: false} {
		testkit.Equal(t, fmt.Sprintf("%s is a refusal", reason), isRefusal(fault.New(reason, "no")), want)
	}
	if isRefusal(nil) {
		t.Error("no error is a refusal")
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
	if all, err := contents(e.store, whole(dirs[:10]...), answer); err != nil || len(all) != 10 || len(all[9].files) != 1000 {
		t.Errorf("%d objects, %v", len(all), err)
	}
	testkit.Failure(contents(e.store, whole(dirs...), answer))(t, fault.TooLarge, `objects[10] "d10/*"`)
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
		if got := inFiles(e.store, s, s.Requests[0], a, have); got != want {
			t.Errorf("%q: %v", files, got)
		}
		if shown := strings.Contains(files, "d/"); s.shown(s.Requests[0], have) != shown {
			t.Errorf("%q is shown: %v", files, !shown)
		}
	}
}
