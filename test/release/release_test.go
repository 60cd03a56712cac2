// Package release rehearses a release, so that it works on the day it is needed.
package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const root = "../.."

func script(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "hack", name), args...)
	cmd.Env = append(os.Environ(), "RELEASE_REHEARSAL=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

func TestRehearsal(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		t.Skip("a release is made of a git repository")
	}
	dir := t.TempDir()
	if out, err := script(t, "release.sh", dir); err != nil {
		t.Fatalf("release.sh: %v\n%s", err, out)
	}
	versions, err := os.ReadDir(dir)
	if err != nil || len(versions) != 1 {
		t.Fatalf("%d directories, error %v; want one, of the version", len(versions), err)
	}
	version := versions[0].Name()
	dir = filepath.Join(dir, version)
	want := []string{"SHA256SUMS"}
	for _, platform := range []string{"darwin_amd64.tar.gz", "darwin_arm64.tar.gz", "linux_amd64.tar.gz", "linux_arm64.tar.gz", "windows_amd64.zip", "windows_arm64.zip"} {
		want = append(want, "kubectl-mayfly_"+version+"_"+platform)
	}
	want = append(want,
		"mayfly-"+version+".tgz", "mayfly-"+version+".yaml", "mayfly-crds-"+version+".yaml",
		"mayfly-kms_"+version+".oci.tar", "mayfly-kms_"+version+"_linux_amd64.spdx.json", "mayfly-kms_"+version+"_linux_arm64.spdx.json",
		"mayfly-krew-"+version+".yaml",
		"mayfly-node_"+version+".oci.tar", "mayfly-node_"+version+"_linux_amd64.spdx.json",
		"mayfly-node_"+version+"_linux_arm64.spdx.json", "notes.md")
	entries := testkit.Value(os.ReadDir(dir))(t)
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	checkSums(t, dir, want[1:])
}

// checkSums: the sums are those of all files, and of nothing else.
func checkSums(t *testing.T, dir string, names []string) {
	t.Helper()
	var sums strings.Builder
	for _, name := range names {
		data := testkit.Value(os.ReadFile(filepath.Join(dir, name)))(t)
		if len(data) == 0 {
			t.Errorf("%s is empty", name)
		}
		sum := sha256.Sum256(data)
		sums.WriteString(hex.EncodeToString(sum[:]) + "  " + name + "\n")
	}
	data := testkit.Value(os.ReadFile(filepath.Join(dir, "SHA256SUMS")))(t)
	if string(data) != sums.String() {
		t.Errorf("SHA256SUMS is\n%swant\n%s", data, &sums)
	}
}

func TestChangelogSection(t *testing.T) {
	if out, err := script(t, "changelog.sh", "no-such-version"); err == nil || !strings.Contains(out, `nothing under "## no-such-version"`) {
		t.Errorf("a version without a section: error %v, output %q", err, out)
	}
	data := testkit.Value(os.ReadFile(filepath.Join(root, "CHANGELOG.md")))(t)
	sections := strings.Split(string(data), "\n## ")[1:]
	if len(sections) == 0 {
		t.Fatal("CHANGELOG.md has no sections")
	}
	for _, section := range sections {
		heading, text, _ := strings.Cut(section, "\n")
		name := strings.Fields(heading)[0]
		got, err := script(t, "changelog.sh", name)
		if err != nil || strings.TrimSpace(got) != strings.TrimSpace(text) {
			t.Errorf("section %s: error %v, output %.200q", name, err, got)
		}
	}
}
