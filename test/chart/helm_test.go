package chart

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const (
	chartDir = "../../charts/mayfly"
	// newest is the default Kubernetes version for rendering manifests.
	newest = "1.37.2"
)

var (
	update = flag.Bool("update", false, "write the golden files, the schema's descriptions and docs/values.md")
	helm   string // path of the program
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if helm, err = toolcache.Get(context.Background(), os.Stderr, "helm"); err != nil {
		fmt.Fprintln(os.Stderr, "getting helm:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// tryRender is "helm template" with its output on a failure.
func tryRender(t *testing.T, kubeVersion string, args ...string) (manifests, failure string) {
	t.Helper()
	command := append([]string{"template", "mayfly", chartDir, "--namespace=kube-system", "--kube-version=" + kubeVersion}, args...)
	cmd := exec.CommandContext(t.Context(), helm, command...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "KUBECONFIG=/dev/null")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", err.Error() + "\n" + stderr.String()
	}
	return stdout.String(), ""
}

func render(t *testing.T, kubeVersion string, args ...string) string {
	t.Helper()
	manifests, failure := tryRender(t, kubeVersion, args...)
	if failure != "" {
		t.Fatalf("helm template %v: %s", args, failure)
	}
	return manifests
}

// golden compares with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		testkit.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		testkit.Must(t, os.WriteFile(path, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (-update writes it)", err)
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := bytes.Split([]byte(got), []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range min(len(gotLines), len(wantLines)) {
		if !bytes.Equal(gotLines[i], wantLines[i]) {
			t.Fatalf("%s:%d: want %q, got %q (-update writes it)", path, i+1, wantLines[i], gotLines[i])
		}
	}
	t.Fatalf("%s: want %d lines, got %d (-update writes it)", path, len(wantLines), len(gotLines))
}

func runHelm(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), helm, args...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+t.TempDir(), "KUBECONFIG=/dev/null")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
