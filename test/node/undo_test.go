package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestUndoRestores(t *testing.T) {
	machine, settings := shortDir(t), t.TempDir()
	setting := filepath.Join(settings, "vm", "panic_on_oom")
	testkit.Must(t, os.Mkdir(filepath.Dir(setting), 0o755))
	write(t, setting, "7\n")
	made, used := filepath.Join(machine, "a", "b"), filepath.Join(machine, "c")
	changes, err := plan(settings, []string{made, used, machine})
	testkit.Must(t, err)
	note := filepath.Join(t.TempDir(), "undo.json")
	testkit.Must(t, errors.Join(changes.write(note), makeDirectories([]string{made, used, machine})))
	write(t, setting, "1\n")
	write(t, filepath.Join(used, "file"), "of another program")

	read, err := readUndo(note)
	testkit.Must(t, err)
	testkit.Must(t, read.apply(settings))
	if now, err := os.ReadFile(setting); err != nil || strings.TrimSpace(string(now)) != "7" {
		t.Errorf("the setting is %q, %v", now, err)
	}
	if _, err := os.Stat(filepath.Dir(made)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that was made stays: %v", err)
	}
	if _, err := os.Stat(filepath.Join(used, "file")); err != nil {
		t.Errorf("a directory in use: %v", err)
	}
}

func TestUndoWithoutNote(t *testing.T) {
	changes, err := readUndo(filepath.Join(t.TempDir(), "absent"))
	testkit.Must(t, err)
	testkit.Must(t, changes.apply(t.TempDir()))
}

// The last of several nodes restores what the first one recorded.
func TestUndoIsPassedToAnotherNode(t *testing.T) {
	first, second := layout{dir: shortDir(t)}, layout{dir: shortDir(t)}
	noted := undo{Directories: []string{filepath.Join(t.TempDir(), "made")}}
	testkit.Must(t, makeDirectories(noted.Directories))
	testkit.Must(t, errors.Join(noted.write(first.undo()), undo{}.write(second.undo())))
	testkit.Must(t, first.undoChanges([]layout{second}))
	if _, err := os.Stat(noted.Directories[0]); err != nil {
		t.Errorf("restored while another node runs: %v", err)
	}
	testkit.Must(t, errors.Join(first.undoChanges(nil), second.undoChanges(nil)))
	if _, err := os.Stat(noted.Directories[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not restored by the last node: %v", err)
	}
}

func TestUndoKeepsAnotherNodesRecord(t *testing.T) {
	first, second := layout{dir: shortDir(t)}, layout{dir: shortDir(t)}
	theirs := undo{Sysctls: map[string]string{"kernel/panic": "5"}}
	testkit.Must(t, errors.Join(undo{Directories: []string{"/x"}}.write(first.undo()), theirs.write(second.undo())))
	testkit.Must(t, first.undoChanges([]layout{second}))
	if got, err := readUndo(second.undo()); err != nil || got.Sysctls["kernel/panic"] != "5" || len(got.Directories) > 0 {
		t.Errorf("the other node's record is %v, %v", got, err)
	}
}

func TestNeighboursAreMarked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's processes are taken for a node's")
	}
	ours, theirs, unmarked := layout{dir: shortDir(t)}, layout{dir: shortDir(t)}, layout{dir: shortDir(t)}
	for _, l := range []layout{ours, theirs, unmarked} {
		runMarked(t, l)
	}
	write(t, ours.marker(), "")
	write(t, theirs.marker(), "")
	others, err := neighbours(ours.dir)
	testkit.Must(t, err)
	if !slices.Contains(others, theirs) || slices.Contains(others, ours) || slices.Contains(others, unmarked) {
		t.Errorf("the neighbours of %v are %v", ours, others)
	}
}

// runMarked runs a process of a node until the test ends.
func runMarked(t *testing.T, l layout) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = []string{envDir + "=" + l.dir, envComponent + "=" + string(Etcd)}
	testkit.Must(t, cmd.Start())
	t.Cleanup(func() {
		testkit.Check(t, l.killAll(context.WithoutCancel(t.Context())))
	})
	testkit.Must(t, awaitMark(t.Context(), cmd.Process.Pid))
}
