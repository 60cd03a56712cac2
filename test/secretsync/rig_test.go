//go:build e2e

package secretsync

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/secretsync"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const (
	root      = "../.."
	namespace = "shop"
	soon      = 30 * time.Second
	driver    = "system:serviceaccount:mayfly-system:mayfly"
)

// rig is a control plane with the chart's objects and CRDs.
type rig struct {
	cluster *controlplane.Cluster
	*controlplane.APIServer
	t       *testing.T
	helm    string
	volumes atomic.Int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests need root: the API server has a host name of its own")
	}
	r := &rig{t: t, cluster: controlplane.New(t)}
	r.helm = testkit.Value(toolcache.Get(t.Context(), os.Stderr, "helm"))(t)
	r.APIServer = r.cluster.APIServer("kube-apiserver", "")
	r.Ready()
	r.cluster.ControllerManager(r.APIServer, "garbage-collector-controller,namespace-controller,deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller")
	for _, name := range []string{namespace, "closed", "mayfly-system"} {
		r.Namespace(name)
	}
	r.CRDs(classPath(namespace))
	return r
}

// in is the rig for a subtest.
func (r *rig) in(t *testing.T) *rig {
	return &rig{cluster: r.cluster, APIServer: r.APIServer, t: t, helm: r.helm}
}

func (r *rig) chart(values string, templates ...string) {
	r.t.Helper()
	args := []string{"template", "mayfly", root + "/charts/mayfly", "--namespace=mayfly-system", "--kube-version=1.37.2", "--values=-"}
	for _, name := range templates {
		args = append(args, "--show-only=templates/"+name)
	}
	cmd := exec.CommandContext(r.t.Context(), r.helm, args...)
	cmd.Stdin = strings.NewReader(values)
	cmd.Stderr = os.Stderr
	out := testkit.Value(cmd.Output())(r.t)
	for _, text := range strings.Split(string(out), "\n---") {
		r.create(text)
	}
}

// policy waits until the API server goes by the chart's policy.
func (r *rig) policy() {
	r.t.Helper()
	config := r.config("")
	config.Impersonate.Extra = nil
	c := testkit.Value(kubernetes.NewForConfig(config))(r.t)
	controlplane.Await(r.t, soon, "the policy", func(ctx context.Context) error {
		_, err := c.CoreV1().Secrets(namespace).Patch(ctx, "policy", types.ApplyPatchType, []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"policy"}}`),
			metav1.PatchOptions{FieldManager: "test", DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), "names no node") {
			return fmt.Errorf("a dry run without a node: %w", err)
		}
		return nil
	})
}

// paths are where objects of a kind are.
var paths = map[string]string{
	"Role":                             "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles",
	"RoleBinding":                      "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ClusterRole":                      "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding":               "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

// create makes an object of a manifest; comments alone are none.
func (r *rig) create(text string) {
	r.t.Helper()
	data := testkit.Value(yaml.YAMLToJSON([]byte(text)))(r.t)
	object := &metav1.PartialObjectMetadata{}
	testkit.Must(r.t, json.Unmarshal(data, object))
	if object.Kind == "" {
		return
	}
	path, ok := paths[object.Kind]
	if !ok {
		r.t.Fatalf("no path for a %s", object.Kind)
	}
	if strings.Contains(path, "%s") {
		path = fmt.Sprintf(path, object.Namespace)
	}
	if out, err := r.Client.CoreV1().RESTClient().Post().RequestURI(path).Body(data).Do(r.t.Context()).Raw(); err != nil && !apierrors.IsAlreadyExists(err) {
		r.t.Fatalf("creating %s %s: %v\n%s", object.Kind, object.Name, err, out)
	}
}

func classPath(namespace string, more ...string) string {
	return strings.Join(append([]string{"/apis/" + v1.GroupVersion().String() + "/namespaces/" + namespace + "/secretproviderclasses"}, more...), "/")
}

// class makes a class in the API server, and gives it as the driver has it.
func (r *rig) class(name string, change func(*v1.SecretProviderClass)) *class.Class {
	r.t.Helper()
	spc := &v1.SecretProviderClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec:       v1.SecretProviderClassSpec{Provider: "plugin", Parameters: map[string]string{}},
	}
	spc.Spec.SecretObjects = []v1.SecretObject{{SecretName: name, Type: "Opaque", Data: []v1.SecretObjectData{{ObjectName: "password", Key: "p"}}}}
	if change != nil {
		change(spc)
	}
	return r.put(http.MethodPost, classPath(namespace), spc)
}

func (r *rig) edit(name string, change func(*v1.SecretProviderClass)) *class.Class {
	r.t.Helper()
	text := testkit.Value(r.Get(r.t.Context(), classPath(namespace, name)))(r.t)
	spc := &v1.SecretProviderClass{}
	testkit.Must(r.t, json.Unmarshal([]byte(text), spc))
	change(spc)
	return r.put(http.MethodPut, classPath(namespace, name), spc)
}

func (r *rig) put(verb, path string, spc *v1.SecretProviderClass) *class.Class {
	r.t.Helper()
	data := testkit.Value(json.Marshal(spc))(r.t)
	got := testkit.Value(r.Client.CoreV1().RESTClient().Verb(verb).RequestURI(path).Body(data).Do(r.t.Context()).Raw())(r.t)
	testkit.Must(r.t, json.Unmarshal(got, spc))
	c, _, err := class.Parse(spc)
	testkit.Must(r.t, err)
	return c
}

// pod makes a pod, which an owner reference needs to be there.
func (r *rig) pod(name string) identity.Pod {
	r.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: new(bool), Containers: []corev1.Container{{Name: "main", Image: "none"}}, ServiceAccountName: "default",
	}}
	controlplane.Await(r.t, soon, "pod "+name, func(ctx context.Context) error {
		_, err := r.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		p, err = r.Client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	return identity.Pod{Namespace: namespace, Name: p.Name, UID: string(p.UID), ServiceAccount: "default"}
}

// config is the driver's way to the API server on a node.
func (r *rig) config(node string) *rest.Config {
	c := rest.CopyConfig(r.Config)
	c.QPS = -1
	c.Impersonate = rest.ImpersonationConfig{
		UserName: driver, Groups: []string{"system:serviceaccounts", "system:serviceaccounts:mayfly-system", "system:authenticated"},
		Extra: map[string][]string{"authentication.kubernetes.io/node-name": {node}},
	}
	return c
}

// node is the driver's part on one node.
type node struct {
	*secretsync.Syncer
	r        *rig
	events   events
	requests *atomic.Int64
	log      *testkit.Log
}

type events struct {
	mu   sync.Mutex
	told []status.Note
}

func (e *events) Tell(n status.Note) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = append(e.told, n)
}

// counted counts the requests of a client.
type counted struct {
	http.RoundTripper
	n *atomic.Int64
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.n.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

func (r *rig) node(name string) *node {
	r.t.Helper()
	n := &node{r: r, requests: &atomic.Int64{}, log: &testkit.Log{}}
	config := r.config(name)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return counted{rt, n.requests} })
	api := testkit.Value(secretsync.NewAPI(config))(r.t)
	n.Syncer = testkit.Value(secretsync.New(secretsync.Config{
		API: api, Events: &n.events, Logger: slog.New(slog.NewTextHandler(n.log, nil)), Node: name, Count: func(secretsync.Result) {},
	}))(r.t)
	return n
}

// mount is a volume with contents by the names of its files, of a class.
func (n *node) mount(c *class.Class, pod string, files map[string]string) volume.Followed {
	f := volume.Followed{
		Volume: fmt.Sprintf("v%d", n.r.volumes.Add(1)), Pod: identity.Pod{Namespace: c.Namespace, Name: pod, UID: "uid-" + pod}, Class: c, First: true, Changed: true,
	}
	return fill(f, files)
}

// mounted is a volume that the node has published, with its Secret.
func (n *node) mounted(c *class.Class, pod string, files map[string]string) volume.Followed {
	n.r.t.Helper()
	f := n.mount(c, pod, files)
	n.follow(f)
	return f
}

func fill(f volume.Followed, files map[string]string) volume.Followed {
	f.Files, f.Rendering = nil, nil
	if prepared, _, err := rendered.New(nil).Prepare(f.Volume, f.Class); err == nil {
		f.Rendering = prepared
	}
	for name, text := range files {
		f.Files = append(f.Files, provider.File{Path: name, Contents: secret.NewBytes([]byte(text)), ReadAt: time.Now()})
	}
	return f
}

// refreshed is a refresh of a volume that brought other contents, or the same.
func refreshed(f volume.Followed, c *class.Class, files map[string]string) volume.Followed {
	f.First, f.Class = false, c
	return fill(f, files)
}

// follow writes, and wants all to be well.
func (n *node) follow(f volume.Followed) {
	n.r.t.Helper()
	before := len(n.events.told)
	again := n.Follow(n.r.t.Context(), f)
	told := n.events.told[before:]
	if !again.IsZero() || slices.ContainsFunc(told, func(n status.Note) bool { return n.Reason != secretsync.SecretWritten }) {
		n.r.t.Fatalf("again at %s, Events %+v\n%s", again, told, n.log)
	}
}

// refused wants words in the Events on pod and class.
func (n *node) refused(f volume.Followed, words ...string) {
	n.r.t.Helper()
	before := len(n.events.told)
	n.Follow(n.r.t.Context(), f)
	told := n.events.told[before:]
	if len(told) != 2 || told[0].About.Kind != "Pod" || told[0].About.Name != f.Pod.Name || told[1].About.Kind != "SecretProviderClass" || string(told[1].About.UID) != f.Class.UID {
		n.r.t.Fatalf("Events %+v", told)
	}
	for _, note := range told {
		if note.Type != corev1.EventTypeWarning || note.Reason != secretsync.SecretNotWritten {
			n.r.t.Errorf("Event %+v", note)
		}
		testkit.Has(n.r.t, note.Text, words...)
	}
}

// read is a Secret as the administrator sees it; nil if there is none.
func (r *rig) read(name string) *corev1.Secret {
	r.t.Helper()
	s, err := r.Client.CoreV1().Secrets(namespace).Get(r.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	testkit.Must(r.t, err)
	return s
}

// holds wants a value in a Secret, and gives the Secret.
func (r *rig) holds(name, key, value string) *corev1.Secret {
	r.t.Helper()
	s := r.read(name)
	if s == nil || string(s.Data[key]) != value {
		r.t.Fatalf("Secret %s is %+v, want %s=%s", name, s, key, value)
	}
	return s
}

// gone waits until the garbage collector has taken a Secret away.
func (r *rig) gone(name string) {
	r.t.Helper()
	controlplane.Await(r.t, soon, "Secret "+name+" to go", func(context.Context) error {
		if s := r.read(name); s != nil {
			return fmt.Errorf("it is there, owned by %+v", s.OwnerReferences)
		}
		return nil
	})
}
