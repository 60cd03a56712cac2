package status_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// condition is "Status Reason" of a condition, and since when it is so.
func condition(s *v1.SecretProviderClassPodStatus, kind string) (string, metav1.Time) {
	for _, c := range s.Status.Conditions {
		if c.Type == kind {
			return fmt.Sprintf("%s %s", c.Status, c.Reason), c.LastTransitionTime
		}
	}
	return "none", metav1.Time{}
}

func wantConditions(t *testing.T, s *v1.SecretProviderClassPodStatus, ready, fresh string, mounted, failing bool) {
	t.Helper()
	if s == nil {
		t.Fatal("there is no status")
	}
	r, _ := condition(s, names.Ready)
	f, _ := condition(s, names.Fresh)
	if r != ready || f != fresh || s.Status.Mounted != mounted || s.Status.Failing != failing {
		t.Errorf("Ready %s, Fresh %s, mounted %v, failing %v; want %s, %s, %v, %v", r, f, s.Status.Mounted, s.Status.Failing, ready, fresh, mounted, failing)
	}
}

// A volume has a correct status from its first failure until its end, which costs one write for
// each change.
func TestConditionsThroughALife(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		now := func() *v1.SecretProviderClassPodStatus { waitIdle(); return a.statuses["web-0-shop-db"] }
		denied := fault.New(fault.Denied, "no").WithHint("let the role read it")
		for range 3 { // kubelet tries again
			r.Observe(outcome(volume.Published, "web-0", "db", denied))
			waitIdle()
			time.Sleep(time.Minute)
		}
		s := now()
		wantConditions(t, s, "False Denied", "False Denied", false, true)
		_, since := condition(s, names.Fresh)
		if a.writes != 3 || time.Since(since.Time) < 2*time.Minute {
			t.Errorf("%d writes, failing since %s; want the status once, and the Event twice", a.writes, since)
		}
		second := outcome(volume.Published, "web-0", "db", nil, "1")
		second.AnsweredBy = "https://second:8200"
		r.Observe(second)
		s = now()
		wantConditions(t, s, "True Mounted", "True SecondAddress", true, false)
		testkit.Has(t, s.Status.Conditions[1].Message, "https://second:8200")
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "1"))
		s = now()
		wantConditions(t, s, "True Mounted", "True Refreshed", true, false)
		if c, at := condition(s, names.Fresh); c != "True Refreshed" || !at.After(since.Time) {
			t.Errorf("fresh since %s, it failed since %s", at, since)
		}
		_, ready := condition(s, names.Ready)
		time.Sleep(5 * time.Minute)
		r.Observe(outcome(volume.Refreshed, "web-0", "db", fault.New(fault.Unavailable, "Vault is sealed"), "1"))
		s = now()
		wantConditions(t, s, "True Mounted", "False Unavailable", true, true)
		if _, at := condition(s, names.Ready); !at.Equal(&ready) {
			t.Errorf("ready since %s, before since %s", at, ready)
		}
		time.Sleep(5 * time.Minute)
		emptied := outcome(volume.Refreshed, "web-0", "db", denied)
		emptied.Emptied = true
		r.Observe(emptied)
		wantConditions(t, now(), "False Denied", "False Denied", false, true)
		time.Sleep(5 * time.Minute)
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "2"))
		wantConditions(t, now(), "True Mounted", "True Refreshed", true, false)
		r.Observe(outcome(volume.Unpublished, "web-0", "db", nil))
		if now() != nil {
			t.Error("the status outlives the volume")
		}
	})
}

// A republish that cannot mount a lost volume again is no first failure.
func TestKeptContentIsReady(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", &volume.KeptError{Err: fault.New(fault.Mount, "no")}, "1"))
		waitIdle()
		wantConditions(t, a.statuses["web-0-shop-db"], "True Mounted", "False Mount", true, true)
	})
}

// The conditions of others stay, and so do the times of unchanged ones, over a restart of the
// driver, which writes nothing.
func TestConditionsOverARestart(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		published := outcome(volume.Published, "web-0", "db", nil, "1")
		published.Warnings, published.WarnPod = []string{"spec.parameters.zzz: unknown, so ignored"}, true
		r.Observe(published)
		waitIdle()
		s := a.statuses["web-0-shop-db"]
		if c, _ := condition(s, names.ClassValid); c != "False ClassWarning" || !strings.Contains(s.Annotations[names.WarningsAnnotation], "zzz") {
			t.Errorf("ClassValid is %s, annotations %v", c, s.Annotations)
		}
		a.mu.Lock()
		s.Status.Conditions = append(s.Status.Conditions, metav1.Condition{Type: "Theirs", Status: metav1.ConditionTrue, Reason: "X"})
		a.mu.Unlock()
		_, since := condition(s, names.Ready)
		writes := a.writes
		time.Sleep(time.Hour)
		other, stop := restarted(t, a, outcome(volume.Recovered, "web-0", "db", nil, "1"))
		defer stop()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		refreshed := outcome(volume.Refreshed, "web-0", "db", nil, "1")
		refreshed.Warnings = published.Warnings
		other.Observe(refreshed)
		waitIdle()
		testkit.Equal(t, "writes, and none for a restart", a.writes, writes)
		refreshed.Versions[0].Version = "2"
		refreshed.Warnings = nil
		other.Observe(refreshed)
		waitIdle()
		s = a.statuses["web-0-shop-db"]
		_, at := condition(s, names.Ready)
		theirs, _ := condition(s, "Theirs")
		valid, _ := condition(s, names.ClassValid)
		if !at.Equal(&since) || theirs != "True X" || valid != "True NoWarnings" || s.Annotations[names.WarningsAnnotation] != "" {
			t.Errorf("ready since %s (was %s), theirs %s, ClassValid %s, annotations %v", at, since, theirs, valid, s.Annotations)
		}
	})
}

// The first failures of pods that go away leave nothing behind.
func TestFailedVolumesAreForgotten(t *testing.T) {
	bubble(t, nil, func(t *testing.T, _ *apiServer, r *status.Reporter) {
		for i := range 20 {
			r.Observe(outcome(volume.Published, fmt.Sprintf("web-%d", i), "db", fault.New(fault.Denied, "no")))
		}
		waitIdle()
		if n := r.Volumes(); n != 20 {
			t.Fatalf("%d volumes are known, want 20", n)
		}
		time.Sleep(3 * time.Hour)
		r.Observe(outcome(volume.Published, "last", "db", fault.New(fault.Denied, "no")))
		waitIdle()
		testkit.Equal(t, "volumes are known hours later", r.Volumes(), 1)
	})
}

func TestEventsOfAClass(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		o := outcome(volume.Published, "web-0", "db", nil, "1")
		o.Warnings, o.WarnPod = []string{"spec.parameters.zzz: unknown, so ignored", "spec.secretObjects: no"}, true
		r.Observe(o)
		waitIdle()
		slow := outcome(volume.Waiting, "web-1", "db", nil)
		slow.Store, slow.Took = "https://vault:8200", 5*time.Second
		r.Observe(slow)
		waitIdle()
		said := map[string]string{}
		for _, e := range a.events {
			said[e.Reason] = e.Message
		}
		if said[names.ClassWarning] != "SecretProviderClass shop/db: spec.parameters.zzz: unknown, so ignored; spec.secretObjects: no" ||
			!strings.Contains(said[names.StoreSlow], "https://vault:8200 has not answered for 5s") {
			t.Errorf("Events %q", said)
		}
	})
}

// An Event has the reason, is short beside kubelet's own, and changes at once with its cause; ports
// and ids are no cause.
func TestWordsOfAFailure(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		fail := func(err *fault.Error) string {
			r.Observe(outcome(volume.Published, "web-0", "db", fmt.Errorf("failed to mount secrets store objects for pod shop/web-0: SecretProviderClass shop/db: %w", err)))
			waitIdle()
			for _, e := range a.events {
				return e.Message
			}
			return ""
		}
		testkit.Equal(t, "the Event", fail(fault.New(fault.Denied, "reading %q: 403", "a")), `Denied: SecretProviderClass shop/db: reading "a": 403`)
		long := fault.New(fault.Denied, "reading %s: %w", strings.Repeat("x", 500), fault.New(fault.Denied, "403: permission denied")).WithHint("let the role read it")
		testkit.Equal(t, "the Event of another cause", fail(long), "Denied: SecretProviderClass shop/db: 403: permission denied (let the role read it)")
		testkit.Has(t, fail(fault.New(fault.Denied, "dial 127.0.0.1:%d", 5000)), ":5000") // another cause
		if got := fail(fault.New(fault.Denied, "dial 127.0.0.1:%d", 6000)); !strings.Contains(got, ":5000") || len(a.events) != 1 {
			t.Errorf("the same cause: the Event says %q, of %d", got, len(a.events))
		}
	})
}

// A list is for one node, comes from the API server's cache, and follows the API server's pages.
func TestListsInPages(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, q.Get("resourceVersion")+"|"+q.Get("limit")+"|"+q.Get("continue")+"|"+q.Get("labelSelector"))
		page := v1.SecretProviderClassPodStatusList{Items: make([]v1.SecretProviderClassPodStatus, 2)}
		page.APIVersion, page.Kind = v1.GroupVersion().String(), "SecretProviderClassPodStatusList"
		if q.Get("continue") == "" {
			page.Continue = "more"
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(page)
	}))
	defer server.Close()
	api := testkit.Value(status.NewAPI(&rest.Config{Host: server.URL}))(t)
	found, err := api.ListStatuses(t.Context(), "node-1")
	if err != nil || len(found) != 4 {
		t.Fatalf("%d statuses, %v", len(found), err)
	}
	const selector = v1.NodeLabel + "=node-1"
	if len(asked) != 2 || asked[0] != "0|500||"+selector || asked[1] != "|500|more|"+selector {
		t.Errorf("requests %q", asked)
	}
}
