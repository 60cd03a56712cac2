package toolcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// rootModule is the module at the top of the repository.
const rootModule = "github.com/mayfly-csi/mayfly"

// HelmVersion is the version in hack/helm/go.mod. A Helm that was built outside of its own build
// does not know it.
const HelmVersion = "v3.22.0"

// Tool is a program that the repository knows how to build.
type Tool struct {
	Name      string
	ModuleDir string // below the repository's root
	Package   string
	LDFlags   []string
	Tags      string // of the build, separated by commas
}

// Known lists every tool.
func Known() []Tool {
	return append([]Tool{
		{Name: "vaultd", ModuleDir: "test/vaultd", Package: ".", LDFlags: []string{"-s", "-w"}},
		// The command line without the plugins and storage of every cloud.
		{Name: "vault", ModuleDir: "test/vaultcli", Package: "github.com/hashicorp/vault", LDFlags: []string{"-s", "-w"}, Tags: "minimal"},
		{Name: "helm", ModuleDir: "hack/helm", Package: "helm.sh/helm/v3/cmd/helm",
			LDFlags: []string{"-s", "-w", "-X", "helm.sh/helm/v3/internal/version.version=" + HelmVersion}},
	}, kubernetesTools()...)
}

// Get is Build for a known tool.
func Get(ctx context.Context, progress io.Writer, name string) (string, error) {
	for _, tool := range Known() {
		if tool.Name != name {
			continue
		}
		root, err := ModuleRoot()
		if err != nil {
			return "", err
		}
		return build{
			moduleDir: filepath.Join(root, tool.ModuleDir), pkg: tool.Package, name: tool.Name,
			ldflags: tool.LDFlags, tags: tool.Tags, progress: progress,
		}.cached(ctx)
	}
	return "", fmt.Errorf("unknown tool %q", name)
}

// ModuleRoot finds the top of the repository from any directory within it,
// nested modules included.
func ModuleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("looking for the repository's root: %w", err)
		}
		if err == nil && moduleOf(string(data)) == rootModule {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding the root of %s: %s is not inside it", rootModule, start)
		}
	}
}

func moduleOf(goMod string) string {
	for line := range strings.Lines(goMod) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "module" {
			return strings.Trim(fields[1], `"`)
		}
	}
	return ""
}

// The version in test/cluster/go.mod. Programs built outside of Kubernetes' own build report v0.0.0
// unless the linker sets it.
const (
	KubernetesVersion = "v1.37.2"
	kubernetesMajor   = "1"
	kubernetesMinor   = "37"
)

// kubernetesTools are the programs of the node that test/node runs.
func kubernetesTools() []Tool {
	names := []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"}
	tools := make([]Tool, 0, len(names))
	for _, name := range names {
		tools = append(tools, Tool{
			Name:      name,
			ModuleDir: "test/cluster",
			Package:   "k8s.io/kubernetes/cmd/" + name,
			LDFlags:   kubernetesFlags(),
		})
	}
	return tools
}

func kubernetesFlags() []string {
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+KubernetesVersion,
			"-X", pkg+".gitMajor="+kubernetesMajor,
			"-X", pkg+".gitMinor="+kubernetesMinor)
	}
	return flags
}
