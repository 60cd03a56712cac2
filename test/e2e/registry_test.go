//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	// registryImage prints a version and ends.
	registryImage = "kms:1"
	manifestType  = "application/vnd.oci.image.manifest.v1+json"
)

// registry serves one image to one user, by the distribution protocol.
type registry struct {
	host  string
	blobs map[string][]byte // by digest, the manifest too
	tag   string            // the manifest's digest
}

// registry starts a registry until the case ends. containerd uses plain HTTP for registries on loopback.
func (c *tenant) registry(user, password string) *registry {
	c.t.Helper()
	program, err := buildProgram(c.t.Context(), c.t.TempDir(), "mayfly-kms")
	testkit.Must(c.t, err)
	data, err := os.ReadFile(program)
	testkit.Must(c.t, err)
	r := &registry{blobs: map[string][]byte{}}
	testkit.Must(c.t, r.add(node.Image{
		Ref: "pulled:1", Entrypoint: []string{"/mayfly-kms", "--version"}, Files: []node.ImageFile{{Path: "mayfly-kms", Data: data, Mode: 0o755}},
	}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if u, p, _ := q.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.serve(w, q)
	}))
	c.t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// add stores an image's configuration and layer, and makes their manifest.
func (r *registry) add(image node.Image) error {
	var archive bytes.Buffer
	if err := image.WriteTar(&archive); err != nil {
		return err
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	manifest := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{SchemaVersion: 2, MediaType: manifestType}
	for files := tar.NewReader(&archive); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		switch header.Name {
		case "config.json":
			manifest.Config = descriptor{"application/vnd.oci.image.config.v1+json", r.addBlob(data), len(data)}
		case "layer.tar":
			manifest.Layers = append(manifest.Layers, descriptor{"application/vnd.oci.image.layer.v1.tar", r.addBlob(data), len(data)})
		}
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	r.tag = r.addBlob(data)
	return nil
}

func (r *registry) addBlob(data []byte) (digest string) {
	sum := sha256.Sum256(data)
	digest = "sha256:" + hex.EncodeToString(sum[:])
	r.blobs[digest] = data
	return digest
}

func (r *registry) serve(w http.ResponseWriter, q *http.Request) {
	name := path.Base(q.URL.Path)
	switch {
	case q.URL.Path == "/v2/":
		return
	case strings.HasSuffix(registryImage, ":"+name):
		name = r.tag
	}
	data, ok := r.blobs[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	kind := "application/octet-stream"
	if name == r.tag {
		kind = manifestType
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", name)
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
}
