package node

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// Every process of a node has these variables, which its children inherit. They say which processes
// belong to a node, instead of files with process ids: they are right after any crash, and are not
// confused by an id that the kernel reuses.
const (
	envDir       = "MAYFLY_NODE_PROCESS_OF"
	envComponent = "MAYFLY_NODE_COMPONENT"
)

const pollInterval = 100 * time.Millisecond

// process is one entry of /proc that belongs to a node.
type process struct {
	pid       int
	component Component
	leader    bool // the component itself, not a child such as a containerd shim
}

// processes lists the processes with a node's mark. Containers do not have it: they are found by
// their cgroup.
func processes(dir string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process that has gone, or a zombie, reads as empty.
		environ, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if p, ok := parseEnviron(environ, dir); ok {
			p.pid = pid
			session, err := unix.Getsid(pid)
			p.leader = err == nil && session == pid
			found = append(found, p)
		}
	}
	return found, nil
}

func parseEnviron(environ []byte, dir string) (p process, ok bool) {
	for _, variable := range bytes.Split(environ, []byte{0}) {
		name, value, _ := strings.Cut(string(variable), "=")
		switch name {
		case envDir:
			ok = value == dir
		case envComponent:
			p.component = Component(value)
		}
	}
	return p, ok
}

// pidOf finds a component's process, or 0.
func (l layout) pidOf(c Component) (int, error) {
	running, err := processes(l.dir)
	if err != nil {
		return 0, err
	}
	for _, p := range running {
		if p.leader && p.component == c {
			return p.pid, nil
		}
	}
	return 0, nil
}

// signal sends a signal to a component and waits until it is gone.
func (l layout) signal(ctx context.Context, c Component, sig unix.Signal) error {
	return poll(ctx, fmt.Sprintf("ending %s", c), func(context.Context) error {
		pid, err := l.pidOf(c)
		if err != nil || pid == 0 {
			return err
		}
		if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return fatal(fmt.Errorf("signalling process %d: %w", pid, err))
		}
		reap(pid)
		return fmt.Errorf("process %d is still there", pid)
	})
}

// killAll kills everything that belongs to the node, containers included. It repeats until it finds
// nothing, because the processes may be forking.
func (l layout) killAll(ctx context.Context) error {
	return poll(ctx, "killing the node's processes", func(context.Context) error {
		running, err := processes(l.dir)
		if err != nil {
			return err
		}
		pids := cgroupPids(cgroupRoots(), l.cgroup())
		for _, p := range running {
			pids = append(pids, p.pid)
		}
		return killPids(pids)
	})
}

func killPids(pids []int) error {
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() })
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fatal(fmt.Errorf("killing process %d: %w", pid, err))
		}
		reap(pid)
	}
	if len(pids) > 0 {
		return fmt.Errorf("processes %v are still there", pids)
	}
	return nil
}

// reap reads the exit status of a child of this process. For any other process the kernel refuses,
// and its own parent reads it.
func reap(pid int) {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
}

// fatalError ends a poll at once.
type fatalError struct{ err error }

func (e fatalError) Error() string { return e.err.Error() }
func (e fatalError) Unwrap() error { return e.err }

func fatal(err error) error { return fatalError{err} }

// poll calls try until it succeeds, and fails with a fatal error at once or,
// when ctx ends, with the last error before that. what begins the error.
func poll(ctx context.Context, what string, try func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if final := (fatalError{}); errors.As(err, &final) {
			return fmt.Errorf("%s: %w", what, final.err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last: %w", what, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

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
