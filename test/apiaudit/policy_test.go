//go:build e2e

package apiaudit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	policy        = "../../deploy/audit-policy.yaml"
	marker        = "s3cr3t-marker"
	waitTimeout   = 90 * time.Second
	idleTime      = 40 * time.Second
	mostIdleLines = 4
)

// event is a line of the API server's audit log.
type event controlplane.Event

func (e event) String() string {
	what := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		what += "/" + e.ObjectRef.Subresource
	}
	return fmt.Sprintf("%s %s %s %s", e.User.Username, e.Verb, what, e.ObjectRef.Name)
}

type rig struct {
	*controlplane.Cluster
	t   *testing.T
	api *controlplane.APIServer
	log string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, Cluster: controlplane.New(t)}
	r.log = r.Path("audit.log")
	r.api = r.APIServer("kube-apiserver-audited", "", "--audit-policy-file="+policy, "--audit-log-path="+r.log)
	r.api.Ready()
	return r
}

// events returns the events of the log from a position on, and its size.
func (r *rig) events(from int64) (all []event, size int64) {
	r.t.Helper()
	found, size, err := controlplane.AuditEvents(r.log, from)
	testkit.Must(r.t, err)
	for _, e := range found {
		all = append(all, event(e))
	}
	return all, size
}

// await waits for the event whose String is want.
func (r *rig) await(want string) event {
	r.t.Helper()
	var found event
	controlplane.Await(r.t, waitTimeout, "the line "+want, func(context.Context) error {
		all, _ := r.events(0)
		i := slices.IndexFunc(all, func(e event) bool { return strings.TrimSpace(e.String()) == want })
		if i < 0 {
			return fmt.Errorf("there are %d others: %v", len(all), all)
		}
		found = all[i]
		return nil
	})
	return found
}

// post sends an object to a path, and returns the answer, also of an error.
func (r *rig) post(path string, body []byte) []byte {
	answer, _ := r.api.Client.CoreV1().RESTClient().Post().AbsPath(path).Body(body).SetHeader("Content-Type", "application/json").DoRaw(r.t.Context())
	return answer
}

const class = `{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"db","namespace":"default"},` +
	`"spec":{"provider":"vault","parameters":{"roleName":"web","objects":"[{objectName: a, secretPath: secret/data/db, secretKey: k}]"}}}`

// TestPolicy makes requests of each rule of the policy, and checks their lines in the audit log.
func TestPolicy(t *testing.T) {
	r := newRig(t)
	r.ControllerManager(r.api, "*")
	ctx, api := t.Context(), r.api.Client
	node := r.api.As("system:node:n1", "system:nodes")
	r.api.CRDs("/apis/secrets-store.csi.x-k8s.io/v1/secretproviderclasses")
	controlplane.Await(t, waitTimeout, "the service account of the namespace", func(ctx context.Context) error {
		_, err := api.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	testkit.Value(api.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "nodes"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:nodes"}},
	}, metav1.CreateOptions{}))(t)

	// Secrets: a write whose bodies hold the marker, a read, a watch, and kubelet's.
	testkit.Must(t, r.api.PutSecret(ctx, "db", marker))
	testkit.Value(api.CoreV1().Secrets("default").Patch(ctx, "db", types.MergePatchType, []byte(`{"metadata":{"annotations":{"note":"`+marker+`"}},"stringData":{"text":"`+marker+`-2"}}`), metav1.PatchOptions{}))(t)
	testkit.Value(r.api.ReadSecret(ctx, "db"))(t)
	for _, c := range []kubernetes.Interface{api, node} {
		w := testkit.Value(c.CoreV1().Secrets("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=db"}))(t)
		w.Stop()
	}
	testkit.Value(node.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=db"}))(t)
	// Tokens for a user and for kubelet.
	var tokens []string
	for _, c := range []kubernetes.Interface{api, node} {
		answer := testkit.Value(c.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}}, metav1.CreateOptions{}))(t)
		tokens = append(tokens, answer.Status.Token)
	}
	// Ways into a pod; there is no node, so they end in errors.
	testkit.Value(api.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}, metav1.CreateOptions{}))(t)
	for _, way := range []string{"exec", "attach", "portforward", "proxy/metrics"} {
		r.post("/api/v1/namespaces/default/pods/web/"+way, nil)
	}
	testkit.Value(api.CoreV1().Pods("default").Patch(ctx, "web", types.StrategicMergePatchType, []byte(`{"spec":{"ephemeralContainers":[{"name":"debug","image":"x","env":[{"name":"PASSWORD","value":"`+marker+`"}]}]}}`), metav1.PatchOptions{}, "ephemeralcontainers"))(t)
	// Objects that decide who may read what.
	controlplane.Await(t, waitTimeout, "a class", func(context.Context) error {
		if answer := r.post("/apis/secrets-store.csi.x-k8s.io/v1/namespaces/default/secretproviderclasses", []byte(class)); !bytes.Contains(answer, []byte(`"uid"`)) {
			return fmt.Errorf("%s", answer)
		}
		return nil
	})
	testkit.Value(api.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}}}, metav1.CreateOptions{}))(t)
	r.post("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", []byte(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingAdmissionPolicy","metadata":{"name":"x"},"spec":{"validations":[{"expression":"true"}]}}`))
	r.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", []byte(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingWebhookConfiguration","metadata":{"name":"y"}}`))
	// A request that the policy does not log.
	testkit.Value(api.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}))(t)

	for want, level := range map[string]string{
		"admin create secrets db":                             "Metadata",
		"admin patch secrets db":                              "Metadata",
		"admin get secrets db":                                "Metadata",
		"admin watch secrets db":                              "Metadata",
		"system:node:n1 list secrets db":                      "Metadata",
		"admin create serviceaccounts/token default":          "Metadata",
		"system:node:n1 create serviceaccounts/token default": "Metadata",
		"admin create pods/exec web":                          "Metadata",
		"admin create pods/attach web":                        "Metadata",
		"admin create pods/portforward web":                   "Metadata",
		"admin create pods/proxy web":                         "Metadata",
		"admin patch pods/ephemeralcontainers web":            "Metadata",
		"admin create secretproviderclasses db":               "Request",
		"admin create clusterrolebindings nodes":              "Request",
		"admin create roles reader":                           "Request",
		"admin create validatingadmissionpolicies x":          "Request",
		"admin create validatingwebhookconfigurations y":      "Request",
		"system:serviceaccount:kube-system:service-account-controller create serviceaccounts default": "Metadata",
	} {
		if e := r.await(want); e.Level != level || (level == "Metadata") != (len(e.RequestObject) == 0) {
			t.Errorf("%s has level %s and a body of %d bytes, want level %s", want, e.Level, len(e.RequestObject), level)
		}
	}
	if e := r.await("system:node:n1 create serviceaccounts/token default"); !strings.HasPrefix(e.Annotations["authentication.kubernetes.io/issued-credential-id"], "JTI=") {
		t.Errorf("the annotations of kubelet's request for a token are %v", e.Annotations)
	}
	all, _ := r.events(0)
	for _, e := range all {
		if e.Verb == "watch" && e.User.Username != "admin" || e.ObjectRef.Resource == "configmaps" || e.ObjectRef.Resource == "pods" && e.ObjectRef.Subresource == "" || e.Stage == "RequestReceived" {
			t.Errorf("%s has a line (stage %s)", e, e.Stage)
		}
	}
	r.noSecrets(tokens)
	r.checkQueries()
}

// checkQueries runs the queries of docs/api-audit.md.
func (r *rig) checkQueries() {
	r.t.Helper()
	want := [][]string{
		{"admin\tget\tdefault\tdb\t200", "system:node:n1\tlist\tdefault\tdb\t200"},
		{"admin\t-\tdefault\tdefault"},
		{"admin\texec\tdefault\tweb", "admin\tephemeralcontainers\tdefault\tweb\t200"},
		{`"by":"admin","verb":"create","class":"default/db","spec":{"parameters":{`},
		{"admin\tcreate\troles\treader", "admin\tcreate\tvalidatingadmissionpolicies\tx"},
	}
	queries := audittest.Recipes(r.t, "api-audit.md", "queries")
	if len(queries) != len(want) {
		r.t.Fatalf("the page has %d queries: %q", len(queries), queries)
	}
	for i, query := range queries {
		got := strings.Join(audittest.RunRecipe(r.t, query, map[string]string{"audit.log": r.log}), "\n")
		testkit.Has(r.t, got, want[i]...)
		if i == 1 && strings.Contains(got, "system:node") {
			r.t.Errorf("%s\nlists requests of kubelets:\n%s", query, got)
		}
	}
}

func (r *rig) noSecrets(tokens []string) {
	r.t.Helper()
	text := testkit.Value(os.ReadFile(r.log))(r.t)
	for _, secret := range append(tokens, marker, "eyJhbGciOi") {
		if i := bytes.Index(text, []byte(secret)); i >= 0 {
			r.t.Errorf("the audit log holds a secret: %s", text[max(0, i-300):i])
		}
	}
}

// TestIdleCluster counts the lines of a control plane without users or workloads.
func TestIdleCluster(t *testing.T) {
	r := newRig(t)
	r.ControllerManager(r.api, "*")
	r.api.Namespace("last") // its service account exists once the controllers run
	r.await("system:serviceaccount:kube-system:service-account-controller create serviceaccounts default")
	controlplane.Await(t, waitTimeout, "the service account of the last namespace", func(ctx context.Context) error {
		_, err := r.api.Client.CoreV1().ServiceAccounts("last").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	controlplane.Await(t, waitTimeout, "the aggregated cluster roles", r.rolesAggregated)
	begun, from := r.events(0)
	<-time.After(idleTime) // a measurement, not a wait for an event
	during, to := r.events(from)
	t.Logf("the start of a control plane wrote %d lines, %d bytes; %s of quiet %d lines, %d bytes", len(begun), from, idleTime, len(during), to-from)
	if len(during) > mostIdleLines {
		t.Errorf("a quiet cluster writes %d lines in %s: %v", len(during), idleTime, during)
	}
}

// rolesAggregated returns an error until each aggregated ClusterRole has the rules of all that it
// selects, which are patched one after the other after the start.
func (r *rig) rolesAggregated(ctx context.Context) error {
	roles, err := r.api.Client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing the cluster roles: %w", err)
	}
	for _, role := range roles.Items {
		if role.AggregationRule == nil {
			continue
		}
		for _, selector := range role.AggregationRule.ClusterRoleSelectors {
			for _, other := range roles.Items {
				for _, rule := range other.Rules {
					if labels.Set(selector.MatchLabels).AsSelector().Matches(labels.Set(other.Labels)) &&
						!slices.ContainsFunc(role.Rules, func(have rbacv1.PolicyRule) bool { return reflect.DeepEqual(have, rule) }) {
						return fmt.Errorf("%s has not all rules of %s", role.Name, other.Name)
					}
				}
			}
		}
	}
	return nil
}
