package volume_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const misspelt = "spec.parameters.objects[0].secretkey: unknown; did you mean secretKey?"

// A class with a name that is probably a mistake asks the store for nothing. A
// volume that runs by it already, as after an upgrade of the driver, goes on; an
// edit that is mistaken leaves it on the former class.
func TestProbableMistakesAreErrors(t *testing.T) {
	r := newRig(t)
	r.store.invalid = fault.New(fault.InvalidClass, misspelt)
	for range 3 {
		err := r.Publish(t.Context(), r.request("a"))
		testkit.Fails(t, err, fault.InvalidClass)
		testkit.Says(t, err, "SecretProviderClass shop/secrets: "+misspelt)
	}
	if r.store.count() != 0 || r.store.judged != 1 {
		t.Errorf("the store was asked %d times and the class judged %d times, want never and once", r.store.count(), r.store.judged)
	}
	r.classes.edit(func(*class.Class) {})
	r.store.set(func(s *fakeStore) { s.invalid = nil })
	req := r.request("a")
	r.publish(req)

	r.store.set(func(s *fakeStore) { s.invalid = fault.New(fault.InvalidClass, misspelt) })
	r.restart()
	r.background()
	if o := r.refreshNow(); o.Err != nil {
		t.Errorf("a volume that runs by the class failed: %v", o.Err)
	}
	r.classes.edit(func(*class.Class) {})
	r.store.set(func(s *fakeStore) { s.files["password"] = "two" })
	o := r.refreshNow()
	testkit.Fails(t, o.Err, fault.InvalidClass)
	r.wantFile(req, "password", "two") // kept up by the former class
	if last := r.store.requests[len(r.store.requests)-1]; !last.Upkeep || last.Class.ResourceVersion != "1+" {
		t.Errorf("the store was asked by class version %s, upkeep %v", last.Class.ResourceVersion, last.Upkeep)
	}
}

// Mayfly's own parameters are judged like the provider's.
func TestOwnParametersMisspelt(t *testing.T) {
	r := newRig(t)
	r.classes.edit(func(c *class.Class) {
		c.Suspects = []string{"spec.parameters.refreshIntervall: unknown; did you mean refreshInterval?"}
	})
	err := r.Publish(t.Context(), r.request("a"))
	testkit.Fails(t, err, fault.InvalidClass)
	if !strings.Contains(err.Error(), "did you mean refreshInterval?") || r.store.count() != 0 {
		t.Errorf("the error is %v", err)
	}
}

func TestWarningsReachThePodOnce(t *testing.T) {
	r := newRig(t)
	r.store.warnings = []string{"spec.parameters.zzz: unknown, so ignored"}
	r.classes.edit(func(c *class.Class) {
		c.SecretObjects = []v1.SecretObject{{SecretName: "db"}}
	})
	req := r.request("a")
	req.Ignored = []string{"objects"}
	r.publish(req)
	check := func(o volume.Outcome, warn bool) {
		t.Helper()
		said := strings.Join(o.Warnings, "\n")
		testkit.Has(t, said, "zzz: unknown, so ignored", "spec.secretObjects: nobody follows", `volumeAttributes ["objects"] are ignored`)
		if o.WarnPod != warn || o.Err != nil {
			t.Errorf("the pod is warned: %v, want %v (%v)", o.WarnPod, warn, o.Err)
		}
	}
	check(r.seen.last(volume.Published), true)
	stop := r.background()
	// A provider says its warnings with every payload as well; the fake does not.
	r.store.set(func(s *fakeStore) { s.warnings = nil })
	r.classes.edit(func(c *class.Class) { c.Warnings = []string{"spec.parameters.zzz: unknown, so ignored"} })
	check(r.refreshNow(), true)
	check(r.refreshNow(), false)
	stop()
	r.restart()
	r.background()
	r.classes.edit(func(c *class.Class) { c.ResourceVersion = strings.TrimSuffix(c.ResourceVersion, "+") })
	check(r.refreshNow(), false)
	other := r.request("b")
	other.Ignored = req.Ignored
	r.publish(other)
	check(r.seen.last(volume.Published), true)
}

func TestStrict(t *testing.T) {
	for name, change := range map[string]func(*volume.Config, *class.Class){
		"by the class":    func(_ *volume.Config, c *class.Class) { c.Strict = true },
		"by the operator": func(v *volume.Config, _ *class.Class) { v.Strict = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.ceilings = func(c *volume.Config) { change(c, &class.Class{}) }
			r.restart()
			r.classes.edit(func(c *class.Class) { change(&volume.Config{}, c) })
			r.publish(r.request("good"))
			asked := r.store.count()
			req := r.request("a")
			req.Ignored = []string{"objects"}
			err := r.Publish(t.Context(), req)
			testkit.Fails(t, err, fault.InvalidClass)
			if !strings.Contains(err.Error(), "volumeAttributes") || r.store.count() != asked {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// A pod whose store hangs is told before kubelet's call ends.
func TestSlowStoreIsTold(t *testing.T) {
	r := newRig(t)
	r.ceilings = func(c *volume.Config) { c.SlowAfter = time.Millisecond }
	r.restart()
	gate := make(chan struct{})
	r.store.set(func(s *fakeStore) { s.gate = gate; s.servers = map[string]string{"csi-a": "https://vault.test:8200"} })
	done := make(chan error, 1)
	go func() { done <- r.Publish(t.Context(), r.request("a")) }()
	testkit.Eventually(t, "the pod is told", func() bool { return r.seen.last(volume.Waiting).ID == "csi-a" })
	if o := r.seen.last(volume.Waiting); o.Store != "https://vault.test:8200" || o.Pod.Name != "a" {
		t.Errorf("told of %+v", o)
	}
	close(gate)
	testkit.Must(t, <-done)
	testkit.Equal(t, "outcomes", r.seen.kinds(), []volume.Kind{volume.Waiting, volume.Published})
}

func (o *observer) kinds() (list []volume.Kind) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.outcomes {
		list = append(list, x.Kind)
	}
	return list
}
