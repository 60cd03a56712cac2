package node

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// systemPath is searched for programs after $PATH, which often lacks the administrator's
// directories.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// programs are the paths of programs by name.
type programs map[string]string

// packages maps each program that the system provides to its Debian package.
func packages() map[string]string {
	return map[string]string{
		"etcd":                    "etcd-server",
		"containerd":              "containerd",
		"containerd-shim-runc-v2": "containerd",
		"ctr":                     "containerd",
		"runc":                    "runc",
		"busybox":                 "busybox-static",
		"mount":                   "mount",
	}
}

// findPrograms finds all programs, installs the packages of those that are missing, and builds
// those of Kubernetes that are not cached.
func findPrograms(ctx context.Context, out io.Writer) (programs, error) {
	found, missing := systemPrograms()
	if len(missing) > 0 {
		if err := install(ctx, out, missing); err != nil {
			return nil, err
		}
		if found, missing = systemPrograms(); len(missing) > 0 {
			return nil, fmt.Errorf("installing packages: the programs of %v are still missing", missing)
		}
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"} {
		path, err := toolcache.Get(ctx, out, name)
		if err != nil {
			return nil, err
		}
		found[name] = path
	}
	return found, nil
}

func systemPrograms() (found programs, missing []string) {
	found = programs{}
	for name, pkg := range packages() {
		path := lookPath(name)
		if path == "" || name == "busybox" && !isStatic(path) {
			missing = append(missing, pkg)
			continue
		}
		found[name] = path
	}
	slices.Sort(missing)
	return found, slices.Compact(missing)
}

func lookPath(name string) string {
	for _, dir := range filepath.SplitList(os.Getenv("PATH") + ":" + systemPath) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// isStatic reports whether a program runs in an image with nothing else.
func isStatic(path string) bool {
	file, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	return !slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// install installs Debian packages without starting the services they bring.
func install(ctx context.Context, out io.Writer, packages []string) (err error) {
	list := strings.Join(packages, " ")
	if lookPath("apt-get") == "" {
		return fmt.Errorf("programs are missing; install what your system calls these Debian packages: %s", list)
	}
	fmt.Fprintf(out, "node: installing Debian packages: %s\n", list)
	allow, err := denyServices("/usr/sbin/policy-rc.d")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, allow()) }()

	args := append([]string{"install", "--yes", "--no-install-recommends"}, packages...)
	if _, err := aptGet(ctx, args...); err == nil {
		return nil
	}
	// The package lists may be missing or old.
	if output, err := aptGet(ctx, "update"); err != nil {
		return fmt.Errorf("updating the package lists to install %s: %w\n%s", list, err, output)
	}
	if output, err := aptGet(ctx, args...); err != nil {
		return fmt.Errorf("installing %s: %w\n%s", list, err, output)
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd.CombinedOutput()
}

// denyServices keeps package scripts from starting services until it is undone. It keeps a policy
// that exists already, which is the administrator's.
func denyServices(policy string) (undo func() error, err error) {
	file, err := os.OpenFile(policy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, os.ErrExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keeping services from starting: %w", err)
	}
	_, err = io.WriteString(file, "#!/bin/sh\nexit 101\n")
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("keeping services from starting: %w", err), os.Remove(policy))
	}
	return func() error { return os.Remove(policy) }, nil
}
