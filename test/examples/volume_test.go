package examples

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	root = "../.."
	// patience bounds every wait.
	patience = time.Minute
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
	cmd   *exec.Cmd
	lines chan string
	out   *testkit.Log
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) *application {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	a := &application{lines: make(chan string, 100), out: &testkit.Log{}}
	a.cmd = exec.CommandContext(ctx, name, args...)
	a.cmd.Cancel = func() error { return a.cmd.Process.Signal(syscall.SIGTERM) }
	a.cmd.WaitDelay = 10 * time.Second
	reader, writer := io.Pipe()
	a.cmd.Stdout, a.cmd.Stderr = io.MultiWriter(writer, a.out), io.MultiWriter(writer, a.out)
	testkit.Must(t, a.cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(a.lines)
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			select {
			case a.lines <- scanner.Text():
			default: // nobody waits for so many
			}
		}
	}()
	ended := make(chan error, 1)
	go func() {
		ended <- a.cmd.Wait()
		_ = writer.Close()
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		<-read
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, a.out)
		}
	})
	return a
}

// await returns the text that follows prefix in a line of the application's output.
func (a *application) await(t *testing.T, text string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line, ok := <-a.lines:
			if !ok {
				t.Fatalf("it ended before it printed %q", text)
			}
			if _, after, found := strings.Cut(line, text); found {
				return after
			}
		case <-deadline:
			t.Fatalf("it did not print %q", text)
		}
	}
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
