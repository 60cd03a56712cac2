package node

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// kubeletControllers are those kubelet insists on.
var kubeletControllers = []string{"cpu", "cpuset", "memory", "pids"}

func unified() bool {
	var stat unix.Statfs_t
	return unix.Statfs(cgroupMount, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroupRoots are the mount points of the cgroup hierarchies: one with cgroup
// v2, one for each controller with v1.
func cgroupRoots() []string {
	if unified() {
		return []string{cgroupMount}
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil
	}
	var roots []string
	for _, entry := range entries {
		root := filepath.Join(cgroupMount, entry.Name())
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err == nil && entry.IsDir() {
			roots = append(roots, root)
		}
	}
	return roots
}

// makeCgroup makes the cgroup that holds every pod.
func makeCgroup(name string) error {
	roots := cgroupRoots()
	if len(roots) == 0 {
		return fmt.Errorf("finding cgroups: no hierarchy is mounted below %s", cgroupMount)
	}
	for _, root := range roots {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("making a cgroup (a container needs a writable %s: docker run --privileged): %w", cgroupMount, err)
		}
	}
	if unified() {
		return delegate(cgroupMount, name)
	}
	return fillCpuset(filepath.Join(cgroupMount, "cpuset"), name)
}

// delegate enables the controllers that kubelet needs in the cgroup.
func delegate(root, name string) error {
	for _, dir := range []string{root, filepath.Join(root, name)} {
		for _, controller := range kubeletControllers {
			control := filepath.Join(dir, "cgroup.subtree_control")
			err := os.WriteFile(control, []byte("+"+controller), 0)
			if errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("handing down cgroup controllers: %s holds processes itself; move them to a cgroup below it first: %w", dir, err)
			}
			if err != nil {
				return fmt.Errorf("handing down the cgroup controller %s: %w", controller, err)
			}
		}
	}
	return nil
}

// fillCpuset gives the cgroup all processors and memory: with cgroup v1 a new one has none, and no
// process can enter it.
func fillCpuset(root, name string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(root, file))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, name, file), bytes.TrimSpace(all), 0)
		}
		if err != nil {
			return fmt.Errorf("setting up the cpuset cgroup: %w", err)
		}
	}
	return nil
}

// cgroupDirs lists the cgroup and those below it in every hierarchy, children
// before parents.
func cgroupDirs(roots []string, name string) []string {
	var dirs []string
	for _, root := range roots {
		// An entry that vanishes meanwhile needs no listing.
		_ = filepath.WalkDir(filepath.Join(root, name), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// cgroupPids lists the processes in the cgroup and below it.
func cgroupPids(roots []string, name string) []int {
	var pids []int
	for _, dir := range cgroupDirs(roots, name) {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for line := range strings.Lines(string(procs)) {
			// Zero is a process of another pid namespace, which does not belong to the node.
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// removeCgroup removes the node's cgroup. It fails while a killed process is still exiting.
func removeCgroup(roots []string, name string) error {
	var failed error
	for _, dir := range cgroupDirs(roots, name) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			failed = errors.Join(failed, fmt.Errorf("removing the cgroup %s: %w", dir, err))
		}
	}
	return failed
}
