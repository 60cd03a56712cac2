package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// file is a file of the image, or a directory if the path ends in a slash.
type file struct {
	path string // without a leading slash
	mode os.FileMode
	data []byte
}

// files lists the contents of the image, parents first. The driver mounts with system calls, and
// both programs run without any other program.
func (o *options) files(binary []byte) []file {
	return []file{
		{"etc/", 0o755, nil},
		{"etc/group", 0o644, []byte("root:x:0:\n")},
		{"etc/passwd", 0o644, []byte("root:x:0:0:root:/:/sbin/nologin\n")},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, authorities()},
		{o.program, 0o755, binary},
	}
}

// authorities is a PEM bundle of the public certificate authorities that Mozilla trusts, for stores
// with a public certificate. It comes from a Go module, so go.sum pins it, on every machine alike.
// It leaves out authorities that are trusted under conditions which PEM cannot express.
func authorities() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a Buffer does not fail
		}
	}
	return text.Bytes()
}

// writeLayer writes the files as a tar archive.
func writeLayer(w io.Writer, list []file, when time.Time) error {
	archive := tar.NewWriter(w)
	for _, f := range list {
		header := &tar.Header{Name: f.path, Mode: int64(f.mode), Size: int64(len(f.data)), Typeflag: tar.TypeReg, ModTime: when, Format: tar.FormatUSTAR}
		if strings.HasSuffix(f.path, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("writing %s: %w", f.path, err)
		}
		if _, err := archive.Write(f.data); err != nil {
			return fmt.Errorf("writing %s: %w", f.path, err)
		}
	}
	return archive.Close()
}

// writeRootfs writes the files into a directory, for a Dockerfile to copy.
func (o *options) writeRootfs(ctx context.Context) error {
	if len(o.platforms) != 1 {
		return fmt.Errorf("--rootfs takes one platform, %d are given", len(o.platforms))
	}
	binary, err := o.compile(ctx, o.platforms[0])
	if err != nil {
		return err
	}
	for _, f := range append([]file{{"", 0o755, nil}}, o.files(binary)...) {
		path := filepath.Join(o.rootfs, filepath.FromSlash(f.path))
		if f.data == nil {
			err = os.MkdirAll(path, f.mode)
		} else {
			err = os.WriteFile(path, f.data, f.mode)
		}
		if err != nil {
			return fmt.Errorf("writing the root file system: %w", err)
		}
	}
	return nil
}
