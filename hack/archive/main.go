// Command archive builds kubectl-mayfly for every platform, packs each with the licence, and writes
// krew's manifest. The same source, version and SOURCE_DATE_EPOCH give the same bytes.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"
)

const (
	program  = "kubectl-mayfly"
	releases = "https://github.com/mayfly-csi/mayfly/releases/download"
)

// platform is a platform that kubectl runs on.
type platform struct{ OS, Arch string }

func platforms() []platform {
	return []platform{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "amd64"}, {"darwin", "arm64"}, {"windows", "amd64"}, {"windows", "arm64"}}
}

func (p platform) binary() string {
	if p.OS == "windows" {
		return program + ".exe"
	}
	return program
}

func (p platform) archive(version string) string {
	ext := ".tar.gz"
	if p.OS == "windows" {
		ext = ".zip"
	}
	return fmt.Sprintf("%s_%s_%s_%s%s", program, version, p.OS, p.Arch, ext)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("archive", flag.ContinueOnError)
	version := flags.String("version", "", "`version` without v")
	out := flags.String("out", "dist", "`directory` to write to")
	uri := flags.String("uri", releases, "`URL` beneath which vVERSION/ARCHIVE is found")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version == "" {
		return errors.New("--version is empty")
	}
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: must be seconds since 1970: %w", err)
	}
	licence, err := os.ReadFile("LICENSE")
	if err != nil {
		return fmt.Errorf("run it in the project's root: %w", err)
	}
	b := bundle{version: *version, out: *out, uri: *uri, licence: licence, at: time.Unix(epoch, 0).UTC(), build: build}
	return b.write()
}

// build compiles the program for a platform.
func build(p platform, version, path string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", path, "./cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Arch)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building for %s/%s: %w\n%s", p.OS, p.Arch, err, out)
	}
	return nil
}

// bundle is the directory of archives, and their version and address.
type bundle struct {
	version, out, uri string
	licence           []byte
	at                time.Time
	build             func(p platform, version, path string) error
}

// packed is an archive's entry in the manifest.
type packed struct {
	platform
	URI, SHA256, Binary string
}

func (b *bundle) write() error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", program)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var all []packed
	for _, p := range platforms() {
		path := filepath.Join(dir, p.OS+"-"+p.Arch)
		if err := b.build(p, b.version, path); err != nil {
			return err
		}
		binary, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data, err := b.pack(p, binary)
		if err != nil {
			return fmt.Errorf("packing for %s/%s: %w", p.OS, p.Arch, err)
		}
		name := p.archive(b.version)
		if err := os.WriteFile(filepath.Join(b.out, name), data, 0o644); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		all = append(all, packed{p, fmt.Sprintf("%s/v%s/%s", b.uri, b.version, name), hex.EncodeToString(sum[:]), p.binary()})
	}
	return b.manifest(all)
}

// member is a file of an archive.
type member struct {
	name string
	mode int64
	data []byte
}

func (b *bundle) pack(p platform, binary []byte) ([]byte, error) {
	members := []member{{p.binary(), 0o755, binary}, {"LICENSE", 0o644, b.licence}}
	var buf bytes.Buffer
	if p.OS == "windows" {
		err := b.zip(&buf, members)
		return buf.Bytes(), err
	}
	zipped := gzip.NewWriter(&buf)
	w := tar.NewWriter(zipped)
	for _, m := range members {
		head := &tar.Header{Name: m.name, Mode: m.mode, Size: int64(len(m.data)), ModTime: b.at, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(head); err != nil {
			return nil, err
		}
		if _, err := w.Write(m.data); err != nil {
			return nil, err
		}
	}
	err := errors.Join(w.Close(), zipped.Close())
	return buf.Bytes(), err
}

func (b *bundle) zip(out io.Writer, members []member) error {
	w := zip.NewWriter(out)
	for _, m := range members {
		head := &zip.FileHeader{Name: m.name, Method: zip.Deflate, Modified: b.at}
		head.SetMode(os.FileMode(m.mode))
		f, err := w.CreateHeader(head)
		if err != nil {
			return err
		}
		if _, err := f.Write(m.data); err != nil {
			return err
		}
	}
	return w.Close()
}

//go:embed krew.yaml.tmpl
var manifest string

// manifest writes the manifest of krew from its template.
func (b *bundle) manifest(all []packed) error {
	t, err := template.New("krew").Option("missingkey=error").Parse(manifest)
	if err != nil {
		return fmt.Errorf("the manifest's template: %w", err)
	}
	var text strings.Builder
	if err := t.Execute(&text, map[string]any{"Version": b.version, "Platforms": all}); err != nil {
		return fmt.Errorf("the manifest's template: %w", err)
	}
	return os.WriteFile(filepath.Join(b.out, fmt.Sprintf("mayfly-krew-%s.yaml", b.version)), []byte(text.String()), 0o644)
}
