package examples

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	root = "../.."
	// stopGrace is how long an application has to end.
	stopGrace = 10 * time.Second
)

// volume is a directory that is written as the driver writes a pod's.
type volume struct {
	path string
	dir  *atomicdir.Dir
}

func newVolume(t *testing.T, files map[string]string) volume {
	t.Helper()
	path := t.TempDir()
	root := testkit.Value(os.Open(path))(t)
	dir, err := atomicdir.Open(root)
	testkit.Must(t, errors.Join(err, root.Close()))
	t.Cleanup(func() { _ = dir.Close() })
	v := volume{path, dir}
	v.write(t, files)
	return v
}

func (v volume) write(t *testing.T, files map[string]string) {
	t.Helper()
	var payload []atomicdir.File
	for name, text := range files {
		payload = append(payload, atomicdir.File{Path: name, Contents: []byte(text)})
	}
	changed := testkit.Value(v.dir.Write(payload, atomicdir.Options{}))(t)
	if !changed {
		t.Fatal("the volume was not changed")
	}
}

// application is a running example.
type application struct {
	*testkit.Process
	out  *testkit.Log
	read int // how much of the output await has read
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) *application {
	t.Helper()
	a := &application{out: &testkit.Log{}}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = a.out, a.out
	cmd.WaitDelay = stopGrace
	a.Process = testkit.NewProcess(t, cmd)
	t.Cleanup(func() { testkit.Check(t, a.Stop(stopGrace)) })
	return a
}

// await returns the text that follows prefix in a line of the application's output.
func (a *application) await(t *testing.T, prefix string) (after string) {
	t.Helper()
	testkit.Eventually(t, "it prints "+prefix, func() bool {
		out := a.out.String()
		_, found, ok := strings.Cut(out[a.read:], prefix)
		line, rest, whole := strings.Cut(found, "\n")
		if !ok || !whole {
			testkit.Must(t, a.Alive())
			return false
		}
		after, a.read = line, len(out)-len(rest)
		return true
	})
	return after
}

func example(t *testing.T, elements ...string) string {
	t.Helper()
	return testkit.Value(filepath.Abs(filepath.Join(append([]string{root, "examples"}, elements...)...)))(t)
}

// installed skips the test where a program is missing.
func installed(t *testing.T, program, why string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if file := filepath.Join(dir, program); errors.Is(err, exec.ErrNotFound) {
			if _, statErr := os.Stat(file); statErr == nil {
				path, err = file, nil
			}
		}
	}
	if err != nil {
		t.Skip(why)
	}
	return path
}
