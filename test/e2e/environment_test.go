//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	// tenantLabel marks the namespaces that cases make.
	tenantLabel = "e2e.mayfly.dev/tenant"
	// waitTimeout bounds every wait. Most take a few seconds; busy machines need more.
	waitTimeout    = 90 * time.Second
	attemptTimeout = 10 * time.Second
	pollEvery      = 50 * time.Millisecond
)

// environment is a node with a driver, and a Vault and a double of Akeyless, which verify tokens with
// the node's API server.
type environment struct {
	out     io.Writer
	node    *node.Node
	found   bool // the node ran before the suite, which leaves it running
	keep    bool // leave the node running, for debugging
	api     kubernetes.Interface
	vault   *store
	gateway *gateway
	// collector gets the driver's traces.
	collector *collector.Collector
	// badAddresses are addresses of servers that are not Vault.
	badAddresses *badAddresses
	// plugin is the program kubectl-mayfly.
	plugin  string
	driver  *release
	results *results
	// ctx ends when the suite is interrupted.
	ctx       context.Context
	interrupt context.CancelCauseFunc
}

func newEnvironment(out io.Writer) *environment {
	e := &environment{out: out, results: &results{}, keep: os.Getenv("MAYFLY_E2E_KEEP") != ""}
	e.ctx, e.interrupt = context.WithCancelCause(context.Background())
	return e
}

func (e *environment) logf(format string, args ...any) {
	fmt.Fprintf(e.out, "e2e: "+format+"\n", args...)
}

func (e *environment) options() node.Options {
	dir := os.Getenv("MAYFLY_NODE_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "mayfly-e2e")
	}
	return node.Options{Dir: dir, Out: e.out}
}

// setUp makes the node, the images and Vault in parallel, and then installs the chart.
func (e *environment) setUp(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.startNode(groupCtx) })
	group.Go(func() (err error) {
		e.vault, err = startStore(groupCtx, e.out)
		return err
	})
	e.driver = &release{environment: e, values: map[string]any{}}
	group.Go(func() error { return e.driver.build(groupCtx) })
	group.Go(func() (err error) {
		e.plugin, err = buildPlugin(groupCtx)
		return err
	})
	e.badAddresses = startBadAddresses()
	var err error
	e.collector, err = collector.Start("")
	if err := errors.Join(err, group.Wait()); err != nil {
		return err
	}
	if e.gateway, err = startGateway(ctx); err != nil {
		return err
	}
	if err := e.clear(ctx); err != nil {
		return err
	}
	if err := e.vault.configureAuth(ctx, e); err != nil {
		return err
	}
	if err := e.gateway.configureAuth(ctx, e); err != nil {
		return err
	}
	if err := e.driver.load(ctx); err != nil {
		return err
	}
	return e.driver.install(ctx, nil)
}

func (e *environment) startNode(ctx context.Context) error {
	if n, err := node.Attach(e.options()); err == nil {
		states, err := n.Status(ctx)
		e.found = err == nil
		for _, s := range states {
			e.found = e.found && s.Err == nil
		}
	}
	var err error
	if e.node, err = node.Up(ctx, e.options()); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", e.node.Kubeconfig())
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS = -1
	if e.api, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("making a client of the API server: %w", err)
	}
	return nil
}

// clear removes what an earlier run left on a node that still runs: pods, the driver and its state.
func (e *environment) clear(ctx context.Context) error {
	if err := e.clearTenants(ctx); err != nil || !e.found {
		return err
	}
	if err := e.driver.uninstall(ctx); err != nil {
		return err
	}
	state := filepath.Join(e.node.KubeletRoot(), "plugins", driverName, "state")
	if err := unix.Unmount(state, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmounting the driver's state: %w", err)
	}
	return nil
}

func (e *environment) clearTenants(ctx context.Context) error {
	list, err := e.api.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: tenantLabel})
	if err != nil {
		return fmt.Errorf("listing the namespaces of earlier runs: %w", err)
	}
	for _, ns := range list.Items {
		err := e.api.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting namespace %s: %w", ns.Name, err)
		}
	}
	return e.poll(ctx, "the namespaces of earlier runs to go", func(ctx context.Context) error {
		list, err := e.api.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: tenantLabel})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}

// tearDown removes everything, but a node that ran before.
func (e *environment) tearDown(ctx context.Context) error {
	e.ctx = ctx // the tear-down runs after an interrupt too
	if e.keep && e.node != nil {
		e.logf("kept: KUBECONFIG=%s; end it with: go run ./test/node/cmd/node -dir %s down", e.node.Kubeconfig(), e.options().Dir)
		return errors.Join(e.stopStores(), e.driver.discard())
	}
	var err error
	if e.node != nil && e.found {
		err = e.clear(ctx)
	} else {
		err = node.Down(ctx, e.options())
	}
	return errors.Join(err, e.stopStores(), e.driver.discard(), e.checkNothingLeft())
}

func (e *environment) stopStores() error {
	var failed []error
	if e.vault != nil {
		failed = append(failed, e.vault.Stop())
	}
	if e.gateway != nil {
		failed = append(failed, e.gateway.Close())
	}
	if e.collector != nil {
		e.collector.Close()
	}
	if e.badAddresses != nil {
		e.badAddresses.stop()
	}
	if e.plugin != "" {
		failed = append(failed, os.RemoveAll(filepath.Dir(e.plugin)))
	}
	return errors.Join(failed...)
}

// checkNothingLeft returns an error if volumes are mounted, or drivers run, after their pods ended.
func (e *environment) checkNothingLeft() error {
	pids, err := driverPids(e.kubeletRoot())
	if len(pids) > 0 {
		err = errors.Join(err, fmt.Errorf("a driver still runs: %v", pids))
	}
	return errors.Join(e.checkNoVolume(), err)
}

func (e *environment) kubeletRoot() string { return filepath.Join(e.options().Dir, "kubelet") }

// checkNoVolume returns an error if volumes are mounted.
func (e *environment) checkNoVolume() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	var left []error
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], e.kubeletRoot()) && strings.Contains(fields[4], "kubernetes.io~csi") {
			left = append(left, fmt.Errorf("a volume is still mounted: %s", fields[4]))
		}
	}
	return errors.Join(left...)
}

// poll calls try until it succeeds or waitTimeout has passed. It returns the last failure before the
// timeout.
func (e *environment) poll(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	ctx, interrupt := context.WithCancelCause(ctx)
	defer context.AfterFunc(e.ctx, func() { interrupt(context.Cause(e.ctx)) })()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var last error
	for {
		attempt, cancelAttempt := context.WithTimeout(ctx, attemptTimeout)
		err := try(attempt)
		cancelAttempt()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (%w)", what, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

func (e *environment) events(ctx context.Context, namespace, pod string) ([]corev1.Event, error) {
	list, err := e.api.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,involvedObject.name=" + pod})
	if err != nil {
		return nil, fmt.Errorf("listing the events of pod %s/%s: %w", namespace, pod, err)
	}
	return list.Items, nil
}

// account is the service account that may log in.
const account = "web"

// tenant is the namespace of one case, with its own Vault role and secrets.
type tenant struct {
	*environment
	t  *testing.T
	ns string
}

// tenantPrefix begins the names of the cases' namespaces.
const tenantPrefix = "e2e-"

func (e *environment) newTenant(t *testing.T) *tenant {
	t.Helper()
	testkit.Must(t, context.Cause(e.ctx))
	namespace := testkit.Value(e.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: tenantPrefix, Labels: map[string]string{tenantLabel: "true"}},
	}, metav1.CreateOptions{}))(t)
	c := &tenant{environment: e, t: t, ns: namespace.Name}
	t.Cleanup(c.deleteNamespace)
	c.account(account)
	testkit.Must(t, e.vault.allowLogin(t.Context(), c.ns, nil))
	c.until("the namespace to take pods", func(ctx context.Context) error {
		_, err := e.api.CoreV1().ConfigMaps(c.ns).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	return c
}

func (c *tenant) account(name string) {
	c.t.Helper()
	testkit.Value(c.api.CoreV1().ServiceAccounts(c.ns).Create(c.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(c.t)
}

// deleteNamespace does not wait: the pods end during the next case, and checkNothingLeft finds
// remaining ones.
func (c *tenant) deleteNamespace() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), attemptTimeout)
	defer cancel()
	if c.t.Failed() {
		c.t.Log(c.explainPods(ctx))
		c.t.Log(c.driver.explain(ctx))
		if c.keep {
			return
		}
	}
	c.checkLeaks(ctx)
	if err := c.api.CoreV1().Namespaces().Delete(ctx, c.ns, metav1.DeleteOptions{}); err != nil {
		c.t.Errorf("deleting namespace %s: %v", c.ns, err)
	}
}

func (c *tenant) explainPods(ctx context.Context) string {
	var text strings.Builder
	pods, err := c.api.CoreV1().Pods(c.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, pod := range pods.Items {
		fmt.Fprintf(&text, "pod %s is %s\n", pod.Name, pod.Status.Phase)
		events, _ := c.events(ctx, c.ns, pod.Name)
		for _, e := range events {
			fmt.Fprintf(&text, "  %s (%d): %s\n", e.Reason, e.Count, e.Message)
		}
	}
	return text.String()
}

func (c *tenant) until(what string, try func(context.Context) error) {
	c.t.Helper()
	testkit.Must(c.t, c.poll(c.t.Context(), what, try))
}

// put writes a secret of the tenant with one key, password.
func (c *tenant) put(path, value string) {
	c.t.Helper()
	testkit.Must(c.t, c.vault.PutKV2(c.t.Context(), kvMount, c.ns+"/"+path, map[string]any{"password": marker + value}))
}

// object is an entry of a class's objects, which reads a secret of put.
type object struct {
	ObjectName     string `json:"objectName"`
	SecretPath     string `json:"secretPath"`
	SecretKey      string `json:"secretKey"`
	FilePermission *int   `json:"filePermission,omitempty"`
	UID            *int   `json:"uid,omitempty"`
}

func (c *tenant) object(name, path string) object {
	return object{ObjectName: name, SecretPath: kvMount + "/data/" + c.ns + "/" + path, SecretKey: "password"}
}

// class creates a class of the tenant's role; change adds or replaces parameters.
func (c *tenant) class(name string, change map[string]string, objects ...object) {
	c.t.Helper()
	list, err := json.Marshal(objects) // which is YAML too
	testkit.Must(c.t, err)
	parameters := map[string]string{"roleName": c.ns, "objects": string(list)}
	maps.Copy(parameters, change)
	testkit.Must(c.t, c.createClass(c.t.Context(), newClass(name, parameters)))
}

func newClass(name string, parameters map[string]string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"provider": "vault", "parameters": parameters},
	}
}

// createClass creates a class of any contents, valid or not.
func (c *tenant) createClass(ctx context.Context, class map[string]any) error {
	return c.createClassOf(ctx, v1.Version, class)
}

func (c *tenant) createClassOf(ctx context.Context, version string, class map[string]any) error {
	body, err := json.Marshal(merge(map[string]any{"apiVersion": v1.GroupName + "/" + version, "kind": "SecretProviderClass"}, class))
	if err != nil {
		return err
	}
	path := fmt.Sprintf("/apis/%s/%s/namespaces/%s/%s", v1.GroupName, version, c.ns, v1.SecretProviderClassResource)
	return c.api.CoreV1().RESTClient().Post().AbsPath(path).
		SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
}

func (c *tenant) patchClass(ctx context.Context, name string, patch []byte) error {
	return c.api.CoreV1().RESTClient().Patch(types.MergePatchType).AbsPath(c.path(v1.SecretProviderClassResource), name).
		Body(patch).Do(ctx).Error()
}

func (c *tenant) path(resource string) string {
	return fmt.Sprintf("/apis/%s/namespaces/%s/%s", v1.GroupVersion(), c.ns, resource)
}

// statuses are the SecretProviderClassPodStatus objects of a pod, by class.
func (c *tenant) statuses(ctx context.Context, pod string) (map[string]podStatus, error) {
	data, err := c.api.CoreV1().RESTClient().Get().AbsPath(c.path(v1.SecretProviderClassPodStatusResource)).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the pod statuses of %s: %w", c.ns, err)
	}
	var list v1.SecretProviderClassPodStatusList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("decoding the pod statuses of %s: %w", c.ns, err)
	}
	found := map[string]podStatus{}
	for _, s := range list.Items {
		if s.Status.PodName == pod {
			found[s.Status.SecretProviderClassName] = s
		}
	}
	return found, nil
}
