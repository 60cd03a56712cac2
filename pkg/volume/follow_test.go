package volume_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// follower notes what it is told.
type follower struct {
	mu sync.Mutex
	// check is called with each payload; nil for nothing.
	check func(f volume.Followed) time.Time
	told  []volume.Followed
}

func (x *follower) Follow(_ context.Context, f volume.Followed) time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.told = append(x.told, f)
	if x.check == nil {
		return time.Time{}
	}
	return x.check(f)
}

func (x *follower) Idle() bool { return false }

func (x *follower) Warnings(c *class.Class) []string {
	if len(c.SecretObjects) == 0 {
		return nil
	}
	return []string{"spec.secretObjects: nobody follows"}
}

func (x *follower) last(t *testing.T, count int) volume.Followed {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.told) != count {
		t.Fatalf("told %d times, want %d", len(x.told), count)
	}
	return x.told[count-1]
}

// TestFollower: it is told once the files are in the volume and before kubelet is
// answered, of refreshes and edits, and never of a class that is gone.
func TestFollower(t *testing.T) {
	r := newRig(t)
	req := r.request("a")
	r.follower.check = func(volume.Followed) time.Time {
		if got, err := os.ReadFile(filepath.Join(req.Target, "password")); err != nil || string(got) == "" {
			t.Errorf("the file is not there: %v", err)
		}
		return time.Time{}
	}
	r.background()
	began := time.Now()
	r.publish(req)
	f := r.follower.last(t, 1)
	if !f.First || !f.Changed || f.Edited || f.Recalled || f.Pod != req.Pod || f.Class.Ref != req.Class || len(f.Files) == 0 || f.Files[0].ReadAt.Before(began) {
		t.Errorf("told %+v", f)
	}
	r.refreshNow()
	if f = r.follower.last(t, 2); f.First || f.Changed || f.Edited {
		t.Errorf("told %+v", f)
	}
	r.classes.edit(func(c *class.Class) { c.Parameters = map[string]string{"roleName": "other"} })
	r.refreshNow()
	if f = r.follower.last(t, 3); !f.Edited || f.Class.Parameters["roleName"] != "other" {
		t.Errorf("told %+v", f)
	}
	r.classes.spoil(fault.New(fault.ClassNotFound, "gone"))
	r.refreshNow()
	r.follower.last(t, 3)
}

// compiled counts how often classes are compiled.
type compiled struct {
	*rendered.Renderer
	count atomic.Int64
	last  atomic.Value
}

func (x *compiled) Prepare(id string, c *class.Class) (volume.Rendering, []string, error) {
	x.count.Add(1)
	r, warnings, err := x.Renderer.Prepare(id, c)
	x.last.Store(r)
	return r, warnings, err
}

// A class is compiled once for what is checked, for the files, and for what follows from them.
func TestClassIsCompiledOnce(t *testing.T) {
	r := newRig(t)
	x := compiled{Renderer: rendered.New(nil)}
	r.ceilings = func(c *volume.Config) { c.Renderer = &x }
	r.restart()
	r.classes.edit(func(c *class.Class) { c.Templates = "- {fileName: made, text: '{{ .password }}'}" })
	req := r.request("a")
	r.background()
	for runs, run := range []func(){func() { r.publish(req) }, func() { r.refreshNow() }} {
		run()
		if f := r.follower.last(t, runs+1); x.count.Load() != int64(runs+1) || f.Rendering != x.last.Load() {
			t.Errorf("after %d runs the class was compiled %d times", runs+1, x.count.Load())
		}
	}
	r.wantFile(req, "made", "one")
}

// TestFollowerComesAgain: what it could not do is tried again before the next
// refresh is due, and neither that nor a panic fails a publish.
func TestFollowerComesAgain(t *testing.T) {
	r := newRig(t)
	again := time.Now().Add(10 * time.Second)
	r.follower.check = func(volume.Followed) time.Time { return again }
	r.publish(r.request("a"))
	if o := r.seen.last(volume.Published); !o.NextAt.Equal(again) {
		t.Errorf("due at %s, want %s", o.NextAt, again)
	}
	r.follower.check = func(volume.Followed) time.Time { panic("a defect") }
	b := r.request("b")
	r.publish(b)
	r.wantFile(b, "password", "one")
}

func TestFollowers(t *testing.T) {
	soon, late := time.Now().Add(time.Minute), time.Now().Add(time.Hour)
	answers := func(at time.Time) *follower {
		return &follower{check: func(volume.Followed) time.Time { return at }}
	}
	all := volume.Followers{answers(time.Time{}), answers(late), answers(soon)}
	if at := all.Follow(t.Context(), volume.Followed{}); !at.Equal(soon) {
		t.Errorf("again at %s", at)
	}
}

// TestOldestRead: what was issued for a pod does not make the rest old.
func TestOldestRead(t *testing.T) {
	now := time.Now()
	file := func(path string, minutes int) provider.File {
		return provider.File{Path: path, ReadAt: now.Add(time.Duration(minutes) * time.Minute)}
	}
	leases := []provider.Lease{{Object: "cert"}, {Object: "key"}}
	for name, tc := range map[string]struct {
		files []provider.File
		want  time.Time
	}{
		"no file":        {nil, time.Time{}},
		"plain files":    {[]provider.File{file("b", 7), file("a", 5)}, now.Add(5 * time.Minute)},
		"issued and not": {[]provider.File{file("cert", 1), file("a", 5), file("b", 7)}, now.Add(5 * time.Minute)},
		"issued alone":   {[]provider.File{file("key", 3), file("cert", 1)}, now.Add(time.Minute)},
		"made of them":   {[]provider.File{file("cert", 1), {Path: "made"}}, now.Add(time.Minute)},
	} {
		if got := volume.OldestRead(tc.files, leases); !got.Equal(tc.want) {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
