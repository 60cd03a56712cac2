package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const when = 1700000000

// build runs the program and returns the directory of its output.
func build(t *testing.T, args ...string) string {
	t.Helper()
	out := t.TempDir()
	env := func(name string) string {
		if name == "SOURCE_DATE_EPOCH" {
			return "1700000000"
		}
		return ""
	}
	args = append([]string{"--out", out, "--version", "1.2.3"}, args...)
	if err := run(t.Context(), args, env, io.Discard); err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// untar returns the regular files of an archive, and fails on an entry that would differ between
// two builds.
func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for archive := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if !header.ModTime.Equal(time.Unix(when, 0)) || header.Uid != 0 || header.Uname != "" {
			t.Errorf("%s: time %s, owner %d %q", header.Name, header.ModTime, header.Uid, header.Uname)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if all[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(data, &value); err != nil {
		t.Fatalf("decoding %.60q: %v", data, err)
	}
	return value
}

// blob returns a blob of the layout whose contents match the descriptor.
func blob(t *testing.T, layout map[string][]byte, d v1.Descriptor) []byte {
	t.Helper()
	data, ok := layout[blobPath(d.Digest)]
	if !ok || digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
		t.Fatalf("%s %s: %d bytes with digest %s", d.MediaType, d.Digest, len(data), digest.FromBytes(data))
	}
	return data
}

// TestReproducible builds the same source in two directories.
func TestReproducible(t *testing.T) {
	here := copySource(t, "../..")
	there := copySource(t, here)
	first := build(t, "--platforms", "linux/amd64", "--source", here)
	second := build(t, "--platforms", "linux/amd64", "--source", there)
	for _, name := range []string{"mayfly-node_1.2.3.oci.tar", "mayfly-node_1.2.3_linux_amd64.spdx.json"} {
		a, b := read(t, filepath.Join(first, name)), read(t, filepath.Join(second, name))
		if !bytes.Equal(a, b) {
			t.Errorf("%s: digests %s and %s", name, digest.FromBytes(a), digest.FromBytes(b))
		}
	}
}

// TestPrograms: each program has an image of its own.
func TestPrograms(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rootfs")
	build(t, "--program", "mayfly-kms", "--platforms", runtime.GOOS+"/"+runtime.GOARCH, "--rootfs", dir)
	out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "mayfly-kms"), "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "mayfly-kms 1.2.3 ") {
		t.Errorf("mayfly-kms --version: %v: %q", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "mayfly-node")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other program: %v", err)
	}
	err = run(t.Context(), []string{"--program", "sh", "--version", "1"}, func(string) string { return "" }, io.Discard)
	if err == nil || !strings.Contains(err.Error(), `there is no image of "sh"`) {
		t.Error(err)
	}
}

// copySource copies the source of the driver.
func copySource(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum", "cmd", "pkg"} {
		if out, err := exec.CommandContext(t.Context(), "cp", "-r", filepath.Join(from, name), to).CombinedOutput(); err != nil {
			t.Fatalf("copying %s: %v: %s", name, err, out)
		}
	}
	return to
}

func TestLayout(t *testing.T) {
	out := build(t)
	layout := untar(t, read(t, filepath.Join(out, "mayfly-node_1.2.3.oci.tar")))
	if got := decode[v1.ImageLayout](t, layout[v1.ImageLayoutFile]).Version; got != "1.0.0" {
		t.Errorf("layout version %q", got)
	}
	top := decode[v1.Index](t, layout[v1.ImageIndexFile])
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != "ghcr.io/mayfly-csi/mayfly-node:1.2.3" {
		t.Fatalf("the index names %v", top.Manifests)
	}
	index := decode[v1.Index](t, blob(t, layout, top.Manifests[0]))
	var platforms []string
	for _, d := range index.Manifests {
		platforms = append(platforms, d.Platform.OS+"/"+d.Platform.Architecture)
		checkPlatform(t, layout, d)
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %v", platforms)
	}

	var tags []string
	for _, image := range decode[[]dockerImage](t, layout["manifest.json"]) {
		tags = append(tags, image.RepoTags...)
		for _, path := range append(image.Layers, image.Config) {
			if layout[path] == nil {
				t.Errorf("manifest.json names %s, which is not there", path)
			}
		}
	}
	if want := []string{"ghcr.io/mayfly-csi/mayfly-node:1.2.3-amd64", "ghcr.io/mayfly-csi/mayfly-node:1.2.3-arm64"}; !slices.Equal(tags, want) {
		t.Errorf("Docker's tags %v, want %v", tags, want)
	}
}

// checkPlatform follows a manifest down to the files of its layer.
func checkPlatform(t *testing.T, layout map[string][]byte, d v1.Descriptor) {
	t.Helper()
	manifest := decode[v1.Manifest](t, blob(t, layout, d))
	config := decode[v1.Image](t, blob(t, layout, manifest.Config))
	if config.Architecture != d.Platform.Architecture || !slices.Equal(config.Config.Entrypoint, []string{"/mayfly-node"}) {
		t.Errorf("%s: config for %s with entry point %v", d.Platform.Architecture, config.Architecture, config.Config.Entrypoint)
	}
	packed, err := gzip.NewReader(bytes.NewReader(blob(t, layout, manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	if !packed.ModTime.IsZero() {
		t.Errorf("the layer was packed at %s", packed.ModTime)
	}
	plain, err := io.ReadAll(packed)
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(plain); !slices.Equal(config.RootFS.DiffIDs, []digest.Digest{got}) {
		t.Errorf("the layer is %s, the config says %v", got, config.RootFS.DiffIDs)
	}
	held := untar(t, plain)
	want := []string{"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "mayfly-node"}
	if got := slices.Sorted(maps.Keys(held)); !slices.Equal(got, want) {
		t.Errorf("the image holds %v, want %v", got, want)
	}
}

// TestRootfs: the files for a Dockerfile run, and verify public certificates.
func TestRootfs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "rootfs")
	build(t, "--rootfs", root, "--platforms", "linux/"+runtime.GOARCH)
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "mayfly-node"), "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "mayfly-node 1.2.3 ") {
		t.Errorf("mayfly-node --version: %v: %q", err, out)
	}
	count := 0
	for rest := read(t, filepath.Join(root, "etc/ssl/certs/ca-certificates.crt")); ; count++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if certificate, err := x509.ParseCertificate(block.Bytes); err != nil || !certificate.IsCA {
			t.Errorf("certificate %d: %v", count, err)
		}
	}
	if count < 50 {
		t.Errorf("%d certificate authorities", count)
	}
}

func TestSBOM(t *testing.T) {
	out := build(t, "--platforms", "linux/arm64")
	sbom := decode[document](t, read(t, filepath.Join(out, "mayfly-node_1.2.3_linux_arm64.spdx.json")))
	if sbom.SPDXVersion != "SPDX-2.3" || sbom.CreationInfo.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("version %q, created %q", sbom.SPDXVersion, sbom.CreationInfo.Created)
	}
	required := requirements(t)
	ids, found := map[string]bool{"SPDXRef-DOCUMENT": true}, map[string]string{}
	for _, p := range sbom.Packages {
		if ids[p.SPDXID] {
			t.Errorf("two packages are called %s", p.SPDXID)
		}
		ids[p.SPDXID], found[p.Name] = true, p.VersionInfo
	}
	for _, r := range sbom.Relationships {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("a relationship of %s and %s, which are not both there", r.From, r.To)
		}
	}
	for _, name := range []string{"google.golang.org/grpc", "github.com/hashicorp/vault/api", "k8s.io/client-go", "golang.org/x/sys"} {
		if found[name] == "" || found[name] != required[name] {
			t.Errorf("%s: version %q, go.mod requires %q", name, found[name], required[name])
		}
	}
	for name, version := range map[string]string{"stdlib": strings.TrimPrefix(runtime.Version(), "go"), mainModule: "1.2.3"} {
		if found[name] != version {
			t.Errorf("%s: version %q, want %q", name, found[name], version)
		}
	}
	if !strings.HasPrefix(found[rootsFrom], "v0.0.0-") {
		t.Errorf("certificate authorities of version %q", found[rootsFrom])
	}
}

// requirements are the versions in Mayfly's go.mod.
func requirements(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(string(read(t, "../../go.mod"))) {
		if words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require ")); len(words) >= 2 {
			all[words[0]] = words[1]
		}
	}
	return all
}

func TestBadCommandLines(t *testing.T) {
	tests := []struct {
		args, epoch, want string
	}{
		{"--platforms=windows/amd64", "", `"windows/amd64" is not a platform`},
		{"--platforms=linux", "", `"linux" is not a platform`},
		{"--version=a/b", "", `version "a/b" cannot be the tag`},
		{"--version=1", "yesterday", `SOURCE_DATE_EPOCH "yesterday"`},
		{"--rootfs=/nonexistent", "0", "takes one platform"},
		{"stray", "", `unexpected argument "stray"`},
	}
	for _, tt := range tests {
		err := run(t.Context(), strings.Fields(tt.args), func(string) string { return tt.epoch }, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
}
