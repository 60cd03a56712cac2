// Package toolcache builds the large programs of tests, such as a real Vault, from the nested Go
// modules under test/, once, and stores them outside the source tree under
// ${MAYFLY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mayfly}. The cache key depends on the module's
// sources and the toolchain, so a change of either builds again and an unchanged checkout never
// does.
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
	"time"

	"golang.org/x/sys/unix"
)

// lockRetry is how often a builder that waits for another one checks again.
const lockRetry = 100 * time.Millisecond

// Build returns the path of the program pkg ("." or an import path) of the module at moduleDir,
// under the given name. It builds it if the cache does not have it. Builders of the same program
// wait for each other, across processes. progress receives a line if that takes time; it may be
// nil.
func Build(ctx context.Context, progress io.Writer, moduleDir, pkg, name string, ldflags ...string) (string, error) {
	return build{moduleDir: moduleDir, pkg: pkg, name: name, ldflags: ldflags, progress: progress}.cached(ctx)
}

func (b build) cached(ctx context.Context) (string, error) {
	progress, name := b.progress, b.name
	if progress == nil {
		progress = io.Discard
		b.progress = progress
	}
	key, err := b.key(ctx)
	if err != nil {
		return "", fmt.Errorf("hashing the sources of %s: %w", name, err)
	}
	root, err := cacheRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "tools", name+"-"+key)
	path := filepath.Join(dir, name)
	if isProgram(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache of %s: %w", name, err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"), func() {
		fmt.Fprintf(progress, "toolcache: another process is building %s; waiting for it\n", name)
	})
	if err != nil {
		return "", fmt.Errorf("locking the cache of %s: %w", name, err)
	}
	defer unlock()
	if isProgram(path) { // whoever held the lock has built it
		return path, nil
	}
	if err := b.run(ctx, path); err != nil {
		return "", fmt.Errorf("building %s in %s: %w", name, b.moduleDir, err)
	}
	return path, nil
}

func cacheRoot() (string, error) {
	if dir := os.Getenv("MAYFLY_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache directory (MAYFLY_CACHE can name one): %w", err)
	}
	return filepath.Join(dir, "mayfly"), nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lock takes the exclusive lock on a file, and calls busy once if it must wait. The kernel releases
// the lock when the process ends for any reason.
func lock(ctx context.Context, path string, busy func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for told := false; ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, err
		}
		if !told {
			told = true
			busy()
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, context.Cause(ctx)
		case <-retry.C:
		}
	}
}

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
