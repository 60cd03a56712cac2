//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// failedMount is the reason of kubelet's event, mountFailed of the driver's.
const (
	failedMount = "FailedMount"
	mountFailed = "MountFailed"
)

// classMissing checks that the event has the words of the Secrets Store CSI driver, for which people
// have alerts, and that the pod starts once the class exists.
func classMissing(c *tenant) {
	c.put("db", "one")
	c.start(newPod("early", printOnce, mounts("db")))
	c.awaitEvent("early", failedMount, "failed to get secretproviderclass "+c.ns+"/db")
	c.class("db", nil, c.object("password", "db"))
	c.awaitPod("early", isRunning)
	c.awaitLog("early", marker+"one\n")
}

// classElsewhere makes the class in another namespace, where the pod must not find it.
func classElsewhere(c *tenant) {
	c.put("db", "one")
	other := c.newTenant(c.t)
	other.put("db", "another's")
	other.class("db", nil, other.object("password", "db"))
	c.start(newPod("lost", printOnce, mounts("db")))
	c.awaitEvent("lost", failedMount, "failed to get secretproviderclass "+c.ns+"/db", "namespace of the pod")
	c.class("db", nil, c.object("password", "db"))
	c.awaitPod("lost", isRunning)
	c.awaitLog("lost", marker+"one\n")
}

func accountDenied(c *tenant) {
	c.put("db", "one")
	c.account("other-account")
	c.class("db", nil, c.object("password", "db"))
	c.start(newPod("denied", printOnce, as("other-account"), mounts("db")))
	words := []string{"failed to mount secrets store objects for pod " + c.ns + "/denied", "service account name not authorized"}
	c.awaitEvent("denied", failedMount, words...)
	event := c.awaitEvent("denied", mountFailed, "service account name not authorized")
	c.awaitStatus(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "denied"}}, func(s podStatus) error { return hasConditions(s, "False", "False", true) })
	if event.Type != corev1.EventTypeWarning || event.Source.Component != "mayfly" {
		c.t.Errorf("the driver's event is a %s of %q", event.Type, event.Source.Component)
	}
	if pod := c.awaitPod("denied", isWaiting); pod.Status.ContainerStatuses[0].RestartCount > 0 {
		c.t.Error("the container ran without its secrets")
	}
}

func isWaiting(pod *corev1.Pod) error {
	if s := pod.Status.ContainerStatuses; len(s) > 0 && s[0].State.Waiting != nil {
		return nil
	}
	return fmt.Errorf("it is %s: %v", pod.Status.Phase, pod.Status.ContainerStatuses)
}

// wrongAudience requests an audience for which kubelet makes no token, then one that the role refuses,
// and then has the role accept that one.
func wrongAudience(c *tenant) {
	c.put("db", "one")
	c.class("unknown", map[string]string{"audience": "nobody"}, c.object("password", "db"))
	c.start(newPod("unknown", printOnce, mounts("unknown")))
	c.awaitEvent("unknown", failedMount, `"nobody"`, "tokenRequests")

	c.class("refused", map[string]string{"audience": "second"}, c.object("password", "db"))
	c.start(newPod("refused", printOnce, mounts("refused")))
	c.awaitEvent("refused", failedMount, "failed to mount secrets store objects for pod "+c.ns+"/refused", "audience")

	testkit.Must(c.t, c.vault.allowLogin(c.t.Context(), c.ns, map[string]any{"audience": "second"}))
	c.awaitPod("refused", isRunning)
	c.awaitLog("refused", marker+"one\n")
}

// invalidClasses creates classes that the schema of the CRD refuses.
func invalidClasses(c *tenant) {
	words := map[string]string{
		"objects-as-list": "must be of type string", "no-objects": "parameters.objects is required: a YAML list of at least one object",
		"no-role": "parameters.roleName is required: the role to log in as",
	}
	for name, spec := range map[string]any{
		"no-spec":          nil,
		"no-provider":      map[string]any{"parameters": map[string]any{"roleName": "web"}},
		"bad-provider":     map[string]any{"provider": "not a name"},
		"number":           map[string]any{"provider": "vault", "parameters": map[string]any{"vaultSkipTLSVerify": true}},
		"objects-as-list":  map[string]any{"provider": "vault", "parameters": map[string]any{"roleName": "web", "objects": []any{}}},
		"no-objects":       map[string]any{"provider": "vault", "parameters": map[string]any{"roleName": "web"}},
		"no-role":          map[string]any{"provider": "openbao", "parameters": map[string]any{"objects": "- {}"}},
		"role-of-openbao":  map[string]any{"provider": "vault", "parameters": map[string]any{"baoRoleName": "web", "objects": "- {}"}},
		"bad-policy":       map[string]any{"provider": "aws", "parameters": map[string]any{"onUnavailable": "maybe"}},
		"secret-as-object": map[string]any{"provider": "vault", "secretObjects": map[string]any{"secretName": "s"}},
	} {
		class := map[string]any{"metadata": map[string]any{"name": name}}
		if spec != nil {
			class["spec"] = spec
		}
		if err := c.createClass(c.t.Context(), class); !apierrors.IsInvalid(err) {
			c.t.Errorf("creating class %s: %v, want that it is invalid", name, err)
		} else if !strings.Contains(err.Error(), words[name]) {
			c.t.Errorf("creating class %s: %v, want the words %q", name, err, words[name])
		}
	}
	for _, name := range []string{"roleName", "baoRoleName", "openbaoRoleName", "vaultRoleName"} {
		testkit.Must(c.t, c.createClass(c.t.Context(), map[string]any{
			"metadata": map[string]any{"name": strings.ToLower(name)},
			"spec":     map[string]any{"provider": "openbao", "parameters": map[string]any{name: "web", "objects": "- {}"}},
		}))
	}
}

func oldVersion(c *tenant) {
	c.put("db", "one")
	objects := "- objectName: password\n  secretPath: " + kvMount + "/data/" + c.ns + "/db\n  secretKey: password\n"
	testkit.Must(c.t, c.createClassOf(c.t.Context(), "v1alpha1", newClass("db", map[string]string{"roleName": c.ns, "objects": objects})))
	c.run(newPod("reader", printOnce, mounts("db")))
	c.awaitLog("reader", marker+"one\n")
}

// driverRights asks the API server for the rights of the driver's service account.
func driverRights(c *tenant) {
	for _, right := range []struct {
		verb, group, resource, subresource string
		want                               bool
	}{
		{"watch", v1.GroupName, v1.SecretProviderClassResource, "", true},
		{"update", v1.GroupName, v1.SecretProviderClassResource, "", false},
		{"create", v1.GroupName, v1.SecretProviderClassPodStatusResource, "", true},
		{"create", "", "events", "", true},
		{"get", "", "secrets", "", false},
		{"list", "", "secrets", "", false},
		{"create", "", "serviceaccounts", "token", false},
		{"get", "", "pods", "", false},
		{"patch", "", "nodes", "", false},
	} {
		review := testkit.Value(c.api.AuthorizationV1().SubjectAccessReviews().Create(c.t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User:   driverUser,
				Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + releaseNamespace, "system:authenticated"},
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: c.ns, Verb: right.verb, Group: right.group, Resource: right.resource, Subresource: right.subresource,
				},
			},
		}, metav1.CreateOptions{}))(c.t)
		if review.Status.Allowed != right.want {
			c.t.Errorf("the driver may %s %s/%s: %t, want %t", right.verb, right.resource, right.subresource, review.Status.Allowed, right.want)
		}
	}
}

// invalidObjects creates a class that only the driver can refuse: the pod's event names the field.
func invalidObjects(c *tenant) {
	testkit.Must(c.t, c.createClass(c.t.Context(), map[string]any{
		"metadata": map[string]any{"name": "broken"},
		"spec": map[string]any{"provider": "vault", "parameters": map[string]any{
			"roleName": c.ns, "objects": "- {objectName: ../password, secretPath: secret/data/x, secretKey: password}",
		}},
	}))
	c.start(newPod("broken", printOnce, mounts("broken")))
	c.awaitEvent("broken", failedMount, "spec.parameters.objects", "objectName")
}

// ignoredSettings checks the warnings of settings that have no effect: an unknown parameter, Secrets
// that the driver does not write, and attributes of the pod.
func ignoredSettings(c *tenant) {
	c.put("db", "one")
	c.until("the API server to warn of a class", c.warnsOfClasses)
	c.class("db", map[string]string{"vaultMount": "k8s"}, c.object("password", "db"))
	testkit.Must(c.t, c.patchClass(c.t.Context(), "db", []byte(`{"spec":{"secretObjects":[{"secretName":"db","type":"Opaque","data":[{"objectName":"password","key":"p"}]}]}}`)))
	pod := newPod("warned", printOnce, mounts("db"))
	pod.Spec.Volumes[0].CSI.VolumeAttributes["roleName"] = "admin"
	made := c.run(pod)
	c.awaitEvent("warned", names.ClassWarning, "spec.parameters.vaultMount: unknown, so ignored", `["db"] is not made`, `["roleName"] are ignored`)
	c.awaitStatus(made, func(s podStatus) error {
		for _, condition := range s.Status.Conditions {
			if condition.Type == names.ClassValid && condition.Status == metav1.ConditionFalse && condition.Reason == names.ClassWarning {
				return nil
			}
		}
		return fmt.Errorf("its conditions are %v", s.Status.Conditions)
	})
	c.class("strict", map[string]string{"vaultMount": "k8s", "strict": "true"}, c.object("password", "db"))
	c.start(newPod("strict", printOnce, mounts("strict")))
	c.awaitEvent("strict", failedMount, "spec.parameters.vaultMount: unknown", "strict makes errors of warnings")
	c.class("near", map[string]string{"refreshIntervall": "1h"}, c.object("password", "db"))
	c.start(newPod("near", printOnce, mounts("near")))
	c.awaitEvent("near", mountFailed, "InvalidClass: SecretProviderClass "+c.ns+"/near", "did you mean refreshInterval?")
}

// warnings collects the API server's warnings.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

// warnsOfClasses creates a class with dryRun and checks the API server's warnings.
func (c *tenant) warnsOfClasses(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.node.Kubeconfig())
	if err != nil {
		return err
	}
	handler := &warnings{}
	config.WarningHandler = handler
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	body := fmt.Sprintf(`{"apiVersion":%q,"kind":"SecretProviderClass","metadata":{"name":"applied"},"spec":{"provider":"vault",
		"parameters":{"roleName":"x","objects":"[{}]","vaultMount":"k8s","refreshInterval":"1h"},"secretObjects":[{"secretName":"db"}]}}`, v1.GroupVersion())
	err = api.CoreV1().RESTClient().Post().AbsPath(c.path(v1.SecretProviderClassResource)).Param("dryRun", "All").
		SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx).Error()
	if err != nil {
		return err
	}
	handler.mu.Lock()
	defer handler.mu.Unlock()
	if text := strings.Join(handler.texts, "\n"); !strings.Contains(text, "unknown to Mayfly: vaultMount. ") || !strings.Contains(text, "Mayfly writes no Kubernetes Secrets") {
		return fmt.Errorf("the API server warned %q", text)
	}
	return nil
}

// boundToItsNode writes an Event of this node as the driver of this node, of another, and of none, as
// the API server reads it from their tokens: only the first is allowed.
func boundToItsNode(c *tenant) {
	for node, allowed := range map[string]bool{c.node.Name(): true, "another": false, "": false} {
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: "bound-" + node + "-x", Namespace: c.ns},
			InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: c.ns, Name: "none"},
			Type:           corev1.EventTypeWarning, Reason: "Test", Message: "test",
			Source:              corev1.EventSource{Component: names.EventComponent, Host: c.node.Name()},
			ReportingController: driverName, ReportingInstance: c.node.Name(),
		}
		request := c.api.CoreV1().RESTClient().Post().Namespace(c.ns).Resource("events").Body(event).
			SetHeader("Impersonate-User", driverUser)
		if node != "" {
			request.SetHeader("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node)
		}
		err := request.Do(c.t.Context()).Error()
		if allowed && err != nil || !allowed && !apierrors.IsForbidden(err) {
			c.t.Errorf("as the driver on node %q: %v, want it allowed: %t", node, err, allowed)
		}
	}
}

// nowhere is an address whose name does not resolve.
const nowhere = "https://vault.invalid:8200"

// badAddresses are servers that are not Vault, and an address where nothing listens.
type badAddresses struct {
	page, hanging, tls *httptest.Server
	closed             string
	done               chan struct{}
}

func startBadAddresses() *badAddresses {
	s := &badAddresses{done: make(chan struct{})}
	s.page = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>Please log in</html>")
	}))
	s.hanging = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-s.done:
		case <-r.Context().Done():
		}
	}))
	s.tls = httptest.NewUnstartedServer(http.NotFoundHandler())
	s.tls.Config.ErrorLog = log.New(io.Discard, "", 0) // no client trusts it
	s.tls.StartTLS()
	gone := httptest.NewServer(http.NotFoundHandler())
	s.closed = gone.URL
	gone.Close()
	return s
}

// plain is the address of the TLS server with the wrong scheme.
func (s *badAddresses) plain() string { return "http" + s.tls.URL[len("https"):] }

func (s *badAddresses) addresses() []any {
	return []any{s.page.URL, s.hanging.URL, s.tls.URL, s.plain(), s.closed, nowhere}
}

func (s *badAddresses) stop() {
	close(s.done)
	for _, server := range []*httptest.Server{s.page, s.hanging, s.tls} {
		server.CloseClientConnections()
		server.Close()
	}
}
