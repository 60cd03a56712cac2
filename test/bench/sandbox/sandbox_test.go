package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestHelp(t *testing.T) {
	for name, tc := range map[string]struct {
		uid   int
		files map[string]string
		want  []string
	}{
		"no sysctl": {1000, nil, []string{"seccomp", "sudo"}},
		"open":      {1000, map[string]string{"/proc/sys/user/max_user_namespaces": "96365\n"}, []string{"seccomp", "sudo"}},
		"none left": {1000, map[string]string{"/proc/sys/user/max_user_namespaces": "0\n"}, []string{"sysctl -w user.max_user_namespaces=15000", "sudo"}},
		"Debian":    {1000, map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, []string{"sysctl -w kernel.unprivileged_userns_clone=1", "sudo"}},
		"Ubuntu":    {1000, map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, []string{"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0", "sudo"}},
		"container": {0, nil, []string{"privileged"}},
	} {
		lines := help(tc.uid, func(path string) ([]byte, error) {
			text, ok := tc.files[path]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(text), nil
		})
		if len(lines) != len(tc.want) {
			t.Errorf("%s: %q", name, lines)
			continue
		}
		for i, want := range tc.want {
			testkit.Has(t, lines[i], want)
		}
	}
}

func TestReport(t *testing.T) {
	p := Program{Name: "test"}
	for want, err := range map[int]error{
		0: nil,
		7: errors.Join(&toldError{7}, nil),
		1: errors.Join(errors.New("x"), &leftError{errors.New("y")}),
		3: &ImpossibleError{Err: errors.New("x")},
	} {
		if code := p.report(t.Context(), err); code != want {
			t.Errorf("%v: exit code %d, want %d", err, code, want)
		}
	}
}

func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	testkit.Must(t, os.MkdirAll(filepath.Join(dir, "b"), 0o755))
	testkit.Must(t, remove(dir))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}
