package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const testVersion = "1.2.3"

// made writes the archives of programs that only say what they are for.
func made(t *testing.T, dir string) {
	t.Helper()
	licence := testkit.Value(os.ReadFile("../../LICENSE"))(t)
	b := bundle{version: testVersion, out: dir, uri: releases, licence: licence, at: time.Unix(1_700_000_000, 0), build: func(p platform, version, path string) error {
		return os.WriteFile(path, fmt.Appendf(nil, "%s %s %s", p.OS, p.Arch, version), 0o755)
	}}
	testkit.Must(t, b.write())
}

// plugin is krew's manifest: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/
type plugin struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string `json:"version"`
		ShortDescription string `json:"shortDescription"`
		Description      string `json:"description"`
		Caveats          string `json:"caveats"`
		Homepage         string `json:"homepage"`
		Platforms        []struct {
			URI      string `json:"uri"`
			SHA256   string `json:"sha256"`
			Bin      string `json:"bin"`
			Selector *struct {
				MatchLabels      map[string]string `json:"matchLabels"`
				MatchExpressions []any             `json:"matchExpressions"`
			} `json:"selector"`
			Files []struct {
				From string `json:"from"`
				To   string `json:"to"`
			} `json:"files"`
		} `json:"platforms"`
	} `json:"spec"`
}

// TestKrewManifest applies the rules of krew's own validation
// (internal/index/validation/validate.go).
func TestKrewManifest(t *testing.T) {
	dir := t.TempDir()
	made(t, dir)
	data := testkit.Value(os.ReadFile(filepath.Join(dir, "mayfly-krew-"+testVersion+".yaml")))(t)
	var p plugin
	testkit.Must(t, yaml.UnmarshalStrict(data, &p))
	if p.APIVersion != "krew.googlecontainertools.github.com/v1alpha2" || p.Kind != "Plugin" || p.Metadata.Name != "mayfly" {
		t.Errorf("%s %s %q", p.APIVersion, p.Kind, p.Metadata.Name)
	}
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+$`).MatchString(p.Spec.Version) {
		t.Errorf("version %q", p.Spec.Version)
	}
	if s := p.Spec.ShortDescription; s == "" || strings.ContainsAny(s, "\r\n") || len(s) > 50 || strings.HasSuffix(s, ".") {
		t.Errorf("shortDescription %q", s)
	}
	if p.Spec.Description == "" || p.Spec.Homepage == "" {
		t.Errorf("description %q, homepage %q", p.Spec.Description, p.Spec.Homepage)
	}
	var seen []platform
	for _, x := range p.Spec.Platforms {
		if x.Selector == nil || len(x.Selector.MatchExpressions) > 0 || len(x.Selector.MatchLabels) != 2 {
			t.Fatalf("selector %+v: krew matches os and arch", x.Selector)
		}
		on := platform{x.Selector.MatchLabels["os"], x.Selector.MatchLabels["arch"]}
		if slices.Contains(seen, on) {
			t.Errorf("%v is there twice", on)
		}
		seen = append(seen, on)
		if !regexp.MustCompile(`^[a-f0-9]{64}$`).MatchString(x.SHA256) || len(x.Files) > 0 {
			t.Errorf("%v: sha256 %q, files %v", on, x.SHA256, x.Files)
		}
		name := path.Base(x.URI)
		if !strings.HasPrefix(x.URI, "https://") || !strings.HasSuffix(name, ".tar.gz") && !strings.HasSuffix(name, ".zip") || !strings.Contains(x.URI, "/v"+testVersion+"/") {
			t.Errorf("%v: uri %q", on, x.URI)
		}
		archive := testkit.Value(os.ReadFile(filepath.Join(dir, name)))(t)
		if sum := sha256.Sum256(archive); hex.EncodeToString(sum[:]) != x.SHA256 {
			t.Errorf("%v: the sum is not the archive's", on)
		}
		checkFiles(t, on, name, archive, x.Bin)
	}
	if !slices.Equal(seen, platforms()) {
		t.Errorf("platforms %v", seen)
	}
}

// checkFiles unpacks an archive: the program that the manifest names, and the
// licence.
func checkFiles(t *testing.T, p platform, name string, archive []byte, binary string) {
	t.Helper()
	files, modes := unpack(t, name, archive)
	if len(files) != 2 || string(files[binary]) != fmt.Sprintf("%s %s %s", p.OS, p.Arch, testVersion) || modes[binary] != 0o755 {
		t.Errorf("%s: %d files, %q of mode %o", name, len(files), files[binary], modes[binary])
	}
	testkit.Equal(t, name+": the licence", string(files["LICENSE"]), string(testkit.Value(os.ReadFile("../../LICENSE"))(t)))
	if wantExe := p.OS == "windows"; strings.HasSuffix(binary, ".exe") != wantExe {
		t.Errorf("%s: the program is %s", name, binary)
	}
}

func unpack(t *testing.T, name string, archive []byte) (files map[string][]byte, modes map[string]os.FileMode) {
	t.Helper()
	files, modes = map[string][]byte{}, map[string]os.FileMode{}
	if strings.HasSuffix(name, ".zip") {
		r := testkit.Value(zip.NewReader(bytes.NewReader(archive), int64(len(archive))))(t)
		for _, f := range r.File {
			in, err := f.Open()
			testkit.Must(t, err)
			if files[f.Name], err = io.ReadAll(in); err != nil {
				t.Fatal(err)
			}
			modes[f.Name] = f.Mode().Perm()
		}
		return files, modes
	}
	zipped := testkit.Value(gzip.NewReader(bytes.NewReader(archive)))(t)
	r := tar.NewReader(zipped)
	for {
		head, err := r.Next()
		if err == io.EOF {
			return files, modes
		}
		testkit.Must(t, err)
		if files[head.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		modes[head.Name] = head.FileInfo().Mode().Perm()
	}
}

// TestSameBytes: the same input gives the same bytes.
func TestSameBytes(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	made(t, one)
	made(t, two)
	entries, err := os.ReadDir(one)
	if err != nil || len(entries) != len(platforms())+1 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		a, errA := os.ReadFile(filepath.Join(one, e.Name()))
		b, errB := os.ReadFile(filepath.Join(two, e.Name()))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs (%v, %v)", e.Name(), errA, errB)
		}
	}
}

// maxBinary bounds the program's size in bytes.
const maxBinary = 40 << 20

// TestBuild builds the program for this machine, and runs it.
func TestBuild(t *testing.T) {
	t.Chdir("../..")
	p := filepath.Join(t.TempDir(), program)
	testkit.Must(t, build(platform{runtime.GOOS, runtime.GOARCH}, testVersion, p))
	out, err := exec.CommandContext(t.Context(), p, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), testVersion) {
		t.Errorf("%s, %v", out, err)
	}
	if info, err := os.Stat(p); err != nil || info.Size() > maxBinary {
		t.Errorf("%v: %d bytes, want at most %d", err, info.Size(), maxBinary)
	}
}

func TestArguments(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	for _, args := range [][]string{nil, {"--version", "1"}, {"--other"}} {
		if err := run(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
