package toolcache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const hello = `package main

import "fmt"

var word = "hello"

func main() { fmt.Println(word) }
`

// newModule makes a throw-away module without dependencies.
func newModule(t *testing.T, source string) string {
	t.Helper()
	t.Setenv("MAYFLY_CACHE", t.TempDir())
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.test/hello\n\ngo 1.24\n")
	write(t, filepath.Join(dir, "main.go"), source)
	return dir
}

func write(t *testing.T, path, data string) {
	t.Helper()
	testkit.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	testkit.Must(t, os.WriteFile(path, []byte(data), 0o644))
}

func mustBuild(t *testing.T, dir string, ldflags ...string) (path, progress string) {
	t.Helper()
	var log bytes.Buffer
	path = testkit.Value(Build(t.Context(), &log, dir, ".", "hello", ldflags...))(t)
	return path, log.String()
}

func runProgram(t *testing.T, path string) string {
	t.Helper()
	out := testkit.Value(exec.CommandContext(t.Context(), path).Output())(t)
	return strings.TrimSpace(string(out))
}

func TestBuildOnce(t *testing.T) {
	dir := newModule(t, hello)
	first, log := mustBuild(t, dir)
	if !strings.HasPrefix(first, filepath.Join(os.Getenv("MAYFLY_CACHE"), "tools", "hello-")) {
		t.Errorf("built at %s, outside the cache", first)
	}
	testkit.Has(t, log, "building hello from "+dir)
	if got := runProgram(t, first); got != "hello" {
		t.Errorf("program says %q", got)
	}

	// A hit returns the cached file, untouched.
	write(t, first, "marker")
	second, log := mustBuild(t, dir)
	if second != first || log != "" {
		t.Errorf("second build: path %s, progress %q; want %s and none", second, log, first)
	}
	if data, err := os.ReadFile(second); err != nil || string(data) != "marker" {
		t.Errorf("a cache hit built again: %.20q, %v", data, err)
	}
}

func TestBuildDependsOnSources(t *testing.T) {
	dir := newModule(t, hello)
	first, _ := mustBuild(t, dir)

	flagged, _ := mustBuild(t, dir, "-X", "main.word=flagged")
	if got := runProgram(t, flagged); flagged == first || got != "flagged" {
		t.Errorf("with other ldflags: %s says %q", flagged, got)
	}
	if tagged, err := (build{moduleDir: dir, pkg: ".", name: "hello", tags: "minimal"}).cached(t.Context()); err != nil || tagged == first {
		t.Errorf("with a build tag: %s, %v", tagged, err)
	}

	write(t, filepath.Join(dir, "main_test.go"), "package main\n")
	write(t, filepath.Join(dir, "nested", "go.mod"), "module example.test/nested\n")
	write(t, filepath.Join(dir, "nested", "main.go"), "package main\n")
	if same, log := mustBuild(t, dir); same != first || log != "" {
		t.Errorf("tests or a nested module changed the program: %s, %q", same, log)
	}

	write(t, filepath.Join(dir, "word.go"), "package main\n\nfunc init() { word = \"changed\" }\n")
	changed, _ := mustBuild(t, dir)
	if got := runProgram(t, changed); changed == first || got != "changed" {
		t.Errorf("after an edit: %s says %q", changed, got)
	}
}

// signal is a writer that closes a channel at the first line that contains want.
type signal struct {
	want string
	once sync.Once
	seen chan struct{}
}

func (s *signal) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(s.want)) {
		s.once.Do(func() { close(s.seen) })
	}
	return len(p), nil
}

func TestBuildWaitsForLock(t *testing.T) {
	dir := newModule(t, hello)
	path, _ := mustBuild(t, dir)
	testkit.Must(t, os.Remove(path))
	unlock := testkit.Value(lock(t.Context(), filepath.Join(filepath.Dir(path), "lock"), func() {}))(t)
	defer unlock()

	waiting := &signal{want: "another process is building hello", seen: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cancelled := make(chan error, 1)
	go func() {
		_, err := Build(ctx, waiting, dir, ".", "hello")
		cancelled <- err
	}()
	<-waiting.seen
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait ended with %v", err)
	}

	waiting = &signal{want: "another process is building hello", seen: make(chan struct{})}
	finished := make(chan error, 1)
	go func() {
		_, err := Build(t.Context(), waiting, dir, ".", "hello")
		finished <- err
	}()
	<-waiting.seen
	if isProgram(path) {
		t.Error("built while another process held the lock")
	}
	unlock()
	testkit.Must(t, <-finished)
	if !isProgram(path) {
		t.Error("not built after the lock was released")
	}
}

func TestBuildFailure(t *testing.T) {
	dir := newModule(t, "package main\n\nfunc main() { undefinedName() }\n")
	path, err := Build(t.Context(), nil, dir, ".", "hello")
	if err == nil {
		t.Fatalf("built %s from broken code", path)
	}
	testkit.Says(t, err, "building hello in "+dir, "undefined: undefinedName")
	left, _ := filepath.Glob(filepath.Join(os.Getenv("MAYFLY_CACHE"), "tools", "*", "build-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	write(t, filepath.Join(dir, "main.go"), hello)
	if fixed, _ := mustBuild(t, dir); runProgram(t, fixed) != "hello" {
		t.Error("a mended program does not build")
	}
}

func TestOutputCounts(t *testing.T) {
	var seen output
	seen.read(strings.NewReader("go: downloading a v1\ngo: downloading b v1\nruntime\nfmt\nos\n# pkg\nx.go:1: oops here\n"))
	modules, packages := seen.counts()
	if modules != 2 || packages != 3 {
		t.Errorf("counted %d modules, %d packages; want 2, 3", modules, packages)
	}
	if got := seen.tail(); got != "# pkg\nx.go:1: oops here" {
		t.Errorf("tail %q", got)
	}
}

func TestModuleRoot(t *testing.T) {
	root := testkit.Value(ModuleRoot())(t)
	for _, tool := range Known() {
		t.Chdir(filepath.Join(root, tool.ModuleDir))
		if got, err := ModuleRoot(); err != nil || got != root {
			t.Errorf("from %s: %q, %v; want %q", tool.ModuleDir, got, err, root)
		}
	}
	t.Chdir(t.TempDir())
	if got, err := ModuleRoot(); err == nil {
		t.Errorf("outside the repository: %q and no error", got)
	}
}

func TestCacheRoot(t *testing.T) {
	for name, tc := range map[string]struct{ mayfly, xdg, home, want string }{
		"own":  {mayfly: "/m", xdg: "/x", home: "/h", want: "/m"},
		"xdg":  {xdg: "/x", home: "/h", want: "/x/mayfly"},
		"home": {home: "/h", want: "/h/.cache/mayfly"},
		"none": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("MAYFLY_CACHE", tc.mayfly)
			t.Setenv("XDG_CACHE_HOME", tc.xdg)
			t.Setenv("HOME", tc.home)
			got, err := cacheRoot()
			if got != tc.want || (err != nil) != (tc.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}
