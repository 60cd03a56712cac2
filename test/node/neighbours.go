package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// neighbours are the folders of other nodes that run on this machine. The last node to go restores
// the machine's settings: the first one records them, and passes the record on.
func neighbours(dir string) ([]layout, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var found []layout
	for _, entry := range entries {
		other, ok := nodeOf(filepath.Join("/proc", entry.Name()))
		if ok && other.dir != dir && !slices.Contains(found, other) {
			found = append(found, other)
		}
	}
	return found, nil
}

// nodeOf tells which node a process is of. Anybody may set a variable: only
// root's processes count, and only folders that are marked.
func nodeOf(proc string) (layout, bool) {
	info, err := os.Stat(proc)
	if err != nil {
		return layout{}, false
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || stat.Uid != 0 {
		return layout{}, false
	}
	environ, _ := os.ReadFile(filepath.Join(proc, "environ"))
	for _, variable := range bytes.Split(environ, []byte{0}) {
		if dir, ok := strings.CutPrefix(string(variable), envDir+"="); ok {
			l := layout{dir: dir}
			_, err := os.Lstat(l.marker())
			return l, err == nil
		}
	}
	return layout{}, false
}

// noteChanges records what the node is about to change of the machine. Next to another node that is
// nothing, because the other one has recorded it.
func (l layout) noteChanges() error {
	others, err := neighbours(l.dir)
	if err != nil {
		return err
	}
	changes := undo{}
	if len(others) == 0 {
		if changes, err = plan(sysctlRoot, l.bindingTargets()); err != nil {
			return err
		}
	}
	if err := changes.write(l.undo()); err != nil {
		return err
	}
	return makeDirectories(l.bindingTargets())
}

// undoChanges restores the machine, or leaves that to another node. One with a record of its own
// started at the same time, and has the same data.
func (l layout) undoChanges(others []layout) error {
	changes, err := readUndo(l.undo())
	if err != nil || changes.empty() {
		return err
	}
	if len(others) == 0 {
		return changes.apply(sysctlRoot)
	}
	theirs, err := readUndo(others[0].undo())
	if err != nil {
		return err
	}
	if theirs.empty() {
		if err := changes.write(others[0].undo()); err != nil {
			return err
		}
	}
	return undo{}.write(l.undo())
}

func makeDirectories(directories []string) error {
	for _, directory := range directories {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return fmt.Errorf("making a directory of the machine: %w", err)
		}
	}
	return nil
}
