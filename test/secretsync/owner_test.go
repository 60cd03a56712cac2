//go:build e2e

package secretsync

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// testClassOwner: it survives the last pod, and a scale to zero (2051, 265, 1770).
func testClassOwner(t *testing.T, r *rig) {
	c := r.class("owned", nil)
	n := r.node("node-a")
	f := n.mounted(c, "a", password("x"))
	n.Observe(volume.Outcome{Kind: volume.Unpublished, Identity: volume.Identity{ID: f.Volume}})
	s := r.holds("owned", "p", "x")
	if len(s.OwnerReferences) != 1 || s.OwnerReferences[0].Kind != "SecretProviderClass" || s.OwnerReferences[0].Controller != nil || s.OwnerReferences[0].BlockOwnerDeletion != nil {
		t.Errorf("owners %+v", s.OwnerReferences)
	}
	testkit.Must(t, r.Client.CoreV1().RESTClient().Delete().RequestURI(classPath(namespace, "owned")).Do(t.Context()).Error())
	r.gone("owned")
}

// testPodOwner: it goes with the last pod, and not with the first (899, 1770).
func testPodOwner(t *testing.T, r *rig) {
	c := r.class("of-pods", func(s *v1.SecretProviderClass) { s.Spec.Parameters["secretOwner"] = "pods" })
	a, b := r.node("node-a"), r.node("node-b")
	mount := func(n *node, pod string) volume.Followed {
		f := n.mount(c, pod, password("x"))
		f.Pod = r.pod(pod)
		n.follow(f)
		return f
	}
	first := mount(a, "first")
	second := mount(b, "second")
	third := mount(a, "third")
	if s := r.holds("of-pods", "p", "x"); len(s.OwnerReferences) != 3 {
		t.Fatalf("owners %+v", s.OwnerReferences)
	}
	written := r.read("of-pods").ResourceVersion
	requests := a.requests.Load()
	a.follow(refreshed(first, c, password("x")))
	if a.requests.Load() != requests || r.read("of-pods").ResourceVersion != written {
		t.Error("a refresh that changed nothing asked")
	}
	a.follow(refreshed(first, c, password("y"))) // the owners stay over a rotation
	if s := r.holds("of-pods", "p", "y"); len(s.OwnerReferences) != 3 {
		t.Fatalf("owners after a rotation %+v", s.OwnerReferences)
	}
	for _, f := range []volume.Followed{first, third} {
		testkit.Must(t, r.Client.CoreV1().Pods(namespace).Delete(t.Context(), f.Pod.Name, *metav1.NewDeleteOptions(0)))
	}
	testkit.Eventually(t, "two owners gone", func() bool { s := r.read("of-pods"); return s != nil && len(s.OwnerReferences) == 1 })
	testkit.Must(t, r.Client.CoreV1().Pods(namespace).Delete(t.Context(), second.Pod.Name, *metav1.NewDeleteOptions(0)))
	r.gone("of-pods")
	mount(a, "fourth")
	r.holds("of-pods", "p", "x")
}

// testRecreated: the class goes and comes back, as with a tool that replaces objects.
func testRecreated(t *testing.T, r *rig) {
	c := r.class("again", nil)
	n := r.node("node-a")
	f := n.mounted(c, "a", password("x"))
	// The Secret is not gone yet when the class is back.
	orphan := metav1.DeletePropagationOrphan
	options := []byte(fmt.Sprintf(`{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":%q}`, orphan))
	testkit.Must(t, r.Client.CoreV1().RESTClient().Delete().RequestURI(classPath(namespace, "again")).Body(options).Do(t.Context()).Error())
	testkit.Eventually(t, "the class gone", func() bool { _, err := r.Get(t.Context(), classPath(namespace, "again")); return err != nil })
	c = r.class("again", nil)
	n.follow(refreshed(f, c, password("x")))
	if s := r.holds("again", "p", "x"); len(s.OwnerReferences) != 1 || string(s.OwnerReferences[0].UID) != c.UID {
		t.Errorf("owners %+v", s.OwnerReferences)
	}
}
