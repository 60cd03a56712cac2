package node

import (
	"context"
	"errors"
	"fmt"
	"os"
)

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

// halt stops everything and undoes the changes outside the folder.
func (n *Node) halt(ctx context.Context) error {
	if err := n.killAll(ctx); err != nil {
		return err
	}
	if err := unmountBelow(n.dir, func(string) bool { return false }); err != nil {
		return err
	}
	err := poll(ctx, "removing cgroups", func(context.Context) error {
		return removeCgroup(cgroupRoots(), n.cgroup())
	})
	if err != nil {
		return err
	}
	others, err := neighbours(n.dir)
	if err != nil {
		return err
	}
	return n.undoChanges(others)
}
