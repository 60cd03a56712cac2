package secretsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/secretsync/ownership"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// server is an API server that can be away, or hang, and has one Secret. What it does
// with objects is for test/secretsync to show, where it is real.
type server struct {
	requests int
	fail     error
	hangs    bool
	secret   *metav1.PartialObjectMetadata
	data     map[string][]byte
	writes   int
}

func (a *server) answer(ctx context.Context) (*metav1.PartialObjectMetadata, error) {
	a.requests++
	if a.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return a.secret, a.fail
}

func (a *server) Look(ctx context.Context, _, _ string) (*metav1.PartialObjectMetadata, error) {
	return a.answer(ctx)
}

func (a *server) Apply(ctx context.Context, _, _, manager string, object []byte) (*metav1.PartialObjectMetadata, error) {
	if _, err := a.answer(ctx); err != nil {
		return nil, err
	}
	var o applied
	if err := json.Unmarshal(object, &o); err != nil {
		return nil, err
	}
	fields := map[string]map[string]any{"f:data": {}}
	for key := range o.Data {
		fields["f:data"]["f:"+key] = map[string]any{}
	}
	owned, err := json.Marshal(fields)
	a.secret = &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		UID: "secret", Annotations: o.Metadata.Annotations, OwnerReferences: o.Metadata.OwnerReferences,
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(string(owned))}},
	}}
	a.data, a.writes = o.Data, a.writes+1
	return a.secret, err
}

type told []status.Note

func (l *told) Tell(n status.Note) { *l = append(*l, n) }

// rig is a Syncer with a server that tests steer.
type rig struct {
	*Syncer
	server
	told    told
	results map[Result]int
	log     testkit.Log
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{results: map[Result]int{}}
	var err error
	r.Syncer, err = New(Config{
		API: &r.server, Events: &r.told, Logger: slog.New(slog.NewTextHandler(&r.log, nil)), Node: "n1", Count: func(x Result) { r.results[x]++ },
	})
	testkit.Must(t, err)
	return r
}

func followed(pod, value string) volume.Followed {
	return volume.Followed{
		Volume: "volume of " + pod, Pod: identity.Pod{Namespace: "shop", Name: pod, UID: pod}, First: true,
		Class: &class.Class{
			Ref: class.Ref{Namespace: "shop", Name: "db"}, UID: "class", ResourceVersion: "7",
			SecretObjects: []v1.SecretObject{{SecretName: "db", Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "password", Key: "p"}}}},
		},
		Files: []provider.File{{Path: "password", Contents: secret.NewBytes([]byte(value)), ReadAt: time.Now()}},
	}
}

// TestServerAway: the publish goes on, the next tries come after longer and longer
// pauses, and the end of it is told.
func TestServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.fail = errors.New("connection refused")
		f := followed("a", "hunter2-secret")
		for _, want := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 2 * time.Minute, 2 * time.Minute} {
			again := r.Follow(t.Context(), f)
			if got := time.Until(again); got != want {
				t.Fatalf("again in %s, want %s", got, want)
			}
			f.First = false
			requests := r.requests
			if at := r.Follow(t.Context(), f); !at.Equal(again) || r.requests != requests {
				t.Fatalf("asked during the pause, again at %s", at)
			}
			time.Sleep(want)
		}
		if r.log.Count("Kubernetes Secret not written") != 1 {
			t.Errorf("the log tells of it more than once:\n%s", &r.log)
		}
		r.fail = nil
		before := len(r.told)
		if again := r.Follow(t.Context(), f); !again.IsZero() || r.results[Written] != 1 {
			t.Errorf("again at %s, results %v", again, r.results)
		}
		if end := r.told[before:]; len(end) != 2 || end[0].Reason != SecretWritten || end[1].About.Kind != "SecretProviderClass" {
			t.Errorf("told %+v", end)
		}
		testkit.Lacks(t, fmt.Sprint(r.told, &r.log), "hunter2")
	})
}

// TestServerHangs: many pods wait once, and not one after the other.
func TestServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.hangs = true
		began := time.Now()
		done := make(chan time.Time)
		const pods = 50
		for i := range pods {
			go func() { done <- r.Follow(t.Context(), followed(fmt.Sprint(i), "x")) }()
		}
		for range pods {
			if again := <-done; again.IsZero() {
				t.Error("nothing is tried again")
			}
		}
		if took := time.Since(began); took > patience {
			t.Errorf("took %s", took)
		}
	})
}

// TestCost: what asks the API server, and what does not.
func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		asks := func(what string, f volume.Followed, want int) {
			t.Helper()
			before := r.requests
			r.Follow(t.Context(), f)
			testkit.Equal(t, what+": requests", r.requests-before, want)
		}
		first, second := followed("a", "x"), followed("b", "x")
		asks("the first pod", first, 2)
		asks("a pod that starts with it", second, 0)
		first.First, second.First = false, false
		time.Sleep(2 * time.Minute)
		asks("a refresh without a change", first, 0)
		asks("a pod that starts later", followed("c", "x"), 1)
		time.Sleep(time.Hour)
		asks("a refresh after an hour", first, 1)
		asks("that of another pod", second, 0)
		none := followed("a", "x")
		none.Class = &class.Class{Ref: first.Class.Ref}
		asks("a class without Secrets", none, 0)
		for _, v := range []string{"volume of b", "volume of c"} {
			r.Observe(volume.Outcome{Kind: volume.Unpublished, Identity: volume.Identity{ID: v}})
		}
		testkit.Equal(t, "things are remembered of volumes that are gone", len(r.memory.states)+len(r.memory.volumes)+len(r.memory.uses), 0)
	})
}

// TestCertificates: a Secret has the certificate of one pod and a password. The pods' own
// certificates do not replace each other, at no request, and whatever else changes is
// written by the first that sees it, also if its certificate is the older.
func TestCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		const life = 10 * time.Hour
		entry := []v1.SecretObject{{SecretName: "db", Type: "Opaque", Data: []v1.SecretObjectData{
			{ObjectName: "password", Key: "p"}, {ObjectName: "cert", Key: "c"}, {ObjectName: "key", Key: "k"},
		}}}
		// issue gives a volume a certificate; read is a refresh of the rest.
		issue := func(f volume.Followed) volume.Followed {
			now := time.Now()
			f.Leases = []provider.Lease{{Object: "cert", Expires: now.Add(life)}, {Object: "key", Expires: now.Add(life)}}
			f.Files = []provider.File{f.Files[0]}
			for _, name := range []string{"cert", "key"} {
				f.Files = append(f.Files, provider.File{Path: name, Contents: secret.NewBytes([]byte(name + " of " + f.Pod.Name + " at " + now.String())), ReadAt: now})
			}
			return f
		}
		read := func(f volume.Followed, password string) volume.Followed {
			f.First = false
			f.Files = append([]provider.File{{Path: "password", Contents: secret.NewBytes([]byte(password)), ReadAt: time.Now()}}, f.Files[1:]...)
			return f
		}
		start := func(pod string) volume.Followed {
			f := followed(pod, "v1")
			f.Class.SecretObjects = entry
			return issue(f)
		}
		follow := func(what string, f volume.Followed, of, password string, requests int) (again time.Time) {
			t.Helper()
			before := r.requests
			again = r.Follow(t.Context(), f)
			if got := string(r.data["c"]); !strings.HasPrefix(got, "cert of "+of+" ") || string(r.data["p"]) != password || r.requests-before != requests {
				t.Errorf("%s: the Secret has %q and %q, after %d requests", what, got, r.data["p"], r.requests-before)
			}
			return again
		}

		began := time.Now()
		a := start("a")
		follow("the first pod", a, "a", "v1", 2)
		time.Sleep(time.Hour)
		b := start("b")
		turn := follow("another pod", b, "a", "v1", 1)
		if want := began.Add(life - time.Hour); !turn.Equal(want) {
			t.Errorf("the other pod's turn is at %s, want %s", turn, want)
		}
		time.Sleep(time.Minute)
		c := start("c")
		follow("a third pod", c, "a", "v1", 1)
		for range 3 {
			time.Sleep(time.Minute)
			for _, f := range []volume.Followed{a, b, c} {
				follow("refresh of pod "+f.Pod.Name, read(f, "v1"), "a", "v1", 0)
			}
		}

		time.Sleep(time.Minute)
		follow("the password changes", read(b, "v2"), "b", "v2", 2)
		time.Sleep(time.Minute)
		follow("the pod before sees it too", read(a, "v2"), "b", "v2", 0)
		follow("a pod that has not seen it", read(c, "v1"), "b", "v2", 0)
		follow("then it has", read(c, "v2"), "b", "v2", 0)
		time.Sleep(time.Minute)
		// The certificate of a was issued before the Secret's.
		turn = follow("a change by the oldest pod", read(a, "v3"), "a", "v3", 2)
		follow("again", read(a, "v3"), "a", "v3", 0)
		if !turn.IsZero() {
			t.Errorf("the pod whose certificate it is has a turn at %s", turn)
		}

		// Pod a is gone. Its certificate is replaced long before it ends, by one write.
		r.Observe(volume.Outcome{Kind: volume.Unpublished, Identity: volume.Identity{ID: a.Volume}})
		turn = follow("a change that is known", read(b, "v3"), "a", "v3", 0)
		time.Sleep(time.Until(turn))
		writes := r.writes
		follow("the turn of b", read(b, "v3"), "b", "v3", 2)
		if time.Now().After(began.Add(life-time.Hour)) || r.writes != writes+1 {
			t.Errorf("written at %s, %d times", time.Now(), r.writes-writes)
		}
		follow("the others keep it", read(c, "v3"), "b", "v3", 0)

		edit := func(f volume.Followed) volume.Followed {
			edited := *f.Class
			edited.ResourceVersion = "8"
			f.Class = &edited
			return f
		}
		c = issue(read(c, "v3"))
		follow("a certificate for the rest of the day", c, "c", "v3", 2)
		time.Sleep(time.Minute)
		follow("an edit of the class that issues no certificate", edit(read(b, "v3")), "c", "v3", 0)
		follow("one that does", edit(issue(read(b, "v3"))), "b", "v3", 2)
		follow("another pod sees the edit", edit(issue(read(c, "v3"))), "b", "v3", 0)
	})
}

// TestReplaceAt: a certificate replaces one that will last half as long, and never one that
// lasts longer.
func TestReplaceAt(t *testing.T) {
	now := time.Now()
	ends := func(hours int) content { return content{expires: now.Add(time.Duration(hours) * time.Hour)} }
	for _, tc := range []struct {
		has, own int
		want     time.Time
	}{
		{10, 12, now.Add(8 * time.Hour)},
		{10, 20, now},
		{10, 10, time.Time{}},
		{10, 9, time.Time{}},
	} {
		if at := ends(tc.has).replaceAt(ends(tc.own)); !at.Equal(tc.want) {
			t.Errorf("one that ends in %d hours replaces one of %d hours at %s, want %s", tc.own, tc.has, at, tc.want)
		}
	}
}

// TestOneVolumeBehind: a volume with an older read, or without a file, neither asks the API
// server at each refresh nor is a failure of the others.
func TestOneVolumeBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		old := followed("b", "v1")
		time.Sleep(time.Second)
		good := followed("a", "v2")
		r.Follow(t.Context(), good)
		requests := r.requests
		r.Follow(t.Context(), old)
		old.First, good.First = false, false
		for range 3 {
			time.Sleep(time.Minute)
			r.Follow(t.Context(), old)
			r.Follow(t.Context(), good)
		}
		if r.requests != requests || string(r.data["p"]) != "v2" {
			t.Errorf("%d requests more, the Secret has %q", r.requests-requests, r.data["p"])
		}
		old.Files = nil
		r.Follow(t.Context(), old)
		if len(r.told) != 2 || r.told[0].About.Name != "b" || !strings.Contains(r.told[0].Text, `"password"`) {
			t.Fatalf("told %+v", r.told)
		}
		time.Sleep(time.Minute)
		r.Follow(t.Context(), good)
		if len(r.told) != 2 || r.requests != requests {
			t.Errorf("told %+v, %d requests more", r.told, r.requests-requests)
		}
	})
}

func TestClassify(t *testing.T) {
	f := followed("a", "x")
	w := wish{Followed: f, wanted: &wanted{class: f.Class, entry: f.Class.SecretObjects[0]}}
	resource := func(err error, text string) error {
		var s *apierrors.StatusError
		errors.As(err, &s)
		s.ErrStatus.Message = text
		return s
	}
	for name, tc := range map[string]struct {
		err  error
		want Result
		text string
	}{
		"no right":    {resource(apierrors.NewForbidden(secretsResource(), "db", nil), `User "x" cannot patch resource "secrets"`), Forbidden, "syncSecret.secrets"},
		"no create":   {resource(apierrors.NewForbidden(secretsResource(), "db", nil), `User "x" cannot create resource "secrets"`), Forbidden, "syncSecret.secrets"},
		"not ours":    {resource(apierrors.NewForbidden(secretsResource(), "db", nil), "denied request: there is a Secret, "+NotOurs), Foreign, "secretName"},
		"quota":       {resource(apierrors.NewForbidden(secretsResource(), "db", nil), "exceeded quota: secrets"), Invalid, "exceeded quota"},
		"away":        {errors.New("connection refused"), Failed, "connection refused"},
		"busy":        {apierrors.NewTooManyRequests("slow down", 1), Failed, "slow down"},
		"long":        {errors.New(strings.Repeat("x", 10000)), Failed, "..."},
		"no metadata": {apierrors.NewBadRequest("cannot decode"), Invalid, "cannot decode"},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := classify(w, tc.err)
			if result != tc.want || !strings.Contains(err.Error(), tc.text) || len(err.Error()) > 900 {
				t.Errorf("%s: %v", result, err)
			}
		})
	}
}

func TestOff(t *testing.T) {
	c := followed("a", "x").Class
	if w := (Off{}).Warnings(c); len(w) != 1 || !strings.Contains(w[0], `spec.secretObjects: this driver writes no Kubernetes Secrets, so ["db"]`) {
		t.Errorf("warnings %q", w)
	}
	testkit.Equal(t, "warnings of a class without Secrets", len((Off{}).Warnings(&class.Class{})), 0)
}

// TestManagers: names of managers and labels fit, and differ for classes that differ.
func TestManagers(t *testing.T) {
	long := class.Ref{Namespace: "shop", Name: strings.Repeat("a", 252) + "b"}
	other := class.Ref{Namespace: "shop", Name: strings.Repeat("a", 252) + "c"}
	pod := identity.Pod{UID: "0c6be1e2-6c3a-4f8e-8f0e-2f1b7f3f4c11"}
	if m := ownership.Manager(long.Name); len(m) > ownership.MaxManager || m == ownership.Manager(other.Name) {
		t.Errorf("manager %q", m)
	}
	if m := ownerManager(long, pod); len(m) > ownership.MaxManager || m == ownerManager(other, pod) || m == ownerManager(long, identity.Pod{UID: "x"}) {
		t.Errorf("manager %q", m)
	}
	if l := classLabel(long); len(l) > 63 || l == classLabel(other) {
		t.Errorf("label %q", l)
	}
}

func secretsResource() schema.GroupResource { return schema.GroupResource{Resource: "secrets"} }
