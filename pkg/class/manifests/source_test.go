package manifests_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/class/manifests"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// manifest makes a class whose role tells one edit from the next.
func manifest(namespace, name, role string) string {
	text := "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata:\n  name: " + name + "\n"
	if namespace != "" {
		text += "  namespace: " + namespace + "\n"
	}
	return text + "spec:\n  provider: vault\n  parameters: {roleName: " + role + "}\n"
}

func ref(namespace, name string) class.Ref { return class.Ref{Namespace: namespace, Name: name} }

// change is a version that the source told of.
type change struct {
	ref     class.Ref
	version string
}

type fixture struct {
	*testing.T
	dir     string
	logs    *testkit.Log
	source  *manifests.Source
	changes chan change
}

func setUp(t *testing.T, c manifests.Config) *fixture {
	t.Helper()
	f := &fixture{T: t, logs: &testkit.Log{}, changes: make(chan change, 100)}
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	f.dir = c.Dir
	c.Logger = slog.New(slog.NewTextHandler(f.logs, nil))
	told := c.OnVersion
	c.OnVersion = func(r class.Ref, version string) {
		if told != nil {
			told(r, version)
		}
		f.changes <- change{r, version}
	}
	var err error
	if f.source, err = manifests.New(c); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) write(name, text string) {
	f.Helper()
	testkit.Must(f, os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600))
}

// role gets a class and gives what tells its edits apart.
func (f *fixture) role(r class.Ref) string {
	f.Helper()
	c, err := f.source.Get(f.Context(), r)
	if err != nil {
		f.Fatalf("getting %s: %v", r, err)
	}
	return c.Parameters["roleName"]
}

func (f *fixture) refused(r class.Ref, reason fault.Reason, texts ...string) {
	f.Helper()
	c, err := f.source.Get(f.Context(), r)
	if err == nil {
		f.Fatalf("got %+v, want a refusal", c)
	}
	testkit.Fails(f, err, reason, texts...)
}

func (f *fixture) run() { testkit.Background(f, f.source.Run) }

// changed waits until the version of the class as it is now was told.
func (f *fixture) changed(want class.Ref) {
	f.Helper()
	for {
		got, now := testkit.Receive(f, f.changes, "a change of "+want.String()), change{ref: want}
		if c, err := f.source.Get(f.Context(), want); err == nil {
			now.version = c.ResourceVersion
		}
		if got.ref != want {
			f.Errorf("told of %s, want %s", got.ref, want)
		}
		if got == now {
			return
		}
	}
}

func TestNewRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	testkit.Must(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{"", file, file + ".absent"} {
		if _, err := manifests.New(manifests.Config{Dir: path}); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
}

// TestGetSeesEveryEdit edits without pause: no event and no clock is waited for.
func TestGetSeesEveryEdit(t *testing.T) {
	f := setUp(t, manifests.Config{})
	db := ref("default", "db")
	f.refused(db, fault.ClassNotFound, "failed to get secretproviderclass default/db", f.dir)
	versions := map[string]bool{}
	var uid string
	for i := range 50 {
		role := fmt.Sprintf("role%02d", i) // the same size every time
		f.write("a.yaml", manifest("", "db", role))
		if got := f.role(db); got != role {
			t.Fatalf("edit %d: got %s", i, got)
		}
		c, _ := f.source.Get(t.Context(), db)
		versions[c.ResourceVersion] = true
		if uid != "" && c.UID != uid {
			t.Fatalf("the UID changed from %s to %s", uid, c.UID)
		}
		uid = c.UID
	}
	if len(versions) != 50 || uid == "" {
		t.Errorf("50 edits gave %d versions", len(versions))
	}
	testkit.Must(t, os.Remove(filepath.Join(f.dir, "a.yaml")))
	f.refused(db, fault.ClassNotFound)
}

func TestGetChoosesFiles(t *testing.T) {
	f := setUp(t, manifests.Config{})
	for _, name := range []string{"a.yaml", "b.yml", "c.JSON", "d.txt", ".e.yaml", "f.yaml~"} {
		f.write(name, manifest("ns", "class-"+name[:1], name))
	}
	testkit.Must(t, os.Mkdir(filepath.Join(f.dir, "g.yaml"), 0o700))
	testkit.Must(t, syscall.Mkfifo(filepath.Join(f.dir, "h.yaml"), 0o600))
	testkit.Must(t, os.Symlink("absent", filepath.Join(f.dir, "i.yaml")))
	for _, letter := range []string{"a", "b", "c"} {
		f.role(ref("ns", "class-"+letter))
	}
	f.refused(ref("ns", "class-d"), fault.ClassNotFound)
	f.refused(ref("ns", "class-."), fault.ClassNotFound)
	f.refused(ref("default", "class-a"), fault.ClassNotFound, "namespace ns has one of that name")
	if n := f.logs.Count("level=ERROR"); n != 0 {
		t.Errorf("%d errors were logged: %s", n, f.logs.String())
	}
}

// TestConfigMap swaps ..data as kubelet does for a mounted ConfigMap.
func TestConfigMap(t *testing.T) {
	f := setUp(t, manifests.Config{Rescan: time.Hour})
	version := func(n string) {
		dir := filepath.Join(f.dir, "..v"+n)
		testkit.Must(t, os.Mkdir(dir, 0o700))
		testkit.Must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(manifest("ns", "db", "role"+n)), 0o600))
		testkit.Must(t, os.Symlink("..v"+n, filepath.Join(f.dir, "..data_tmp")))
		testkit.Must(t, os.Rename(filepath.Join(f.dir, "..data_tmp"), filepath.Join(f.dir, "..data")))
	}
	version("1")
	testkit.Must(t, os.Symlink("..data/a.yaml", filepath.Join(f.dir, "a.yaml")))
	db := ref("ns", "db")
	if got := f.role(db); got != "role1" {
		t.Fatalf("got %s", got)
	}
	f.source.Retain(db)
	f.run()
	version("2")
	f.changed(db)
	testkit.Equal(t, "the role", f.role(db), "role2")
}

func TestBrokenFile(t *testing.T) {
	f := setUp(t, manifests.Config{})
	f.write("good.yaml", manifest("ns", "good", "r"))
	f.write("bad.yaml", manifest("ns", "one", "old")+"---\n"+manifest("ns", "two", "old"))
	f.role(ref("ns", "one"))

	// The second document breaks, the first is edited, a third is new.
	f.write("bad.yaml", manifest("ns", "one", "new")+"---\nmetadata: [\n  name: two\n---\nkind: SecretProviderClass\nmetadata:\n  name: three\nspec: 5\n")
	for name, want := range map[string]string{"one": "new", "two": "old", "good": "r"} {
		testkit.Equal(t, "the role of class "+name, f.role(ref("ns", name)), want)
	}
	f.refused(ref("ns", "three"), fault.InvalidClass, "failed to get secretproviderclass ns/three", "reading bad.yaml: document 2, near line")
	f.refused(ref("ns", "four"), fault.ClassNotFound, "these files cannot be read: bad.yaml")
	testkit.Equal(t, "times that the log says it", f.logs.Count("a manifest cannot be read"), 1)

	f.write("bad.yaml", manifest("ns", "three", "r"))
	f.role(ref("ns", "three"))
	f.refused(ref("ns", "two"), fault.ClassNotFound)
}

func TestBrokenFromTheStart(t *testing.T) {
	f := setUp(t, manifests.Config{})
	f.write("a.json", `{"kind": "SecretProviderClass", "metadata": {"name": "db"},`)
	f.refused(ref("default", "db"), fault.InvalidClass, "reading a.json: document 1, near line 1")
	f.refused(ref("default", "d"), fault.ClassNotFound, "a.json")
}

func TestUnreadable(t *testing.T) {
	f := setUp(t, manifests.Config{})
	f.write("a.yaml", manifest("ns", "db", "r"))
	f.role(ref("ns", "db"))
	path := filepath.Join(f.dir, "a.yaml")
	testkit.Must(t, os.Remove(path))
	if err := os.Symlink("a.yaml", path); err != nil { // a loop: root, too, cannot read it
		t.Fatal(err)
	}
	testkit.Equal(t, "the last good class is gone", f.role(ref("ns", "db")), "r")
	f.refused(ref("ns", "other"), fault.ClassNotFound, "these files cannot be read: a.yaml")
	if f.logs.Count("too many levels of symbolic links") != 1 {
		t.Errorf("the log does not say why once: %s", f.logs.String())
	}
}

func TestDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "classes")
	testkit.Must(t, os.Mkdir(dir, 0o700))
	f := setUp(t, manifests.Config{Dir: dir, Rescan: 10 * time.Millisecond})
	f.write("a.yaml", manifest("ns", "db", "r1"))
	f.role(ref("ns", "db"))
	f.source.Retain(ref("ns", "db"))
	testkit.Must(t, os.RemoveAll(dir))
	testkit.Equal(t, "the last good class is gone", f.role(ref("ns", "db")), "r1")
	f.refused(ref("ns", "other"), fault.Unavailable, "failed to get secretproviderclass ns/other", "no such file")

	f.run()
	testkit.Must(t, os.Mkdir(dir, 0o700))
	f.write("a.yaml", manifest("ns", "db", "r2"))
	for f.changed(ref("ns", "db")); ; f.changed(ref("ns", "db")) {
		// The rescan may have seen the directory without the file.
		if c, err := f.source.Get(t.Context(), ref("ns", "db")); err == nil && c.Parameters["roleName"] == "r2" {
			break
		}
	}
}

func TestTwice(t *testing.T) {
	f := setUp(t, manifests.Config{})
	f.write("a.yaml", manifest("", "db", "r"))
	f.write("b.yaml", manifest("default", "db", "r"))
	f.write("c.yaml", manifest("ns", "x", "r")+"---\n"+manifest("ns", "x", "r"))
	f.refused(ref("default", "db"), fault.InvalidClass, "default/db: is in more than one place: a.yaml, b.yaml")
	f.refused(ref("ns", "x"), fault.InvalidClass, "c.yaml, c.yaml")
	testkit.Must(t, os.Remove(filepath.Join(f.dir, "a.yaml")))
	f.role(ref("default", "db"))
}

func TestInvalidClassAndWarnings(t *testing.T) {
	f := setUp(t, manifests.Config{})
	f.write("a.yaml", manifest("ns", "bad", "r, refreshInterval: soon")+"---\n"+manifest("ns", "odd", "r, refreshinterval: 1m")+"extra: 1\n")
	for range 3 {
		f.refused(ref("ns", "bad"), fault.InvalidClass, "ns/bad: spec.parameters.refreshInterval")
		f.role(ref("ns", "odd"))
	}
	for text, want := range map[string]int{"did you mean refreshInterval": 1, "extra: no such field": 1, "a class cannot be used": 1} {
		testkit.Equal(t, fmt.Sprintf("times that the log says %q", text), f.logs.Count(text), want)
	}
	// An edit beside them does not repeat what was said of them.
	f.write("a.yaml", "# edited\n"+manifest("ns", "odd", "r, refreshinterval: 1m"))
	f.role(ref("ns", "odd"))
	testkit.Equal(t, "times that the log says it", f.logs.Count("did you mean"), 1)
}

// TestChanges sees an edit, a deletion and a creation through events alone.
func TestChanges(t *testing.T) {
	f := setUp(t, manifests.Config{Rescan: time.Hour, Debounce: time.Millisecond})
	db := ref("ns", "db")
	f.write("a.yaml", manifest("ns", "db", "r1"))
	f.write("b.yaml", manifest("ns", "other", "r1"))
	f.role(db)
	f.source.Retain(db)
	f.source.Retain(db)
	f.source.Release(db) // still retained once
	f.run()
	f.write("b.yaml", manifest("ns", "other", "r2")) // not retained: not told
	replace := func(text string) {
		temp := filepath.Join(f.dir, ".tmp")
		testkit.Must(t, os.WriteFile(temp, []byte(text), 0o600))
		testkit.Must(t, os.Rename(temp, filepath.Join(f.dir, "a.yaml")))
	}
	replace(manifest("ns", "db", "r2"))
	f.changed(db)
	testkit.Must(t, os.Remove(filepath.Join(f.dir, "a.yaml")))
	f.changed(db)
	f.refused(db, fault.ClassNotFound)
	replace(manifest("ns", "db", "r3"))
	f.changed(db)

	f.source.Release(db)
	f.source.Retain(ref("ns", "other"))
	replace(manifest("ns", "db", "r4"))
	f.write("b.yaml", manifest("ns", "other", "r3"))
	f.changed(ref("ns", "other"))
}

// TestRescan edits behind a symlink, of which the kernel tells nothing.
func TestRescan(t *testing.T) {
	f := setUp(t, manifests.Config{Rescan: 5 * time.Millisecond})
	target := filepath.Join(t.TempDir(), "target")
	write := func(role string) {
		temp := target + ".tmp"
		testkit.Must(t, os.WriteFile(temp, []byte(manifest("ns", "db", role)), 0o600))
		testkit.Must(t, os.Rename(temp, target))
	}
	write("r1")
	testkit.Must(t, os.Symlink(target, filepath.Join(f.dir, "a.yaml")))
	f.role(ref("ns", "db"))
	f.source.Retain(ref("ns", "db"))
	f.run()
	write("r2")
	f.changed(ref("ns", "db"))
}

// TestOnVersionHoldsNoLock calls back into the source, as the volumes do.
func TestOnVersionHoldsNoLock(t *testing.T) {
	dir := t.TempDir()
	got := make(chan error, 10)
	var source *manifests.Source
	source, err := manifests.New(manifests.Config{Dir: dir, Rescan: 5 * time.Millisecond, OnVersion: func(r class.Ref, version string) {
		c, err := source.Get(context.Background(), r)
		if err == nil && c.ResourceVersion != version {
			err = fmt.Errorf("told of version %q, it is %q", version, c.ResourceVersion)
		}
		source.Retain(r)
		source.Release(r)
		got <- err
	}})
	testkit.Must(t, err)
	f := &fixture{T: t, dir: dir, source: source, logs: &testkit.Log{}}
	f.refused(ref("ns", "db"), fault.ClassNotFound) // so that what follows is an edit
	source.Retain(ref("ns", "db"))
	f.run()
	temp := filepath.Join(dir, ".tmp")
	testkit.Must(t, os.WriteFile(temp, []byte(manifest("ns", "db", "r")), 0o600))
	testkit.Must(t, os.Rename(temp, filepath.Join(dir, "a.yaml")))
	testkit.Must(t, testkit.Receive(t, got, "a version, without a lock"))

}

func TestConcurrentUse(t *testing.T) {
	f := setUp(t, manifests.Config{Rescan: time.Millisecond, Debounce: time.Millisecond})
	f.changes = make(chan change, 1e6)
	f.write("a.yaml", manifest("ns", "db", "r"))
	f.run()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				f.source.Retain(ref("ns", "db"))
				if _, err := f.source.Get(context.Background(), ref("ns", "db")); err != nil {
					t.Error(err)
				}
				f.source.Release(ref("ns", "db"))
			}
		})
	}
	wg.Wait()
}

func TestGetCanceled(t *testing.T) {
	f := setUp(t, manifests.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	testkit.Failure(f.source.Get(ctx, ref("ns", "db")))(t, fault.Canceled)
}

// TestFirstSight has the first look tell what there is, which is no change.
func TestFirstSight(t *testing.T) {
	seen := make(chan string, 100)
	f := setUp(t, manifests.Config{Rescan: time.Hour, OnVersion: func(r class.Ref, version string) { seen <- r.Name + " " + version }})
	f.write("a.yaml", manifest("ns", "db", "r1")+"---\n"+manifest("ns", "other", "r1")+"---\n"+manifest("ns", "bad", "r1, refreshInterval: soon"))
	want := map[string]bool{"absent ": true, "bad ": true}
	for _, name := range []string{"db", "absent", "bad"} {
		f.source.Retain(ref("ns", name))
	}
	f.run()
	for range 3 {
		got := testkit.Receive(t, seen, "all versions")
		name, version, _ := strings.Cut(got, " ")
		if c, err := f.source.Get(t.Context(), ref("ns", name)); err == nil && c.ResourceVersion == version {
			want[got] = true
		}
		if !want[got] {
			t.Errorf("told of %q", got)
		}
		delete(want, got)
	}
	f.write("a.yaml", manifest("ns", "db", "r2")+"---\n"+manifest("ns", "bad", "r1, refreshInterval: soon"))
	got := testkit.Receive(t, seen, "the edit")
	c, err := f.source.Get(t.Context(), ref("ns", "db"))
	if err != nil || got != "db "+c.ResourceVersion || c.Parameters["roleName"] != "r2" {
		t.Errorf("told of %q, the class is %+v (%v)", got, c, err)
	}

	if len(seen) > 0 {
		t.Errorf("told again of %s", <-seen)
	}
}
