package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func driver(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mayfly-node")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../../cmd/mayfly-node")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building mayfly-node: %v\n%s", err, out)
	}
	return path
}

// TestFlags: the driver has every flag that the chart sets, and accepts the value. With --version
// it exits after it has read its command line.
func TestFlags(t *testing.T) {
	program := driver(t)
	for name := range valueSets {
		args := decode(t, renderSet(t, name)).daemonSets[0].Spec.Template.Spec.Containers[0].Args
		cmd := exec.CommandContext(t.Context(), program, append(args, "--version")...)
		cmd.Env = []string{}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// leftOut are the flags for which the chart has no value, with the reason.
// linux.extraArgs can still give them.
var leftOut = map[string]string{
	"state-dir":              "its default is within the driver's folder, which the chart mounts",
	"class-dir":              "for machines without an API server",
	"kubeconfig":             "for drivers outside of a cluster",
	"akeyless-tls-ca-cert":   "mount the file with linux.volumes and name it with linux.extraArgs",
	"vault-tls-ca-directory": "vault.tls.caConfigMap gives a file",
	"version":                "prints and ends",
}

// setExtraArgs restricts linux.extraArgs to the driver's flags.
func setExtraArgs(t *testing.T, schema *yaml.Node) {
	t.Helper()
	pattern := schema
	for _, key := range []string{"properties", "linux", "properties", "extraArgs", "items", "pattern"} {
		if pattern = get(pattern, key); pattern == nil {
			t.Fatalf("linux.extraArgs: the schema has no %s", key)
		}
	}
	pattern.SetString("^--?(" + strings.Join(flagNames(t), "|") + ")(=.*)?$")
}

func flagNames(t *testing.T) []string {
	t.Helper()
	help, err := exec.CommandContext(t.Context(), driver(t), "--help").Output()
	testkit.Must(t, err)
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^  --([a-z0-9-]+)`).FindAllSubmatch(help, -1) {
		names = append(names, string(match[1]))
	}
	if len(names) < 10 {
		t.Fatalf("found %d flags in --help:\n%s", len(names), help)
	}
	return names
}

// TestEveryFlagHasAValue: a flag is rendered by some value set, or left out for
// a reason.
func TestEveryFlagHasAValue(t *testing.T) {
	rendered := map[string]bool{}
	for _, arg := range decode(t, renderSet(t, "everything")).daemonSets[0].Spec.Template.Spec.Containers[0].Args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		rendered[name] = true
	}
	for _, name := range flagNames(t) {
		if reason := leftOut[name]; rendered[name] == (reason != "") {
			t.Errorf("--%s: rendered %v, left out because %q", name, rendered[name], reason)
		}
	}
}
