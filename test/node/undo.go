package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const sysctlRoot = "/proc/sys"

// kubeletSysctls are those kubelet sets to values of its own when it starts.
var kubeletSysctls = []string{
	"vm/overcommit_memory",
	"vm/panic_on_oom",
	"kernel/panic",
	"kernel/panic_on_oops",
	"kernel/keys/root_maxkeys",
	"kernel/keys/root_maxbytes",
}

// undo is the node's changes of the machine outside its folder. It is recorded in the folder before
// the change is made.
type undo struct {
	Sysctls     map[string]string // values before
	Directories []string          // made, parents first
}

// plan finds out what a node will change: the kernel's settings below root, and the directories
// that do not exist yet.
func plan(root string, directories []string) (undo, error) {
	u := undo{Sysctls: map[string]string{}}
	for _, name := range kubeletSysctls {
		value, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return undo{}, fmt.Errorf("reading a kernel setting: %w", err)
		}
		u.Sysctls[name] = strings.TrimSpace(string(value))
	}
	for _, directory := range directories {
		var absent []string
		for ; ; directory = filepath.Dir(directory) {
			if _, err := os.Lstat(directory); err == nil {
				break
			} else if !errors.Is(err, os.ErrNotExist) {
				return undo{}, fmt.Errorf("looking for a directory of the machine: %w", err)
			}
			absent = append(absent, directory)
		}
		slices.Reverse(absent)
		u.Directories = append(u.Directories, absent...)
	}
	return u, nil
}

// write records the plan whole or not at all: half a file would break every clean-up.
func (u undo) write(path string) error {
	data, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("encoding the machine's state: %w", err)
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("noting the machine's state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("noting the machine's state: %w", err)
	}
	return nil
}

func (u undo) empty() bool { return len(u.Sysctls)+len(u.Directories) == 0 }

// readUndo returns an empty plan if none was recorded.
func readUndo(path string) (undo, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return undo{}, nil
	}
	if err != nil {
		return undo{}, fmt.Errorf("reading what the node changed: %w", err)
	}
	var u undo
	if err := json.Unmarshal(data, &u); err != nil {
		return undo{}, fmt.Errorf("decoding what the node changed, in %s: %w", path, err)
	}
	return u, nil
}

// apply restores everything. A directory in use stays.
func (u undo) apply(root string) error {
	for _, name := range kubeletSysctls {
		value, ok := u.Sysctls[name]
		setting := filepath.Join(root, name)
		if now, err := os.ReadFile(setting); !ok || err == nil && strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(setting, []byte(value), 0); err != nil {
			return fmt.Errorf("restoring a kernel setting: %w", err)
		}
	}
	for _, directory := range slices.Backward(u.Directories) {
		err := unix.Rmdir(directory)
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("removing a directory that the node made: %s: %w", directory, err)
		}
	}
	return nil
}

// Down stops the node in the folder of the options and removes all that is left of it, however it
// ended. It is not an error if there is none.
func Down(ctx context.Context, options Options) error {
	n, err := newNode(options)
	if err != nil {
		return err
	}
	return n.Down(ctx)
}

// Down stops the node and removes its processes, containers, mounts, cgroups and files, and
// restores the kernel settings that kubelet changed.
func (n *Node) Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("ending a node needs root")
	}
	unlock, err := n.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := n.cleanUp(ctx); err != nil {
		return fmt.Errorf("ending the node in %s: %w", n.dir, err)
	}
	n.say("gone, nothing left in %s", n.dir)
	return nil
}

// cleanUp removes the node and its files.
func (n *Node) cleanUp(ctx context.Context) error {
	if err := n.checkOwned(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, haltTimeout)
	defer cancel()
	if err := n.halt(ctx); err != nil {
		return err
	}
	entries, err := os.ReadDir(n.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing the node's files: %w", err)
	}
	// The mark goes last: an interrupted clean-up can be repeated.
	for _, entry := range entries {
		if path := n.path(entry.Name()); path != n.marker() {
			if err := removeTree(path); err != nil {
				return err
			}
		}
	}
	return removeTree(n.dir)
}

// checkOwned protects a wrong folder from being emptied.
func (l layout) checkOwned() error {
	entries, err := os.ReadDir(l.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the node's folder: %w", err)
	}
	if _, err := os.Lstat(l.marker()); err != nil && len(entries) > 0 {
		return fmt.Errorf("%s has files in it and is not a node's folder (%w)", l.dir, err)
	}
	return nil
}

// release removes the node's mounts, but those to keep, and its cgroups.
func (n *Node) release(ctx context.Context, keep func(point string) bool) error {
	if err := unmountBelow(n.dir, keep); err != nil {
		return err
	}
	return poll(ctx, "removing cgroups", func(context.Context) error { return removeCgroup(cgroupRoots(), n.cgroup()) })
}

// halt stops everything and undoes the changes outside the folder.
func (n *Node) halt(ctx context.Context) error {
	if err := n.killAll(ctx); err != nil {
		return err
	}
	if err := n.release(ctx, func(string) bool { return false }); err != nil {
		return err
	}
	others, err := neighbours(n.dir)
	if err != nil {
		return err
	}
	return n.undoChanges(others)
}
