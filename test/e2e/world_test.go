//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/node"
)

const (
	// tenantLabel marks the namespaces that cases make.
	tenantLabel = "e2e.mayfly.dev/tenant"
	// patience bounds every wait. The real times are a few seconds; the rest is for busy machines.
	patience       = 90 * time.Second
	attemptTimeout = 10 * time.Second
	pollEvery      = 50 * time.Millisecond
)

// world is a node with a driver, and a Vault and a double of Akeyless that trust
// the node's API server.
type world struct {
	out     io.Writer
	node    *node.Node
	found   bool // the node was up before us, and stays
	keep    bool // for the developer to look at
	api     kubernetes.Interface
	vault   *store
	gateway *gateway
	// collector gets the driver's traces.
	collector *collector.Collector
	// strangers are not Vault, though classes may say so.
	strangers *strangers
	// plugin is the program kubectl-mayfly.
	plugin  string
	driver  *release
	results *results
	// ctx ends when the suite is interrupted.
	ctx       context.Context
	interrupt context.CancelCauseFunc
}

func newWorld(out io.Writer) *world {
	w := &world{out: out, results: &results{}, keep: os.Getenv("MAYFLY_E2E_KEEP") != ""}
	w.ctx, w.interrupt = context.WithCancelCause(context.Background())
	return w
}

func (w *world) say(format string, args ...any) { fmt.Fprintf(w.out, "e2e: "+format+"\n", args...) }

func (w *world) options() node.Options {
	dir := os.Getenv("MAYFLY_NODE_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "mayfly-e2e")
	}
	return node.Options{Dir: dir, Out: w.out}
}

// setUp makes the node, the images and Vault at the same time, and then has
// Helm install the chart.
func (w *world) setUp(ctx context.Context) error {
	both, both2 := errgroup.WithContext(ctx)
	both.Go(func() error { return w.startNode(both2) })
	both.Go(func() (err error) {
		w.vault, err = startStore(both2, w.out)
		return err
	})
	w.driver = &release{world: w, values: map[string]any{}}
	both.Go(func() error { return w.driver.build(both2) })
	both.Go(func() (err error) {
		w.plugin, err = buildPlugin(both2)
		return err
	})
	w.strangers = startStrangers()
	var err error
	w.collector, err = collector.Start("")
	if err := errors.Join(err, both.Wait()); err != nil {
		return err
	}
	if w.gateway, err = startGateway(ctx); err != nil {
		return err
	}
	if err := w.clear(ctx); err != nil {
		return err
	}
	if err := w.vault.trust(ctx, w); err != nil {
		return err
	}
	if err := w.gateway.trust(ctx, w); err != nil {
		return err
	}
	if err := w.driver.load(ctx); err != nil {
		return err
	}
	return w.driver.install(ctx, nil)
}

func (w *world) startNode(ctx context.Context) error {
	if n, err := node.Attach(w.options()); err == nil {
		states, err := n.Status(ctx)
		w.found = err == nil
		for _, s := range states {
			w.found = w.found && s.Err == nil
		}
	}
	var err error
	if w.node, err = node.Up(ctx, w.options()); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", w.node.Kubeconfig())
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.QPS = -1
	if w.api, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("making a client of the API server: %w", err)
	}
	return nil
}

// clear removes what an earlier run left on a node that stayed up: its pods, and the driver's state
// for them and for a Vault that is gone.
func (w *world) clear(ctx context.Context) error {
	if err := w.clearTenants(ctx); err != nil || !w.found {
		return err
	}
	if err := w.driver.uninstall(ctx); err != nil {
		return err
	}
	state := filepath.Join(w.node.KubeletRoot(), "plugins", driverName, "state")
	if err := unix.Unmount(state, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmounting the driver's state: %w", err)
	}
	return nil
}

func (w *world) clearTenants(ctx context.Context) error {
	list, err := w.api.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: tenantLabel})
	if err != nil {
		return fmt.Errorf("listing the namespaces of earlier runs: %w", err)
	}
	for _, ns := range list.Items {
		err := w.api.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting namespace %s: %w", ns.Name, err)
		}
	}
	return w.poll(ctx, "the namespaces of earlier runs to go", func(ctx context.Context) error {
		list, err := w.api.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: tenantLabel})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left", len(list.Items))
		}
		return err
	})
}

// tearDown leaves nothing except the node, if that existed before.
func (w *world) tearDown(ctx context.Context) error {
	w.ctx = ctx // an interrupt has done its work
	if w.keep && w.node != nil {
		w.say("kept: KUBECONFIG=%s; end it with: go run ./test/node/cmd/node -dir %s down", w.node.Kubeconfig(), w.options().Dir)
		return errors.Join(w.stopStores(), w.driver.discard())
	}
	var err error
	if w.node != nil && w.found {
		err = w.clear(ctx)
	} else {
		err = node.Down(ctx, w.options())
	}
	return errors.Join(err, w.stopStores(), w.driver.discard(), w.checkNothingLeft())
}

func (w *world) stopStores() error {
	var failed []error
	if w.vault != nil {
		failed = append(failed, w.vault.Stop())
	}
	if w.gateway != nil {
		failed = append(failed, w.gateway.Close())
	}
	if w.collector != nil {
		w.collector.Close()
	}
	if w.strangers != nil {
		w.strangers.stop()
	}
	if w.plugin != "" {
		failed = append(failed, os.RemoveAll(filepath.Dir(w.plugin)))
	}
	return errors.Join(failed...)
}

// checkNothingLeft looks for volumes and drivers that outlived their node, or their pods if the
// node stays.
func (w *world) checkNothingLeft() error {
	root := filepath.Join(w.options().Dir, "kubelet")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	var left []error
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], root) && strings.Contains(fields[4], "kubernetes.io~csi") {
			left = append(left, fmt.Errorf("a volume is still mounted: %s", fields[4]))
		}
	}
	pids, err := driverPids(root)
	if len(pids) > 0 {
		left = append(left, fmt.Errorf("a driver still runs: %v", pids))
	}
	return errors.Join(append(left, err)...)
}

// poll tries until it succeeds, or patience ends; it returns the last failure that is not the end
// itself.
func (w *world) poll(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, interrupt := context.WithCancelCause(ctx)
	defer context.AfterFunc(w.ctx, func() { interrupt(context.Cause(w.ctx)) })()
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

func (w *world) events(ctx context.Context, namespace, pod string) ([]corev1.Event, error) {
	list, err := w.api.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,involvedObject.name=" + pod})
	if err != nil {
		return nil, fmt.Errorf("listing the events of pod %s/%s: %w", namespace, pod, err)
	}
	return list.Items, nil
}
