package sink

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func open(t *testing.T, path string) *file {
	t.Helper()
	f := &file{path: path}
	testkit.Must(t, f.open())
	t.Cleanup(f.Close)
	return f
}

func write(t *testing.T, f *file, text string) {
	t.Helper()
	testkit.Value(f.Write([]byte(text + "\n")))(t)
}

func want(t *testing.T, path, text string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text {
		t.Errorf("%s holds %q (%v), want %q", filepath.Base(path), got, err, text)
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f := open(t, path)
	write(t, f, "1")
	testkit.Must(t, os.Rename(path, path+".1"))
	write(t, f, "2")
	want(t, path+".1", "1\n")
	want(t, path, "2\n")
	testkit.Must(t, os.Remove(path))
	testkit.Must(t, os.WriteFile(path, nil, 0o640)) // made by the tool that rotates
	write(t, f, "3")
	want(t, path, "3\n")
	testkit.Must(t, os.Truncate(path, 0)) // cut
	write(t, f, "4")
	want(t, path, "4\n")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the operator's file has mode %s (%v)", info.Mode(), err)
	}
	testkit.Must(t, os.Remove(path))
	write(t, f, "5")
	info, err = os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a new file has mode %s (%v)", info.Mode(), err)
	}
}

func TestDirectoryComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	testkit.Must(t, os.Mkdir(dir, 0o700))
	f := open(t, filepath.Join(dir, "audit.log"))
	testkit.Must(t, os.RemoveAll(dir))
	if _, err := f.Write([]byte("1\n")); err == nil {
		t.Error("a line went into a file that nobody can find")
	}
	testkit.Must(t, os.Mkdir(dir, 0o700))
	write(t, f, "1")
	want(t, f.path, "1\n")
}

// Two processes share the file while one follows the other.
func TestSharedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, b := open(t, path), open(t, path)
	write(t, a, "1")
	write(t, b, "2")
	write(t, a, "3")
	want(t, path, "1\n2\n3\n")
}

func TestPipesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	testkit.Must(t, unix.Mkfifo(path, 0o600))
	f := &file{path: path}
	testkit.Says(t, f.open(), "not a regular file") // a pipe
}

func TestLineAfterOneThatWasCutOff(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	testkit.Must(t, os.WriteFile(path, []byte("1\n{\"half"), 0o600)) // left by a kill
	f := open(t, path)
	write(t, f, "2")
	write(t, f, "3")
	want(t, path, "1\n{\"half\n2\n3\n")
}
