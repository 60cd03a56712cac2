//go:build e2e

package secretsync

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const values = `
syncSecret:
  enabled: true
  namespaces: [shop]
  secrets: {closed: [listed]}
`

// password is the file of most classes here.
func password(text string) map[string]string { return map[string]string{"password": text} }

// TestSecrets has one control plane for all cases, which have classes of their own.
func TestSecrets(t *testing.T) {
	r := newRig(t)
	r.chart(values+"rbac: {admissionPolicy: false}\n", "syncsecret.yaml")
	t.Run("without the policy", func(t *testing.T) {
		testForeign(t, r.in(t), "foreign-without-policy")
	})
	r.chart(values, "syncsecret.yaml")
	r.policy()
	for name, test := range map[string]func(t *testing.T, r *rig){
		"one write for all pods and nodes":    testOneWrite,
		"an older read does not overwrite":    testOlder,
		"a class edit":                        testEdit,
		"certificates of many pods":           testCertificates,
		"pods that read different values":     testDifferent,
		"a Secret of another owner":           func(t *testing.T, r *rig) { testForeign(t, r, "foreign") },
		"two classes want one name":           testTwoClasses,
		"another client changes a value":      testTampered,
		"another client deletes it":           testDeleted,
		"a type cannot change":                testType,
		"labels, annotations, keys":           testMetadata,
		"templates":                           testTemplates,
		"keys of whole secrets":               testWhole,
		"manifests of the field":              testField,
		"it goes with the class":              testClassOwner,
		"it goes with the last pod":           testPodOwner,
		"a driver that starts again":          testRestart,
		"rights by name":                      testRights,
		"what a stolen node cannot do":        testStolen,
		"a class that is made again":          testRecreated,
		"the API server sees no data go back": testNoData,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, r.in(t))
		})
	}
	t.Run("rights for all namespaces", func(t *testing.T) { // after that by name
		testAllNamespaces(t, r.in(t))
	})
}

// testOneWrite: 50 pods on two nodes, a rotation, refreshes that change nothing.
// The incumbent writes each Secret at every pass (2057).
func testOneWrite(t *testing.T, r *rig) {
	c := r.class("one", nil)
	nodes := []*node{r.node("node-a"), r.node("node-b")}
	nodes[0].follow(nodes[0].mount(c, "first", password("v1"))) // two nodes at once may both find no Secret
	made := r.holds("one", "p", "v1")
	var mounts [][]volume.Followed
	for _, n := range nodes {
		var list []volume.Followed
		for i := range 25 {
			list = append(list, n.mount(c, fmt.Sprintf("pod-%d", i), password("v1")))
		}
		mounts = append(mounts, list)
	}
	everywhere := func(change func(volume.Followed) volume.Followed) (requests int64) {
		before := nodes[0].requests.Load() + nodes[1].requests.Load()
		var all sync.WaitGroup
		for i, n := range nodes {
			for _, f := range mounts[i] {
				all.Go(func() { n.Follow(t.Context(), change(f)) })
			}
		}
		all.Wait()
		return nodes[0].requests.Load() + nodes[1].requests.Load() - before
	}
	if n := everywhere(func(f volume.Followed) volume.Followed { return f }); n > 2 {
		t.Errorf("%d requests for 50 pods that start, want a look of the other node", n)
	}
	if got := r.holds("one", "p", "v1"); got.ResourceVersion != made.ResourceVersion {
		t.Error("the Secret was written again")
	}
	same := func(f volume.Followed) volume.Followed { return refreshed(f, c, password("v1")) }
	if n := everywhere(same); n != 0 {
		t.Errorf("%d requests at refreshes that changed nothing", n)
	}
	rotated := func(f volume.Followed) volume.Followed { return refreshed(f, c, password("v2")) }
	// A look of each node, and one write; who loses the race looks once more.
	if n := everywhere(rotated); n > 5 {
		t.Errorf("%d requests for a rotation", n)
	}
	got := r.holds("one", "p", "v2")
	if written := strings.Count(nodes[0].log.String()+nodes[1].log.String(), "Kubernetes Secret written"); written != 2 {
		t.Errorf("%d writes in all, want one to make it and one for the rotation", written)
	}
	if n := everywhere(rotated); n != 0 || r.read("one").ResourceVersion != got.ResourceVersion {
		t.Errorf("%d requests after the rotation", n)
	}
	if told := append(nodes[0].events.told, nodes[1].events.told...); len(told) > 0 {
		t.Errorf("Events: %+v", told)
	}
}

// testOlder: a node that still has an older answer of the store.
func testOlder(t *testing.T, r *rig) {
	c := r.class("older", nil)
	a, b := r.node("node-a"), r.node("node-b")
	old := b.mount(c, "b", password("v1"))
	a.mounted(c, "a", password("v2"))
	b.follow(old)
	r.holds("older", "p", "v2")
	b.follow(refreshed(old, c, password("v2")))
	b.follow(refreshed(old, c, password("v3")))
	r.holds("older", "p", "v3")
}

// testEdit: another key, another file; then a node that has not seen it.
func testEdit(t *testing.T, r *rig) {
	before := r.class("edited", nil)
	a, b := r.node("node-a"), r.node("node-b")
	f := a.mounted(before, "a", map[string]string{"password": "x", "user": "joe"})
	after := r.edit("edited", func(s *v1.SecretProviderClass) {
		s.Spec.SecretObjects[0].Data = []v1.SecretObjectData{{ObjectName: "user", Key: "u"}}
	})
	a.follow(refreshed(f, after, map[string]string{"password": "x", "user": "joe"}))
	s := r.holds("edited", "u", "joe")
	if len(s.Data) != 1 {
		t.Errorf("a key of the entry before stays: %d keys", len(s.Data))
	}
	b.mounted(before, "b", map[string]string{"password": "x", "user": "joe"})
	if got := r.holds("edited", "u", "joe"); got.ResourceVersion != s.ResourceVersion {
		t.Error("a node with the class before the edit wrote")
	}
	// An entry that is taken out leaves its Secret, which goes with the class.
	none := r.edit("edited", func(s *v1.SecretProviderClass) { s.Spec.SecretObjects = nil })
	a.follow(refreshed(f, none, map[string]string{"password": "y", "user": "jim"}))
	r.holds("edited", "u", "joe")
}

// testCertificates: each pod has a certificate issued, and the Secret keeps one
// until half of its life is over.
func testCertificates(t *testing.T, r *rig) {
	c := r.class("cert", nil)
	a := r.node("node-a")
	issued := func(pod, text string, life time.Duration) volume.Followed {
		f := a.mount(c, pod, password(text))
		f.Leases = []provider.Lease{{Object: "password", Expires: time.Now().Add(life)}}
		return f
	}
	a.follow(issued("a", "first", time.Hour))
	if again := a.Follow(t.Context(), issued("b", "second", time.Hour)); !time.Now().Before(again) {
		t.Errorf("its turn is at %s", again)
	}
	r.holds("cert", "p", "first")
	a.follow(issued("c", "third", 3*time.Hour))
	r.holds("cert", "p", "third")
	testCertificateAndMore(t, r)
}

// testCertificateAndMore: another key of the Secret changes, and the pod that sees it first
// has an older certificate than the Secret.
func testCertificateAndMore(t *testing.T, r *rig) {
	c := r.class("cert-and-more", func(s *v1.SecretProviderClass) {
		s.Spec.SecretObjects[0].Data = append(s.Spec.SecretObjects[0].Data, v1.SecretObjectData{ObjectName: "cert", Key: "c"})
	})
	a, b := r.node("node-a"), r.node("node-b")
	leases := []provider.Lease{{Object: "cert", Expires: time.Now().Add(time.Hour)}}
	mount := func(n *node, pod, cert string) volume.Followed {
		f := n.mount(c, pod, map[string]string{"cert": cert})
		f.Leases = leases
		return f
	}
	read := func(f volume.Followed, text string) volume.Followed { // the certificate stays as it is
		cert := f.Files[0]
		f = fill(f, password(text))
		f.Files = append([]provider.File{cert}, f.Files...)
		return f
	}
	later := func(f volume.Followed) volume.Followed { f.First = false; return f }
	of := func(cert, text string) string {
		t.Helper()
		r.holds("cert-and-more", "p", text)
		return r.holds("cert-and-more", "c", cert).ResourceVersion
	}
	onA, onB := mount(a, "a", "of a"), mount(b, "b", "of b")
	a.follow(read(onA, "v1"))
	b.Follow(t.Context(), read(onB, "v1"))
	of("of a", "v1")
	b.Follow(t.Context(), later(read(onB, "v2")))
	of("of b", "v2")
	a.Follow(t.Context(), later(read(onA, "v3"))) // which has not seen v2
	written := of("of a", "v3")
	for range 2 {
		a.Follow(t.Context(), later(read(onA, "v3")))
		b.Follow(t.Context(), later(read(onB, "v3")))
	}
	if of("of a", "v3") != written {
		t.Error("the pods' certificates replace each other")
	}
}

// testDifferent: roles may give each pod another value. The last that changed
// counts, and they do not overwrite each other at each refresh.
func testDifferent(t *testing.T, r *rig) {
	c := r.class("different", nil)
	n := r.node("node-a")
	a, b := n.mount(c, "a", password("of a")), n.mount(c, "b", password("of b"))
	n.follow(a)
	b = fill(b, password("of b"))
	n.follow(b)
	s := r.holds("different", "p", "of b")
	n.follow(refreshed(a, c, password("of a")))
	if got := r.read("different"); got.ResourceVersion != s.ResourceVersion {
		t.Error("a refresh without a change wrote")
	}
	n.follow(refreshed(a, c, password("new of a")))
	r.holds("different", "p", "new of a")
}

// testForeign: the incumbent overwrites it (499), and strips what others set.
func testForeign(t *testing.T, r *rig, name string) {
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{"mine": []byte("precious")}}
	theirs = testkit.Value(r.Client.CoreV1().Secrets(namespace).Create(t.Context(), theirs, metav1.CreateOptions{FieldManager: "helm"}))(t)
	n := r.node("node-a")
	f := n.mount(r.class(name, nil), "a", password("x"))
	n.refused(f, name, "helm", "has not made", "secretName")
	if got := r.read(name); got.ResourceVersion != theirs.ResourceVersion {
		t.Errorf("it was touched: %+v", got)
	}
	if strings.Contains(n.log.String(), "precious") {
		t.Error("the log has the other Secret's value")
	}
	requests := n.requests.Load()
	n.refused(refreshed(f, f.Class, password("x")), "helm")
	if n.requests.Load() != requests {
		t.Error("the refresh right after it asked again")
	}
	testkit.Must(t, r.Client.CoreV1().Secrets(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	n.follow(refreshed(f, f.Class, password("changed")))
	r.holds(name, "p", "changed")
}

func testTwoClasses(t *testing.T, r *rig) {
	first := r.class("twin-a", func(s *v1.SecretProviderClass) { s.Spec.SecretObjects[0].SecretName = "twin" })
	second := r.class("twin-b", func(s *v1.SecretProviderClass) { s.Spec.SecretObjects[0].SecretName = "twin" })
	n := r.node("node-a")
	n.mounted(first, "a", password("first"))
	n.refused(n.mount(second, "b", password("second")), `SecretProviderClass "twin-a"`)
	r.holds("twin", "p", "first")
}

func testTampered(t *testing.T, r *rig) {
	c := r.class("tampered", nil)
	n := r.node("node-a")
	n.mounted(c, "a", password("x"))
	testkit.Value(r.Client.CoreV1().Secrets(namespace).Patch(t.Context(), "tampered", types.MergePatchType,
		[]byte(`{"data":{"p":"eQ=="}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"}))(t)
	other := r.node("node-b") // which has no memory of it
	other.refused(other.mount(c, "b", password("x")), "kubectl-edit", ".data.p", "delete the Secret")
	// What others add stays, and is no reason to write.
	labelled := r.class("labelled", nil)
	f := n.mounted(labelled, "a", password("x"))
	theirs := testkit.Value(r.Client.CoreV1().Secrets(namespace).Patch(t.Context(), "labelled", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"team":"blue"}},"data":{"more":"eQ=="}}`), metav1.PatchOptions{FieldManager: "kubectl-label"}))(t)
	other.mounted(labelled, "b", password("x"))
	if s := r.read("labelled"); s.ResourceVersion != theirs.ResourceVersion {
		t.Error("what others add is a reason to write")
	}
	n.follow(refreshed(f, labelled, password("y")))
	if s := r.holds("labelled", "p", "y"); s.Labels["team"] != "blue" || string(s.Data["more"]) != "y" {
		t.Errorf("what others added is gone: %v, %d keys", s.Labels, len(s.Data))
	}
}

// testDeleted: the next pod has it made again.
func testDeleted(t *testing.T, r *rig) {
	c := r.class("deleted", nil)
	n := r.node("node-a")
	n.mounted(c, "a", password("x"))
	testkit.Must(t, r.Client.CoreV1().Secrets(namespace).Delete(t.Context(), "deleted", metav1.DeleteOptions{}))
	b := r.node("node-b")
	b.mounted(c, "b", password("x"))
	r.holds("deleted", "p", "x")
}

func testType(t *testing.T, r *rig) {
	c := r.class("typed", nil)
	n := r.node("node-a")
	f := n.mounted(c, "a", map[string]string{"password": `{"auths":{"r.example":{"auth":"eDp5"}}}`})
	c = r.edit("typed", func(s *v1.SecretProviderClass) {
		s.Spec.SecretObjects[0].Type, s.Spec.SecretObjects[0].Data[0].Key = "kubernetes.io/dockerconfigjson", ".dockerconfigjson"
	})
	n.refused(refreshed(f, c, map[string]string{"password": `{"auths":{"r.example":{"auth":"eDp5"}}}`}), "cannot change", "delete the Secret")
	testkit.Must(t, r.Client.CoreV1().Secrets(namespace).Delete(t.Context(), "typed", metav1.DeleteOptions{}))
	n.mounted(c, "b", map[string]string{"password": `{"auths":{"r.example":{"auth":"eDp5Mg=="}}}`})
	if s := r.read("typed"); s.Type != corev1.SecretTypeDockerConfigJson {
		t.Errorf("type %s", s.Type)
	}
}

func testMetadata(t *testing.T, r *rig) {
	c := r.class("metadata", func(s *v1.SecretProviderClass) {
		s.Spec.SecretObjects[0].Labels = map[string]string{"app": "db", "secrets-store.csi.k8s.io/managed": "no", "mayfly.dev/class": "another"}
		s.Spec.SecretObjects[0].Annotations = map[string]string{"note": "x", "mayfly.dev/node-name": "another"}
		s.Spec.SecretObjects[0].Data = append(s.Spec.SecretObjects[0].Data, v1.SecretObjectData{ObjectName: "dir/user", Key: "user.name"})
	})
	n := r.node("node-a")
	n.mounted(c, "a", map[string]string{"password": "\x00\xff", "dir/user": "joe"})
	s := r.holds("metadata", "p", "\x00\xff")
	if string(s.Data["user.name"]) != "joe" || s.Labels["app"] != "db" || s.Labels["secrets-store.csi.k8s.io/managed"] != "true" ||
		s.Labels["mayfly.dev/class"] != "metadata" || s.Annotations["note"] != "x" || s.Annotations["mayfly.dev/node-name"] != "node-a" {
		t.Errorf("Secret %+v", s)
	}
	n.refused(n.mount(c, "b", password("x")), `"dir/user"`, `"password"`)
}

// testTemplates: keys, labels and annotations are rendered in the same way on all nodes; an error
// names the field that the API server would refuse.
func testTemplates(t *testing.T, r *rig) {
	change := func(label, secrets string) func(s *v1.SecretProviderClass) {
		return func(s *v1.SecretProviderClass) {
			s.Spec.Parameters["secretTemplates"] = fmt.Sprintf(`
- secretName: templates
  data: {.dockerconfigjson: '{"auths":{"r.example":{"password":{{ toJson .password }}}}}'}
  labels: {part-of: %q}
  annotations: {version: '{{ (fromJson .versions).password }}'%s}
`, label, secrets)
			s.Spec.SecretObjects[0].Type, s.Spec.SecretObjects[0].Data = "kubernetes.io/dockerconfigjson", nil
		}
	}
	c := r.class("templates", change("{{ .class }}.{{ .namespace }}", ""))
	version := func(f volume.Followed, v string) volume.Followed {
		f.Versions = []provider.Version{{ID: "password", Version: v}}
		return f
	}
	a, b := r.node("node-a"), r.node("node-b")
	f := version(a.mount(c, "a", password(`x"y`)), "1")
	a.follow(f)
	want := `{"auths":{"r.example":{"password":"x\"y"}}}`
	s := r.holds("templates", ".dockerconfigjson", want)
	if s.Labels["part-of"] != "templates.shop" || s.Annotations["version"] != "1" || s.Type != corev1.SecretTypeDockerConfigJson {
		t.Errorf("Secret %+v", s.ObjectMeta)
	}
	b.follow(version(b.mount(c, "b", password(`x"y`)), "1"))
	if got := r.holds("templates", ".dockerconfigjson", want); got.ResourceVersion != s.ResourceVersion {
		t.Error("the second node wrote the same again")
	}
	a.follow(version(refreshed(f, c, password(`x"y`)), "2")) // written again in the store, with the same value
	if s = r.holds("templates", ".dockerconfigjson", want); s.Annotations["version"] != "2" {
		t.Errorf("annotations %+v", s.Annotations)
	}
	a.refused(version(refreshed(f, r.edit("templates", change("{{ .class }} of {{ .namespace }}", "")), password("z")), "3"),
		"secretTemplates[0].labels[part-of]", "a valid label")
	a.refused(version(refreshed(f, r.edit("templates", change("x", ", more: '{{ .password }}'")), password("z")), "3"), "secretTemplates[0].annotations[more]", "no place for secrets")
	if got := r.holds("templates", ".dockerconfigjson", want); got.ResourceVersion != s.ResourceVersion {
		t.Error("what is refused was written")
	}
}

// testWhole: files of a whole secret are named by their paths. A key that is added in the
// store reaches a Secret whose entry names it, and one that is removed leaves it as it is.
func testWhole(t *testing.T, r *rig) {
	entry := func(names ...string) func(*v1.SecretProviderClass) {
		return func(s *v1.SecretProviderClass) {
			s.Spec.SecretObjects[0].Data = nil
			for _, name := range names {
				s.Spec.SecretObjects[0].Data = append(s.Spec.SecretObjects[0].Data, v1.SecretObjectData{ObjectName: name, Key: strings.TrimPrefix(name, "db/")})
			}
		}
	}
	c := r.class("whole", entry("db/user", "db/password"))
	n := r.node("node-a")
	f := n.mounted(c, "a", map[string]string{"db/user": "u", "db/password": "p", "db/port": "1"})
	r.holds("whole", "user", "u")
	if s := r.holds("whole", "password", "p"); len(s.Data) != 2 {
		t.Errorf("%d keys, want those that the class names", len(s.Data))
	}
	n.refused(refreshed(f, c, map[string]string{"db/user": "u2"}), `no file of the volume is called "db/password"`, `which has "db/user"`)
	r.holds("whole", "user", "u") // one payload or the next, and no mix
	c = r.edit("whole", entry("db/user", "db/added"))
	n.Follow(t.Context(), refreshed(f, c, map[string]string{"db/user": "u2", "db/added": "new"}))
	r.holds("whole", "added", "new")
	if s := r.holds("whole", "user", "u2"); len(s.Data) != 2 {
		t.Errorf("%d keys", len(s.Data))
	}
	c = r.edit("whole", entry("db"))
	n.refused(refreshed(f, c, map[string]string{"db/user": "u2", "other": "x"}), `no file of the volume is called "db"`, `a file and not a directory, such as "db/user"`)
}

// testRestart: a new process looks once, and writes nothing.
func testRestart(t *testing.T, r *rig) {
	c := r.class("restart", nil)
	n := r.node("node-a")
	f := n.mounted(c, "a", password("x"))
	s := r.read("restart")
	again := r.node("node-a")
	again.follow(refreshed(f, c, password("x")))
	if got := r.read("restart"); got.ResourceVersion != s.ResourceVersion || again.requests.Load() != 1 {
		t.Errorf("%d requests", again.requests.Load())
	}
	// Killed between the files and the Secret: the next process makes it.
	late := r.class("restart-late", nil)
	again.follow(refreshed(again.mount(late, "a", nil), late, password("x")))
	r.holds("restart-late", "p", "x")
}

// testRights: the error for a Secret that is not listed names the missing right.
func testRights(t *testing.T, r *rig) {
	n := r.node("node-a")
	closed := *r.class("rights", nil)
	closed.Namespace = "closed"
	n.refused(n.mount(&closed, "a", password("x")), "cannot patch", "create and patch", `"rights"`, `namespace "closed"`, "syncSecret.secrets")
	listed := closed
	listed.UID = "" // of a directory
	listed.SecretObjects = []v1.SecretObject{{SecretName: "listed", Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "password", Key: "p"}}}}
	n.mounted(&listed, "b", password("x"))
	s, err := r.Client.CoreV1().Secrets("closed").Get(t.Context(), "listed", metav1.GetOptions{})
	if err != nil || string(s.Data["p"]) != "x" || len(s.OwnerReferences) != 0 {
		t.Errorf("Secret %+v, %v", s, err)
	}
}

// testAllNamespaces: ["*"] is every namespace, and the policy holds there too.
func testAllNamespaces(t *testing.T, r *rig) {
	c := *r.class("everywhere", nil)
	c.Namespace, c.UID = "closed", "" // of a directory
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	testkit.Value(r.Client.CoreV1().Secrets("closed").Create(t.Context(), theirs, metav1.CreateOptions{FieldManager: "helm"}))(t)
	r.chart("syncSecret: {enabled: true, namespaces: ['*']}", "syncsecret.yaml")
	testkit.Eventually(t, "the right", func() bool {
		n := r.node("node-a") // which remembers no refusal
		n.Follow(t.Context(), n.mount(&c, "a", password("x")))
		s, err := r.Client.CoreV1().Secrets("closed").Get(t.Context(), "everywhere", metav1.GetOptions{})
		return err == nil && string(s.Data["p"]) == "x"
	})
	c.SecretObjects = []v1.SecretObject{{SecretName: "theirs", Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "password", Key: "p"}}}}
	n := r.node("node-a")
	n.refused(n.mount(&c, "b", password("x")), "helm", "has not made")
}
