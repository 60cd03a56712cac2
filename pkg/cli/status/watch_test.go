package status

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

func TestChanges(t *testing.T) {
	now := time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)
	v := func(pod, version string) volumes.Volume {
		return volumes.Volume{Namespace: "shop", Pod: pod, Class: "db", State: statusz.Fresh, RefreshedAt: now, NextAt: now, Objects: []statusz.Object{{ID: "a", Version: version}}}
	}
	names := func(list []volumes.Volume) (out string) {
		for _, v := range list {
			out += v.Pod + " " + v.State + " " + v.Objects[0].Version + ";"
		}
		return out
	}
	first, before := changes(nil, []volumes.Volume{v("web-0", "1"), v("web-1", "1")})
	if got := names(first); got != "web-0 Fresh 1;web-1 Fresh 1;" {
		t.Errorf("changes from none: %s", got)
	}
	same := v("web-0", "1")
	same.NextAt, same.Refreshing = now.Add(time.Minute), true
	none, before := changes(before, []volumes.Volume{same, v("web-1", "1")})
	if len(none) != 0 {
		t.Errorf("a later NextAt counts as a change: %s", names(none))
	}
	second, _ := changes(before, []volumes.Volume{v("web-1", "2"), v("web-2", "1")})
	if got := names(second); got != "web-1 Fresh 2;web-2 Fresh 1;web-0 Gone 1;" {
		t.Errorf("changes: %s", got)
	}
}
