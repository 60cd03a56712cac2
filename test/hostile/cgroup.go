package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const (
	cgroupMount  = "/sys/fs/cgroup"
	cgroupPrefix = "mayfly-hostile-"
)

// cgroup is a memory cgroup with a limit, as a container has.
type cgroup struct {
	dir     string
	unified bool // cgroup v2
}

// newCgroup makes the group at the root of the hierarchy, where there is always
// the right to a limit.
func newCgroup(limit int64) (*cgroup, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &stat); err != nil {
		return nil, fmt.Errorf("finding cgroups at %s: %w", cgroupMount, err)
	}
	g := &cgroup{unified: stat.Type == unix.CGROUP2_SUPER_MAGIC}
	root, limitFile := filepath.Join(cgroupMount, "memory"), "memory.limit_in_bytes"
	if g.unified {
		root, limitFile = cgroupMount, "memory.max"
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			return nil, fmt.Errorf("handing the memory controller down (where processes are in %s itself, move them to a cgroup below it first): %w", root, err)
		}
	}
	removeStale(root)
	g.dir = filepath.Join(root, cgroupPrefix+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a memory cgroup (it takes root, and in a container a writable %s): %w", cgroupMount, err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, limitFile), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("limiting a memory cgroup: %w", err), g.remove())
	}
	if g.unified {
		// A node has no swap by default; a kernel without it has no such file.
		_ = os.WriteFile(filepath.Join(g.dir, "memory.swap.max"), []byte("0"), 0)
	}
	return g, nil
}

// removeStale removes the groups of earlier runs that were killed.
func removeStale(root string) {
	old, _ := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
	for _, dir := range old {
		pid := strings.TrimPrefix(filepath.Base(dir), cgroupPrefix)
		if _, err := os.Stat(filepath.Join("/proc", pid)); errors.Is(err, fs.ErrNotExist) {
			_ = unix.Rmdir(dir)
		}
	}
}

// procs is the file that moves a process into the cgroup.
func (g *cgroup) procs() string { return filepath.Join(g.dir, "cgroup.procs") }

// peak is the most that was charged to the group so far, page cache included.
func (g *cgroup) peak() (int64, error) {
	file := "memory.max_usage_in_bytes"
	if g.unified {
		file = "memory.peak" // Linux 5.19
	}
	data, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0, fmt.Errorf("reading the cgroup's peak: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the cgroup's peak: %w", err)
	}
	return n, nil
}

// kills is how often the kernel killed a process for lack of memory.
func (g *cgroup) kills() (int64, error) {
	file := "memory.oom_control"
	if g.unified {
		file = "memory.events"
	}
	values, err := g.read(file)
	return values["oom_kill"], err
}

// stat returns the bytes in tmpfs now, and the kernel's own use for the group's files and sockets,
// if it reports that.
func (g *cgroup) stat() (shared, kernel int64, err error) {
	values, err := g.read("memory.stat")
	if err != nil {
		return 0, 0, err
	}
	if g.unified {
		return values["shmem"], values["kernel"], nil
	}
	data, err := os.ReadFile(filepath.Join(g.dir, "memory.kmem.usage_in_bytes"))
	if errors.Is(err, fs.ErrNotExist) {
		return values["shmem"], 0, nil
	}
	kernel, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return values["shmem"], kernel, err
}

func (g *cgroup) read(file string) (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return nil, fmt.Errorf("reading the cgroup: %w", err)
	}
	return parseFlatKeyed(string(data)), nil
}

// parseFlatKeyed reads lines such as "oom_kill 1".
func parseFlatKeyed(text string) map[string]int64 {
	values := map[string]int64{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			values[key] = n
		}
	}
	return values
}

// remove removes the group, which must have no process.
func (g *cgroup) remove() error {
	if err := unix.Rmdir(g.dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing the cgroup %s: %w", g.dir, err)
	}
	return nil
}

// chartLimit is the memory limit of the driver's container, by the chart's
// defaults.
func chartLimit() (int64, error) {
	root, err := toolcache.ModuleRoot()
	if err != nil {
		return 0, err
	}
	path := filepath.Join(root, "charts", "mayfly", "values.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading the chart's values: %w", err)
	}
	limit, err := parseLimit(data)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return limit, nil
}

func parseLimit(values []byte) (int64, error) {
	var v struct {
		Linux struct {
			Driver struct {
				Resources struct {
					Limits struct{ Memory string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(values, &v); err != nil {
		return 0, err
	}
	const field = "linux.driver.resources.limits.memory"
	q, err := resource.ParseQuantity(v.Linux.Driver.Resources.Limits.Memory)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	if q.Value() <= 0 {
		return 0, fmt.Errorf("%s is %s, which is no limit", field, q.String())
	}
	return q.Value(), nil
}
