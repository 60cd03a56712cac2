package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

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
