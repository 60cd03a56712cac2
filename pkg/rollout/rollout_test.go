package rollout

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

type server struct {
	object *Object
	fail   error
	// race is done once, before the next write.
	race   func(o *Object)
	writes int
}

func (s *server) Get(_ context.Context, _ string, w class.Workload) (*Object, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	if w.Kind != s.object.Kind || w.Name != s.object.Metadata.Name {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "deployments"}, w.Name)
	}
	o := *s.object
	return &o, nil
}

func (s *server) Annotate(_ context.Context, o *Object, key, value string) error {
	if s.race != nil {
		s.race(s.object)
		s.object.Metadata.ResourceVersion += "+"
		s.race = nil
	}
	if o.Metadata.ResourceVersion != s.object.Metadata.ResourceVersion {
		return apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, o.Metadata.Name, errors.New("modified"))
	}
	next := map[string]string{key: value}
	for k, v := range s.object.Spec.Template.Metadata.Annotations {
		if k != key {
			next[k] = v
		}
	}
	s.object.Spec.Template.Metadata.Annotations = next
	s.object.Metadata.ResourceVersion += "+"
	s.writes++
	return nil
}

type told []status.Note

func (l *told) Tell(n status.Note) { *l = append(*l, n) }

type rig struct {
	*Restarter
	server
	told  told
	log   testkit.Log
	count int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{}
	r.object = &Object{Kind: "Deployment", Metadata: metav1.ObjectMeta{Namespace: "shop", Name: "web", ResourceVersion: "1", Generation: 1}}
	r.object.Status.ObservedGeneration, r.object.Status.Replicas, r.object.Status.UpdatedReplicas = 1, 1, 1
	r.Restarter = r.onNode(t)
	return r
}

// onNode is the part of another node at the same server.
func (r *rig) onNode(t *testing.T) *Restarter {
	t.Helper()
	x := testkit.Value(New(Config{API: &r.server, Events: &r.told, Logger: slog.New(slog.NewTextHandler(&r.log, nil)), Count: func() { r.count++ }}))(t)
	return x
}

// rotation is a refresh that wrote a version.
func rotation(pod, version string) volume.Followed {
	return volume.Followed{
		Volume: pod, Pod: identity.Pod{Namespace: "shop", Name: pod, UID: pod}, Changed: true, Since: time.Now().Add(-time.Hour),
		Class:    &class.Class{Ref: class.Ref{Namespace: "shop", Name: "db"}, UID: "c", RolloutRestart: []class.Workload{{Kind: "Deployment", Name: "web"}}},
		Versions: []provider.Version{{ID: "password", Version: version}},
		Files:    []provider.File{{Path: "password", ReadAt: time.Now()}},
	}
}

func quiet(f volume.Followed) volume.Followed {
	f.Changed = false
	return f
}

func (r *rig) wantWrites(t *testing.T, n int) {
	t.Helper()
	if r.writes != n || r.count != n {
		t.Fatalf("%d writes, %d counted, want %d\n%s", r.writes, r.count, n, &r.log)
	}
}

// TestOneRollout: all nodes and pods make one rollout for a rotation, and the
// next one after the gap.
func TestOneRollout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		nodes := []*Restarter{r.Restarter, r.onNode(t), r.onNode(t)}
		for _, n := range nodes {
			for _, pod := range []string{"a", "b"} {
				n.Follow(t.Context(), rotation(pod, "2"))
			}
		}
		r.wantWrites(t, 1)
		if len(r.told) != 1 || r.told[0].About.Kind != "Deployment" || r.told[0].About.Name != "web" || r.told[0].Reason != Restarted {
			t.Errorf("told %+v", r.told)
		}
		time.Sleep(time.Minute)
		again := nodes[1].Follow(t.Context(), rotation("a", "3"))
		r.wantWrites(t, 1)
		if d := time.Until(again); d <= 3*time.Minute || d > gap {
			t.Errorf("again in %s", d)
		}
		time.Sleep(time.Until(again))
		f := quiet(rotation("a", "3"))
		nodes[1].Follow(t.Context(), f)
		r.wantWrites(t, 2)
		nodes[1].Follow(t.Context(), f)
		r.wantWrites(t, 2)
		testkit.Equal(t, "remembered", len(nodes[1].open), 0)
	})
}

// TestNeverRestarts: what is no rotation.
func TestNeverRestarts(t *testing.T) {
	for name, change := range map[string]func(f *volume.Followed){
		"first publish":      func(f *volume.Followed) { f.First = true },
		"class edit":         func(f *volume.Followed) { f.Edited = true },
		"from memory":        func(f *volume.Followed) { f.Recalled = true },
		"nothing changed":    func(f *volume.Followed) { f.Changed = false },
		"no workload":        func(f *volume.Followed) { f.Class.RolloutRestart = nil },
		"a credential ends":  func(f *volume.Followed) { f.Leases = []provider.Lease{{Object: "db-user", ID: "lease"}} },
		"a certificate ends": func(f *volume.Followed) { f.Leases = []provider.Lease{{Object: "db-user"}} },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			f := rotation("a", "2")
			change(&f)
			if again := r.Follow(t.Context(), f); !again.IsZero() {
				t.Errorf("again at %s", again)
			}
			r.wantWrites(t, 0)
			if refused := len(f.Leases) > 0; refused != (len(r.told) == 2) {
				t.Errorf("told %+v", r.told)
			} else if refused && !strings.Contains(r.told[1].Text, `"db-user"`) {
				t.Errorf("told %q", r.told[1].Text)
			}
			r.Follow(t.Context(), quiet(rotation("a", "2")))
			r.wantWrites(t, 0)
		})
	}
}

// TestWaits: a later refresh restarts what could not be restarted at once.
func TestWaits(t *testing.T) {
	for name, tc := range map[string]struct{ hinder, free func(o *Object) }{
		"paused":      {func(o *Object) { o.Spec.Paused = true }, func(o *Object) { o.Spec.Paused = false }},
		"not seen":    {func(o *Object) { o.Metadata.Generation = 2 }, func(o *Object) { o.Status.ObservedGeneration = 2 }},
		"half done":   {func(o *Object) { o.Status.UpdatedReplicas = 0 }, func(o *Object) { o.Status.UpdatedReplicas = 1 }},
		"old pods":    {func(o *Object) { o.Status.Replicas = 2 }, func(o *Object) { o.Status.Replicas = 1 }},
		"on delete":   {func(o *Object) { o.Spec.UpdateStrategy.Type = "OnDelete" }, func(o *Object) { o.Spec.UpdateStrategy.Type = "RollingUpdate" }},
		"a DaemonSet": {func(o *Object) { o.Status.DesiredNumberScheduled, o.Kind = 2, "DaemonSet" }, func(o *Object) { o.Status.UpdatedNumberScheduled = 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			tc.hinder(r.object)
			f := rotation("a", "2")
			f.Class.RolloutRestart[0].Kind = r.object.Kind
			r.Follow(t.Context(), f)
			r.Follow(t.Context(), quiet(f))
			r.wantWrites(t, 0)
			tc.free(r.object)
			r.Follow(t.Context(), quiet(f))
			r.wantWrites(t, 1)
		})
	}
}

// TestOrder: what a node read before the last restart restarts nothing, and a pod
// that started after it with an older answer does.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		late := rotation("a", "2")
		time.Sleep(time.Second)
		r.Follow(t.Context(), rotation("b", "3"))
		r.wantWrites(t, 1)
		time.Sleep(gap)
		r.Follow(t.Context(), late)
		r.wantWrites(t, 1)
		young := rotation("c", "3")
		young.Since = time.Now()
		r.Follow(t.Context(), young)
		r.wantWrites(t, 2)
	})
}

// TestRace: another client changes the workload, or restarts it, in between.
func TestRace(t *testing.T) {
	r := newRig(t)
	r.race = func(*Object) {}
	r.Follow(t.Context(), rotation("a", "2"))
	r.wantWrites(t, 1)
	r = newRig(t)
	f := rotation("a", "2")
	r.race = func(o *Object) {
		o.Spec.Template.Metadata.Annotations = map[string]string{KeyOf(f.Class.Ref): Mark{provider.Digest(f.Versions), time.Now()}.String()}
	}
	r.Follow(t.Context(), f)
	r.wantWrites(t, 0)
}

// TestRefused: what is told, and whether it is tried again.
func TestRefused(t *testing.T) {
	resource := schema.GroupResource{Group: "apps", Resource: "deployments"}
	for name, tc := range map[string]struct {
		err   error
		words string
		again bool
	}{
		"no right":  {apierrors.NewForbidden(resource, "web", errors.New("cannot get")), "rolloutRestart.workloads.shop", false},
		"not there": {apierrors.NewNotFound(resource, "web"), "not found", false},
		"away":      {errors.New("connection refused"), "connection refused", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fail = tc.err
			r.Follow(t.Context(), rotation("a", "2"))
			if len(r.told) != 2 || !strings.Contains(r.told[0].Text, tc.words) || !strings.Contains(r.told[0].Text, "Deployment/web") {
				t.Errorf("told %+v", r.told)
			}
			r.fail = nil
			r.Follow(t.Context(), quiet(rotation("a", "2")))
			testkit.Equal(t, "writes", r.writes == 1, tc.again)
		})
	}
}

func TestForgets(t *testing.T) {
	r := newRig(t)
	r.object.Spec.Paused = true
	r.Follow(t.Context(), rotation("a", "2"))
	r.Observe(volume.Outcome{Kind: volume.Unpublished, Identity: volume.Identity{ID: "a"}})
	testkit.Equal(t, "is remembered of a volume that is gone", len(r.open), 0)
}
