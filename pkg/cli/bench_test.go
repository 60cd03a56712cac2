package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const benchNodes, benchVolumes = 30, 100 // of each node

// benchAPI is a cluster of 3,000 volumes, each with ten objects, of which one
// in fifty fails.
func benchAPI(tb testing.TB) *clitest.API {
	tb.Helper()
	api := clitest.New(tb, `apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: secrets-store.csi.k8s.io, annotations: {meta.helm.sh/release-namespace: mayfly}}
`)
	now := recordedNow()
	for n := range benchNodes {
		node, pod := fmt.Sprintf("node-%02d", n), fmt.Sprintf("mayfly-node-%02d", n)
		api.Add(&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{"name": pod, "namespace": "mayfly", "labels": map[string]any{"app.kubernetes.io/name": "mayfly"}},
			"spec":     map[string]any{"nodeName": node},
			"status":   map[string]any{"phase": "Running"},
		}})
		status := statusz.Status{Now: now, Node: &statusz.Node{Name: node, Volumes: benchVolumes}}
		for v := range benchVolumes {
			api.Add(benchStatus(node, n, v))
			status.Volumes = append(status.Volumes, benchLive(now, n, v))
		}
		api.Drive("mayfly/"+pod, status)
	}
	return api
}

func benchNames(n, v int) (namespace, pod string) {
	return fmt.Sprintf("team-%02d", v%40), fmt.Sprintf("web-%02d-%03d", n, v)
}

func benchStatus(node string, n, v int) *unstructured.Unstructured {
	namespace, pod := benchNames(n, v)
	objects := []any{}
	for i := range 10 {
		objects = append(objects, map[string]any{"id": fmt.Sprintf("object-%d", i), "version": "3"})
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassPodStatus",
		"metadata": map[string]any{
			"name": pod, "namespace": namespace, "creationTimestamp": "2026-11-28T07:00:00Z",
			"labels": map[string]any{"internal.secrets-store.csi.k8s.io/node-name": node, "mayfly.dev/driver": "secrets-store.csi.k8s.io"},
		},
		"status": map[string]any{
			"podName": pod, "secretProviderClassName": "db", "targetPath": "/var/lib/kubelet/pods/" + pod + "/volumes/kubernetes.io~csi/secrets/mount",
			"mounted": true, "failing": false, "objects": objects,
			"conditions": []any{map[string]any{"type": "Fresh", "status": "True", "reason": "Refreshed", "message": "the last look at the store succeeded", "lastTransitionTime": "2026-11-28T07:00:00Z"}},
		},
	}}
}

func benchLive(now time.Time, n, v int) statusz.Volume {
	namespace, pod := benchNames(n, v)
	out := statusz.Volume{
		ID: fmt.Sprintf("csi-%02d-%03d", n, v), State: statusz.Fresh, Target: "/var/lib/kubelet/pods/" + pod + "/volumes/kubernetes.io~csi/secrets/mount",
		Namespace: namespace, Pod: pod, Class: "db", ClassVersion: "7", Provider: "vault", Store: "vault at https://vault.example:8200",
		PublishedAt: now.Add(-time.Hour), RefreshedAt: now.Add(-time.Minute), NextAt: now.Add(time.Minute), ExpiresAt: now.Add(time.Hour),
	}
	for i := range 10 {
		out.Objects = append(out.Objects, statusz.Object{ID: fmt.Sprintf("object-%d", i), Version: "3"})
	}
	if v%50 == 0 {
		out.State, out.Failures = statusz.Failing, 3
		out.Failure = &statusz.Failure{At: now, Reason: "Denied", Message: strings.Repeat("permission denied ", 20)}
	}
	return out
}

// BenchmarkStatus3000 runs the program. Its peak of memory must stay below 60
// MB; a time of 2 s is to be reached on an idle machine.
func BenchmarkStatus3000(b *testing.B) {
	program := filepath.Join(b.TempDir(), "kubectl-mayfly")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "../../cmd/kubectl-mayfly")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	api := benchAPI(b)
	config := testkit.Value(api.Kubeconfig(b.TempDir()))(b)
	for _, format := range []string{"wide", "json"} {
		b.Run(format, func(b *testing.B) {
			peak := 0
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), program, "status", "-A", "-o", format)
				cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
				var out bytes.Buffer
				cmd.Stdout = &out
				testkit.Must(b, cmd.Start())
				peak = max(peak, peakOf(cmd.Process.Pid))
				testkit.Must(b, cmd.Wait())
				if n := strings.Count(out.String(), "web-"); n < benchNodes*benchVolumes || strings.Contains(out.String(), "<unknown>") {
					b.Fatalf("%d volumes:\n%.500s", n, &out)
				}
			}
			b.ReportMetric(float64(peak)/1024, "MB-peak")
			if peak > 60<<10 {
				b.Errorf("the peak of memory is %d KiB", peak)
			}
		})
	}
}

var peakLine = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakOf watches a process until it ends, and returns its peak of memory in KiB. The figure of wait
// is useless, because it includes the parent process.
func peakOf(pid int) (peak int) {
	for {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		found := peakLine.FindSubmatch(text)
		if err != nil || found == nil { // it has ended
			return peak
		}
		now, _ := strconv.Atoi(string(found[1]))
		peak = max(peak, now)
		time.Sleep(5 * time.Millisecond)
	}
}
