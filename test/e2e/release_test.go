//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const (
	releaseName      = "mayfly"
	releaseNamespace = "mayfly-system"
	driverName       = "secrets-store.csi.k8s.io"
	driverUser       = "system:serviceaccount:" + releaseNamespace + ":" + releaseName
	imageRepository  = "mayfly.test/mayfly-node"
	driverProgram    = "mayfly-node"
	metricsPort      = 8095
	// refreshInterval is the interval of classes without one.
	refreshInterval = "2s"
)

type release struct {
	*environment
	helm, chart, dir string
	values           map[string]any // as last installed
}

// versions are the driver's versions that have images.
var versions = []string{"e2e-1", "e2e-2"}

// build builds what is installed: the images as in a release, and Helm.
func (r *release) build(ctx context.Context) (err error) {
	root, err := toolcache.ModuleRoot()
	if err != nil {
		return err
	}
	if r.helm, err = toolcache.Get(ctx, r.out, "helm"); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "mayfly-e2e-build-"); err != nil {
		return fmt.Errorf("making a scratch directory: %w", err)
	}
	// A copy of the present chart, to match the images, in case it is edited meanwhile.
	r.chart = filepath.Join(r.dir, "chart")
	if err := os.CopyFS(r.chart, os.DirFS(filepath.Join(root, "charts", "mayfly"))); err != nil {
		return fmt.Errorf("copying the chart: %w", err)
	}
	for _, version := range versions {
		cmd := exec.CommandContext(ctx, "go", "run", ".", "--source="+root, "--out="+r.dir,
			"--name="+imageRepository, "--version="+version, "--platforms=linux/"+runtime.GOARCH)
		cmd.Dir = filepath.Join(root, "hack", "image")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building the image of version %s: %w\n%s", version, err, out)
		}
	}
	return nil
}

func (r *release) discard() error { return os.RemoveAll(r.dir) }

func (r *release) load(ctx context.Context) error {
	for _, version := range versions {
		if err := r.node.LoadImage(ctx, filepath.Join(r.dir, "mayfly-node_"+version+".oci.tar")); err != nil {
			return err
		}
	}
	return nil
}

// defaults are the values for this node: host network, listeners on its own address only, and log level
// debug.
func (r *release) defaults() map[string]any {
	return map[string]any{
		"image":         map[string]any{"repository": imageRepository, "tag": versions[0], "pullPolicy": "Never"},
		"tokenRequests": audiences("vault", "second", gatewayAudience),
		"refresh":       map[string]any{"interval": refreshInterval},
		"metrics":       map[string]any{"address": r.metricsAddress()},
		"vault":         map[string]any{"address": r.vault.Address, "allowedAddresses": r.badAddresses.addresses()},
		"akeyless":      map[string]any{"allowedAddresses": []any{r.gateway.URL()}},
		"log":           map[string]any{"level": "debug"},
		"tracing":       map[string]any{"enabled": true, "endpoint": r.collector.Endpoint},
		"linux": map[string]any{
			"kubeletRootDir": r.node.KubeletRoot(),
			"hostNetwork":    true,
			"extraArgs":      []any{"--health-addr=" + r.node.Name() + ":9808"},
		},
	}
}

func audiences(names ...string) []any {
	list := make([]any, len(names))
	for i, name := range names {
		list[i] = map[string]any{"audience": name}
	}
	return list
}

func (r *release) metricsAddress() string { return fmt.Sprintf("%s:%d", r.node.Name(), metricsPort) }

// install installs or upgrades the release with values beyond the defaults,
// and waits until the driver of just these values is ready.
func (r *release) install(ctx context.Context, change map[string]any) error {
	values := merge(r.defaults(), change)
	data, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("encoding the chart's values: %w", err)
	}
	file := filepath.Join(r.dir, "values.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("writing the chart's values: %w", err)
	}
	if err := r.runHelm(ctx, "upgrade", releaseName, r.chart, "--install", "--create-namespace", "--values", file); err != nil {
		return err
	}
	r.values = values
	return r.awaitReady(ctx)
}

// uninstall removes the driver even if volumes are mounted: it runs no hooks.
func (r *release) uninstall(ctx context.Context) error {
	if err := r.runHelm(ctx, "uninstall", releaseName, "--ignore-not-found", "--no-hooks"); err != nil {
		return err
	}
	return r.poll(ctx, "the driver's pods to go", func(ctx context.Context) error {
		pods, err := r.pods(ctx)
		if err == nil && len(pods) > 0 {
			err = fmt.Errorf("%d are left", len(pods))
		}
		return err
	})
}

func (r *release) runHelm(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, r.helm, append(args, "--kubeconfig", r.node.Kubeconfig(), "--namespace", releaseNamespace)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+r.dir, "HELM_CONFIG_HOME="+r.dir, "HELM_DATA_HOME="+r.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running helm %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// merge returns base overridden with change's values, also in nested maps.
func merge(base, change map[string]any) map[string]any {
	out := maps.Clone(base)
	for key, value := range change {
		below, isMap := value.(map[string]any)
		old, wasMap := out[key].(map[string]any)
		if isMap && wasMap {
			value = merge(old, below)
		}
		out[key] = value
	}
	return out
}

func (r *release) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := r.api.CoreV1().Pods(releaseNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + releaseName})
	if err != nil {
		return nil, fmt.Errorf("listing the driver's pods: %w", err)
	}
	return list.Items, nil
}

// awaitReady waits until the one pod of the present DaemonSet is ready.
func (r *release) awaitReady(ctx context.Context) error {
	err := r.poll(ctx, "the driver to be ready", func(ctx context.Context) error {
		set, err := r.api.AppsV1().DaemonSets(releaseNamespace).Get(ctx, releaseName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := set.Status
		if s.ObservedGeneration != set.Generation || s.DesiredNumberScheduled != 1 || s.UpdatedNumberScheduled != 1 || s.NumberReady != 1 {
			return fmt.Errorf("the DaemonSet is at %+v", s)
		}
		pods, err := r.pods(ctx)
		if err == nil && len(pods) != 1 {
			err = fmt.Errorf("there are %d pods", len(pods))
		}
		return err
	})
	if err != nil {
		return errors.Join(err, errors.New(r.explain(ctx)))
	}
	return nil
}

// explain returns the state, events and log of the driver's pods.
func (r *release) explain(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
	defer cancel()
	var text strings.Builder
	pods, err := r.pods(ctx)
	if err != nil {
		return err.Error()
	}
	for _, pod := range pods {
		fmt.Fprintf(&text, "pod %s is %s: %v\n", pod.Name, pod.Status.Phase, pod.Status.ContainerStatuses)
		events, _ := r.events(ctx, releaseNamespace, pod.Name)
		for _, e := range events {
			fmt.Fprintf(&text, "event %s: %s\n", e.Reason, e.Message)
		}
		lines := int64(40)
		log, err := r.api.CoreV1().Pods(releaseNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx)
		if err != nil && !apierrors.IsBadRequest(err) {
			fmt.Fprintf(&text, "log: %v\n", err)
		}
		text.Write(log)
	}
	return text.String()
}

// reinstallIfBroken installs the driver again if an earlier case broke it.
func (r *release) reinstallIfBroken(ctx context.Context) error {
	if ready, err := r.metrics(ctx); err == nil && len(ready) > 0 {
		return nil
	}
	if err := r.install(ctx, nil); err != nil {
		r.interrupt(errors.New("an earlier case broke the driver, and it cannot be installed again"))
		return err
	}
	return nil
}

// restarts is how often the driver's container was started again.
func (r *release) restarts(ctx context.Context) (int32, error) {
	pods, err := r.pods(ctx)
	if err != nil {
		return 0, err
	}
	if len(pods) != 1 || len(pods[0].Status.ContainerStatuses) != 1 {
		return 0, fmt.Errorf("want one pod of the driver with one container, there are %d pods", len(pods))
	}
	return pods[0].Status.ContainerStatuses[0].RestartCount, nil
}

// driverPids finds the drivers that serve the kubelet with that root.
func driverPids(root string) ([]int, error) { return pidsOf(driverProgram, "="+root+"/") }

// pidsOf finds the processes of a program with these words in their command line.
func pidsOf(program, words string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process that has ended since has no command line.
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		args := bytes.Split(line, []byte{0})
		if filepath.Base(string(args[0])) == program && bytes.Contains(line, []byte(words)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

const (
	// registryImage prints a version and ends.
	registryImage = "kms:1"
	manifestType  = "application/vnd.oci.image.manifest.v1+json"
)

// registry serves one image to one user, by the distribution protocol.
type registry struct {
	host  string
	blobs map[string][]byte // by digest, the manifest too
	tag   string            // the manifest's digest
}

// registry starts a registry until the case ends. containerd uses plain HTTP for registries on loopback.
func (c *tenant) registry(user, password string) *registry {
	c.t.Helper()
	program := testkit.Value(toolcache.Program(c.t.Context(), c.out, c.t.TempDir(), "./cmd/mayfly-kms"))(c.t)
	data := testkit.Value(os.ReadFile(program))(c.t)
	r := &registry{blobs: map[string][]byte{}}
	testkit.Must(c.t, r.add(node.Image{
		Ref: "pulled:1", Entrypoint: []string{"/mayfly-kms", "--version"}, Files: []node.ImageFile{{Path: "mayfly-kms", Data: data, Mode: 0o755}},
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if u, p, _ := q.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.serve(w, q)
	}))
	c.t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// add stores an image's configuration and layer, and makes their manifest.
func (r *registry) add(image node.Image) error {
	var archive bytes.Buffer
	if err := image.WriteTar(&archive); err != nil {
		return err
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	manifest := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{SchemaVersion: 2, MediaType: manifestType}
	for files := tar.NewReader(&archive); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		switch header.Name {
		case "config.json":
			manifest.Config = descriptor{"application/vnd.oci.image.config.v1+json", r.addBlob(data), len(data)}
		case "layer.tar":
			manifest.Layers = append(manifest.Layers, descriptor{"application/vnd.oci.image.layer.v1.tar", r.addBlob(data), len(data)})
		}
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	r.tag = r.addBlob(data)
	return nil
}

func (r *registry) addBlob(data []byte) (digest string) {
	sum := sha256.Sum256(data)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	r.blobs[digest] = data
	return digest
}

func (r *registry) serve(w http.ResponseWriter, q *http.Request) {
	name := path.Base(q.URL.Path)
	switch {
	case q.URL.Path == "/v2/":
		return
	case strings.HasSuffix(registryImage, ":"+name):
		name = r.tag
	}
	data, ok := r.blobs[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	kind := "application/octet-stream"
	if name == r.tag {
		kind = manifestType
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", name)
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
}
